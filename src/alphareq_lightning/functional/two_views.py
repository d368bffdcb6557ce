"""cvPCA: the spectrum of what two views of an image share."""

from __future__ import annotations

import torch
from torch import Tensor

from alphareq_lightning.functional.moments import FeatureMoments, feature_moments
from alphareq_lightning.functional.spectrum import (
    checked_count,
    covariance,
    drop_rounding,
    rounding_variance,
    solve_symmetric,
)
from alphareq_lightning.functional.sphere import check_pair


def pair_moments(view_a: Tensor, view_b: Tensor) -> FeatureMoments:
    """Moments of pairs side by side, ``2d`` wide: both covariances and the one between them.

    Args:
        view_a: Features of the first views, shape ``(n, d)``.
        view_b: Features of the second views, row by row of the same images, shape ``(n, d)``.

    Raises:
        SpectrumError: If the two are not floating-point matrices of one shape.
    """
    return feature_moments(pair_features(view_a, view_b))


def pair_features(view_a: Tensor, view_b: Tensor) -> Tensor:
    """Both views side by side, shape ``(n, 2d)``.

    Raises:
        SpectrumError: If the two are not floating-point matrices of one shape.
    """
    check_pair(view_a, view_b)
    return torch.cat([view_a.detach(), view_b.detach()], dim=1)


def cross_validated_eigenvalues(moments: FeatureMoments) -> Tensor:
    r"""Eigenspectrum of the part of the features that two views of an image share.

    The principal directions :math:`v_i` are found in one view; the variance along them is the
    covariance :math:`v_i^\top C_{ab} v_i` of the two views. What changes from view to view has
    none and drops out, where a plain spectrum counts it as variance. Both views take both parts
    and the two results are averaged. Past the rank where the noise in a direction outweighs the
    signal, directions are found badly and the values fall off too fast: fit before it.

    Args:
        moments: `pair_moments`, ``2d`` wide.

    Returns:
        Float64 values in the order of the principal directions, shape ``(min(n, d),)``. Where
        there is no shared variance left they scatter about 0, negative ones included.

    Raises:
        SpectrumError: If there are fewer than three pairs or features that are not finite.

    Example:
        >>> signal = torch.randn(4000, 3, generator=torch.manual_seed(0)) * torch.tensor([4, 2, 1])
        >>> a, b = (signal + 3 * torch.randn(4000, 3) for _ in range(2))
        >>> [round(value) for value in cross_validated_eigenvalues(pair_moments(a, b)).tolist()]
        [16, 4, 1]

    References:
        Stringer et al., "High-dimensional geometry of population responses in visual cortex",
        Nature 2019 (cvPCA; they average over random exchanges of the two repeats instead).
    """
    num_samples = checked_count(moments)
    num_features = len(moments.mean) // 2
    both = covariance(moments)
    shared = both[:num_features, num_features:]
    rounding = rounding_variance(moments)
    values: list[Tensor] = []
    for view in (both[:num_features, :num_features], both[num_features:, num_features:]):
        variances, directions = solve_symmetric(torch.linalg.eigh, view)
        variances, directions = variances.flip(0).clamp(min=0), directions.flip(1)
        along = (directions * (shared.to(directions) @ directions)).sum(dim=0)
        # Where a view has rounding instead of variance, the two share none.
        kept = drop_rounding(variances, rounding, num_features) > 0
        values.append(along.where(kept, 0.0))
    return (values[0] + values[1])[:num_samples] / 2
