"""Streaming torchmetrics Metrics, for any torch loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """A Metric, imported when it is asked for: the table of scores needs no torchmetrics."""
    if name in __all__:
        rooms = ("companions", "moments", "sample", "spectral", "views")
        homes = (import_module(f"{__name__}.{room}") for room in rooms)
        return next(getattr(home, name) for home in homes if hasattr(home, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
