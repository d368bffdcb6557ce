"""Rank correlations over trainings, with bootstrap intervals. A row of an array is a resample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

RESAMPLES = 2000
"""Of the bootstrap over trainings."""
LEVEL = 95
"""Percent of the intervals."""

Numbers = NDArray[np.float64]


class Correlation(NamedTuple):
    """A rank correlation with its bootstrap interval."""

    value: float
    low: float
    high: float


def resamples(count: int, draws: int = RESAMPLES) -> NDArray[np.int64]:
    """Indices of trainings, drawn with replacement; the same for all scores."""
    return np.random.default_rng(0).integers(0, count, (draws, count))


def spearman(a: Numbers, b: Numbers) -> Numbers:
    """Spearman's ρ along the last axis; NaN where one side does not vary."""
    ranks = [rankdata(x, axis=-1) for x in (a, b)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1)))


def tau(a: Numbers, b: Numbers) -> Numbers:
    """Kendall's τ-b along the last axis; NaN where one side does not vary."""
    ranks = [rankdata(x, axis=-1) for x in (a, b)]
    a, b = (np.sign(r[..., :, None] - r[..., None, :]) for r in ranks)
    with np.errstate(invalid="ignore"):
        ties = np.sqrt((a**2).sum((-2, -1)) * (b**2).sum((-2, -1)))
        return np.asarray((a * b).sum((-2, -1)) / ties)


def correlation(score: Numbers, accuracy: Numbers) -> Correlation:
    """Spearman's ρ."""
    draws = resamples(len(score))
    return Correlation(
        float(spearman(score, accuracy)), *interval(spearman(score[draws], accuracy[draws]))
    )


def kendall(score: Numbers, accuracy: Numbers) -> Correlation:
    """Kendall's τ."""
    draws = resamples(len(score))
    return Correlation(float(tau(score, accuracy)), *interval(tau(score[draws], accuracy[draws])))


def interval(draws: Numbers) -> tuple[float, float]:
    """Percentiles that hold `LEVEL` percent of the draws; those without a value are left out."""
    if np.isnan(draws).all():
        return np.nan, np.nan
    outside = (100 - LEVEL) / 2
    low, high = np.nanpercentile(draws, [outside, 100 - outside])
    return float(low), float(high)


def consensus(scores: list[Numbers]) -> Numbers:
    """Mean rank over scores: a model is good if several say so."""
    return np.asarray(np.mean([rankdata(score) for score in scores], axis=0))


def regret(score: Numbers, accuracy: Numbers) -> float:
    """Points of accuracy lost by taking the model with the highest score."""
    return float(accuracy.max() - accuracy[int(score.argmax())])
