"""Where a training stands: the course of α over its steps, and the phase that it is in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

from alphareq_lightning.errors import FitRangeError
from alphareq_lightning.functional import resolve_fit_range
from alphareq_lightning.records import AlphaRecord

Phase = Literal["collapsed", "unknown", "failing", "warming up", "settling", "settled"]
TURNED: tuple[Phase, ...] = ("settling", "settled")
FIRST_STEP = 100
"""The first steps of a training are noise of its beginning: they are passed over."""
LATEST_QUARTER = 0.75
"""The drift is taken from the last measurement before this share of the steps."""
SHORTEST = math.ceil(FIRST_STEP / LATEST_QUARTER)
"""Steps of the shortest training in which both can be measured: no other has a course."""
LEAST_MOVE = 0.05
"""A smaller change of α is none, whatever its error."""
ABOVE_UNTRAINED = 0.2
"""α of a failing training is so far above that of the untrained network,"""
LOST_RANKME = 0.2
"""while RankMe has lost this share of its largest value (``study/HYPOTHESES.md``, M1)."""
COLLAPSED_R2 = 0.8
COLLAPSED_RANKME = 0.02
"""Of the width of the layer."""


class Course(NamedTuple):
    """How α of one layer went in one training."""

    phase: Phase
    """``"warming up"``: α has not turned yet. ``"settling"``: past its peak, and moving.
    ``"settled"``: past its peak, and at rest. ``"failing"``: it is well above that of the untrained
    network, and RankMe has lost a fifth of its largest value, whether α has turned or not; told
    only where all of these were measured. ``"collapsed"``: there is no spectrum worth a fit.
    ``"unknown"``: too little was measured to tell."""
    latest: AlphaRecord
    """The newest measurement."""
    reference: AlphaRecord | None
    """The untrained network; or the first measurement, where none was made before the first
    step."""
    peak: AlphaRecord | None
    """The largest α from step 100 on."""
    drift: float
    """Change of α over the last quarter; NaN where nothing was measured before it."""
    drift_stderr: float
    """Its standard error, from the standard errors of both fits."""

    @property
    def turned(self) -> bool:
        """Whether α has passed its peak: before, its nearness to 1 misleads."""
        return self.phase in TURNED

    @property
    def least_fall(self) -> float:
        """How far below its peak α has turned: by two standard errors of its fit, at least .05."""
        return _least_fall(self.latest)

    @property
    def too_short(self) -> bool:
        """Whether it ends before a course can be told. Weights without a step are no training."""
        return self.phase == "unknown" and 0 < self.latest.global_step < SHORTEST

    @property
    def knows_untrained(self) -> bool:
        """Whether the reference is the untrained network, and not a stand-in."""
        measured = self.reference is not None and self.reference.global_step == 0
        return measured or self.latest.untrained_alpha is not None

    @property
    def may_fail(self) -> bool:
        """Whether nobody can tell if it fails, for RankMe was not measured."""
        measured = math.isfinite(self.latest.scores.get("rankme", math.nan))
        return self.phase in ("warming up", *TURNED) and not measured


def course_of(history: Sequence[AlphaRecord]) -> Course:
    """Tell the phase of a training from the records of one layer.

    The rules are those of ``study/HYPOTHESES.md``, for *failing* M1, which was found on fifteen of
    the long study's trainings. They see no label, and no record later than the last of ``history``.
    Without a record of the untrained network, as where one checkpoint is all there is, the newest
    one's own ``phase`` counts: it was told by all that had been measured by then.

    Args:
        history: Records of one layer, one fit window and one training, in any order; at least one.

    Example:
        >>> from alphareq_lightning.records.record import Fit
        >>> def record(step, alpha):
        ...     values = tuple(n**-alpha for n in range(1, 101))
        ...     return AlphaRecord(fit=Fit(alpha, 1.0, 0.01, (4, 50)), num_samples=5000,
        ...                        num_features=100, global_step=step, eigenvalues=values,
        ...                        scores={"rankme": 60 - 10 * alpha})
        >>> steps, alphas = (0, 200, 400, 1000, 2000, 4000), (1.54, 1.98, 1.99, 1.83, 1.71, 1.57)
        >>> course_of(list(map(record, steps, alphas))).phase
        'settling'
        >>> course_of(list(map(record, (0, 100, 4000), (1.54, 1.10, 2.46)))).phase
        'failing'
    """
    records = sorted(history, key=lambda record: record.global_step)
    newest, fitted = records[-1], [r for r in records if math.isfinite(r.alpha)]
    # What could not be measured for another reason than the features is passed over.
    latest = newest if _collapsed(newest) or not fitted else fitted[-1]
    past = [r for r in fitted if r.global_step >= FIRST_STEP]
    reference = fitted[0] if fitted and fitted[0] is not latest else None
    peak = max(past, key=lambda record: record.alpha, default=None)
    before = [r for r in past if r.global_step <= LATEST_QUARTER * latest.global_step]
    alone = (math.nan if latest.drift is None else latest.drift, math.nan)
    drift, error = _drift(before[-1], latest) if before else alone

    def course(phase: Phase) -> Course:
        return Course(phase, latest, reference, peak, drift, error)

    if _collapsed(latest):
        return course("collapsed")
    told: Phase = next((name for name in get_args(Phase) if name == newest.phase), "unknown")
    if told != "unknown" and peak is not None and fitted[0].global_step > 0:
        return course(told)
    if reference is None or latest.fit is None or peak is None or len(past) < 2 or not before:
        return course("unknown")
    # A stand-in for the untrained network is no ground to stop a training on.
    if reference.global_step == 0 and _has_lost_rank(past) and _is_above(latest, reference):
        return course("failing")
    if latest.alpha >= peak.alpha - _least_fall(latest):
        return course("warming up")
    moves = abs(drift) > max(LEAST_MOVE, 2 * error) and _moves_over_more_ranks(before[-1], latest)
    return course("settling" if moves else "settled")


def with_course(record: AlphaRecord, history: Sequence[AlphaRecord]) -> tuple[AlphaRecord, Course]:
    """A new record that knows where its training stands, and the course up to it.

    Args:
        record: The new measurement.
        history: Earlier records, also of other layers, windows and trainings: they are passed over.
    """
    told = [*of_one_course(record, history), replace(record, phase="")]
    course = course_of(told)
    is_known = record.fit is not None and math.isfinite(course.drift)
    drift = course.drift if is_known else None
    untrained = next((r.alpha for r in told if r.global_step == 0 and r.fit is not None), None)
    return replace(record, phase=course.phase, drift=drift, untrained_alpha=untrained), course


def of_one_course(record: AlphaRecord, history: Sequence[AlphaRecord]) -> list[AlphaRecord]:
    """Of some records those of one layer, window and training, up to a moment of it."""
    found = [
        r
        for r in history
        if (r.layer, r.run or record.run) == (record.layer, record.run)
        and r.global_step <= record.global_step
    ]
    windows = [r.fit_range for r in (*found, record) if r.fit_range is not None]
    return [r for r in found if r.fit_range in (None, *windows[-1:])]


def alarm(course: Course) -> str | None:
    """What a user should hear of a training that fails or has collapsed; `None` of others."""
    latest, untrained = course.latest, course.reference
    where = f"layer {latest.layer!r}"
    if course.phase == "failing" and untrained is not None:
        return (
            f"α of {where} is {latest.alpha:.2f} at step {latest.global_step:,}, where that of the "
            f"untrained network was {untrained.alpha:.2f}, and RankMe has lost more than "
            f"{LOST_RANKME:.0%} of its largest value. Of 58 Barlow Twins on CIFAR-10 in the "
            "long study the 15 of which that held at the end had not learnt; four of which it "
            "held for a while learnt, and one of six VICReg of which it held at the end: a sign, "
            "no proof. Look at the loss, its weights and the learning rate"
        )
    if course.phase != "collapsed":
        return None
    reason = latest.problem
    if latest.fit is not None and latest.r2 < COLLAPSED_R2:
        reason = f"R² = {latest.r2:.2f} over ranks {latest.ranks}"
    elif latest.fit is not None:
        reason = (
            f"RankMe is {latest.scores['rankme']:.1f} of {latest.num_features} features (a small "
            "ViT of the long study learnt all the same)"
        )
    return (
        f"the features of {where} have collapsed at step {latest.global_step:,}: {reason}. Look at "
        "the loss and what holds its views apart; α says nothing here"
    )


def _collapsed(record: AlphaRecord) -> bool:
    if record.fit is None:  # lost batches or a window out of reach say nothing of the features
        return not all(value > 0 for value in record.eigenvalues)
    rankme = record.scores.get("rankme", math.inf)
    return not record.r2 >= COLLAPSED_R2 or rankme < COLLAPSED_RANKME * record.num_features


def _has_lost_rank(past: Sequence[AlphaRecord]) -> bool:
    ranks = [record.scores.get("rankme", math.nan) for record in past]
    return ranks[-1] < (1 - LOST_RANKME) * max(filter(math.isfinite, ranks), default=math.nan)


def _drift(before: AlphaRecord, now: AlphaRecord) -> tuple[float, float]:
    return now.alpha - before.alpha, math.hypot(_error(before), _error(now))


def _error(record: AlphaRecord) -> float:
    return record.stderr if math.isfinite(record.stderr) else 0.0


def _least_fall(latest: AlphaRecord) -> float:
    return max(LEAST_MOVE, 2 * _error(latest))


def _moves_over_more_ranks(before: AlphaRecord, now: AlphaRecord) -> bool:
    """Whether α moves as well in a window that begins at half the rank; yes if it has none."""
    if now.fit_range is None:
        return False
    first, last = now.fit_range
    wider = max(first // 2, 1), last
    change = now.refit(wider).alpha - before.refit(wider).alpha
    return not abs(change) <= max(LEAST_MOVE, 2 * math.hypot(_error(before), _error(now)))


def _is_above(latest: AlphaRecord, untrained: AlphaRecord) -> bool:
    return _tried(latest).alpha > _tried(untrained).alpha + ABOVE_UNTRAINED


def _tried(record: AlphaRecord) -> AlphaRecord:
    """Over the ranks of ``"auto"``: in other windows M1 calls failing what learns, or misses it."""
    try:
        auto = resolve_fit_range("auto", record.num_features, num_samples=record.num_samples)
    except FitRangeError:  # a layer so narrow has its own window only
        return record
    return record if record.fit_range in (None, auto) else record.refit(auto)
