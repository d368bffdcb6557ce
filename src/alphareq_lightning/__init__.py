"""α-ReQ for PyTorch Lightning: the decay of your features' eigenspectrum, while you train."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alphareq_lightning._version import __version__ as __version__

if TYPE_CHECKING:
    from alphareq_lightning.callbacks import AlphaMonitor, course_figure, spectrum_figure
    from alphareq_lightning.commands._sources import ImageOptions
    from alphareq_lightning.commands.profile import profile_model
    from alphareq_lightning.commands.score import score_checkpoints
    from alphareq_lightning.commands.select import select_checkpoints
    from alphareq_lightning.errors import (
        AlphaReQError,
        AlphaReQWarning,
        DataError,
        FeatureTapError,
        FitRangeError,
        OptionError,
        SelectionError,
        SpectrumError,
    )
    from alphareq_lightning.functional import (
        CorrectedAlpha,
        FeatureMoments,
        PowerLawFit,
        alpha_distance,
        correct_alpha,
        eigenspectrum,
        feature_moments,
        fit_broken_power_law,
        fit_power_law,
        lidar,
        rankme,
        twins_error,
        window_spread,
    )
    from alphareq_lightning.load.models import ModelSource
    from alphareq_lightning.measure import Gauge, GaugeOptions
    from alphareq_lightning.metrics import (
        Alignment,
        AlphaReQ,
        CrossValidatedAlpha,
        EffectiveRank,
        LiDAR,
        ParticipationRatio,
        RankMe,
        StreamingMoments,
        TwinsError,
        Uniformity,
    )
    from alphareq_lightning.records import (
        AlphaRecord,
        append_record,
        course_in_checkpoint,
        read_records,
        records_from_checkpoints,
    )
    from alphareq_lightning.selection import (
        AlphaIntervalSearch,
        BudgetedSearch,
        Verdict,
        course_of,
        rank_checkpoints,
        verdict,
        window_agreement,
    )

__all__ = [
    "Alignment",
    "AlphaIntervalSearch",
    "AlphaMonitor",
    "AlphaReQ",
    "AlphaReQError",
    "AlphaReQWarning",
    "AlphaRecord",
    "BudgetedSearch",
    "CorrectedAlpha",
    "CrossValidatedAlpha",
    "DataError",
    "EffectiveRank",
    "FeatureMoments",
    "FeatureTapError",
    "FitRangeError",
    "Gauge",
    "GaugeOptions",
    "ImageOptions",
    "LiDAR",
    "ModelSource",
    "OptionError",
    "ParticipationRatio",
    "PowerLawFit",
    "RankMe",
    "SelectionError",
    "SpectrumError",
    "StreamingMoments",
    "TwinsError",
    "Uniformity",
    "Verdict",
    "alpha_distance",
    "append_record",
    "correct_alpha",
    "course_figure",
    "course_in_checkpoint",
    "course_of",
    "eigenspectrum",
    "feature_moments",
    "fit_broken_power_law",
    "fit_power_law",
    "lidar",
    "profile_model",
    "rank_checkpoints",
    "rankme",
    "read_records",
    "records_from_checkpoints",
    "score_checkpoints",
    "select_checkpoints",
    "spectrum_figure",
    "twins_error",
    "verdict",
    "window_agreement",
    "window_spread",
]

_HOMES = (
    *("errors", "functional", "load.models", "metrics", "records", "selection", "measure"),
    "callbacks",
    *("commands._sources", "commands.profile", "commands.score", "commands.select"),
)


def __getattr__(name: str) -> Any:
    """A public name, or a room; imported when it is asked for, so that help is quick."""
    if name in __all__:
        homes = (import_module(f"{__name__}.{home}") for home in _HOMES)  # lowest floor first
        return next(getattr(home, name) for home in homes if hasattr(home, name))
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
