"""What all ranks must decide together, so that none raises or stops alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alphareq_lightning._lightning import Trainer
from alphareq_lightning.callbacks.feature_tap import FeatureTap
from alphareq_lightning.callbacks.measurement import correct, measure, spoiled
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional.finite_sample import BiasCorrection
from alphareq_lightning.functional.power_law import FitRange, resolve_fit_range
from alphareq_lightning.selection.records import AlphaRecord


def check_tap(trainer: Trainer, tap: FeatureTap, fit_range: FitRange) -> None:
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
        raise FeatureTapError(
            f"layer {tap.layer.name!r} did not run in the forward pass that is measured; "
            "name a layer that does, or pass dataloader_idx= or forward= to run another; "
            "a module that has run compiled must be compiled anew to see hooks"
        )
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
    problem, uncorrected = tap.problem, None
    moments, beside, halves = None, None, None
    across_ranks = trainer.world_size > 1
    try:
        moments = tap.moments.reduced(across_ranks=across_ranks)
        beside = tap.beside(across_ranks=across_ranks)
        if tap.moments.halves:
            halves = tap.moments.reduced_halves(across_ranks=across_ranks)
    except Exception as error:  # an observer must not end the training it observes
        problem = problem or str(error) or type(error).__name__
    record = measure(moments, fit_range, scores, beside)
    if bias_correction is not None:
        record, uncorrected = correct(record, moments, halves, bias_correction)
    problem = _any_problem(trainer, problem or record.problem)
    if problem is not None and problem != record.problem:
        return spoiled(record, problem), None
    return record, uncorrected


def _any_problem(trainer: Trainer, problem: str | None) -> str | None:
    """The problem of one of the ranks that have any, in its words: the same on every rank."""
    strategy = trainer.strategy
    mine = -1 if problem is None else trainer.global_rank
    one = int(strategy.reduce(torch.tensor(mine, device=strategy.root_device), reduce_op="max"))
    return None if one < 0 else strategy.broadcast(problem, src=one)
