"""What to keep, what cannot be told from it, and when not to choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.course import FIRST_STEP, Course, course_of
from alphareq_lightning.selection.ranking import (
    AGREEMENT,
    FEWEST_TO_COMPARE,
    agreement,
    mixtures,
    rank_checkpoints,
    score_badness,
    window_agreement,
)
from alphareq_lightning.selection.seeds import Spread, configurations_of, spread_between_seeds
from alphareq_lightning.text import shown

BELIEVED = ("twins_error", "rankme", "selfcluster")
"""What orders trainings that have turned (``study/HYPOTHESES.md``, H3); of these, what all have."""
OTHERS = ("alpha", "stable_rank", "loss")
"""Shown beside: they agree or not, and decide nothing unless they are asked to."""
AS_LONG = 0.75
"""A training of less than this share of the longest one's steps is left out."""
ENOUGH = 0.5
"""Less than this share of the trainings that do not fail must not have turned."""
SAME_ALPHA = 1e-3
"""One model measured twice gives α that differ by this share of themselves at most."""
SIGMAS = 2.0
"""Standard errors within which two values of α cannot be told apart."""
RERUN = 0.05
"""Between two seeds of one configuration α differs by so much, and other scores by this share of
themselves (H8), where no seeds are there to measure it."""


class Criterion(NamedTuple):
    """How one criterion orders the candidates."""

    order: tuple[AlphaRecord, ...]
    """Best first."""
    agreement: float
    """Kendall's τ with the order that was believed; NaN where one of them is constant."""
    believed: bool


@dataclass(frozen=True)
class Verdict:
    """An answer with its ties and its reasons, or none.

    Attributes:
        choice: The record to keep, or `None`.
        ties: Records that cannot be told from it, best first.
        failing: The newest record of each training that fails or has collapsed.
        doubts: Why the choice, or that there is none, may be wrong; a sentence each.
        advice: What to do next, in one sentence.
        scores: Each criterion's order of the candidates, and how well it agrees.
        courses: Where each training stands, by its name.
        spread: What another seed changes: of each score the standard deviation between seeds as a
            share, of α as it is. Empty where no configuration has several seeds.
    """

    choice: AlphaRecord | None
    advice: str
    ties: tuple[AlphaRecord, ...] = ()
    failing: tuple[AlphaRecord, ...] = ()
    doubts: tuple[str, ...] = ()
    scores: Mapping[str, Criterion] = field(default_factory=dict)
    courses: Mapping[str, Course] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)


def trainings_of(records: Iterable[AlphaRecord]) -> dict[str, list[AlphaRecord]]:
    """Records by the training that they belong to, in the order of their steps.

    A training is known by the ``run`` of its records, or, where they are older than that field, by
    the folder of their checkpoints; by each checkpoint alone, where those of one folder contradict
    each other.
    """
    found: dict[str, list[AlphaRecord]] = {}
    older: dict[str, list[AlphaRecord]] = {}
    for record in sorted(records, key=lambda r: r.global_step):
        if record.run or record.path is None:
            found.setdefault(record.run, []).append(record)
        else:
            older.setdefault(str(Path(record.path).parent), []).append(record)
    for folder, history in older.items():
        apart = _contradictions(history) > 0
        for record in history:
            found.setdefault(str(record.path) if apart else folder, []).append(record)
    return found


def _contradictions(history: Sequence[AlphaRecord]) -> int:
    """Steps that were measured more than once, with results that are not one."""
    first: dict[int, float] = {}
    return len(
        {
            r.global_step
            for r in history
            if math.isfinite(r.alpha)
            and not same_alpha(first.setdefault(r.global_step, r.alpha), r.alpha)
        }
    )


def same_alpha(alpha: float, other: float) -> bool:
    """Whether two values may be of one model: measured anew, it differs by rounding."""
    return math.isclose(alpha, other, rel_tol=SAME_ALPHA)


