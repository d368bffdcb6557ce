"""IdEst: intrinsic dimension from the growth of minimum spanning trees."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.point_cloud import finite_features, rounding_variance
from alphareq_lightning.functional.power_law import weighted_lines

_MIN_POINTS = 64
"""Fewer different samples leave trees of a handful of points, whose growth is noise."""
_NUM_SIZES = 16
"""Trees of n/16, 2n/16, … n points: the paper's steps of one size; it does not say how many."""
_ORDER_SEED = 0
"""Which of the points are in the smaller trees is drawn by this seed, always the same."""


def mst_dimension(features: Tensor, *, num_sizes: int = _NUM_SIZES) -> Tensor:
    r"""Intrinsic dimension from how the length of a minimum spanning tree grows with its points.

    The tree of :math:`n` points of a :math:`d`-dimensional set is about :math:`n^{(d-1)/d}` long.
    A line with slope :math:`m` through the log lengths of trees of ever more of the features
    gives :math:`d = 1 / (1 - m)`, the IdEst of the paper (its Algorithm 1, there on 50,000
    samples). A few thousand samples tell 10 dimensions to about 30 %; above, it is rough.

    Args:
        features: Floating-point features, shape ``(n, d)``. Repeated samples are looked at once,
            and the order of the samples does not matter.
        num_sizes: How many trees, the last of them of all samples.

    Returns:
        The dimension, shape ``()``.

    Raises:
        SpectrumError: If features are not finite, vary no more than by rounding, fewer than 64 of
            them differ, or the trees grow as fast as their number of points.
        OptionError: If there are fewer than two trees, or one has fewer than 4 points.

    Example:
        >>> angles = torch.rand(2000, generator=torch.manual_seed(0)) * 6.28
        >>> circle = torch.stack([angles.cos(), angles.sin(), torch.zeros(2000)], dim=1)
        >>> round(mst_dimension(circle).item(), 1)
        1.0

    References:
        Mordacq, Kalogeiton, Oudot, "IdEst: Assessing self-supervised learning representations via
        intrinsic dimension", ICML 2026. Costa and Hero, "Determining intrinsic dimension and
        entropy of high-dimensional shape spaces", 2006. Steele, Annals of Probability 1988.
    """
    if not 2 <= num_sizes <= _MIN_POINTS // 4:
        raise OptionError(f"expected num_sizes from 2 to {_MIN_POINTS // 4}, got {num_sizes}")
    x = torch.unique(finite_features(features), dim=0)  # sorted: any order of samples gives this
    if len(x) < _MIN_POINTS:
        raise SpectrumError(
            f"a dimension from spanning trees needs {_MIN_POINTS} different samples, got {len(x)}"
        )
    if not x.var(dim=0).mean() > rounding_variance(x, features.dtype):
        raise SpectrumError("the samples vary no more than their rounding: no intrinsic dimension")
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(_ORDER_SEED)).to(x.device)]
    x = x - x.mean(dim=0)
    norms = x.square().sum(dim=1)
    squares = (norms[:, None] + norms - 2 * x @ x.T).cpu().numpy()
    sizes = [len(x) * part // num_sizes for part in range(1, num_sizes + 1)]
    lengths = []
    for size in sizes:
        parents, points = spanning_tree(squares[:size, :size]).T
        # Differences of large squares are good enough to find edges, not to measure them.
        edges = x[torch.as_tensor(parents)] - x[torch.as_tensor(points)]
        lengths.append(torch.linalg.vector_norm(edges, dim=1).sum())
    logs = torch.tensor(sizes).double().log(), torch.stack(lengths).double().cpu().log()
    slope, *_ = weighted_lines(*logs, torch.full((num_sizes,), 1 / num_sizes, dtype=torch.float64))
    if slope >= 1:
        raise SpectrumError("spanning trees grow as fast as their number of points: no dimension")
    return 1 / (1 - slope)


def spanning_tree(weights: np.ndarray) -> np.ndarray:
    """Edges of the minimum spanning tree of a complete graph, by Prim's algorithm.

    At 4,096 points it takes .07 s, where scipy's, made for sparse graphs, sorts all edges in 4.8.

    Args:
        weights: Symmetric, shape ``(n, n)``.

    Returns:
        Pairs of points, shape ``(n - 1, 2)``; the second is the one that the edge adds.
    """
    n = len(weights)
    nearest, edges = np.zeros(n, dtype=np.int64), np.empty((n - 1, 2), dtype=np.int64)
    outside = np.ones(n, dtype=bool)
    outside[0] = False
    distance = np.where(outside, weights[0], np.inf)  # of each point from the tree
    for place in range(n - 1):
        point = int(distance.argmin())
        edges[place] = nearest[point], point
        outside[point] = False
        distance[point] = np.inf
        closer = (weights[point] < distance) & outside
        nearest[closer] = point
        distance[closer] = weights[point][closer]
    return edges
