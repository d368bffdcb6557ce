"""Order checkpoints by α, without labels, and say how far the order can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.metrics.scores import better
from alphareq_lightning.records.record import AlphaRecord
from alphareq_lightning.selection.trainings import same_alpha, trainings_of
from alphareq_lightning.text import nearest

AGREEMENT = 0.5
"""Two orders with a smaller Kendall τ are called different."""
_FEWEST_RANKS = 5
"""Half a window must be this wide to be compared with the whole."""
FEWEST_TO_COMPARE = 4
LOGGED = ("loss", "twins_error")
"""Criteria that are no scores of features, but metrics that a training logs under some prefix."""


def rank_checkpoints(
    records: Iterable[AlphaRecord],
    *,
    by: str = "alpha",
    target: float | tuple[float, float] = 1.0,
    min_r2: float = 0.0,
    force: bool = False,
) -> list[AlphaRecord]:
    """Sort records by distance of α from the target, or by another score, best first.

    Records without a fit, or with R² below ``min_r2``, come last, and behind them checkpoints whose
    own weights were not measured; ties keep the earlier step first. Of two records of one model
    with one α the later in ``records`` counts.

    Args:
        records: Records of one layer and one fit window.
        by: ``"alpha"``; the name of a score, with its direction in the table of scores;
            ``"loss"`` or ``"twins_error"``, under the prefix that they were logged with;
            ``"accuracy"`` of a readout; or a logged metric, lower is better if ``"loss"`` or
            ``"error"`` is in its name.
        target: The α to be near, or an interval ``(low, high)``.
        min_r2: Least R² of a line that is believed; the paper's code used 0.95.
        force: Rank records of different layers or windows, which do not compare, all the same.

    Raises:
        SelectionError: If layers or fit windows are mixed, if no record has ``by`` or it has no
            better end, or if two records have one path and step and different α.

    Example:
        >>> from alphareq_lightning.records import Fit
        >>> def record(alpha):
        ...     return AlphaRecord(fit=Fit(alpha, r2=1.0, stderr=0.0, fit_range=(4, 50)),
        ...                        num_samples=1000, num_features=256)
        >>> [r.alpha for r in rank_checkpoints([record(0.5), record(1.1), record(2.0)])]
        [1.1, 0.5, 2.0]
    """
    records = _each_model_once(records)
    if not force:
        _check_one_kind(records)
    if better(by) == "neither" and any(by in r.scores for r in records):
        raise SelectionError(f"neither more nor less of {by!r} is better: it ranks nothing")
    _check_known(records, by)

    def key(record: AlphaRecord) -> tuple[bool, bool, float, int]:
        against = badness(record, by, target)
        no_line = by == "alpha" and not record.r2 >= min_r2  # NaN where there is no fit
        of_others = record.path_step is not None
        return (of_others, no_line or math.isnan(against), against, record.global_step)

    return sorted(records, key=key)


def badness(record: AlphaRecord, by: str, target: float | tuple[float, float] = 1.0) -> float:
    """What a criterion says against a model: smaller is better, NaN where it has none.

    Args:
        record: Of the model.
        by: As in `rank_checkpoints`.
        target: As in `rank_checkpoints`.
    """
    if by == "alpha":
        return record.distance(target)
    if by == "accuracy" and record.accuracy is not None:
        return -record.accuracy
    if by in record.scores:
        return record.scores[by] if better(by) == "lower" else -record.scores[by]
    value = record.metrics.get(_key(record, by), math.nan)
    return value if "loss" in by or "error" in by else -value


def _key(record: AlphaRecord, by: str) -> str:
    """The metric of that name; of what every training logs the shortest key that is no training's.

    The prefix is the user's, ``val_`` or another.
    """
    keys = [key for key in record.metrics if key.endswith(by) and "train" not in key]
    return min(keys, key=len, default=by) if by in LOGGED else by


def _check_known(records: Sequence[AlphaRecord], by: str) -> None:
    known = {"alpha": None} | dict.fromkeys(n for r in records for n in (*r.scores, *r.metrics))
    known |= {"accuracy": None} if any(r.accuracy is not None for r in records) else {}
    known |= {n: None for n in LOGGED if any(_key(r, n) in r.metrics for r in records)}
    if records and by not in known:
        there = ", ".join(known)
        raise SelectionError(f"no record has {by!r}; there are: {there}{nearest(by, known)}")


def _each_model_once(records: Iterable[AlphaRecord]) -> list[AlphaRecord]:
    kept: dict[tuple[object, ...], AlphaRecord] = {}
    for place, record in enumerate(records):
        name = (record.path or place, record.layer, record.global_step)
        known = kept.get(name)
        if known is not None and not same_alpha(known.alpha, record.alpha):
            raise SelectionError(
                f"there are two records of {record.path} at step {record.global_step}, with "
                f"α = {known.alpha:.3f} and {record.alpha:.3f}: the images or the layer differed; "
                "keep one of them, or measure into another file"
            )
        kept[name] = record
    return list(kept.values())


def mixtures(records: Iterable[AlphaRecord]) -> list[str]:
    """Why α of these records do not compare, each in a sentence; empty if they do."""
    records = list(records)
    layers = sorted({r.layer for r in records})
    windows = sorted({r.fit.fit_range for r in records if r.fit is not None})
    found = []
    if len(layers) > 1:
        found.append(f"α of different layers do not compare: {layers}; choose one layer")
    if len(windows) > 1:
        shown = ", ".join(f"{first}–{last}" for first, last in windows)
        found.append(f"α of different fit windows do not compare: ranks {shown}; refit on one")
    return found


def _check_one_kind(records: Sequence[AlphaRecord]) -> None:
    for sentence in mixtures(records):
        raise SelectionError(f"{sentence}, or force it")


def agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's τ-b of two orders, from −1 to 1; NaN if one of them is constant."""
    # torchmetrics has it, but takes 3 seconds of CPU to import; scipy is no dependency.
    a, b = (np.sign(np.subtract.outer(values, values)) for values in (first, second))
    ties = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / ties if ties else math.nan


