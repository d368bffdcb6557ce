"""Which models deserve a labelled readout: the model selection of the paper, step by step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.files import MALFORMED, read_small, written_beside
from alphareq_lightning.text import as_json, one_line, shown


class Readout(NamedTuple):
    """A model whose labelled readout was paid for."""

    alpha: float
    """Of the model, before the readout."""
    score: float
    """NaN if the readout failed."""


def closing_interval(
    readouts: Sequence[Readout], *, top_k: int = 5, margin: int = 0
) -> tuple[float, float]:
    """The α that are still worth a readout, given the readouts so far.

    The interval spans the ``top_k`` best models. It stays open on a side where the outermost of
    them is also the outermost of all, and on both sides until ``2 * top_k`` models have a score.

    Args:
        readouts: Paid readouts, oldest first; the older of two equal scores counts as better.
        top_k: How many of the best models span the interval.
        margin: Go on to the ``margin``-th model outside of the span, on each side. 0 is the
            paper's algorithm; 1 loses good models less often to noise in the readouts.

    Returns:
        Lowest and highest α, both inclusive.

    Example:
        >>> points = [Readout(alpha, 90 - abs(alpha - 1)) for alpha in (0.2, 0.6, 0.9, 1.1, 1.8, 2)]
        >>> closing_interval(points, top_k=2), closing_interval(points, top_k=2, margin=1)
        ((0.9, 1.1), (0.6, 1.8))
    """
    scored = [r for r in readouts if math.isfinite(r.score)]
    low, high = -math.inf, math.inf
    if len(scored) < 2 * top_k:
        return low, high
    top = sorted(scored, key=lambda r: -r.score)[:top_k]  # stable: of equals the older first
    inner_low, inner_high = min(r.alpha for r in top), max(r.alpha for r in top)
    below = sorted((r.alpha for r in scored if r.alpha < inner_low), reverse=True)
    above = sorted(r.alpha for r in scored if r.alpha > inner_high)
    if len(below) >= max(margin, 1):
        low = below[margin - 1] if margin else inner_low
    if len(above) >= max(margin, 1):
        high = above[margin - 1] if margin else inner_high
    return low, high


class AlphaIntervalSearch:
    """Pays labelled readouts only for models whose α lies where good models were found before.

    Train some models and measure α of each; `ask` which of them deserve a readout; run those
    readouts and `tell` the scores; go on with the next models. In steps of ``2 * top_k`` models
    this is the algorithm of the paper. Models may also come one at a time, and scores in any
    order. Where the authors' code fails or leaves the outcome to chance:

    * fewer models than a step: all of them are read out;
    * equal scores: exactly ``top_k`` models span the interval, the ones told first;
    * every model outside of the interval: nothing is asked for, and the search goes on;
    * a failed readout (NaN): counts as paid, and says nothing about the interval;
    * α is NaN (collapse): never read out.

    Args:
        top_k: How many of the best models span the interval.
        margin: 0 for the paper's algorithm; 1 keeps one more model on each side, see
            `closing_interval`.

    Raises:
        OptionError: If ``top_k < 1`` or ``margin < 0``.

    Example:
        >>> search = AlphaIntervalSearch(top_k=1)
        >>> search.ask({"a": 0.3, "b": 1.0, "c": 1.9})
        ['a', 'b', 'c']
        >>> search.tell({"a": 61.0, "b": 80.5, "c": 70.2})
        >>> search.ask({"d": 0.5, "e": 1.0}), search.best, search.num_readouts
        (['e'], 'b', 3)

    References:
        Agrawal et al., "α-ReQ", NeurIPS 2022, section 4.3.
    """

    def __init__(self, *, top_k: int = 5, margin: int = 0) -> None:
        if top_k < 1 or margin < 0:
            raise OptionError(f"expected top_k >= 1 and margin >= 0, got {top_k=}, {margin=}")
        self.top_k = top_k
        self.margin = margin
        self.pending: dict[str, float] = {}
        """α of models that were asked for and have no score yet."""
        self.readouts: dict[str, Readout] = {}
        """Models with a paid readout, in the order they were told."""
        self.skipped: dict[str, float] = {}
        """α of models that were found not worth a readout."""

    def ask(self, alphas: Mapping[str, float]) -> list[str]:
        """Which of these models deserve a readout.

        A model that was asked for before and has no score yet is asked for again, so a search that
        was killed goes on by asking about the same models.

        Args:
            alphas: α of each model by name.

        Raises:
            SelectionError: If a name is known with another α.
        """
        low, high = self.interval
        chosen = []
        for name, alpha in alphas.items():
            known = self._alpha_of(name)
            if known is not None and not (
                known == alpha or (math.isnan(known) and math.isnan(alpha))
            ):
                raise SelectionError(
                    f"two models are called {name!r}: one with α = {known}, one with α = {alpha}"
                )
            if known is None:
                (self.pending if low <= alpha <= high else self.skipped)[name] = float(alpha)
            if name in self.pending:
                chosen.append(name)
        return chosen

    def tell(self, scores: Mapping[str, float]) -> None:
        """The scores of readouts, higher is better; NaN for a readout that failed.

        Raises:
            SelectionError: If a model was not asked for, or has a score already.
        """
        for name in scores:
            if name not in self.pending:
                state = "has a score already" if name in self.readouts else "was not asked for"
                raise SelectionError(f"a score came for {name!r}, which {state}")
        for name, score in scores.items():
            self.readouts[name] = Readout(self.pending.pop(name), float(score))

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest α that deserve a readout now."""
        return closing_interval(list(self.readouts.values()), top_k=self.top_k, margin=self.margin)

    @property
    def best(self) -> str | None:
        """The model with the best score, the one told first among equals."""
        scored = {name: r.score for name, r in self.readouts.items() if math.isfinite(r.score)}
        return max(scored, key=scored.__getitem__) if scored else None

    @property
    def num_readouts(self) -> int:
        """Readouts paid, failed ones included."""
        return len(self.readouts)

    @property
    def num_saved(self) -> int:
        """Models that were not read out."""
        return len(self.skipped)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state as JSON, whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        names = ("top_k", "margin", "pending", "readouts", "skipped")
        state = {name: getattr(self, name) for name in names}
        with written_beside(path) as unfinished:
            unfinished.write_text(json.dumps(as_json(state), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> AlphaIntervalSearch:
        """Go on from a saved state.

        Raises:
            SelectionError: If the file is missing or is no saved search.
        """
        try:
            state = json.loads(read_small(path))
            search = cls(top_k=_whole(state["top_k"]), margin=_whole(state["margin"]))
            search.pending = {name: float(alpha) for name, alpha in state["pending"].items()}
            search.readouts = {
                name: Readout(float(alpha), _number(score))
                for name, (alpha, score) in state["readouts"].items()
            }
            search.skipped = {name: _number(alpha) for name, alpha in state["skipped"].items()}
        except OSError as error:
            raise SelectionError(f"cannot read the search in {path}: {error}") from error
        except MALFORMED as error:
            reason = one_line(error)
            raise SelectionError(f"{path} is not a saved interval search: {reason}") from error
        return search

    def _alpha_of(self, name: str) -> float | None:
        if name in self.readouts:
            return self.readouts[name].alpha
        return self.pending.get(name, self.skipped.get(name))


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {shown(value)}")
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
