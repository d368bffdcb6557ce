"""From the moments of a layer to the numbers that are logged and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from alphareq_lightning.errors import (
    AlphaReQWarning,
    NoFitWarning,
    PoorFitWarning,
    UndersampledWarning,
)
from alphareq_lightning.functional.finite_sample import BiasCorrection, correct_alpha
from alphareq_lightning.functional.power_law import FitRange, fit_power_law
from alphareq_lightning.metrics.scores import Seen, read_scores
from alphareq_lightning.records.record import AlphaRecord, Corrected, Fit

_KEPT_EIGENVALUES = 512
"""Enough for every window in the literature (the widest ends at rank 500); 5 kB a record."""

_DISTANCE_WITHOUT_FIT = 10.0
"""Logged as the distance when there is no α: finite, so that ModelCheckpoint ranks it last and
EarlyStopping's check for finite values does not end the run."""
NOTHING_SEEN = "no features were seen"
GOOD_R2 = 0.95
"""The paper's code dropped fits below this."""


def measure(
    seen: Seen | None, fit_range: FitRange | Sequence[int], scores: Sequence[str]
) -> AlphaRecord:
    """Fit α and compute the extra scores; what cannot be computed is NaN.

    Args:
        seen: What was gathered over all ranks, or `None` if no rank saw any features.
        fit_range: As in `fit_power_law`.
        scores: Names in ``SCORES``.

    Returns:
        A record with ``problem`` set to the reason if there is no fit.
    """
    unfit = AlphaRecord(
        num_samples=0 if seen is None else int(seen.moments.num_samples),
        num_features=0 if seen is None else len(seen.moments.mean),
        scores=dict.fromkeys(scores, math.nan),
        problem=NOTHING_SEEN,
    )
    if seen is None:
        return unfit
    try:
        unfit = replace(unfit, scores=read_scores(scores, seen))
        kept = tuple(seen.eigenvalues[:_KEPT_EIGENVALUES].tolist())
        unfit = replace(unfit, eigenvalues=kept)
        line = fit_power_law(seen.eigenvalues, fit_range, num_samples=unfit.num_samples)
    except Exception as error:  # a solver or the memory gave up: no reason to end a training
        return replace(unfit, problem=str(error) or type(error).__name__)
    return replace(unfit, fit=Fit.of(line), problem=None)


def correct(
    record: AlphaRecord,
    seen: Seen | None,
    bias_correction: BiasCorrection,
) -> tuple[AlphaRecord, str | None]:
    """Add the corrected α to a record; with the reason if a line was fitted but not corrected.

    Args:
        record: What `measure` made of it.
        seen: What was gathered over all ranks; its spectrum is not solved again.
        bias_correction: As in `AlphaMonitor`.
    """
    record = replace(record, bias_correction=bias_correction)
    if seen is None or record.fit is None:
        return record, None
    try:
        found = correct_alpha(
            seen.eigenvalues,
            record.fit.fit_range,
            num_samples=record.num_samples,
            num_features=record.num_features,
            num_images=record.num_images,
        )
    except Exception as error:  # see `measure`
        return record, f"no α corrected by {bias_correction!r}: {error or type(error).__name__}"
    return replace(record, corrected=Corrected(found.alpha.item(), found.stderr.item())), None


def logged_names(scores: Sequence[str], bias_correction: BiasCorrection | None) -> list[str]:
    """Names of what `logged_values` gives of every record of a monitor."""
    corrected = ["alpha_corrected", "alpha_stderr"] if bias_correction is not None else []
    own = ["alpha", "alpha_distance", "alpha_r2", "alpha_samples"]
    return [*own, "alpha_drift", *corrected, *scores]


def logged_values(record: AlphaRecord, target: tuple[float, float]) -> dict[str, float]:
    """What is logged of a record: the same names every time, whatever could be computed."""
    return {
        "alpha": record.alpha,
        "alpha_distance": min(record.distance(target), _DISTANCE_WITHOUT_FIT),
        "alpha_r2": record.r2,
        "alpha_samples": float(record.num_samples),
        "alpha_drift": math.nan if record.drift is None else record.drift,
        **({} if record.alpha_corrected is None else {"alpha_corrected": record.alpha_corrected}),
        **({} if record.alpha_stderr is None else {"alpha_stderr": record.alpha_stderr}),
        **record.scores,
    }


def spoiled(record: AlphaRecord, problem: str) -> AlphaRecord:
    """The record of features of which some are missing: it must not pass for a measurement."""
    return replace(
        record,
        fit=None,
        corrected=None,
        eigenvalues=(),  # or a refit would make a measurement of them
        scores=dict.fromkeys(record.scores, math.nan),
        problem=problem,
    )


def complaints(record: AlphaRecord) -> Iterator[tuple[type[AlphaReQWarning], str]]:
    """What a user should hear about a measurement, and as which kind of warning."""
    where = f"layer {record.layer!r}"
    if record.problem is not None:
        yield NoFitWarning, f"α of {where}: {record.problem}"
    if record.fit is None:
        return
    first, last = record.fit.fit_range
    if record.r2 < GOOD_R2:
        yield (
            PoorFitWarning,
            f"R² = {record.r2:.3f} over ranks {first} to {last} of {where}: the spectrum is no "
            f"power law there, and α = {record.alpha:.3f} says little; early epochs are often so, "
            "else try another fit_range",
        )
    num_images = record.num_samples if record.num_images is None else record.num_images
    if num_images <= record.num_features:
        views = f" ({record.num_samples} views of them)" * (num_images < record.num_samples)
        yield (
            UndersampledWarning,
            f"{num_images} images{views} for {record.num_features} features of {where}: α reads "
            "low; measure more images than the layer is wide",
        )
