"""Which training of many to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.answer import Criterion, Verdict
from alphareq_lightning.selection.course import SHORTEST, Course
from alphareq_lightning.selection.ranking import (
    AGREEMENT,
    FEWEST_TO_COMPARE,
    agreement,
    badness,
    window_agreement,
)
from alphareq_lightning.selection.seeds import Spread, spread_between_seeds
from alphareq_lightning.selection.which_checkpoint import MISSING, cannot_tell, other_windows

BELIEVED = ("twins_error", "rankme", "selfcluster")
"""What orders trainings that do not fail (``study/HYPOTHESES.md``, M3); of these, what all have."""
OTHERS = ("alpha", "stable_rank", "loss")
"""Shown beside: they agree or not, and decide nothing unless they are asked to."""
_AS_LONG = 0.75
"""A training of less than this share of the longest one's steps is left out."""
_NEAR = 0.25
"""The first of those that do not fail, by this share, are ties at least, after H3: with a smaller
one the best of resampled trainings is often another."""
_WAIT = "train longer until α turns, or pay a few readouts: alphareq select"
_RERUN = 0.05
"""Between two seeds of one configuration α differs by so much, and other scores by this share of
themselves, where no seeds are there to measure it: about two standard deviations of α,
RankMe and SelfCluster in H8."""


