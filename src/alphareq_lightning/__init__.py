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
    CorrectedAlpha,
    FeatureMoments,
    PowerLawFit,
    alpha_distance,
    correct_alpha,
    eigenspectrum,
    feature_moments,
    fit_broken_power_law,
    fit_power_law,
    rankme,
    window_spread,
)
from alphareq_lightning.metrics import (
    AlphaReQ,
    EffectiveRank,
    ParticipationRatio,
    RankMe,
    StreamingMoments,
)
from alphareq_lightning.selection import AlphaRecord, rank_checkpoints, window_agreement

__version__ = "0.1.0"

__all__ = [
    "AlphaMonitor",
    "AlphaReQ",
    "AlphaReQError",
    "AlphaReQWarning",
    "AlphaRecord",
    "CorrectedAlpha",
    "DataError",
    "EffectiveRank",
    "FeatureMoments",
    "FeatureTapError",
    "FitRangeError",
    "OptionError",
    "ParticipationRatio",
    "PowerLawFit",
    "RankMe",
    "SelectionError",
    "SpectrumError",
    "StreamingMoments",
    "alpha_distance",
    "correct_alpha",
    "eigenspectrum",
    "feature_moments",
    "fit_broken_power_law",
    "fit_power_law",
    "rank_checkpoints",
    "rankme",
    "records_from_checkpoints",
    "spectrum_figure",
    "window_agreement",
    "window_spread",
]
