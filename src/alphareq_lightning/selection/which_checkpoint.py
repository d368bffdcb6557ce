"""Which checkpoint of one training to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.answer import Verdict
from alphareq_lightning.selection.course import FIRST_STEP, SHORTEST, Course

_SIGMAS = 2.0
"""Standard errors within which two values of α cannot be told apart."""
MISSING = "α before the first step and at three steps or more"
"""What tells a course."""


def which_checkpoint(
    history: Sequence[AlphaRecord],
    course: Course,
    target: float | tuple[float, float],
    doubts: list[str],
    courses: Mapping[str, Course],
) -> Verdict:
    """The checkpoint nearest to the target after the turn; before it the last, as `verdict` tells.

    Args:
        history: Records that can be chosen, in the order of their steps.
        course: Of the training.
        target: As in `verdict`.
        doubts: Those that are known already.
        courses: That of the training by its name, to be passed on.
    """
    fitted = [r for r in history if math.isfinite(r.alpha)]
    doubts = doubts + _doubts_of_course(course)
    if course.may_fail:
        doubts.append("RankMe was not measured: whether this training fails cannot be told")
    if course.phase == "collapsed":
        return Verdict(
            None,
            "do not use this training: its newest features have collapsed",
            failing=(history[-1],),
            doubts=tuple(doubts),
            courses=courses,
        )
    if course.phase == "unknown":
        advice = (
            f"measure more of the course: {MISSING}; of a new training by "
            'AlphaMonitor(at_steps="log") or Gauge.record, of a finished training by alphareq '
            "score on its other checkpoints"
        )
        if course.too_short:
            advice = (
                f"train longer: the records end at step {course.latest.global_step}, and no course "
                f"is told before step {SHORTEST}"
            )
        return Verdict(
            None,
            advice,
            doubts=tuple(doubts),
            courses=courses,
        )
    if course.phase == "warming up":
        if course.peak is not None and (fall := course.peak.alpha - course.latest.alpha) > 0:
            doubts.append(
                f"α is {fall:.2f} below its largest value, that of step "
                f"{course.peak.global_step:,}: a turn is told from {course.least_fall:.2f} on, for "
                "the fit is no more exact"
            )
        return Verdict(
            history[-1],
            "keep the last checkpoint and train on: α has not turned, so it says nothing yet about "
            "which one is best",
            doubts=tuple(doubts),
            courses=courses,
        )
    assert course.peak is not None
    start = FIRST_STEP if course.phase == "failing" else course.peak.global_step
    candidates = sorted(
        (r for r in fitted if r.global_step >= start),
        key=lambda r: (r.distance(target), r.global_step),
    )
    if not candidates:
        return Verdict(
            None,
            f"keep a checkpoint from step {start} on: none of these is as late",
            doubts=tuple(doubts),
            courses=courses,
        )
    choice, *others = candidates
    ties = [r for r in others if cannot_tell(choice, r, target)]
    for window in other_windows(candidates):
        nearest = min(candidates, key=lambda r: r.refit(window).distance(target))
        if nearest is not choice and nearest not in ties:
            ties.append(nearest)
            doubts.append(
                f"the choice hangs on the fit window: over ranks {window[0]}–{window[1]} it would "
                f"be step {nearest.global_step}"
            )
    if course.phase == "failing":
        advice = (
            "stop this training, unless a readout speaks for it: α stands far above that of the "
            "untrained network, and the rank of its features is lost; of its checkpoints the "
            "choice is the one with α nearest to the target, which may be no better than the "
            "untrained network"
        )
        return Verdict(choice, advice, tuple(ties), (history[-1],), tuple(doubts), courses=courses)
    advice = "keep the choice" + (" or any of its ties" if ties else "")
    if course.phase == "settling":
        advice += "; α still moves, so training on may give a better one"
    return Verdict(choice, advice, tuple(ties), doubts=tuple(doubts), courses=courses)


def _doubts_of_course(course: Course) -> list[str]:
    if course.reference is None or course.knows_untrained:
        return []
    return [
        "α of the untrained network was not measured; that of step "
        f"{course.reference.global_step} stands in for it"
    ]


def cannot_tell(
    choice: AlphaRecord, other: AlphaRecord, target: float | tuple[float, float]
) -> bool:
    """Whether α of two records differ by less than their standard errors allow."""
    errors = [r.stderr if math.isfinite(r.stderr) else 0.0 for r in (choice, other)]
    apart = other.distance(target) - choice.distance(target)
    return apart <= _SIGMAS * math.hypot(*errors)


def other_windows(records: Sequence[AlphaRecord]) -> list[tuple[int, int]]:
    """Windows next to the records' own, one from half its first rank and one to half its last."""
    if not records or records[0].fit_range is None:
        return []
    first, last = records[0].fit_range
    wanted = [(max(first // 2, 1), last), (first, max(last // 2, first + 5))]
    reached = [
        window for window in wanted if all(math.isfinite(r.refit(window).alpha) for r in records)
    ]
    return [window for window in reached if window != (first, last)]