class WindowAgreement(NamedTuple):
    """Whether an order of models survives the choice of the fit window."""

    taus: dict[tuple[int, int], float]
    """Kendall's τ between the order over the records' own window and that over each other one;
    NaN where a record's eigenvalues do not reach, or all are equally far from the target."""

    @property
    def worst(self) -> float:
        """The smallest τ; NaN if no window could be compared."""
        known = [tau for tau in self.taus.values() if not math.isnan(tau)]
        return min(known, default=math.nan)

    @property
    def survives(self) -> bool:
        """Whether windows could be compared and none of them gives another order."""
        return self.worst >= AGREEMENT


def window_agreement(
    records: Sequence[AlphaRecord],
    windows: Sequence[tuple[int, int]],
    *,
    target: float | tuple[float, float] = 1.0,
) -> WindowAgreement:
    """Compare the order of models by α with their orders over other fit windows.

    Args:
        records: Records of one layer and one fit window, with their first eigenvalues.
        windows: First and last ranks, one-based and inclusive, for example
            `functional.window_family`.
        target: As in `rank_checkpoints`.

    Raises:
        SelectionError: If layers or fit windows are mixed, or if fewer than four records have a
            fit.

    Example:
        >>> def record(alpha, beta):  # two exponents, with a bend at rank 20
        ...     values = tuple(n**-alpha * max(n / 20, 1) ** (alpha - beta) for n in range(1, 101))
        ...     record = AlphaRecord(num_samples=1000, num_features=256, eigenvalues=values)
        ...     return record.refit((4, 20))
        >>> found = window_agreement([record(1 + i / 10, 2 - i / 10) for i in range(5)],
        ...                          [(2, 20), (25, 100)])
        >>> found.taus, found.survives
        ({(2, 20): 1.0, (25, 100): -1.0}, False)
    """
    fitted = [r for r in records if r.fit is not None]
    _check_one_kind(fitted)
    if len(fitted) < FEWEST_TO_COMPARE:
        raise SelectionError(
            f"an order of {len(fitted)} fitted records says nothing about windows; "
            f"expected at least {FEWEST_TO_COMPARE}"
        )
    distances = [r.distance(target) for r in fitted]
    taus = {}
    for first, last in windows:
        others = [r.refit((first, last)).distance(target) for r in fitted]
        reached = bool(np.isfinite(others).all())
        taus[first, last] = agreement(distances, others) if reached else math.nan
    return WindowAgreement(taus)


def cautions(
    records: Sequence[AlphaRecord], *, target: float | tuple[float, float] = 1.0
) -> list[str]:
    """Reasons to look twice at an order by α, each in one sentence; empty if there are none.

    Names checkpoints whose own weights were not measured, and compares the order with those of two
    neighbouring fit windows, and with that of RankMe: of the newest records where there are several
    trainings, since α does not compare over lengths.

    Args:
        records: Records of one layer and one fit window.
        target: As in `rank_checkpoints`.
    """
    of_others = [r for r in records if r.path_step is not None]
    found = []
    if of_others:
        r = of_others[0]
        found.append(
            f"{len(of_others)} of {len(records)} checkpoints hold weights that were not measured, "
            f"and come last: {r.path} was saved at step {r.path_step}, and its α is of step "
            f"{r.global_step}; save when α is measured, or measure them with `alphareq score`"
        )
    trainings = trainings_of(r for r in records if r.path_step is None).values()
    newest = [h[-1] for h in trainings] if len(trainings) > 1 else [r for h in trainings for r in h]
    fitted = [r for r in newest if r.fit is not None]
    if len(fitted) < FEWEST_TO_COMPARE:
        return found
    distances = [r.distance(target) for r in fitted]
    first, last = fitted[0].fit_range or (0, 0)
    halves = [(first, last // 2), (2 * first, last)]
    halves = [window for window in halves if window[1] - window[0] >= _FEWEST_RANKS]
    for window, tau in window_agreement(fitted, halves, target=target).taus.items():
        if tau < AGREEMENT:
            found.append(
                f"the order hangs on the fit window: over ranks {window[0]}–{window[1]} instead "
                f"of {first}–{last} it would be another (Kendall τ = {tau:.2f})"
            )
    ranks = [r.scores.get("rankme", math.nan) for r in fitted]
    if np.isfinite(ranks).all():
        tau = agreement(distances, [-rank for rank in ranks])
        if tau < AGREEMENT:
            best = fitted[int(np.argmax(ranks))]
            found.append(
                f"α and RankMe disagree (Kendall τ = {tau:.2f}): RankMe would choose "
                f"{best.name}; check both with a readout"
            )
    return found
