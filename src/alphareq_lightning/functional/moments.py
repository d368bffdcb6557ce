"""Count, mean and scatter matrix of features, batch by batch, in O(d²) memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional.products import add_products_, full_precision, mirror_


class FeatureMoments(NamedTuple):
    """First and second moments of features; all that any spectral score needs.

    The scatter is kept about the mean, not about zero: a mean far larger than the spread would
    otherwise eat the digits of the spectrum.
    """

    num_samples: Tensor
    """Number of samples ``n``, shape ``()``."""
    mean: Tensor
    """Mean feature, shape ``(d,)``."""
    scatter: Tensor
    """Sum of outer products of the centred features, shape ``(d, d)``."""
    rounding: Tensor
    """Sums over samples of the squared rounding step of their dtype, relative to the features
    and absolute, shape ``(2,)``: what varies less than that is no signal."""


SINGLE_ROUNDINGS, HALF_ROUNDINGS = 8, 2
"""Rounding steps in a feature: float32 networks add up theirs, half precision rounds once at the
end of sums that were kept in float32."""


PRODUCT_ROUNDINGS = 32
"""Rounding in sums of float32 products, in units of ε·trace/√size: collapsed features showed false
eigenvalues of up to 22 of them (20 when sums of equal terms round the same way; 5 otherwise)."""

CHUNK_ROWS = 4096
"""Rows in one float32 sum: few enough to stay in the cache and to round little."""
NEAR_ROWS = 64
"""Rows whose mean stands in for the mean of the features when they are shifted to float32."""


def moments_dtype(device: torch.device) -> torch.dtype:
    """Float64, so that sums over any number of batches are exact enough; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def empty_moments(num_features: int, device: torch.device | str = "cpu") -> FeatureMoments:
    """Moments of no samples at all, the start of a running sum."""
    device = torch.device(device)
    dtype = moments_dtype(device)
    return FeatureMoments(
        torch.zeros((), dtype=dtype, device=device),
        torch.zeros(num_features, dtype=dtype, device=device),
        torch.zeros(num_features, num_features, dtype=dtype, device=device),
        torch.zeros(2, dtype=dtype, device=device),
    )


def feature_moments(features: Tensor) -> FeatureMoments:
    """Moments of one batch of features.

    Args:
        features: Real floating-point features of any precision, shape ``(n, d)``.

    Raises:
        SpectrumError: If ``features`` is not a floating-point matrix with at least one column.

    Example:
        >>> moments = feature_moments(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
        >>> moments.num_samples.item(), moments.mean.tolist(), moments.scatter.tolist()
        (2.0, [2.0, 2.0], [[2.0, 4.0], [4.0, 8.0]])
    """
    check_features(features)
    moments = accumulate_(empty_moments(features.shape[1], features.device), features)
    mirror_(moments.scatter)
    return moments


def accumulate_(
    moments: FeatureMoments, features: Tensor, computed_in: torch.dtype | None = None
) -> FeatureMoments:
    """Add a batch to running moments in place, with no copy to the host.

    Products are made in float32, in float64 for float64 features, of features shifted close to
    zero, and summed in float64: no large numbers cancel. Only the upper blocks of the scatter are
    brought up to date: `mirror_` must complete it before anyone else than `spectrum` reads it.

    Args:
        moments: Running moments on the device of ``features``; overwritten.
        features: Floating-point features, shape ``(n, d)``; ``n`` may be 0.
        computed_in: The dtype that the features come from, if they were widened since.

    Raises:
        SpectrumError: If ``features`` is not a floating-point ``(n, d)`` matrix.
    """
    check_features(features)
    num_features = len(moments.mean)
    if features.shape[1] != num_features:
        raise SpectrumError(
            f"expected features with {num_features} columns as in the batches before, "
            f"got shape {tuple(features.shape)}"
        )
    num_new = features.shape[0]
    if num_new == 0:
        return moments
    dtype = product_dtype(features)
    with full_precision(features.device):
        shifted = torch.empty(0, dtype=dtype, device=features.device)
        for rows in torch.split(features.detach(), CHUNK_ROWS):
            if shifted.shape != rows.shape:
                shifted = torch.empty(rows.shape, dtype=dtype, device=features.device)
            _add_rows_(moments, rows, shifted)
    relative, absolute = rounding_steps(computed_in or features.dtype)
    moments.rounding[0] += num_new * relative**2
    moments.rounding[1] += num_new * absolute**2
    return moments