def which_training(
    courses: Mapping[str, Course],
    newest: Mapping[str, AlphaRecord],
    configurations: Mapping[str, str],
    believe: Sequence[str] | None,
    target: float | tuple[float, float],
    doubts: list[str],
) -> Verdict:
    """The best training by what is believed, of those that do not fail, as `verdict` tells.

    Args:
        courses: Of each training, by its name.
        newest: The record of each that stands for it.
        configurations: As in `verdict`, of some or all.
        believe: As in `verdict`.
        target: As in `verdict`.
        doubts: Those that are known already.

    Raises:
        SelectionError: If not every candidate has a criterion of ``believe``.
    """
    failing = tuple(newest[n] for n, c in courses.items() if c.phase in ("failing", "collapsed"))
    well = {n: c for n, c in courses.items() if c.phase not in ("failing", "collapsed")}
    longest = max((newest[name].global_step for name in well), default=0)
    as_long = {n: c for n, c in well.items() if newest[n].global_step >= _AS_LONG * longest}
    if len(as_long) < len(well):
        doubts.append(
            f"{len(well) - len(as_long)} of {len(well)} trainings that do not fail are shorter "
            f"than {_AS_LONG:.0%} of the longest, {longest} steps, and left out: α does not "
            "compare over lengths"
        )
    alive = list(as_long.values())
    stand_ins = sum(not c.knows_untrained for c in as_long.values() if c.reference is not None)
    if stand_ins:
        doubts.append(
            f"the untrained network of {stand_ins} of {len(as_long)} trainings was not measured; "
            "the first measurement of each stands in for it"
        )

    def none(advice: str) -> Verdict:
        return Verdict(None, advice, failing=failing, doubts=tuple(doubts), courses=courses)

    if not alive:
        return none(
            "choose none of them: all trainings fail or have collapsed; look at the loss, its "
            "weights and the learning rate"
        )
    short = sum(c.too_short for c in alive)
    unknown = sum(c.phase == "unknown" for c in alive) - short
    turned = [name for name, course in as_long.items() if course.turned]
    waiting = [name for name, course in as_long.items() if course.phase == "warming up"]
    candidates = {name: newest[name] for name in (*turned, *waiting)}
    if unknown:
        doubts.append(
            f"the course of {unknown} of {len(alive)} trainings is not known: too few "
            "measurements of it are there; they are left out"
        )
    if short:
        doubts.append(
            f"{short} of {len(alive)} trainings end before step {SHORTEST}, too early for a "
            "turn of α to be seen; they are left out"
        )
    if len(candidates) < len(alive) / 2:
        if unknown <= short:
            return none(_WAIT)
        return none(
            "pay a few readouts (alphareq select), or measure the course of each training: "
            + MISSING
        )
    if untold := sum(courses[name].may_fail for name in candidates):
        doubts.append(
            f"RankMe was not measured in {untold} of {len(candidates)} trainings: whether these "
            "fail cannot be told"
        )
    lacking = {name: _lacking(name, candidates) for name in BELIEVED}
    believed = list(believe or [name for name, count in lacking.items() if not count])
    if not believed:
        doubts.append(
            f"not every training has {', '.join(BELIEVED[:-1])} or {BELIEVED[-1]}, and the "
            "nearness of α alone does not order trainings that learn"
        )
        return none(
            "measure these scores of each training (scores= of AlphaMonitor, or alphareq score), "
            "or pay a few readouts: alphareq select"
        )
    found = _Candidates(candidates, configurations, believed, target, turned)
    if believe is None and len(believed) == 1 and len(found.groups) > 1:
        more = ", ".join(name for name in BELIEVED if name not in believed)
        doubts.append(
            f"nothing but {believed[0]} orders these trainings, and one score alone is easily "
            f"wrong: measure {more}, too (scores= of AlphaMonitor)"
        )
    missing = {n: k for n, k in lacking.items() if not believe and 0 < k < len(candidates)}
    doubts += [
        f"{name} is missing or no number in {count} of {len(candidates)} trainings: it is passed "
        "over"
        for name, count in missing.items()
    ]
    for first, second in combinations(believed, 2):
        tau = agreement(found.places(first).tolist(), found.places(second).tolist())
        if tau < 0 and len(found.groups) >= FEWEST_TO_COMPARE:
            doubts.append(
                f"{first} and {second} turn the order around (Kendall τ = {tau:.2f}), and nothing "
                "but labels can say which is right"
            )
            return none("pay a few readouts to learn which score to believe: alphareq select")
        if tau < 0:
            doubts.append(
                f"{first} and {second} order these {len(found.groups)} the other way around "
                f"(Kendall τ = {tau:.2f}), which of so few may be chance"
            )
        elif tau < AGREEMENT:
            doubts.append(f"{first} and {second} agree little (Kendall τ = {tau:.2f})")
    if believed == ["alpha"] and len(candidates) >= FEWEST_TO_COMPARE:
        for window, tau in window_agreement(
            found.records, other_windows(found.records), target=target
        ).taus.items():
            if tau < 0:
                doubts.append(
                    f"over ranks {window[0]}–{window[1]} the order by α turns around (Kendall "
                    f"τ = {tau:.2f})"
                )
                return none("pay a few readouts to learn which window to believe: alphareq select")
    best, *others = found.order
    of_best = found.in_order(best)
    choice = next((r for r in of_best if any(r is newest[name] for name in turned)), None)
    if choice is None:
        doubts.append(
            f"the first by {', '.join(believed)} has not turned: α is not clearly below its "
            "largest value, and before that the scores may mislead"
        )
        return none(_WAIT)
    if waiting:
        doubts.append(
            f"{len(waiting)} of {len(alive)} trainings that do not fail have not turned yet: they "
            "may overtake"
        )
    # A group is worse than the choice if most of what is believed says so, by more than a rerun.
    siblings = [record for record in of_best if record is not choice]
    near = math.ceil(_NEAR * len(found.groups)) - 1
    tied = [
        group
        for place, group in enumerate(others)
        if place < near or sum(found.worse(group, best, n) for n in believed) <= len(believed) / 2
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
    elif missing:
        advice = (
            f"what all of these trainings have tells none apart: measure {', '.join(missing)} of "
            "all, or pay a few readouts"
        )
    else:
        advice = "nothing tells these trainings apart: take any, or pay a few readouts"
    return Verdict(
        choice, advice, ties, failing, tuple(doubts), found.scores(), courses, spread=found.spread()
    )


def _lacking(criterion: str, candidates: Mapping[str, AlphaRecord]) -> int:
    """How many have no number of it."""
    return sum(not math.isfinite(badness(record, criterion)) for record in candidates.values())


class _Candidates:
    """The newest records of trainings that do not fail, in groups of one configuration each.

    A configuration stands where the mean of its seeds stands: its best seed would be luck, the more
    seeds the more of it.
    """

    def __init__(
        self,
        newest: Mapping[str, AlphaRecord],
        configurations: Mapping[str, str],
        believed: Sequence[str],
        target: float | tuple[float, float],
        turned: Sequence[str],
    ) -> None:
        self.records = list(newest.values())
        self._target = target
        self._configurations = configurations
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(newest):
            groups.setdefault(configurations.get(name, name), []).append(place)
        self.groups = list(groups.values())
        self._names = list(groups)
        wanted = dict.fromkeys((*believed, *BELIEVED, *OTHERS))
        values = {n: np.array([badness(r, n, target) for r in self.records]) for n in wanted}
        self._values = {n: v for n, v in values.items() if np.isfinite(v).all()}
        self.believed = believed
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
        self._own_place = np.mean([_places(self._values[n]) for n in self.believed], axis=0)
        names = list(newest)
        has_turned = [any(names[i] in turned for i in group) for group in self.groups]
        # Best first; of equals who has turned, then who is better by the first score.
        self.order: list[int] = sorted(
            range(len(self.groups)),
            key=lambda group: (
                self._place[group],
                not has_turned[group],
                *(self._means[name][group] for name in self.believed),
                self._names[group],
            ),
        )

    def places(self, criterion: str) -> NDArray[np.float64]:
        """Where each group stands by a criterion."""
        return _places(self._means[criterion])

    def in_order(self, group: int) -> list[AlphaRecord]:
        """The records of a group, best first by what is believed."""
        own = sorted(
            self.groups[group],
            key=lambda i: (
                self._own_place[i],
                *(self._values[name][i] for name in self.believed),
                self.records[i].name,
            ),
        )
        return [self.records[i] for i in own]

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
        if criterion == "alpha" and cannot_tell(nearest, other, self._target):
            return False
        spread, seeds = self._between_seeds(criterion), [len(group) for group in self.groups]
        least = spread.threshold(seeds[best], seeds[group]) if spread.degrees else _RERUN
        return bool(theirs - mine > least * scale)

    def doubts_of_seeds(self, best: int, courses: Mapping[str, Course]) -> list[str]:
        """That seeds are unknown, or that some of the choice's are no candidates."""
        if len(self.groups) > 1 and len(self.groups) == len(self.records):
            return [
                "no configuration was trained with several seeds, as far as is known: "
                f"{_RERUN:.0%} of a score, and {_RERUN} of α, is taken for what another "
                "seed changes"
            ]
        own = sum(self._configurations.get(n, n) == self._names[best] for n in courses)
        lost = own - len(self.groups[best])
        if not lost:
            return []
        return [
            f"{lost} of {own} trainings of the choice's configuration fail or are "
            "too short: its mean is that of the others"
        ]


def _places(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2)
