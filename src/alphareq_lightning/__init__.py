"""α-ReQ for PyTorch Lightning: the decay of your features' eigenspectrum, while you train."""

from alphareq_lightning.callbacks import AlphaMonitor, records_from_checkpoints, spectrum_figure
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
    FeatureMoments,
    PowerLawFit,
    alpha_distance,
    eigenspectrum,
    feature_moments,
    fit_power_law,
    lidar,
    rankme,
)
from alphareq_lightning.metrics import (
    Alignment,
    AlphaReQ,
    CrossValidatedAlpha,
    EffectiveRank,
    LiDAR,
    ParticipationRatio,
    RankMe,
    StreamingMoments,
    Uniformity,
)
from alphareq_lightning.selection import (
    AlphaIntervalSearch,
    AlphaRecord,
    append_record,
    rank_checkpoints,
    read_records,
)

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "AlphaIntervalSearch",
    "AlphaMonitor",
    "AlphaReQ",
    "AlphaReQError",
    "AlphaReQWarning",
    "AlphaRecord",
    "CrossValidatedAlpha",
    "DataError",
    "EffectiveRank",
    "FeatureMoments",
    "FeatureTapError",
    "FitRangeError",
    "LiDAR",
    "OptionError",
    "ParticipationRatio",
    "PowerLawFit",
    "RankMe",
    "SelectionError",
    "SpectrumError",
    "StreamingMoments",
    "Uniformity",
    "alpha_distance",
    "append_record",
    "eigenspectrum",
    "feature_moments",
    "fit_power_law",
    "lidar",
    "rank_checkpoints",
    "rankme",
    "read_records",
    "records_from_checkpoints",
    "spectrum_figure",
]
