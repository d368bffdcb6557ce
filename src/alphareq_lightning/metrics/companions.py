"""From the name of a score to what runs beside the moments for it, and to its Metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alphareq_lightning.metrics.sample import FeatureSample, SampleScore
from alphareq_lightning.metrics.scores import SCORES, Reads
from alphareq_lightning.metrics.spectral import DirectionScore, SpectralScore
from alphareq_lightning.metrics.views import (
    Alignment,
    CrossValidatedAlpha,
    LiDAR,
    OfViews,
    TwinsError,
)

Companion = DirectionScore | FeatureSample | OfViews
"""What runs beside the moments for scores that cannot be read from them."""
_COMPANIONS: dict[Reads, type[Companion]] = {"directions": DirectionScore, "sample": FeatureSample}
_OF_VIEWS: dict[str, type[OfViews]] = {
    metric.name: metric for metric in (LiDAR, Alignment, TwinsError, CrossValidatedAlpha)
}


def companions(scores: Sequence[str]) -> dict[str, Companion]:
    """A fresh companion of each kind that some of the scores need, by what it gathers.

    Those of views are for one score each, and have its name.
    """
    found: dict[str, Companion] = {n: _OF_VIEWS[n]() for n in scores if n in _OF_VIEWS}
    for kind in dict.fromkeys(SCORES[name].reads for name in scores):
        if kind in _COMPANIONS:
            found[kind] = _COMPANIONS[kind]()
    return found


def score_metric(name: str, **kwargs: Any) -> SpectralScore | SampleScore | OfViews:
    """A streaming Metric of any score in the table, by its name.

    Example:
        >>> import torch
        >>> metric = score_metric("nesum")
        >>> metric.update(torch.eye(4).repeat(9, 1))
        >>> round(metric.compute().item(), 2)
        3.0
    """
    reads = SCORES[name].reads
    if reads == "views":
        return _OF_VIEWS[name](**kwargs)
    if reads == "sample":
        return SampleScore(name=name, **kwargs)
    return (DirectionScore if reads == "directions" else SpectralScore)(name=name, **kwargs)
