"""What spectrum a finite sample is expected to show, by random-matrix theory: no simulation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional.spectrum import MIN_SAMPLES

_SINGLE_RANKS = 32
"""So many leading eigenvalues are kept one by one; later ranks go into groups."""
_GROUP_GROWTH = 1.08
"""Ratio of neighbouring group edges: a spectrum hardly bends within 8 % of a rank."""
_MOST_LEVELS = 512
"""Different eigenvalues that are solved for one by one; of more, neighbours are averaged."""
_BISECTIONS = 40
"""The angle is known to π / 2⁴⁰, far below the accuracy of the theory."""
_LEVELS_TIMES_RADII = 8192
"""Radii beside those of the levels themselves: few levels leave wide bulks between them."""


class SampleLaw(NamedTuple):
    """Points of the limiting law of sample eigenvalues, largest first."""

    eigenvalues: Tensor
    """Where the points lie, shape ``(p,)``."""
    ranks: Tensor
    """Expected number of sample eigenvalues above each point, shape ``(p,)``."""
    sensitivity: Tensor
    """Derivative of each log eigenvalue, at its rank, by each log population eigenvalue, shape
    ``(p, g)``; rows sum to 1."""


def sample_law(population: Tensor, multiplicity: Tensor, degrees: int) -> SampleLaw:
    r"""Solve the Silverstein equation of a population that is made of a few levels.

    The companion Stieltjes transform :math:`v` of the sample spectrum obeys
    :math:`x = -1/v + \frac1n \sum_j m_j \lambda_j / (1 + \lambda_j v)`. With
    :math:`-1/v = r e^{i\theta}` the support is one curve: for each radius ``r`` one angle
    makes ``x`` real, and it is found by bisection. The number of eigenvalues above ``x`` and
    the sensitivities follow in closed form, so nothing is integrated.

    Args:
        population: Levels :math:`\lambda_j > 0`, any order, shape ``(g,)``.
        multiplicity: How many eigenvalues each stands for, shape ``(g,)``.
        degrees: Degrees of freedom of the sample covariance, ``num_samples - 1``.

    References:
        Silverstein and Choi, "Analysis of the limiting spectral distribution of large dimensional
        random matrices", J. Multivariate Anal. 1995.
    """
    ratio_above = 1 + math.sqrt(float(multiplicity.sum()) / degrees)
    highest, lowest = float(population.max()) * ratio_above, float(population.min()) / 100
    count = max(64, _LEVELS_TIMES_RADII // len(population))
    between = torch.logspace(math.log10(lowest), math.log10(highest), count, dtype=torch.float64)
    radii = torch.cat([population, between]).sort(descending=True).values
    level = population / radii[:, None]
    share = multiplicity / degrees
    radii = radii[_total(level, share, -torch.ones_like(radii)) < 1]  # else below the support
    level = population / radii[:, None]

    low, high = torch.zeros_like(radii), torch.full_like(radii, math.pi)
    for _ in range(_BISECTIONS):
        angle = (low + high) / 2
        too_small = _total(level, share, angle.cos()) > 1
        low, high = torch.where(too_small, angle, low), torch.where(too_small, high, angle)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    weight = share * level / (1 + level**2 - 2 * level * cos)
    real = (1 + (weight * (cos - level)).sum(1)) * cos[:, 0] + weight.sum(1) * sin[:, 0] ** 2
    turned = torch.atan2(level * sin, 1 - level * cos)
    ranks = degrees * (angle + (share * turned).sum(1) - real * sin[:, 0]) / math.pi
    # The least of what is left of order by rounding would spoil the interpolation by rank.
    ranks = ranks.clamp(min=1e-9).cummax(0).values
    return SampleLaw(real * radii, ranks, weight / weight.sum(1, keepdim=True))


def _total(level: Tensor, share: Tensor, cos: Tensor) -> Tensor:
    """Is 1 where ``x`` is real, more at smaller angles and less at larger ones."""
    return (share * level**2 / (1 + level**2 - 2 * level * cos[:, None])).sum(1)


def at_ranks(law: SampleLaw, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Log eigenvalues expected at ranks, one-based, and their derivatives.

    The ``k``-th of ``n`` eigenvalues is taken as the quantile with ``k - 1/2`` of them above it.

    Returns:
        Log eigenvalues, shape ``(k,)``; sensitivities, shape ``(k, g)``.
    """
    x, wanted = law.ranks.log(), (ranks - 0.5).log()
    right = torch.searchsorted(x, wanted).clamp(1, len(x) - 1)
    gap = (x[right] - x[right - 1]).clamp(min=torch.finfo(torch.float64).tiny)
    share = ((wanted - x[right - 1]) / gap).clamp(0, 1)
    values = torch.cat([law.eigenvalues.log()[:, None], law.sensitivity], dim=1)
    between = torch.lerp(values[right - 1], values[right], share[:, None])
    return between[:, 0], between[:, 1:]


def rank_groups(num_features: int) -> Tensor:
    """Last rank of each group of ranks, after a 0: single ranks first, then growing groups.

    Example:
        >>> rank_groups(40).tolist()[-4:]
        [34, 36, 38, 40]
    """
    edges = list(range(min(_SINGLE_RANKS, num_features) + 1))
    while edges[-1] < num_features:
        edges.append(min(num_features, max(edges[-1] + 1, int(edges[-1] * _GROUP_GROWTH))))
    return torch.tensor(edges)


def expected_eigenvalues(population: Tensor, num_samples: int) -> Tensor:
    """Eigenvalues that the covariance of a finite sample is expected to have.

    Args:
        population: Eigenvalues of the population covariance, all above 0, largest first, shape
            ``(d,)``.
        num_samples: Number of samples ``n``, at least 3.

    Returns:
        Float64 eigenvalues, largest first, shape ``(min(n - 1, d),)``; the geometric mean over
        many samples of Gaussian features, to about a percent at each rank.

    Raises:
        SpectrumError: If the population is not such a spectrum, or there are too few samples.

    Example:
        >>> population = torch.arange(1, 513, dtype=torch.float64) ** -1.0
        >>> expected = expected_eigenvalues(population, 200)
        >>> len(expected), bool(expected[0] > population[0]), bool(expected[150] < population[150])
        (199, True, True)

    References:
        Silverstein and Choi, J. Multivariate Anal. 1995.
    """
    values = population.detach().cpu().double()
    has_logarithms = bool(((values > 0) & values.isfinite()).all())
    if values.ndim != 1 or num_samples < MIN_SAMPLES or not has_logarithms:
        raise SpectrumError(
            "expected population eigenvalues of shape (d,), finite and above 0, and at least "
            f"{MIN_SAMPLES} samples; got shape {tuple(values.shape)} and {num_samples=}"
        )
    levels, counts = torch.unique_consecutive(values, return_counts=True)
    if len(levels) > _MOST_LEVELS:
        edges = rank_groups(len(values))
        counts = edges.diff()
        levels = torch.cat([values.new_zeros(1), values.cumsum(0)])[edges].diff() / counts
    law = sample_law(levels, counts.double(), num_samples - 1)
    ranks = torch.arange(1, min(num_samples - 1, len(values)) + 1, dtype=torch.float64)
    return at_ranks(law, ranks)[0].exp()