def _each_once(history: Sequence[AlphaRecord]) -> list[AlphaRecord]:
    """Without the repeats of a merged history, and second checkpoints of one step."""
    kept: dict[int, list[AlphaRecord]] = {}
    for record in history:
        of_step = kept.setdefault(record.global_step, [])
        if not any(same_alpha(r.alpha, record.alpha) for r in of_step):
            of_step.append(record)
    return [record for of_step in kept.values() for record in of_step]


def verdict(
    records: Iterable[AlphaRecord],
    *,
    course: Iterable[AlphaRecord] = (),
    believe: Sequence[str] | None = None,
    target: float | tuple[float, float] = 1.0,
    configurations: Mapping[str, str] | None = None,
) -> Verdict:
    """Choose a checkpoint of one training, or a training of many; or say that nobody can.

    Records of one training answer *which checkpoint*: after α has turned, the one with α nearest to
    the target; before, the last; where the training fails, the nearest as well, which is an early
    one. Records of several answer *which training*: those that fail, have collapsed or have not
    turned are set aside, and `BELIEVED` criteria order the rest by their mean rank. Where one
    configuration was trained with several seeds, the mean of its seeds stands for it, and what
    differs by less than seeds do is a tie.

    Args:
        records: What can be chosen, of one layer and one fit window.
        course: More measurements of the same trainings, of which no checkpoint is there, from
            before the first step on: they tell where each training stands. Those of other layers
            are passed over.
        believe: Criteria to order trainings by: names of scores, ``"alpha"``, ``"loss"`` or
            ``"twins_error"``; by default those of `BELIEVED` that all candidates have, and α alone
            where they have none. Checkpoints of one training are chosen by α.
        target: The α to be near, or an interval ``(low, high)``.
        configurations: What each training was trained with but for its seed, under any name, by
            the training's (`trainings_of`); one that is not named stands alone. By default as
            `configurations_of` reads it from the folders, as in ``lambd=1/seed=0``.

    Raises:
        SelectionError: If there are no records; if layers, windows, widths or numbers of images are
            mixed; if not every candidate has a criterion of ``believe``; or if a training of
            ``configurations`` is not there.
    """
    if believe is not None and (isinstance(believe, str) or not believe):
        raise SelectionError(f"expected a list of names of scores to believe, got {shown(believe)}")
    ranked = rank_checkpoints(records, target=target)
    if not ranked:
        raise SelectionError("there is no record to choose from")
    more = [r for r in course if r.layer == ranked[0].layer]
    _check_comparable([*ranked, *more])
    measured = [r for r in ranked if r.path_step is None]
    doubts = []
    if len(measured) < len(ranked):
        doubts.append(
            f"{len(ranked) - len(measured)} of {len(ranked)} checkpoints hold weights that were "
            "not measured; they are left out"
        )
    trainings = {name: _each_once(found) for name, found in trainings_of(measured).items()}
    told = trainings_of([*measured, *(r for r in more if r.run)])
    courses = {name: course_of(told[name]) for name in trainings}
    if twice := max((_contradictions(told[name]) for name in trainings), default=0):
        doubts.append(
            f"{twice} step{'s' if twice > 1 else ''} of one training "
            f"{'have' if twice > 1 else 'has'} different values of α: was it resumed from an "
            "earlier step, or are these several trainings?"
        )
    if not courses:
        return Verdict(
            None, "measure the checkpoints themselves: alphareq score", doubts=tuple(doubts)
        )
    if len(trainings) == 1:
        [(name, history)] = trainings.items()
        if others := [score for score in believe or () if score != "alpha"]:
            doubts.append(
                f"checkpoints of one training are chosen by α, not by {', '.join(others)}"
            )
        return _of_checkpoints(history, courses[name], target, doubts, courses)
    newest = {name: history[-1] for name, history in trainings.items()}
    if configurations is None:
        configurations = configurations_of(trainings)
    for name in configurations:
        if name not in trainings:
            raise SelectionError(f"no training {name!r}; there are: {', '.join(trainings)}")
    return _of_trainings(courses, newest, configurations, believe, target, doubts)


