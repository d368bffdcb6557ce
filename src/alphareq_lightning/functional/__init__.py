"""Pure functions: features in, spectra and scores out."""

from alphareq_lightning.functional.finite_sample import (
    CorrectedAlpha,
    correct_alpha,
    richardson_alpha,
)
from alphareq_lightning.functional.moments import (
    FeatureMoments,
    feature_moments,
    merge_moments,
)
from alphareq_lightning.functional.power_law import (
    PowerLawFit,
    alpha_distance,
    fit_power_law,
    resolve_fit_range,
)
from alphareq_lightning.functional.sample_law import expected_eigenvalues
from alphareq_lightning.functional.scores import effective_rank, participation_ratio, rankme
from alphareq_lightning.functional.spectrum import (
    covariance,
    covariance_eigenvalues,
    eigenspectrum,
    moments_eigenvalues,
    moments_singular_values,
)
from alphareq_lightning.functional.windows import (
    BrokenPowerLawFit,
    WindowSpread,
    fit_broken_power_law,
    window_family,
    window_spread,
)

__all__ = [
    "BrokenPowerLawFit",
    "CorrectedAlpha",
    "FeatureMoments",
    "PowerLawFit",
    "WindowSpread",
    "alpha_distance",
    "correct_alpha",
    "covariance",
    "covariance_eigenvalues",
    "effective_rank",
    "eigenspectrum",
    "expected_eigenvalues",
    "feature_moments",
    "fit_broken_power_law",
    "fit_power_law",
    "merge_moments",
    "moments_eigenvalues",
    "moments_singular_values",
    "participation_ratio",
    "rankme",
    "resolve_fit_range",
    "richardson_alpha",
    "window_family",
    "window_spread",
]
