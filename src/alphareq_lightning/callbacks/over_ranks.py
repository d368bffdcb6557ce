"""What all ranks must decide together, so that none raises or stops alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from alphareq_lightning._lightning import Trainer
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional.finite_sample import BiasCorrection
from alphareq_lightning.functional.power_law import FitRange, resolve_fit_range
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.measurement import correct, measure, spoiled
from alphareq_lightning.measure.what_ran import WhatRan
from alphareq_lightning.metrics.scores import Companion, Seen
from alphareq_lightning.records.record import AlphaRecord

Result = TypeVar("Result")


def check_tap(trainer: Trainer, tap: FeatureTap, fit_range: FitRange, what_ran: WhatRan) -> None:
    """Raise what is certain to fail at every validation; every rank must call it.

    Raises:
        FeatureTapError: If a layer gave no features here, or ran on no rank.
        FitRangeError: If the range reaches past the width of the layer.
    """
    ran = tap.num_samples > 0
    # A rank may have had no batch; that the layer ran nowhere is for all ranks to say.
    ran_somewhere = trainer.strategy.reduce_boolean_decision(ran, all=False)
    if tap.problem is not None:
        raise FeatureTapError(tap.problem)
    if not ran_somewhere:
        raise FeatureTapError(what_ran.did_not_run(tap.layer))
    if ran:
        resolve_fit_range(fit_range, tap.moments.num_features)


def measure_over_ranks(
    trainer: Trainer,
    tap: FeatureTap,
    fit_range: FitRange,
    scores: Sequence[str],
    bias_correction: BiasCorrection | None,
) -> tuple[AlphaRecord, str | None]:
    """Measure the features of all ranks; every rank must call it and gets the same.

    Whatever goes wrong on any rank is the record's ``problem`` on all of them.

    Returns:
        The record, and why it has an α but no corrected one, if so.
    """
    num_images, problem = _agree(trainer, tap.num_images, tap.problem)
    across_ranks = trainer.world_size > 1
    uncorrected = None
    # Every rank must call all of these, whatever became of the one before.
    moments, failed = _tried(lambda: tap.moments.reduced(across_ranks=across_ranks))
    beside: dict[type[Companion], Any] = {}
    for companion in tap.companions:
        beside[type(companion)], error = _tried(
            partial(companion.reduced, across_ranks=across_ranks)
        )
        failed = failed or error
    seen = None if moments is None else Seen(moments, beside)
    record = replace(measure(seen, fit_range, scores), num_images=num_images)
    if bias_correction is not None:
        record, uncorrected = correct(record, seen, bias_correction)
    _, problem = _agree(trainer, 0, problem or failed or record.problem)
    if problem is not None and problem != record.problem:
        return spoiled(record, problem), None
    return record, uncorrected


def _tried(step: Callable[[], Result]) -> tuple[Result | None, str | None]:
    try:
        return step(), None
    except Exception as error:  # an observer must not end the training it observes
        return None, str(error) or type(error).__name__


def _agree(trainer: Trainer, num_images: int, problem: str | None) -> tuple[int, str | None]:
    """Images over all ranks, and the problem of one that has any, in its words: the same on all."""
    strategy = trainer.strategy
    mine = torch.tensor([num_images, problem is not None], device=strategy.root_device)
    found = strategy.all_gather(mine).view(-1, 2)
    with_problem = found[:, 1].nonzero()
    if len(with_problem):
        problem = strategy.broadcast(problem, src=int(with_problem[0]))
    return int(found[:, 0].sum()), problem
