"""Streaming torchmetrics Metrics, for any torch loop."""

from alphareq_lightning.metrics.moments import StreamingMoments
from alphareq_lightning.metrics.spectral import (
    AlphaReQ,
    EffectiveRank,
    ParticipationRatio,
    RankMe,
    SpectralScore,
)

__all__ = [
    "AlphaReQ",
    "EffectiveRank",
    "ParticipationRatio",
    "RankMe",
    "SpectralScore",
    "StreamingMoments",
]
