"""From the moments of a layer to the numbers that are logged and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from alphareq_lightning.errors import (
    AlphaReQWarning,
    NoFitWarning,
    OptionError,
    PoorFitWarning,
    SpectrumError,
    UndersampledWarning,
)
from alphareq_lightning.functional.moments import FeatureMoments
from alphareq_lightning.functional.power_law import FitRange, fit_power_law
from alphareq_lightning.functional.scores import effective_rank, participation_ratio, rankme
from alphareq_lightning.functional.spectrum import moments_eigenvalues, moments_singular_values
from alphareq_lightning.selection.ranking import target_distance
from alphareq_lightning.selection.records import AlphaRecord

KEPT_EIGENVALUES = 512
"""Enough for every window in the literature (the widest ends at rank 500); 5 kB a record."""

DISTANCE_WITHOUT_FIT = 10.0
"""Logged as the distance when there is no α: finite, so that ModelCheckpoint ranks it last and
EarlyStopping's check for finite values does not end the run."""
GOOD_R2 = 0.95
"""The paper's code dropped fits below this."""


class Score(NamedTuple):
    """A function of a spectrum, and which spectrum it wants."""

    function: Callable[[Tensor], Tensor]
    of_singular_values: bool = False


SCORES: dict[str, Score] = {
    "rankme": Score(rankme, of_singular_values=True),
    "effective_rank": Score(effective_rank),
    "participation_ratio": Score(participation_ratio),
}


def check_scores(scores: str | Sequence[str]) -> tuple[str, ...]:
    """Names of extra scores as a tuple.

    Raises:
        OptionError: If a name is unknown.
    """
    if not isinstance(scores, Sequence):
        raise OptionError(
            f"expected a list of names, got {scores=}; there are: {', '.join(SCORES)}"
        )
    names = (scores,) if isinstance(scores, str) else tuple(scores)
    unknown = [name for name in names if name not in SCORES]
    if unknown:
        raise OptionError(f"unknown scores {unknown}; there are: {', '.join(SCORES)}")
    return names


def measure(
    moments: FeatureMoments | None, fit_range: FitRange | Sequence[int], scores: Sequence[str]
) -> AlphaRecord:
    """Fit α and compute the extra scores; what cannot be computed is NaN.

    Args:
        moments: Moments over all ranks, or `None` if no rank saw any features.
        fit_range: As in `fit_power_law`.
        scores: Names in ``SCORES``.

    Returns:
        A record with ``problem`` set to the reason if there is no fit.
    """
    unfit = AlphaRecord(
        alpha=math.nan,
        r2=math.nan,
        stderr=math.nan,
        fit_range=None,
        num_samples=0 if moments is None else int(moments.num_samples),
        num_features=0 if moments is None else len(moments.mean),
        scores=dict.fromkeys(scores, math.nan),
        problem="no features were seen",
    )
    if moments is None:
        return unfit
    try:
        spectrum = moments_eigenvalues(moments).cpu()
        unfit = replace(
            unfit,
            eigenvalues=tuple(spectrum[:KEPT_EIGENVALUES].tolist()),
            scores={name: _score(SCORES[name], spectrum, moments) for name in scores},
        )
        fit = fit_power_law(spectrum, fit_range, num_samples=unfit.num_samples)
    except Exception as error:  # a solver or the memory gave up: no reason to end a training
        return replace(unfit, problem=str(error) or type(error).__name__)
    return replace(
        unfit,
        alpha=fit.alpha.item(),
        r2=fit.r2.item(),
        stderr=fit.stderr.item(),
        fit_range=fit.fit_range,
        problem=None,
    )


def _score(score: Score, eigenvalues: Tensor, moments: FeatureMoments) -> float:
    spectrum = moments_singular_values(moments) if score.of_singular_values else eigenvalues
    try:
        return score.function(spectrum).item()
    except SpectrumError:  # nothing varies: the fit says so in its own words
        return math.nan


def logged_values(record: AlphaRecord, target: tuple[float, float]) -> dict[str, float]:
    """What is logged of a record: the same names every time, whatever could be computed."""
    distance = target_distance(record.alpha, target)
    return {
        "alpha": record.alpha,
        "alpha_distance": min(distance, DISTANCE_WITHOUT_FIT),
        "alpha_r2": record.r2,
        "alpha_samples": float(record.num_samples),
        **record.scores,
    }


def spoiled(record: AlphaRecord, problem: str) -> AlphaRecord:
    """The record of features of which some are missing: it must not pass for a measurement."""
    return replace(
        record,
        alpha=math.nan,
        r2=math.nan,
        stderr=math.nan,
        fit_range=None,
        scores=dict.fromkeys(record.scores, math.nan),
        problem=problem,
    )


def complaints(record: AlphaRecord) -> Iterator[tuple[type[AlphaReQWarning], str]]:
    """What a user should hear about a measurement, and as which kind of warning."""
    where = f"layer {record.layer!r}"
    if record.problem is not None:
        yield NoFitWarning, f"α of {where}: {record.problem}"
    if record.fit_range is None:
        return
    first, last = record.fit_range
    if record.r2 < GOOD_R2:
        yield (
            PoorFitWarning,
            f"R² = {record.r2:.3f} over ranks {first} to {last} of {where}: the spectrum is no "
            f"power law there, and α = {record.alpha:.3f} says little; early epochs are often so, "
            "else try another fit_range",
        )
    if record.num_samples <= record.num_features:
        yield (
            UndersampledWarning,
            f"{record.num_samples} samples of {record.num_features} features of {where}: α reads "
            "low; measure more images than the layer is wide",
        )
