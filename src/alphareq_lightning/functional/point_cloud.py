"""Scores that need the samples themselves; their metrics keep a bounded sample."""

from __future__ import annotations

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.moments import check_features, moments_dtype, rounding_steps
from alphareq_lightning.functional.spectrum import drop_rounding

BLOCK_ROWS = 512
"""Rows of a distance matrix at a time: 4,096 samples need 16 MB of it, not 134."""
_MIN_NEIGHBOURHOODS = 10
"""Fewer ratios of neighbour distances give no dimension to speak of."""


def twonn_dimension(
    features: Tensor, *, discard: float = 0.1, computed_in: torch.dtype | None = None
) -> Tensor:
    """Intrinsic dimension from the ratio of the distances to the two nearest neighbours.

    Args:
        features: Floating-point features, shape ``(n, d)``. Repeated samples are looked at once.
        discard: Share of the largest ratios that is left out of the line, as in the paper.
        computed_in: The dtype that the features come from, if they were widened since.

    Returns:
        The dimension, shape ``()``.

    Raises:
        SpectrumError: If features are not finite, vary no more than by rounding, or fewer than
            10 of them differ.
        OptionError: If ``discard`` is not a share below 1.

    Example:
        >>> angles = torch.rand(2000, generator=torch.manual_seed(0)) * 6.28
        >>> circle = torch.stack([angles.cos(), angles.sin(), torch.zeros(2000)], dim=1)
        >>> round(twonn_dimension(circle).item(), 1)
        1.0

    References:
        Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood
        information", Scientific Reports 2017.
    """
    if not 0 <= discard < 1:
        raise OptionError(f"expected discard a share from 0 to below 1, got {discard}")
    x = torch.unique(finite_features(features), dim=0)
    if len(x) < _MIN_NEIGHBOURHOODS:
        raise SpectrumError(
            f"an intrinsic dimension needs {_MIN_NEIGHBOURHOODS} different samples, got {len(x)}"
        )
    rounding = rounding_variance(features, computed_in)
    if not x.var(dim=0).mean() > rounding:
        raise SpectrumError("the samples vary no more than their rounding: no intrinsic dimension")
    nearest, second = _two_nearest(x)
    log_ratios = (second / nearest).log()
    log_ratios = log_ratios[torch.isfinite(log_ratios)].sort().values
    n = len(log_ratios)
    kept = int(n * (1 - discard)) if discard > 0 else n - 1
    if kept < 2 or not bool((log_ratios[:kept] > 0).any()):
        raise SpectrumError("all neighbours are equally far: there is no intrinsic dimension")
    # The share of smaller ratios is 1 − μ^−D: a line through the origin with slope D.
    shares = torch.arange(1, kept + 1, dtype=x.dtype, device=x.device) / n
    y = -(1 - shares).log()
    return (log_ratios[:kept] * y).sum() / log_ratios[:kept].square().sum()


def coherence(features: Tensor) -> Tensor:
    """Largest leverage of a sample, in units of the mean one: 1 is even, ``n/r`` one alone.

    Args:
        features: Floating-point features, shape ``(n, d)``, with more samples than their rank.

    Returns:
        ``n/r · max ‖u‖²`` over the rows ``u`` of the left singular vectors, shape ``()``.

    Raises:
        SpectrumError: If features are not finite, all zero, or of rank ``n``: then every sample
            has a direction of its own and the answer is 1 whatever they are.

    Example:
        >>> coherence(torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 9]])).item()
        2.0

    References:
        Candès and Recht, "Exact matrix completion via convex optimization", 2009. Tsitsulin et
        al., "Unsupervised embedding quality evaluation", 2023.
    """
    x = finite_features(features)
    u, singular_values, _ = torch.linalg.svd(x, full_matrices=False)
    rounding = len(x) * rounding_variance(features)
    rank = int((drop_rounding(singular_values.square(), rounding, x.shape[1]) > 0).sum())
    if rank in (0, len(x)):
        raise SpectrumError(
            f"coherence needs features that are not all 0 and more samples than their rank, "
            f"got {len(x)} samples of rank {rank}"
        )
    leverages: Tensor = u[:, :rank].square().sum(dim=1)
    return leverages.max() * len(x) / rank


def _two_nearest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the nearest and the second nearest other sample, each of shape ``(n,)``."""
    x = x - x.mean(dim=0)
    norms = x.square().sum(dim=1)
    found = []
    for start in range(0, len(x), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        squares = norms[rows, None] + norms - 2 * x[rows] @ x.T
        squares.diagonal(start).fill_(torch.inf)  # a sample is no neighbour of itself
        # Differences of large squares are good enough to find neighbours, not to measure them.
        neighbours = squares.topk(2, largest=False).indices
        found.append(torch.linalg.vector_norm(x[rows, None] - x[neighbours], dim=2))
    nearest, second = torch.cat(found).sort(dim=1).values.unbind(dim=1)
    return nearest, second


def rounding_variance(features: Tensor, computed_in: torch.dtype | None = None) -> Tensor:
    """The variance that rounding alone can give a feature, as for a spectrum."""
    relative, absolute = rounding_steps(features, computed_in)
    wide = features.detach().to(moments_dtype(features.device))
    return relative**2 * wide.square().mean() + absolute**2


def finite_features(features: Tensor) -> Tensor:
    """Features widened to float64 (float32 on MPS).

    Raises:
        SpectrumError: If they are no floating-point ``(n, d)`` matrix, or hold NaN or infinity.
    """
    check_features(features)
    bad = int((~torch.isfinite(features)).sum())
    if bad:
        raise SpectrumError(f"{bad} of {features.numel()} feature values are NaN or infinite")
    return features.detach().to(moments_dtype(features.device))
