"""What to keep, what cannot be told from it, and when not to choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.answer import Verdict
from alphareq_lightning.selection.course import course_of
from alphareq_lightning.selection.ranking import mixtures, rank_checkpoints
from alphareq_lightning.selection.seeds import configurations_of
from alphareq_lightning.selection.trainings import contradictions, each_once, trainings_of
from alphareq_lightning.selection.which_checkpoint import which_checkpoint
from alphareq_lightning.selection.which_training import which_training
from alphareq_lightning.text import shown


def verdict(
    records: Iterable[AlphaRecord],
    *,
    course: Iterable[AlphaRecord] = (),
    believe: Sequence[str] | None = None,
    target: float | tuple[float, float] = 1.0,
    min_r2: float = 0.0,
    configurations: Mapping[str, str] | None = None,
) -> Verdict:
    """Choose a checkpoint of one training, or a training of many; or say that nobody can.

    Records of one training answer *which checkpoint*: after α has turned, the one with α nearest to
    the target; before, the last; where the training fails, the nearest as well, which is an early
    one. Records of several answer *which training*: those that fail or have collapsed are set
    aside, and `BELIEVED` criteria order the rest by their mean rank; the first is the choice if
    α has turned in it, and the first quarter of all are its ties at least. Where one
    configuration was trained with several seeds, the mean of its seeds stands for it, and what
    differs by less than seeds do is a tie.

    Args:
        records: What can be chosen, of one layer and one fit window.
        course: More measurements of the same trainings, of which no checkpoint is there, from
            before the first step on: they tell where each training stands. Those of other layers
            are passed over.
        believe: Criteria to order trainings by: names of scores, ``"alpha"``, ``"loss"`` or
            ``"twins_error"``; by default those of `BELIEVED` that all candidates have. Where they
            have none there is no choice. Of equals the first that is named decides. Checkpoints of
            one training are chosen by α.
        target: The α to be near, or an interval ``(low, high)``.
        min_r2: Records with R² below it tell the course of a training, and are not chosen.
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
    records = list(records)
    _check_comparable(records)
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
    of_each = trainings_of(measured)
    straight = {name: [r for r in rs if not r.r2 < min_r2] for name, rs in of_each.items()}
    if crooked := len(measured) - sum(map(len, straight.values())):
        doubts.append(
            f"{crooked} of {len(measured)} records have R² below {min_r2:g}, and are left out"
        )
    trainings = {name: each_once(found) for name, found in straight.items() if found}
    told = trainings_of([*measured, *(r for r in more if r.run)])
    courses = {name: course_of(told[name]) for name in trainings}
    if twice := max((contradictions(told[name]) for name in trainings), default=0):
        doubts.append(
            f"{twice} step{'s' if twice > 1 else ''} of one training "
            f"{'have' if twice > 1 else 'has'} different values of α: was it resumed from an "
            "earlier step, or are these several trainings?"
        )
    if not courses:
        measure = "measure the checkpoints themselves: alphareq score"
        lower = "lower min_r2, or refit over ranks where the spectra are straight"
        return Verdict(None, lower if measured else measure, doubts=tuple(doubts))
    newest = {name: history[-1] for name, history in trainings.items()}
    if len(trainings) == 1:
        [(name, history)] = trainings.items()
        if others := [score for score in believe or () if score != "alpha"]:
            doubts.append(
                f"checkpoints of one training are chosen by α, not by {', '.join(others)}"
            )
        return which_checkpoint(history, courses[name], target, doubts, courses)
    if configurations is None:
        configurations = configurations_of(trainings)
    for name in configurations:
        if name not in of_each:
            raise SelectionError(f"no training {name!r}; there are: {', '.join(of_each)}")
    found = which_training(courses, newest, configurations, believe, target, doubts)
    return replace(found, newest=newest)


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
