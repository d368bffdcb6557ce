"""Other label-free scores that are read from a spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

from alphareq_lightning.errors import SpectrumError

RANKME_EPSILON = 1e-7
"""Added to each normalised singular value, as in the RankMe paper, equation 1."""


def rankme(singular_values: Tensor) -> Tensor:
    """RankMe: exponential of the entropy of the normalised singular values.

    Args:
        singular_values: Singular values of the uncentred ``(n, d)`` features, shape
            ``(min(n, d),)``; for example ``torch.linalg.svdvals(features)`` or
            `moments_singular_values`.

    Returns:
        A number from 1 (collapsed) to about ``min(n, d)``, shape ``()``.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.

    Example:
        >>> round(rankme(torch.ones(16)).item(), 3)
        16.0

    References:
        Garrido et al., "RankMe: Assessing the downstream performance of pretrained
        self-supervised representations by their rank", ICML 2023.
    """
    p = _normalised(singular_values) + RANKME_EPSILON
    return (-(p * p.log()).sum()).exp()


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised covariance eigenvalues.

    Args:
        eigenvalues: Covariance eigenvalues, shape ``(d,)``.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.

    Example:
        >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])).item(), 6)
        2.0

    References:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    p = _normalised(eigenvalues)
    return (-torch.xlogy(p, p).sum()).exp()


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    """``(Σλ)² / Σλ²``: how many directions carry the variance.

    Args:
        eigenvalues: Covariance eigenvalues, shape ``(d,)``.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.

    Example:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0])).item()
        2.0
    """
    return _normalised(eigenvalues).square().sum().reciprocal()


def _normalised(values: Tensor) -> Tensor:
    bad = int((~torch.isfinite(values) | (values < 0)).sum())
    if values.ndim != 1 or bad or not bool((values > 0).any()):
        raise SpectrumError(
            "expected a spectrum of shape (d,) with finite values >= 0, not all 0; "
            f"got shape {tuple(values.shape)} with {bad} negative or non-finite values"
        )
    values = values.double()
    return values / values.sum()
