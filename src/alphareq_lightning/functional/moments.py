"""Count, mean and scatter matrix of features, batch by batch, in O(d²) memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import SpectrumError


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
    return accumulate_(empty_moments(features.shape[1], features.device), features)


def accumulate_(
    moments: FeatureMoments, features: Tensor, computed_in: torch.dtype | None = None
) -> FeatureMoments:
    """Add a batch to running moments in place, with no copy to the host.

    The batch is centred on its own mean first and the shift between the two means is added
    afterwards (Chan, Golub and LeVeque, 1979), so no large numbers cancel.

    Args:
        moments: Running moments on the device of ``features``; overwritten.
        features: Floating-point features, shape ``(n, d)``; ``n`` may be 0.
        computed_in: The dtype that the features come from, if they were widened since.

    Raises:
        SpectrumError: If ``features`` is not a floating-point ``(n, d)`` matrix.
    """
    check_features(features)
    count, mean, scatter, rounding = moments
    if features.shape[1] != mean.shape[0]:
        raise SpectrumError(
            f"expected features with {mean.shape[0]} columns as in the batches before, "
            f"got shape {tuple(features.shape)}"
        )
    num_new = features.shape[0]
    if num_new == 0:
        return moments
    # float64 operands keep autocast and TF32 out of the product below.
    centred = features.detach().to(scatter.dtype)
    batch_mean = centred.mean(dim=0)
    centred = centred - batch_mean
    shift = batch_mean - mean
    share = num_new / (count + num_new)
    scatter.addmm_(centred.T, centred)
    scatter.addr_(shift * (share * count), shift)
    mean.add_(shift * share)
    count.add_(num_new)
    relative, absolute = rounding_steps(computed_in or features.dtype)
    rounding[0] += num_new * relative**2
    rounding[1] += num_new * absolute**2
    return moments


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
    return FeatureMoments(count, mean, scatter, whole.rounding - part.rounding)


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
