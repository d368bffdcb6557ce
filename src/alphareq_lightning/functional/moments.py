"""Count, mean and scatter matrix of features, batch by batch, in O(d²) memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional.products import (
    add_products_,
    float32_suffices,
    full_precision,
    mirror_,
    product_dtypes,
    product_rounding,
)


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


_FLOAT_ROUNDINGS, _HALF_ROUNDINGS = 8, 2
"""Rounding steps in a feature: networks add up theirs, half precision rounds once at the end of
sums that were kept in float32."""

CHUNK_ROWS = 4096
"""Rows in one product: few enough to stay in the cache."""
_NEAR_ROWS = 64
"""Rows whose mean stands in for the mean of the features when they are shifted to float32."""


def moments_dtype(device: torch.device) -> torch.dtype:
    """Float64, so that sums over any number of batches are exact enough; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def empty_moments(num_features: int, device: torch.device | str = "cpu") -> FeatureMoments:
    """Moments of no samples at all, the start of a running sum."""
    dtype = moments_dtype(torch.device(device))
    shapes = (), (num_features,), (num_features, num_features), (2,)
    return FeatureMoments(*(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes))


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
    moments: FeatureMoments, features: Tensor, computed_in: torch.dtype | Tensor | None = None
) -> FeatureMoments:
    """Add a batch to running moments in place, with no copy to the host.

    Products are made of features shifted close to zero, where no large numbers cancel: in float32
    where that is enough (see `float32_suffices`), else in float64, and summed in float64. Only the
    upper blocks of the scatter are brought up to date: `mirror_` must complete it before anyone
    else than `spectrum` reads it.

    Args:
        moments: Running moments on the device of ``features``; overwritten.
        features: Floating-point features, shape ``(n, d)``; ``n`` may be 0.
        computed_in: The dtype that the features come from, if they were widened since; or the
            tensor, if they were computed from one in float64.

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
    spare: dict[torch.dtype, Tensor] = {}
    with full_precision(features.device):
        for rows in torch.split(features.detach(), CHUNK_ROWS):
            _add_rows_(moments, rows, spare)
    for rounding, step in zip(moments.rounding, rounding_steps(features, computed_in), strict=True):
        rounding.add_(num_new * step**2)
    return moments


def _add_rows_(moments: FeatureMoments, rows: Tensor, spare: dict[torch.dtype, Tensor]) -> None:
    """Add rows that are few enough for one product; memory in ``spare`` is used again."""
    count, mean, scatter, rounding = moments
    total = count + len(rows)
    dtypes = product_dtypes(rows)
    if torch.float64 in spare:  # what the rows before needed, these need as a rule
        dtypes = (torch.float64,)
    for dtype in dtypes:
        shifted, near, rest = _near_mean(rows, dtype, spare.get(dtype))
        spare[dtype] = shifted
        shift = near + rest - mean
        # Products about the batch mean miss what the shift between the means adds (Chan, Golub
        # and LeVeque, 1979). Taken about this point between the means they hold it already.
        beside = rest - (count / total).sqrt() * shift
        shifted.sub_(beside.to(dtype))
        if dtype == dtypes[-1] or float32_suffices(shifted):
            break
    diagonal = scatter.diagonal().clone()
    add_products_(scatter, shifted)
    if dtype != torch.float64:
        rounding[1] += product_rounding(scatter.diagonal() - diagonal, len(rows))
    mean.add_(shift * (len(rows) / total))
    count.copy_(total)


def centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features about their mean, shape ``(n, d)``, in the dtype for products; and the mean."""
    dtypes = product_dtypes(features)
    for dtype in dtypes:
        centred, near, rest = _near_mean(features.detach(), dtype)
        centred.sub_(rest.to(dtype))
        if dtype == dtypes[-1] or float32_suffices(centred):
            break
    return centred, near + rest


def _near_mean(
    rows: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows about a point near their mean, that point, and what it is off by.

    Near is enough, but known to the last bit: differences from it are then small, and what
    float32 rounds off them is small against the spread instead of against the mean.
    """
    near = rows[:_NEAR_ROWS].mean(dim=0, dtype=dtype)
    if out is None or out.shape != rows.shape:
        out = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    shifted = torch.sub(rows, near, out=out)
    wide = moments_dtype(rows.device)
    return shifted, near.to(wide), shifted.mean(dim=0).to(wide)


def rounding_steps(
    features: Tensor, computed_in: torch.dtype | Tensor | None = None
) -> tuple[Tensor | float, Tensor | float]:
    """Relative and absolute size of the rounding in features, each one number.

    Float64 numbers that float32 can hold have been float32 once, and are rounded as such.

    Args:
        features: Any shape.
        computed_in: As in `accumulate_`.
    """
    if isinstance(computed_in, Tensor):
        features, computed_in = computed_in, None
    dtype = computed_in or features.dtype
    if dtype != torch.float64:
        return _steps_of(dtype)
    widened = (features.detach().float() == features).all()
    relative, absolute = zip(_steps_of(torch.float32), _steps_of(dtype), strict=True)
    return torch.where(widened, *relative), torch.where(widened, *absolute)


def _steps_of(dtype: torch.dtype) -> tuple[float, float]:
    info = torch.finfo(dtype)
    steps = _FLOAT_ROUNDINGS if info.bits >= 32 else _HALF_ROUNDINGS
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
