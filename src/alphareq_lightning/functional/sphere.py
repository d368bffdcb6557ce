"""Scores of directions: features scaled to unit length."""

from __future__ import annotations

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.moments import (
    FeatureMoments,
    check_features,
    feature_moments,
    moments_dtype,
)
from alphareq_lightning.functional.point_cloud import BLOCK_ROWS, finite_features
from alphareq_lightning.functional.spectrum import second_moments


def directions(features: Tensor) -> Tensor:
    """Rows scaled to length 1; rows of zeros have no direction and are left out.

    NaN is let through: a state that it enters tells of it in the end.

    Args:
        features: Floating-point features, shape ``(n, d)``.

    Returns:
        Float64 directions (float32 on MPS), shape ``(at most n, d)``.

    Raises:
        SpectrumError: If ``features`` is not a floating-point ``(n, d)`` matrix.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8]]
    """
    check_features(features)
    wide = features.detach().to(moments_dtype(features.device))
    # Scaled first: the squares of numbers near the ends of the range leave it.
    largest = wide.abs().amax(dim=1, keepdim=True)
    scaled = (wide / largest)[largest[:, 0] != 0]
    lengths: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / lengths


def selfcluster(features: Tensor) -> Tensor:
    """How much directions cluster: 0 as if drawn evenly from the sphere, 1 all on one line.

    Args:
        features: Floating-point features, shape ``(n, d)``, ``n >= 2`` and ``d >= 2``.

    Returns:
        A number, shape ``()``; a little below 0 if directions repel each other.

    Raises:
        SpectrumError: If fewer than two features have a direction, or ``d`` is 1.

    Example:
        >>> [round(selfcluster(x).item(), 3) for x in (torch.ones(5, 3), torch.eye(3))]
        [1.0, -0.5]

    References:
        Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.
    """
    return selfcluster_of_moments(feature_moments(directions(finite_features(features))))


def selfcluster_of_moments(moments: FeatureMoments) -> Tensor:
    """`selfcluster` from the moments of `directions`: no ``n × n`` matrix is needed.

    Raises:
        SpectrumError: As `selfcluster`.
    """
    n, d = moments.num_samples.double(), len(moments.mean)
    if n < 2 or d < 2:
        raise SpectrumError(
            f"selfcluster needs at least 2 directions in 2 dimensions, got {int(n)} in {d}"
        )
    if not bool(torch.isfinite(moments.mean).all()):
        raise SpectrumError("selfcluster needs features without NaN or infinite values")
    # ‖XXᵀ‖ and ‖XᵀX‖ are the same; under an even distribution the square is `expected`.
    actual = second_moments(moments).double().square().sum()
    expected = n + n * (n - 1) / d
    return (actual - expected) / (n * n - expected)


def alignment(view_a: Tensor, view_b: Tensor, *, power: float = 2.0) -> Tensor:
    """Mean distance between the directions of two views of an image; lower is better.

    Args:
        view_a: Features of the first views, shape ``(n, d)``.
        view_b: Features of the second views, row by row of the same images, shape ``(n, d)``.
        power: Of the distance.

    Returns:
        A number from 0 to ``2**power``, shape ``()``.

    Raises:
        SpectrumError: If the shapes differ, or no pair has two directions.

    Example:
        >>> alignment(torch.eye(2), 3 * torch.eye(2)).item()
        0.0

    References:
        Wang and Isola, "Understanding contrastive representation learning through alignment and
        uniformity on the hypersphere", ICML 2020.
    """
    distances = pair_distances(finite_features(view_a), finite_features(view_b)).pow(power)
    if len(distances) == 0:
        raise SpectrumError("alignment needs at least one pair of views that are not zero")
    return distances.mean()


def pair_distances(view_a: Tensor, view_b: Tensor) -> Tensor:
    """Distance between the directions of each pair that has two, shape ``(at most n,)``.

    Raises:
        SpectrumError: If the shapes differ.
    """
    check_pair(view_a, view_b)
    directed = (view_a != 0).any(dim=1) & (view_b != 0).any(dim=1)
    difference = directions(view_a[directed]) - directions(view_b[directed])
    distances: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return distances


def check_pair(view_a: Tensor, view_b: Tensor) -> None:
    """Raise `SpectrumError` unless both are floating-point matrices of one shape."""
    check_features(view_a)
    check_features(view_b)
    if view_a.shape != view_b.shape:
        raise SpectrumError(
            "expected two views of the same images, "
            f"got shapes {tuple(view_a.shape)} and {tuple(view_b.shape)}"
        )


def uniformity(features: Tensor, *, temperature: float = 2.0) -> Tensor:
    r"""``log mean exp(−t‖x − y‖²)`` over pairs of directions; lower is more uniform.

    Args:
        features: Features, shape ``(n, d)``; all ``n²/2`` pairs are looked at.
        temperature: ``t``.

    Returns:
        A number from ``−4t`` to 0 (all alike), shape ``()``.

    Raises:
        SpectrumError: If fewer than two features have a direction.
        OptionError: If ``temperature`` is not positive.

    Example:
        >>> round(uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item(), 9)
        -8.0

    References:
        Wang and Isola, ICML 2020.
    """
    if not temperature > 0:
        raise OptionError(f"expected a temperature > 0, got {temperature}")
    x = directions(finite_features(features))
    n = len(x)
    if n < 2:
        raise SpectrumError(f"uniformity needs at least 2 directions, got {n}")
    total = x.new_zeros(())
    for start in range(0, n, BLOCK_ROWS):
        squares = (2 - 2 * x[start : start + BLOCK_ROWS] @ x.T).clamp(min=0)
        squares.diagonal(start).fill_(torch.inf)  # a row is no pair with itself
        total = total + (-temperature * squares).exp().sum()
    return (total / (n * (n - 1))).log()
