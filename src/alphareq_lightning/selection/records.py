"""What one measurement of α leaves behind: plain numbers that outlive the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from alphareq_lightning.errors import SelectionError


@dataclass(frozen=True, kw_only=True)
class AlphaRecord:
    """One layer's spectrum at one moment of a training, with the settings of its fit."""

    alpha: float
    """Decay exponent; NaN when there was no fit."""
    r2: float
    """Weighted R² over the fitted ranks."""
    stderr: float
    """Standard error of the fitted line."""
    fit_range: tuple[int, int] | None
    """First and last fitted rank, one-based and inclusive; `None` when there was no fit."""
    num_samples: int
    """Images behind the spectrum, over all ranks."""
    num_features: int
    """Width ``d`` of the layer."""
    layer: str = ""
    """Where the features were taken, for example ``"backbone"`` or ``"fc:input"``."""
    epoch: int = 0
    global_step: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    """Other label-free scores by name, for example ``{"rankme": 41.3}``."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What else the run had logged by then, for example ``{"val_loss": 12.7}``."""
    eigenvalues: tuple[float, ...] = ()
    """The first eigenvalues, largest first: enough to fit another window later."""
    seconds: float = 0.0
    """Time spent on the measurement by rank 0."""
    problem: str | None = None
    """Why there was no fit."""
    path: str | None = None
    """The checkpoint that carries this record."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers, strings, lists and dicts: safe in JSON and in checkpoints."""
        values = asdict(self)
        values["eigenvalues"] = list(self.eigenvalues)
        values["fit_range"] = None if self.fit_range is None else list(self.fit_range)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlphaRecord:
        """Rebuild a record; keys of later versions are ignored.

        Raises:
            SelectionError: If ``values`` is not a record.
        """
        known = {f.name for f in fields(cls)}
        try:
            record = cls(**{key: value for key, value in values.items() if key in known})
            fit_range = record.fit_range
            return replace(
                record,
                eigenvalues=tuple(record.eigenvalues),
                fit_range=None if fit_range is None else (int(fit_range[0]), int(fit_range[1])),
            )
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise SelectionError(f"not a record of α: {error}") from error
