"""Streaming torchmetrics Metrics, for any torch loop."""

from alphareq_lightning.metrics.companions import score_metric
from alphareq_lightning.metrics.moments import StreamingMoments
from alphareq_lightning.metrics.sample import (
    Coherence,
    FeatureSample,
    IdEst,
    IntrinsicDimension,
    SampleScore,
    Uniformity,
)
from alphareq_lightning.metrics.spectral import (
    AlphaReQ,
    ConditionNumber,
    EffectiveRank,
    MatrixEntropy,
    NESum,
    ParticipationRatio,
    RankMe,
    SelfCluster,
    SpectralScore,
    StableRank,
)
from alphareq_lightning.metrics.views import Alignment, CrossValidatedAlpha, LiDAR, TwinsError

__all__ = [
    "Alignment",
    "AlphaReQ",
    "Coherence",
    "ConditionNumber",
    "CrossValidatedAlpha",
    "EffectiveRank",
    "FeatureSample",
    "IdEst",
    "IntrinsicDimension",
    "LiDAR",
    "MatrixEntropy",
    "NESum",
    "ParticipationRatio",
    "RankMe",
    "SampleScore",
    "SelfCluster",
    "SpectralScore",
    "StableRank",
    "StreamingMoments",
    "TwinsError",
    "Uniformity",
    "score_metric",
]
