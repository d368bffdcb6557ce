"""Pure functions: features in, spectra and scores out."""

from alphareq_lightning.functional.finite_sample import (
    CorrectedAlpha,
    correct_alpha,
)
from alphareq_lightning.functional.lidar import (
    ViewMoments,
    lidar,
    lidar_eigenvalues,
    view_moments,
)
from alphareq_lightning.functional.moments import (
    FeatureMoments,
    feature_moments,
    merge_moments,
)
from alphareq_lightning.functional.point_cloud import coherence, twonn_dimension
from alphareq_lightning.functional.power_law import (
    PowerLawFit,
    alpha_distance,
    fit_power_law,
    resolve_fit_range,
)
from alphareq_lightning.functional.sample_law import expected_eigenvalues
from alphareq_lightning.functional.scores import (
    condition_number,
    effective_rank,
    matrix_entropy,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)
from alphareq_lightning.functional.spanning_tree import mst_dimension
from alphareq_lightning.functional.spectrum import (
    covariance,
    covariance_eigenvalues,
    eigenspectrum,
    moments_eigenvalues,
    moments_singular_values,
)
from alphareq_lightning.functional.sphere import alignment, selfcluster, uniformity
from alphareq_lightning.functional.two_views import (
    cross_validated_eigenvalues,
    pair_moments,
    twins_error,
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
    "ViewMoments",
    "WindowSpread",
    "alignment",
    "alpha_distance",
    "coherence",
    "condition_number",
    "correct_alpha",
    "covariance",
    "covariance_eigenvalues",
    "cross_validated_eigenvalues",
    "effective_rank",
    "eigenspectrum",
    "expected_eigenvalues",
    "feature_moments",
    "fit_broken_power_law",
    "fit_power_law",
    "lidar",
    "lidar_eigenvalues",
    "matrix_entropy",
    "merge_moments",
    "moments_eigenvalues",
    "moments_singular_values",
    "mst_dimension",
    "nesum",
    "pair_moments",
    "participation_ratio",
    "rankme",
    "resolve_fit_range",
    "selfcluster",
    "stable_rank",
    "twins_error",
    "twonn_dimension",
    "uniformity",
    "view_moments",
    "window_family",
    "window_spread",
]