def _check_comparable(records: Sequence[AlphaRecord]) -> None:
    for sentence in mixtures(records):
        raise SelectionError(sentence)
    kinds: dict[str, Callable[[AlphaRecord], int]] = {
        "features": lambda r: r.num_features,
        "images": lambda r: r.num_samples if r.num_images is None else r.num_images,
    }
    for what, read in kinds.items():
        counts = sorted({read(r) for r in records if math.isfinite(r.alpha)})
        if len(counts) > 1:
            raise SelectionError(
                f"α of different numbers of {what} do not compare: {counts}; choose among records "
                "of one kind"
            )


# -- which checkpoint of one training --------------------------------------------------------------


def _of_checkpoints(
    history: Sequence[AlphaRecord],
    course: Course,
    target: float | tuple[float, float],
    doubts: list[str],
    courses: Mapping[str, Course],
) -> Verdict:
    fitted = [r for r in history if math.isfinite(r.alpha)]
    doubts = doubts + _doubts_of_course(course)
    if course.phase == "collapsed":
        return Verdict(
            None,
            "do not use this training: its newest features have collapsed",
            failing=(history[-1],),
            doubts=tuple(doubts),
            courses=courses,
        )
    if course.phase == "unknown":
        return Verdict(
            None,
            "measure more of the course: α before the first step and at three steps or more, for "
            'example AlphaMonitor(at_steps="log"), or Gauge.record at such steps',
            doubts=tuple(doubts),
            courses=courses,
        )
    if course.phase == "warming up":
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
    ties = [r for r in others if _cannot_tell(choice, r, target)]
    for window in _other_windows(candidates):
        nearest = min(candidates, key=lambda r: r.refit(window).distance(target))
        if nearest is not choice and nearest not in ties:
            ties.append(nearest)
            doubts.append(
                f"the choice hangs on the fit window: over ranks {window[0]}–{window[1]} it would "
                f"be step {nearest.global_step}"
            )
    if course.phase == "failing":
        advice = (
            "stop this training: α rises and does not turn; of its checkpoints the choice is the "
            "one with α nearest to the target"
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


def _cannot_tell(
    choice: AlphaRecord, other: AlphaRecord, target: float | tuple[float, float]
) -> bool:
    errors = [r.stderr if math.isfinite(r.stderr) else 0.0 for r in (choice, other)]
    apart = other.distance(target) - choice.distance(target)
    return apart <= SIGMAS * math.hypot(*errors)


def _other_windows(records: Sequence[AlphaRecord]) -> list[tuple[int, int]]:
    """Windows next to the records' own, one from half its first rank and one to half its last."""
    if not records or records[0].fit_range is None:
        return []
    first, last = records[0].fit_range
    wanted = [(max(first // 2, 1), last), (first, max(last // 2, first + 5))]
    reached = [
        window for window in wanted if all(math.isfinite(r.refit(window).alpha) for r in records)
    ]
    return [window for window in reached if window != (first, last)]


# -- which training of many ------------------------------------------------------------------------


def _of_trainings(
    courses: Mapping[str, Course],
    newest: Mapping[str, AlphaRecord],
    configurations: Mapping[str, str],
    believe: Sequence[str] | None,
    target: float | tuple[float, float],
    doubts: list[str],
) -> Verdict:
    failing = tuple(newest[n] for n, c in courses.items() if c.phase in ("failing", "collapsed"))
    well = {n: c for n, c in courses.items() if c.phase not in ("failing", "collapsed")}
    longest = max((newest[name].global_step for name in well), default=0)
    as_long = {n: c for n, c in well.items() if newest[n].global_step >= AS_LONG * longest}
    if len(as_long) < len(well):
        doubts.append(
            f"{len(well) - len(as_long)} of {len(well)} trainings that do not fail are shorter "
            f"than {AS_LONG:.0%} of the longest, {longest} steps, and left out: α does not compare "
            "over lengths"
        )
    alive = list(as_long.values())
    turned = [c for c in alive if c.turned]
    stand_ins = sum(not c.knows_untrained for c in as_long.values() if c.reference is not None)
    if stand_ins:
        doubts.append(
            f"of {stand_ins} of {len(as_long)} trainings the untrained network was not measured; "
            "their first measurement stands in for it"
        )

    def none(advice: str) -> Verdict:
        return Verdict(None, advice, failing=failing, doubts=tuple(doubts), courses=courses)

    if not alive:
        return none("choose none of them: all trainings fail or have collapsed")
    unknown = sum(c.phase == "unknown" for c in alive)
    waiting = len(alive) - len(turned) - unknown
    if not turned or len(turned) < ENOUGH * len(alive):
        if waiting:
            doubts.append(
                f"{waiting} of {len(alive)} trainings that do not fail have not turned: α stands "
                "at its largest value, and before it falls its nearness to the target misleads"
            )
        if unknown:
            doubts.append(
                f"the course of {unknown} of {len(alive)} trainings is not known: too few "
                "measurements of it are there"
            )
        if unknown > len(alive) / 2:
            return none(
                "pay a few readouts (alphareq select), or measure the course of each training: "
                "records of its first steps and of its end are missing"
            )
        return none("train longer until α turns, or pay a few readouts: alphareq select")
    if waiting:
        doubts.append(
            f"{waiting} of {len(alive)} trainings that do not fail have not turned yet and are set "
            "aside; they may overtake"
        )
    if unknown:
        doubts.append(
            f"the course of {unknown} of {len(alive)} trainings is not known: they are set aside"
        )
    candidates = {name: newest[name] for name, c in as_long.items() if c.turned}
    found = _Candidates(candidates, configurations, believe, target)
    believed = found.believed
    for first, second in combinations(believed, 2):
        tau = agreement(found.places(first).tolist(), found.places(second).tolist())
        if tau < 0 and len(found.groups) >= FEWEST_TO_COMPARE:
            doubts.append(
                f"{first} and {second} turn the order around (Kendall τ = {tau:.2f}), and nothing "
                "but labels can say which is right"
            )
            return none("pay a few readouts to learn which score to believe: alphareq select")
        if tau < AGREEMENT:
            doubts.append(f"{first} and {second} agree little (Kendall τ = {tau:.2f})")
    if believed == ["alpha"] and len(candidates) >= FEWEST_TO_COMPARE:
        for window, tau in window_agreement(
            found.records, _other_windows(found.records), target=target
        ).taus.items():
            if tau < 0:
                doubts.append(
                    f"over ranks {window[0]}–{window[1]} the order by α turns around (Kendall "
                    f"τ = {tau:.2f})"
                )
                return none("pay a few readouts to learn which window to believe: alphareq select")
    best, *others = found.order
    choice, *siblings = found.in_order(best)
    # A group is worse than the choice if most of what is believed says so, by more than a rerun.
    tied = [
        g for g in others if sum(found.worse(g, best, n) for n in believed) <= len(believed) / 2
    ]
    ties = (*siblings, *(record for group in tied for record in found.in_order(group)))
    doubts += found.doubts_of_seeds(best, courses)
    if not others and siblings:
        advice = "take any: these are seeds of one configuration, and no score tells them apart"
    elif not ties:
        advice = "take the choice"
    elif len(ties) + 1 < len(candidates):
        advice = (
            f"take the choice; {len(ties)} cannot be told from it, so read those out if it counts"
        )
    elif any(found.worse(group, best, name) for group in tied for name in believed):
        advice = (
            "take the choice, or pay a few readouts: some scores tell these trainings apart, but "
            "they do not agree"
        )
    else:
        advice = "nothing tells these trainings apart: take any, or pay a few readouts"
    return Verdict(
        choice, advice, ties, failing, tuple(doubts), found.scores(), courses, found.spread()
    )


class _Candidates:
    """The newest records of trainings that have turned, in groups of one configuration each.

    A configuration stands where the mean of its seeds stands: its best seed would be luck, the more
    seeds the more of it.
    """

    def __init__(
        self,
        newest: Mapping[str, AlphaRecord],
        configurations: Mapping[str, str],
        believe: Sequence[str] | None,
        target: float | tuple[float, float],
    ) -> None:
        self.records = list(newest.values())
        self._target = target
        self._configurations = configurations
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(newest):
            groups.setdefault(configurations.get(name, name), []).append(place)
        self.groups = list(groups.values())
        self._names = list(groups)
        wanted = dict.fromkeys((*(believe or ()), *BELIEVED, *OTHERS))
        values = {n: np.array([badness(r, n, target) for r in self.records]) for n in wanted}
        self._values = {n: v for n, v in values.items() if np.isfinite(v).all()}
        self.believed = list(believe or [n for n in self._values if n in BELIEVED] or ["alpha"])
        for name in self.believed:
            if name not in self._values:
                raise SelectionError(
                    f"not every training has {name!r}; there are: {', '.join(self._values)}"
                )
        self._means = {
            name: np.array([of_each[group].mean() for group in self.groups])
            for name, of_each in self._values.items()
        }
        self._place = np.mean([self.places(name) for name in self.believed], axis=0)
        self.order: list[int] = np.argsort(self._place, kind="stable").tolist()

    def places(self, criterion: str) -> NDArray[np.float64]:
        """Where each group stands by a criterion."""
        return _places(self._means[criterion])

    def in_order(self, group: int) -> list[AlphaRecord]:
        """The records of a group, best first by what is believed."""
        own = np.mean([_places(self._values[name]) for name in self.believed], axis=0)
        return [self.records[i] for i in sorted(self.groups[group], key=lambda i: float(own[i]))]

    def scores(self) -> dict[str, Criterion]:
        """Every criterion that all candidates have."""
        return {
            name: Criterion(
                tuple(
                    self.records[i]
                    for group in np.argsort(self._means[name], kind="stable")
                    for i in sorted(self.groups[group], key=lambda i: float(of_each[i]))
                ),
                agreement(self.places(name).tolist(), self._place.tolist()),
                name in self.believed,
            )
            for name, of_each in self._values.items()
        }

    def _between_seeds(self, criterion: str) -> Spread:
        if criterion != "alpha":
            return spread_between_seeds(self._values[criterion], self.groups, relative=True)
        alphas = np.array([record.alpha for record in self.records])
        return spread_between_seeds(alphas, self.groups, relative=False)

    def spread(self) -> dict[str, float]:
        """What another seed changes, by criterion; empty where no seeds are known."""
        found = {name: self._between_seeds(name) for name in self._values}
        return {name: spread.sd for name, spread in found.items() if spread.degrees}

    def worse(self, group: int, best: int, criterion: str) -> bool:
        """Whether a group is worse than the best by more than another seed may change."""
        mine, theirs = self._means[criterion][best], self._means[criterion][group]
        scale = 1.0 if criterion == "alpha" else abs(mine)
        nearest, other = (self.in_order(g)[0] for g in (best, group))
        if criterion == "alpha" and _cannot_tell(nearest, other, self._target):
            return False
        spread, sizes = (
            self._between_seeds(criterion),
            map(len, (self.groups[g] for g in (best, group))),
        )
        least = spread.threshold(*sizes) if spread.degrees else RERUN
        return bool(theirs - mine > least * scale)

    def doubts_of_seeds(self, best: int, courses: Mapping[str, Course]) -> list[str]:
        """That seeds are unknown, or that some of the choice's are no candidates."""
        if len(self.groups) > 1 and len(self.groups) == len(self.records):
            return [
                "no configuration was trained with several seeds, as far as is known: "
                f"{RERUN:.0%} of a score, and {RERUN} of α, is taken for what another seed changes"
            ]
        own = sum(self._configurations.get(n, n) == self._names[best] for n in courses)
        lost = own - len(self.groups[best])
        if not lost:
            return []
        return [
            f"{lost} of {own} trainings of the choice's configuration fail, have not turned or are "
            "too short: its mean is that of the others"
        ]


def badness(
    record: AlphaRecord, criterion: str, target: float | tuple[float, float] = 1.0
) -> float:
    """What a criterion says against a model: smaller is better, NaN where it has none."""
    if criterion == "alpha":
        return record.distance(target)
    if criterion in ("loss", "twins_error"):
        keys = [key for key in record.metrics if key.endswith(criterion) and "train" not in key]
        return record.metrics[min(keys, key=len)] if keys else math.nan
    return score_badness(record, criterion)


def _places(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2)