def _add_rows_(moments: FeatureMoments, rows: Tensor, shifted: Tensor) -> None:
    """Add rows that are few enough for one product; ``shifted`` is overwritten."""
    count, mean, scatter, rounding = moments
    num_new = rows.shape[0]
    # Near the mean is enough, but known to the last bit: differences from it are then small, and
    # what float32 rounds off them is small against the spread instead of against the mean.
    near = rows[:NEAR_ROWS].mean(dim=0, dtype=shifted.dtype)
    torch.sub(rows, near, out=shifted)
    rest = shifted.mean(dim=0).to(mean.dtype)
    shift = near + rest - mean
    total = count + num_new
    # Products about the batch mean miss what the shift between the means adds (Chan, Golub and
    # LeVeque, 1979). Taken about this point between the means they hold it already.
    beside = rest - (count / total).sqrt() * shift
    shifted.sub_(beside.to(shifted.dtype))
    variance = scatter.diagonal().sum()
    add_products_(scatter, shifted)
    if shifted.dtype != torch.float64:
        variance = scatter.diagonal().sum() - variance
        rounding[1] += product_rounding(variance, scatter.shape[0])
    mean.add_(shift * (num_new / total))
    count.copy_(total)


def centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features about their mean, shape ``(n, d)``, in the dtype of the products; and the mean."""
    dtype = product_dtype(features)
    near = features[:NEAR_ROWS].mean(dim=0, dtype=dtype)
    centred = features.detach() - near
    rest = centred.mean(dim=0)
    return centred.sub_(rest), near.to(moments_dtype(features.device)) + rest


def product_dtype(features: Tensor) -> torch.dtype:
    """Dtype of the products: float64 for float64 features, float32 for all others."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def product_rounding(variance: Tensor, size: int) -> Tensor:
    """Variance in one direction that float32 products can give by rounding alone.

    Args:
        variance: Sum of the variances in all directions.
        size: Width of the matrix of products.
    """
    share: float = PRODUCT_ROUNDINGS * torch.finfo(torch.float32).eps / math.sqrt(size)
    return variance * share


def rounding_steps(dtype: torch.dtype) -> tuple[float, float]:
    """Relative and absolute size of the rounding in features of a dtype.

    Float64 counts as float32: the weights and images behind the features were float32 once.
    """
    if dtype == torch.float64:
        dtype = torch.float32
    info = torch.finfo(dtype)
    steps = SINGLE_ROUNDINGS if dtype == torch.float32 else HALF_ROUNDINGS
    return steps * info.eps, steps * info.eps * info.smallest_normal


def merge_moments(first: FeatureMoments, second: FeatureMoments) -> FeatureMoments:
    """Moments of two disjoint sets of samples together.

    Example:
        >>> x = torch.randn(10, 3, dtype=torch.float64)
        >>> merged = merge_moments(feature_moments(x[:4]), feature_moments(x[4:]))
        >>> torch.allclose(merged.scatter, feature_moments(x).scatter)
        True
    """
    count = first.num_samples + second.num_samples
    share = second.num_samples / count.clamp(min=1)
    shift = second.mean - first.mean
    scatter = (
        first.scatter + second.scatter + torch.outer(shift * (share * first.num_samples), shift)
    )
    mean = first.mean + shift * share
    return FeatureMoments(count, mean, scatter, first.rounding + second.rounding)


def remaining_moments(whole: FeatureMoments, part: FeatureMoments) -> FeatureMoments:
    """Moments of the samples that are in ``whole`` but not in ``part``: undoes `merge_moments`.

    Example:
        >>> x = torch.randn(10, 3, dtype=torch.float64)
        >>> rest = remaining_moments(feature_moments(x), feature_moments(x[:4]))
        >>> torch.allclose(rest.scatter, feature_moments(x[4:]).scatter)
        True
    """
    count = whole.num_samples - part.num_samples
    share = part.num_samples / count.clamp(min=1)
    mean = whole.mean + (whole.mean - part.mean) * share
    shift = part.mean - mean
    between = shift * (part.num_samples * count / whole.num_samples.clamp(min=1))
    scatter = whole.scatter - part.scatter - torch.outer(between, shift)
    # Of the features' rounding the rest has its share, of the products' it has that of both.
    relative = whole.rounding[0] - part.rounding[0]
    rounding = torch.stack([relative, whole.rounding[1] + part.rounding[1]])
    return FeatureMoments(count, mean, scatter, rounding)


def check_features(features: Tensor) -> None:
    """Raise `SpectrumError` unless ``features`` is a real floating-point ``(n, d)`` matrix."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise SpectrumError(
            f"expected features of shape (n, d) with d >= 1, got shape {tuple(features.shape)}; "
            "flatten or pool the layer's output first"
        )
    if not features.is_floating_point():
        raise SpectrumError(
            f"expected real floating-point features, got {features.dtype}; "
            "take a layer before the one that rounds or encodes them"
        )
