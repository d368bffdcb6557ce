"""What two views of an image share: its spectrum (cvPCA), and how far it is from the identity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional.moments import (
    FeatureMoments,
    feature_moments,
    moments_dtype,
)
from alphareq_lightning.functional.power_law import FitRange, PowerLawFit, fit_power_law
from alphareq_lightning.functional.spectrum import (
    checked_count,
    covariance,
    drop_rounding,
    rounding_variance,
    solve_symmetric,
)
from alphareq_lightning.functional.sphere import check_pair

VARIANCE_EPSILON = 1e-12
"""Added to the variance of a projection in the Barlow Twins loss, and so in its error."""
CONSTANT = 1e-13
"""Variance of a constant projection as a share of its mean square, from rounding in float64 sums.
Float32 values that differ at all vary by more than 3e-15 of it each; over a batch they add up."""


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


def fit_shared_power_law(
    moments: FeatureMoments, fit_range: FitRange | Sequence[int] = "auto"
) -> PowerLawFit:
    """The line through `cross_validated_eigenvalues`: its α is that of what two views share.

    Args:
        moments: `pair_moments`, ``2d`` wide.
        fit_range: As in `fit_power_law`.

    Raises:
        AlphaReQError: If there is no spectrum to fit.
    """
    shared = cross_validated_eigenvalues(moments)
    return fit_power_law(shared, fit_range, num_samples=int(moments.num_samples))


def mean_distance(sums: Tensor) -> Tensor:
    """`alignment` from the sum over all pairs and their number, shape ``(2,)``.

    Raises:
        SpectrumError: If there are no pairs, or values that are not finite.
    """
    if sums[1] == 0:
        raise SpectrumError("no pair of views with directions was seen")
    if not bool(torch.isfinite(sums[0])):
        raise SpectrumError("alignment needs features without NaN or infinite values")
    return sums[0] / sums[1]


def twins_error(projections_a: Tensor, projections_b: Tensor) -> Tensor:
    r"""The Barlow Twins error: how far two views' cross-correlation is from the identity.

    .. math:: E = \frac{1}{p} \sum_i (1 - C_{ii})^2 + \frac{1}{p (p - 1)} \sum_{i \neq j} C_{ij}^2

    Both terms of the Barlow Twins loss, each as the mean of its entries, without λ. 0 is perfect;
    views that have nothing in common give 1, and so do projections that are all the same.

    It may be compared between models of any λ and any width ``p``, on which the loss itself
    depends, and between checkpoints of one training. It may not be compared between different
    augmentations, splits or numbers of images (of ``n`` unrelated images
    :math:`C_{ij}^2 \approx 1/n`). It sees the projector only, not what the backbone has beside it.

    Args:
        projections_a: Projections of the first views, shape ``(n, p)``, ``n >= 2``.
        projections_b: Projections of the second views, row by row of the same images.

    Returns:
        A float64 number, shape ``()``.

    Raises:
        SpectrumError: If the two are not floating-point matrices of one shape, or of one row.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> [round(twins_error(z, other).item(), 6) for other in (z, z.flip(1), -z)]
        [0.0, 2.0, 4.0]

    References:
        Zbontar et al., "Barlow Twins", ICML 2021 (the two terms).
    """
    return twins_error_of_sums(pair_sums(projections_a, projections_b))


def twins_error_of_sums(sums: Tensor) -> Tensor:
    """`twins_error` from `pair_sums`, or several of them added up.

    Raises:
        SpectrumError: As `cross_correlation`.
    """
    return identity_error(cross_correlation(sums))


def pair_sums(projections_a: Tensor, projections_b: Tensor) -> Tensor:
    """Everything that a cross-correlation needs, as one vector of sums over the images.

    Vectors of different images can be added: batches, ranks and files alike.

    Args:
        projections_a: Projections of the first views, shape ``(n, p)``.
        projections_b: Projections of the second views, shape ``(n, p)``.

    Returns:
        Count, sums, squares and products in float64 (float32 on MPS), shape ``(1 + 4p + p²,)``.

    Raises:
        SpectrumError: If the two are not floating-point matrices of one shape.
    """
    check_pair(projections_a, projections_b)
    # Products about zero, not about a mean that each rank would have to be told: float64 holds
    # them for means up to a million times the spread.
    a, b = (z.detach().to(moments_dtype(z.device)) for z in (projections_a, projections_b))
    count = a.new_full((1,), len(a))
    squares = (a.square().sum(dim=0), b.square().sum(dim=0))
    return torch.cat([count, a.sum(dim=0), b.sum(dim=0), *squares, (a.T @ b).flatten()])


def pair_width(size: int) -> int:
    """The width ``p`` of projections whose `pair_sums` have ``size`` numbers.

    Example:
        >>> pair_width(1 + 4 * 3 + 3**2)
        3
    """
    return math.isqrt(size + 3) - 2  # 1 + 4p + p² = (p + 2)² - 3


def cross_correlation(sums: Tensor) -> Tensor:
    """Correlation of every projection of one view with every one of the other, shape ``(p, p)``.

    A constant projection correlates with nothing, as in the Barlow Twins loss.

    Args:
        sums: From `pair_sums`, or several of them added up.

    Raises:
        SpectrumError: If there are fewer than two images or values that are not finite.
    """
    width = pair_width(len(sums))
    count = sums[0]
    if count < 2 or not bool(torch.isfinite(sums).all()):
        raise SpectrumError(
            "a cross-correlation needs two views of at least two images, all finite; "
            f"got {int(count.nan_to_num())} images and "
            f"{int((~torch.isfinite(sums)).sum())} sums that are not finite"
        )
    means = sums[1 : 1 + 2 * width].view(2, width) / count
    squares = sums[1 + 2 * width : 1 + 4 * width].view(2, width) / count
    covariance_ab = sums[1 + 4 * width :].view(width, width) / count - means[0].outer(means[1])
    variances = squares - means.square()
    scales = (variances + VARIANCE_EPSILON).rsqrt().where(variances > CONSTANT * squares, 0.0)
    return scales[0][:, None] * covariance_ab * scales[1]


def identity_error(correlation: Tensor) -> Tensor:
    """Mean squared distance from the identity, diagonal and off-diagonal weighted alike.

    Args:
        correlation: Shape ``(p, p)``.

    Returns:
        Shape ``()``; with ``p = 1`` there is no off-diagonal.
    """
    width = len(correlation)
    diagonal = correlation.diagonal()
    invariance = (1 - diagonal).square().sum()
    redundancy = correlation.square().sum() - diagonal.square().sum()
    return invariance / width + redundancy / max(width * (width - 1), 1)
