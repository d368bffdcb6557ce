"""LiDAR: the rank that is left when differences between views of one image count as noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.moments import FeatureMoments, accumulate_, empty_moments
from alphareq_lightning.functional.products import mirror_
from alphareq_lightning.functional.scores import entropy_of_shares
from alphareq_lightning.functional.spectrum import (
    checked_count,
    covariance_eigenvalues,
    in_float64,
    rounding_variance,
)

LIDAR_DELTA = 1e-4
"""Added to the diagonal of the within-image covariance, in the squared unit of the features."""
LIDAR_EPSILON = 1e-7
"""Added to each normalised eigenvalue, as in RankMe."""
BLOCK_IMAGES = 128
"""Images that are widened to float64 at a time."""


class ViewMoments(NamedTuple):
    """Second moments of grouped views: two ``d × d`` states, whatever the number of images."""

    between: FeatureMoments
    """Moments of the mean feature of each image."""
    within: FeatureMoments
    """Moments of the views about the mean of their image."""


def view_moments(views: Tensor) -> ViewMoments:
    """Moments of a batch of grouped views.

    Args:
        views: Features, shape ``(n, q, d)``: ``n`` images, ``q >= 2`` views of each.

    Raises:
        SpectrumError: If ``views`` is not a floating-point tensor of that shape.

    Example:
        >>> moments = view_moments(torch.randn(8, 3, 5))
        >>> moments.between.num_samples.item(), moments.within.num_samples.item()
        (8.0, 24.0)
    """
    check_views(views)
    width = views.shape[2]
    empty = ViewMoments(empty_moments(width, views.device), empty_moments(width, views.device))
    moments = accumulate_views_(empty, views)
    for part in moments:
        mirror_(part.scatter)
    return moments


def accumulate_views_(moments: ViewMoments, views: Tensor) -> ViewMoments:
    """Add a batch of grouped views to running moments in place, to their upper blocks alone.

    Raises:
        SpectrumError: If ``views`` is not ``(n, q, d)`` as wide as the batches before.
    """
    check_views(views)
    for block in torch.split(views.detach(), BLOCK_IMAGES):
        wide = block.to(moments.between.scatter.dtype)
        means = wide.mean(dim=1)
        accumulate_(moments.between, means, block)
        accumulate_(moments.within, (wide - means[:, None]).flatten(0, 1), block)
    return moments


def check_views(views: Tensor) -> None:
    """Raise `SpectrumError` unless ``views`` is a floating-point ``(n, q, d)`` tensor."""
    if views.ndim != 3 or views.shape[1] < 2 or not views.is_floating_point():
        raise SpectrumError(
            "expected floating-point views of shape (images, views, features) with at least 2 "
            f"views, got {views.dtype} of shape {tuple(views.shape)}"
        )


def lidar(
    views: Tensor | ViewMoments, *, delta: float = LIDAR_DELTA, epsilon: float = LIDAR_EPSILON
) -> Tensor:
    r"""Effective rank of :math:`\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}`.

    The paper takes 10 to 50 views of more images than there are features.

    Args:
        views: Features, shape ``(n, q, d)``, or their `ViewMoments`.
        delta: Added to the diagonal of the within-image covariance, in the squared unit of the
            features: scaling the features by 10 is the same as a ``delta`` 100 times smaller.
        epsilon: Added to each normalised eigenvalue.

    Returns:
        A number from 1 to about ``d``, shape ``()``.

    Raises:
        SpectrumError: If there are fewer than three images, features that are not finite, or no
            difference between images but that of rounding.
        OptionError: If ``delta`` is not positive or ``epsilon`` is negative.

    Example:
        >>> images = 10 * torch.randn(500, 1, 4, generator=torch.manual_seed(0))
        >>> round(lidar(images + torch.randn(500, 8, 4)).item(), 1)
        4.0

    References:
        Thilak et al., "LiDAR: Sensing linear probing performance in joint embedding SSL
        architectures", ICLR 2024.
    """
    if not delta > 0 or epsilon < 0:
        raise OptionError(f"expected delta > 0 and epsilon >= 0, got {delta=}, {epsilon=}")
    moments = views if isinstance(views, ViewMoments) else view_moments(views)
    return entropy_of_shares(lidar_eigenvalues(moments, delta=delta), epsilon).exp()


def lidar_eigenvalues(moments: ViewMoments, *, delta: float = LIDAR_DELTA) -> Tensor:
    r"""Eigenvalues of :math:`\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}`, largest first.

    Returns:
        Float64 eigenvalues, shape ``(d,)``.

    Raises:
        SpectrumError: As `lidar`.
    """
    between, within = moments
    num_images = checked_count(between)
    variance = between.scatter.diagonal().sum() / num_images
    if not variance > len(between.mean) * rounding_variance(between):
        raise SpectrumError("there is no difference between images but that of rounding")
    # At most four matrices at a time: at d = 2048 each has 34 MB.
    sigma_w = in_float64(within.scatter / within.num_samples)
    sigma_w.diagonal().add_(delta)
    largest = sigma_w.diagonal().max()
    lower, failed_at = torch.linalg.cholesky_ex(sigma_w)
    del sigma_w
    if int(failed_at):
        raise SpectrumError(
            f"the within-image covariance cannot be inverted with {delta=} on its diagonal of "
            f"up to {largest.item():.3g}; use a larger delta"
        )
    # With Σ_w = LLᵀ, L⁻¹ Σ_b L⁻ᵀ has the same eigenvalues and needs no square root.
    half = torch.linalg.solve_triangular(lower, in_float64(between.scatter), upper=False)
    whitened = torch.linalg.solve_triangular(lower, half.T, upper=False)
    del lower, half
    return covariance_eigenvalues(whitened) / between.num_samples.to(whitened)
