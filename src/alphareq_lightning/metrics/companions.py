"""From the name of a score to what runs beside the moments for it, and to its Metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alphareq_lightning.metrics.sample import FeatureSample, SampleScore
from alphareq_lightning.metrics.scores import SCORES, Reads
from alphareq_lightning.metrics.spectral import DirectionScore, SpectralScore

Companion = DirectionScore | FeatureSample
"""What runs beside the moments for scores that cannot be read from them."""
_COMPANIONS: dict[Reads, type[Companion]] = {"directions": DirectionScore, "sample": FeatureSample}


def companions(scores: Sequence[str]) -> dict[str, Companion]:
    """A fresh companion of each kind that some of the scores need, by what it gathers."""
    kinds = dict.fromkeys(SCORES[name].reads for name in scores)
    return {kind: _COMPANIONS[kind]() for kind in kinds if kind in _COMPANIONS}


def score_metric(name: str, **kwargs: Any) -> SpectralScore | SampleScore:
    """A streaming Metric of any score in the table, by its name.

    Example:
        >>> import torch
        >>> metric = score_metric("nesum")
        >>> metric.update(torch.eye(4).repeat(9, 1))
        >>> round(metric.compute().item(), 2)
        3.0
    """
    reads = SCORES[name].reads
    if reads == "sample":
        return SampleScore(name=name, **kwargs)
    return (DirectionScore if reads == "directions" else SpectralScore)(name=name, **kwargs)
