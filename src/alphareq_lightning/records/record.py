"""What one measurement of α leaves behind: plain numbers that outlive the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

import torch

from alphareq_lightning.errors import AlphaReQError, SelectionError
from alphareq_lightning.files import MALFORMED, num_values
from alphareq_lightning.functional.power_law import PowerLawFit, alpha_distance, fit_power_law
from alphareq_lightning.text import as_json, one_line, shown

FORMAT = 2
"""Of records that this version writes. Those of format 1 had no number, and coded "no fit" by NaN,
by a missing fit range, or by both."""
LARGEST_COUNT = 2**63
MOST_VALUES = 2**16
"""Eigenvalues, scores or metrics of one record, and characters of a text in it."""
SHORT = 200
"""Characters of a hyperparameter: a longer one is no setting that trainings are compared by."""
FAILED = "failed"
"""Stands in a record file for the accuracy of a readout that was paid for and failed."""
_T = TypeVar("_T")


class Fit(NamedTuple):
    """The line through a spectrum in log-log coordinates, as plain numbers."""

    alpha: float
    """Decay exponent."""
    r2: float
    """Weighted R² over the fitted ranks."""
    stderr: float
    """Standard error of the fitted line."""
    fit_range: tuple[int, int]
    """First and last fitted rank, one-based and inclusive."""

    @classmethod
    def of(cls, line: PowerLawFit) -> Fit:
        """The numbers of a fitted line."""
        return cls(line.alpha.item(), line.r2.item(), line.stderr.item(), line.fit_range)


class Corrected(NamedTuple):
    """α without the bias of a finite sample."""

    alpha: float
    """Estimate of what any number of images would show."""
    stderr: float
    """Standard error from the finite sample (that of `Fit` is the line's)."""


@dataclass(frozen=True, kw_only=True)
class AlphaRecord:
    """One layer's spectrum at one moment of a training, with the settings of its fit.

    Example:
        >>> fit = Fit(alpha=1.1, r2=0.99, stderr=0.01, fit_range=(4, 50))
        >>> record = AlphaRecord(fit=fit, num_samples=1000, num_features=256)
        >>> record.alpha, record.fit_range, AlphaRecord.from_dict(record.to_dict()) == record
        (1.1, (4, 50), True)
    """

    fit: Fit | None = None
    """`None` when there was no fit; ``problem`` says why."""
    corrected: Corrected | None = None
    """`None` if it was not asked for, or none was found."""
    num_samples: int
    """Images behind the spectrum, over all ranks."""
    num_features: int
    """Width ``d`` of the layer."""
    num_images: int | None = None
    """Different images behind them, where it is known: fewer if several views of each were seen."""
    run: str = ""
    """Which training it belongs to; empty in records from before there was this field."""
    layer: str = ""
    """Where the features were taken, for example ``"backbone"`` or ``"fc:input"``."""
    epoch: int = 0
    global_step: int = 0
    bias_correction: str | None = None
    """How ``corrected`` was to be found, for example ``"inversion"``; `None` if not."""
    scores: dict[str, float] = field(default_factory=dict)
    """Other label-free scores by name, for example ``{"rankme": 41.3}``."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What else the run had logged by then, for example ``{"val_loss": 12.7}``."""
    params: dict[str, float | str] = field(default_factory=dict)
    """Hyperparameters of its training, where they are known."""
    eigenvalues: tuple[float, ...] = ()
    """The first eigenvalues, largest first: enough to fit another window later."""
    seconds: float = 0.0
    """Time spent on the measurement by rank 0."""
    problem: str | None = None
    """Why there was no fit."""
    path: str | None = None
    """The checkpoint that carries this record; its name where records are ranked."""
    path_step: int | None = None
    """Step of the weights in ``path`` where no measurement was made of them: then α is of the
    weights at ``global_step``."""
    phase: str = ""
    """Where its training stood, as `Course.phase`; empty if nobody told."""
    drift: float | None = None
    """Change of α over the last quarter of the training by then; `None` where it is not known."""
    untrained_alpha: float | None = None
    """α of the layer before the first step; `None` where it was not measured."""
    accuracy: float | None = None
    """Top-1 of a labelled readout in percent, where one was paid for; NaN if it failed."""
    format: int = FORMAT
    """Which version of this class wrote it: a newer one, or this."""
    unknown: dict[str, Any] = field(default_factory=dict)
    """What a newer version wrote beside all this, passed on as it is."""

    @property
    def alpha(self) -> float:
        """Decay exponent; NaN when there was no fit."""
        return math.nan if self.fit is None else self.fit.alpha

    @property
    def r2(self) -> float:
        """Weighted R² over the fitted ranks; NaN when there was no fit."""
        return math.nan if self.fit is None else self.fit.r2

    @property
    def stderr(self) -> float:
        """Standard error of the fitted line; NaN when there was no fit."""
        return math.nan if self.fit is None else self.fit.stderr

    @property
    def fit_range(self) -> tuple[int, int] | None:
        """First and last fitted rank, one-based and inclusive; `None` when there was no fit."""
        return None if self.fit is None else self.fit.fit_range

    @property
    def alpha_corrected(self) -> float | None:
        """α without the bias of a finite sample; NaN if none was found, `None` if not asked for."""
        return self.corrected.alpha if self.corrected is not None else self._not_corrected()

    @property
    def alpha_stderr(self) -> float | None:
        """Standard error of ``alpha_corrected``, with NaN and `None` as there."""
        return self.corrected.stderr if self.corrected is not None else self._not_corrected()

    def _not_corrected(self) -> float | None:
        return None if self.bias_correction is None else math.nan

    @property
    def name(self) -> str:
        """The checkpoint, or the step where there is none."""
        return self.path or f"step {self.global_step}"

    @property
    def ranks(self) -> str:
        """The fitted ranks as text, for example ``"4–51"``; a dash when there was no fit."""
        return "–" if self.fit_range is None else "{}–{}".format(*self.fit_range)

    def distance(self, target: float | tuple[float, float] = 1.0) -> float:
        """Distance of α from a target or an interval; infinite when there was no fit."""
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        return math.inf if self.fit is None else alpha_distance(alpha, target).item()

    def refit(self, fit_range: tuple[int, int]) -> AlphaRecord:
        """This record with the line over another window, from its stored eigenvalues.

        Without a fit, and with a ``problem`` that says why, where they do not reach, one is 0, or
        the range is too short. A corrected α and the place in the course of the training were of
        the old window, and are dropped.

        Args:
            fit_range: First and last rank, one-based and inclusive.

        Example:
            >>> power = tuple(n**-1.5 for n in range(1, 60))
            >>> record = AlphaRecord(num_samples=1000, num_features=256, eigenvalues=power)
            >>> round(record.refit((5, 40)).alpha, 6), record.refit((5, 100)).problem
            (1.5, 'fit_range=(5, 100) reaches past the 59 eigenvalues that the record keeps')
        """
        bare = replace(self, fit=None, corrected=None, bias_correction=None)
        bare = replace(bare, phase="", drift=None, untrained_alpha=None)
        if fit_range[1] > len(self.eigenvalues):
            kept = f"the {len(self.eigenvalues)} eigenvalues that the record keeps"
            return replace(bare, problem=f"{fit_range=} reaches past {kept}")
        spectrum = torch.tensor(self.eigenvalues, dtype=torch.float64)
        try:
            line = fit_power_law(spectrum, fit_range, num_samples=self.num_samples)
        except AlphaReQError as error:
            return replace(bare, problem=str(error))
        return replace(bare, fit=Fit.of(line), problem=None)

    @property
    def shares(self) -> list[float]:
        """The eigenvalues as shares of the largest, up to the first that has no logarithm."""
        largest = self.eigenvalues[0] if self.eigenvalues else 0.0
        if not largest > 0:
            return []
        shares = (value / largest for value in self.eigenvalues)
        return list(takewhile(lambda share: 0 < share < math.inf, shares))

    def line(self) -> tuple[list[int], list[float]] | None:
        """Fitted ranks as far as eigenvalues are kept, and the line there, as `shares`.

        `None` where there is no line to draw: no fit, or no eigenvalues over its window.
        """
        if self.fit is None:
            return None
        first, last = self.fit.fit_range
        last = min(last, len(self.eigenvalues))
        try:
            fit = fit_power_law(torch.tensor(self.shares, dtype=torch.float64), (first, last))
        except AlphaReQError:
            return None
        ranks = torch.arange(first, last + 1)
        line = fit.line(ranks).clamp(min=torch.finfo(torch.float64).tiny)  # has a logarithm
        return ranks.tolist(), line.tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, strings, lists and dicts: safe in JSON and in checkpoints."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        fit, corrected, unknown = (own.pop(name) for name in ("fit", "corrected", "unknown"))
        alpha, r2, stderr, window = fit or (None, None, None, None)
        alpha_corrected, alpha_stderr = corrected or (None, None)
        return {
            "format": own.pop("format"),
            **unknown,
            **{"alpha": alpha, "r2": r2, "stderr": stderr, "fit_range": window and list(window)},
            **own,
            **{"alpha_corrected": alpha_corrected, "alpha_stderr": alpha_stderr},
            **{"scores": dict(self.scores), "metrics": dict(self.metrics)},
            "params": dict(self.params),
            "eigenvalues": list(self.eigenvalues),
        }

    def to_json(self) -> dict[str, Any]:
        """As `to_dict`, with `None` for the NaN and infinities that JSON does not know."""
        values: dict[str, Any] = as_json(self.to_dict())
        if self.accuracy is not None and math.isnan(self.accuracy):
            values["accuracy"] = FAILED
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlphaRecord:
        """Rebuild a record from `to_dict` or `to_json`, of this version or another.

        Raises:
            SelectionError: If ``values`` is not a record.
        """
        try:
            values = {**values}
            fit, corrected = _fit(values), _corrected(values)
            own = {name: read(values.pop(name)) for name, read in _READ.items() if name in values}
            return cls(fit=fit, corrected=corrected, unknown=_plain(values), **own)
        except MALFORMED as error:
            raise SelectionError(f"not a record of α: {one_line(error)}") from error


def _fit(values: dict[str, Any]) -> Fit | None:
    alpha, r2, stderr = (_or_nan(values.pop(name)) for name in ("alpha", "r2", "stderr"))
    window = _or_none(_window)(values.pop("fit_range"))
    if math.isinf(alpha):
        raise ValueError("α is infinite")
    if math.isnan(alpha):
        return None
    if window is None:
        raise ValueError(f"expected the ranks on which {alpha=} was fitted, got fit_range=None")
    return Fit(alpha, r2, stderr, window)


def _corrected(values: dict[str, Any]) -> Corrected | None:
    names = ("alpha_corrected", "alpha_stderr")
    alpha, stderr = (_or_nan(values.pop(name, None)) for name in names)
    return None if math.isnan(alpha) else Corrected(alpha, stderr)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What this version does not know, as JSON would give it back."""
    if num_values(values) > MOST_VALUES:
        raise ValueError(f"expected at most {MOST_VALUES} values that are not known, got more")
    plain: dict[str, Any] = as_json(values)
    return plain


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"expected a number, got {shown(value)}")
    return float(value)


def _or_nan(value: Any) -> float:
    return math.nan if value is None else _number(value)


def _whole(value: Any) -> int:
    if _number(value) != value or abs(value) > LARGEST_COUNT:
        raise ValueError(f"expected a whole number, got {shown(value)}")
    return int(value)


def _few(values: Any) -> Any:
    """Refuse what would take for good: a file of 1 MB can name one list a million times."""
    if isinstance(values, str | bytes) or len(values) > MOST_VALUES:
        raise ValueError(f"expected at most {MOST_VALUES} values, got {shown(values)}")
    return values


def _numbers(values: Any) -> dict[str, float]:
    return {_text(name): _or_nan(value) for name, value in dict(_few(values)).items()}


def hyperparameters(values: Any) -> dict[str, float | str]:
    """The numbers and short texts among what a training calls its hyperparameters."""
    if not isinstance(values, Mapping) or len(values) > MOST_VALUES:
        return {}
    return {
        name: str(value) if isinstance(value, bool) else value
        for name, value in values.items()
        if isinstance(name, str)
        and ((isinstance(value, str) and len(value) <= SHORT) or _is_small(value))
    }


def _is_small(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST_COUNT


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_VALUES:
        raise TypeError(f"expected a text, got {shown(value)}")
    return value


def _window(value: Any) -> tuple[int, int]:
    first, last = map(_whole, _few(value))
    if not 1 <= first < last:
        raise ValueError(f"{shown(value)} are no ranks")
    return first, last


def _or_none(read: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    return lambda value: None if value is None else read(value)


_READ: dict[str, Callable[[Any], Any]] = {
    "format": lambda value: max(_whole(value), FORMAT),
    "num_samples": _whole,
    "num_features": _whole,
    "num_images": _or_none(_whole),
    "run": _text,
    "layer": _text,
    "epoch": _whole,
    "global_step": _whole,
    "bias_correction": _or_none(_text),
    "scores": _numbers,
    "metrics": _numbers,
    "params": hyperparameters,
    "eigenvalues": lambda values: tuple(map(_number, _few(values))),
    "seconds": _number,
    "problem": _or_none(_text),
    "path": _or_none(_text),
    "path_step": _or_none(_whole),
    "phase": _text,
    "drift": _or_none(_number),
    "untrained_alpha": _or_none(_number),
    "accuracy": _or_none(lambda value: math.nan if value == FAILED else _number(value)),
}
"""How each field is read, beside those of the fit."""
