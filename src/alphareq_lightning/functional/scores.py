"""Other label-free scores that are read from a spectrum.

Those of the covariance take its eigenvalues; those that their papers define on the uncentred
feature matrix take its singular values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.power_law import FLAT_ROUNDING

_RANKME_EPSILON = 1e-7
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
    return entropy_of_shares(singular_values, _RANKME_EPSILON).exp()


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
    return entropy_of_shares(eigenvalues).exp()


def participation_ratio(eigenvalues: Tensor, *, num_samples: int | None = None) -> Tensor:
    """``(Σλ)² / Σλ²``: how many directions carry the variance.

    A finite sample reads it low, by about ``1/num_samples`` in its reciprocal. With
    ``num_samples`` both sums are replaced by their unbiased estimates for Gaussian features.

    Args:
        eigenvalues: Sample covariance eigenvalues (``correction=1``), shape ``(d,)``.
        num_samples: Number of samples behind them, to correct for it.

    Returns:
        A number, shape ``()``; infinite if, corrected, the sample cannot tell the spectrum from
        a flat one of any width.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.
        OptionError: If ``num_samples`` is less than 3.

    Example:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0])).item()
        2.0

    References:
        The moments of Wishart matrices, as in Srivastava, "Some tests concerning the covariance
        matrix in high dimensional data", 2005.
    """
    squares = _normalised(eigenvalues).square().sum()
    if num_samples is None:
        return squares.reciprocal()
    if num_samples < 3:
        raise OptionError(f"the correction needs num_samples >= 3, got {num_samples}")
    degrees = num_samples - 1
    # In units of (Σλ)² of the sample, which is 1 after the normalisation.
    excess = squares - 1 / degrees
    excess = excess.where(excess > FLAT_ROUNDING, 0.0)
    squares = excess * degrees**2 / ((degrees - 1) * (degrees + 2))
    return (1 - 2 * squares / degrees) / squares


def nesum(eigenvalues: Tensor) -> Tensor:
    """``Σλ / λ₁``: the variance in units of the strongest direction.

    Args:
        eigenvalues: Covariance eigenvalues, largest first, shape ``(d,)``.

    Returns:
        A number from 1 (one direction) to ``d`` (whitened), shape ``()``.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.

    Example:
        >>> nesum(torch.tensor([4.0, 2.0, 2.0])).item()
        2.0

    References:
        He and Ozay, "Exploring the gap between collapsed and whitened features in self-supervised
        learning", ICML 2022.
    """
    values = _checked(eigenvalues)
    return values.sum() / values.max()


def stable_rank(singular_values: Tensor) -> Tensor:
    """``‖X‖²_F / ‖X‖²₂`` of the uncentred features: `nesum` with the mean left in.

    Args:
        singular_values: Singular values of the uncentred features, shape ``(min(n, d),)``.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.

    Example:
        >>> stable_rank(torch.tensor([2.0, 2.0, 0.0])).item()
        2.0

    References:
        Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.
    """
    values = _checked(singular_values)
    return (values / values.max()).square().sum()


def condition_number(singular_values: Tensor) -> Tensor:
    """``σ₁ / σ_min`` of the uncentred features; infinite when directions are missing.

    Tsitsulin et al. report its reciprocal.

    Args:
        singular_values: All ``min(n, d)`` singular values of the uncentred features.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.

    Example:
        >>> condition_number(torch.tensor([3.0, 2.0, 0.5])).item()
        6.0

    References:
        Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.
    """
    values = _checked(singular_values)
    return values.max() / values.min()


def matrix_entropy(singular_values: Tensor, *, order: float = 1.0) -> Tensor:
    """Rényi entropy of the normalised Gram matrix ``XXᵀ``, in nats.

    Args:
        singular_values: Singular values of the uncentred features, shape ``(min(n, d),)``.
        order: 1 is von Neumann's entropy; 2 is the logarithm of a participation ratio.

    Returns:
        A number from 0 (one direction) to ``log(min(n, d))``, shape ``()``.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.
        OptionError: If ``order`` is not positive.

    Example:
        >>> round(matrix_entropy(torch.ones(8)).exp().item(), 6)
        8.0

    References:
        Giraldo, Rao and Principe, "Measures of entropy from data using infinitely divisible
        kernels", 2015. Skean et al., "Layer by layer", ICML 2025.
    """
    if not order > 0:
        raise OptionError(f"expected an order > 0, got {order}")
    p = _normalised(singular_values).square()
    if order == 1:
        return entropy_of_shares(p)
    p = p / p.sum()
    return p.pow(order).sum().log() / (1 - order)


def entropy_of_shares(values: Tensor, epsilon: float = 0.0) -> Tensor:
    """Shannon entropy of a spectrum divided by its sum, in nats.

    Args:
        values: Eigenvalues or singular values, shape ``(d,)``.
        epsilon: Added to each share.

    Raises:
        SpectrumError: If the values are negative, not finite, or all zero.
    """
    p = _normalised(values) + epsilon
    return -torch.xlogy(p, p).sum()


def _normalised(values: Tensor) -> Tensor:
    values = _checked(values)
    return values / values.sum()


def _checked(values: Tensor) -> Tensor:
    if values.ndim == 2:
        raise SpectrumError(
            f"expected a spectrum of shape (d,), got features of shape {tuple(values.shape)}; take "
            "torch.linalg.svdvals(features) where singular values are wanted, eigenspectrum("
            "features) where eigenvalues are"
        )
    bad = int((~torch.isfinite(values) | (values < 0)).sum())
    if values.ndim != 1 or bad or not bool((values > 0).any()):
        raise SpectrumError(
            "expected a spectrum of shape (d,) with finite values >= 0, not all 0; "
            f"got shape {tuple(values.shape)} with {bad} negative or non-finite values"
        )
    return values.double()
