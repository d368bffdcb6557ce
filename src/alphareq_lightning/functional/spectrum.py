"""Eigenvalues of the feature covariance, largest first."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from alphareq_lightning.errors import EigensolverWarning, SpectrumError
from alphareq_lightning.functional.moments import (
    FeatureMoments,
    check_features,
    feature_moments,
    moments_dtype,
    rounding_steps,
)

MIN_SAMPLES = 3
"""Fewer samples leave at most one eigenvalue, and no decay to speak of."""


def covariance(moments: FeatureMoments, *, correction: int = 1) -> Tensor:
    """Covariance matrix, shape ``(d, d)``, symmetric to the last bit.

    Args:
        moments: Moments of at least ``correction + 1`` samples.
        correction: Degrees of freedom taken off the sample count, as in `torch.cov`.

    Raises:
        SpectrumError: If there are too few samples.
    """
    degrees = moments.num_samples - correction
    if degrees <= 0:
        raise SpectrumError(
            f"a covariance with {correction=} needs at least {correction + 1} samples, "
            f"got {int(moments.num_samples)}"
        )
    return (moments.scatter + moments.scatter.T) / (2 * degrees)


def covariance_eigenvalues(cov: Tensor) -> Tensor:
    """Eigenvalues of a symmetric positive semi-definite matrix.

    Args:
        cov: Covariance matrix, shape ``(d, d)``.

    Returns:
        Float64 eigenvalues, largest first, never negative, shape ``(d,)``; on the device of
        ``cov``, or on the CPU where that device has no float64.

    Raises:
        SpectrumError: If ``cov`` holds NaN or infinite entries.

    Example:
        >>> covariance_eigenvalues(torch.diag(torch.tensor([1.0, 3.0, 2.0]))).tolist()
        [3.0, 2.0, 1.0]
    """
    if not bool(torch.isfinite(cov).all()):
        raise SpectrumError(_not_finite(cov.diagonal()))
    if moments_dtype(cov.device) != torch.float64:
        cov = cov.cpu()
    cov = cov.double()
    eigenvalues: Tensor
    try:
        eigenvalues = torch.linalg.eigvalsh(cov)
    except (
        RuntimeError
    ) as error:  # LinAlgError on ill-conditioned input, RuntimeError from cuSOLVER
        warnings.warn(
            f"eigvalsh failed on {cov.device} ({error}); solved on the CPU instead",
            EigensolverWarning,
            stacklevel=2,
        )
        eigenvalues = torch.linalg.eigvalsh(cov.cpu()).to(cov.device)
    return eigenvalues.flip(0).clamp(min=0)


def moments_eigenvalues(moments: FeatureMoments) -> Tensor:
    """Eigenspectrum of the covariance of streamed features.

    Eigenvalues that rounding alone explains are set to 0, so that a collapsed representation
    shows as one instead of as the spectrum of its rounding errors.

    Args:
        moments: Moments of at least three samples.

    Returns:
        Float64 eigenvalues, largest first, shape ``(min(n, d),)``.

    Raises:
        SpectrumError: If there are fewer than three samples or features that are not finite.
    """
    num_samples = _checked_count(moments)
    eigenvalues = covariance_eigenvalues(covariance(moments))
    power = moments.scatter.diagonal().sum() / moments.num_samples + moments.mean.square().sum()
    relative, absolute = (moments.rounding / moments.num_samples).unbind()
    rounding = relative * power / len(moments.mean) + absolute
    return _drop_rounding(eigenvalues, rounding, len(moments.mean))[:num_samples]


def moments_singular_values(moments: FeatureMoments) -> Tensor:
    """Singular values of the *uncentred* ``(n, d)`` feature matrix, as RankMe defines them.

    Args:
        moments: Moments of at least three samples.

    Returns:
        Float64 singular values, largest first, shape ``(min(n, d),)``.

    Raises:
        SpectrumError: If there are fewer than three samples or features that are not finite.
    """
    num_samples = _checked_count(moments)
    products = moments.scatter + moments.num_samples * torch.outer(moments.mean, moments.mean)
    return covariance_eigenvalues((products + products.T) / 2)[:num_samples].sqrt()


def eigenspectrum(features: Tensor) -> Tensor:
    """Eigenspectrum of the covariance of features that are all at hand.

    With fewer samples than features the ``n × n`` Gram matrix is solved instead: the same
    eigenvalues for less work.

    Args:
        features: Floating-point features, shape ``(n, d)``, ``n >= 3``.

    Returns:
        Float64 eigenvalues, largest first, shape ``(min(n, d),)``; at most ``min(n - 1, d)`` of
        them are not 0.

    Raises:
        SpectrumError: If there are fewer than three samples or features that are not finite.

    Example:
        >>> spectrum = eigenspectrum(torch.randn(8, 64))
        >>> spectrum.shape, bool(spectrum[-1] == 0)
        (torch.Size([8]), True)
    """
    check_features(features)
    num_samples, num_features = features.shape
    if num_samples >= num_features or num_samples < MIN_SAMPLES:
        return moments_eigenvalues(feature_moments(features))
    wide = features.detach().to(moments_dtype(features.device))
    mean = wide.mean(dim=0)
    if not bool(torch.isfinite(mean).all()):
        raise SpectrumError(_not_finite(mean))
    centred = wide - mean
    gram = centred @ centred.T / (num_samples - 1)
    relative, absolute = rounding_steps(features.dtype)
    rounding = relative**2 * wide.square().mean() + absolute**2
    return _drop_rounding(covariance_eigenvalues(gram), rounding, num_features)


def _checked_count(moments: FeatureMoments) -> int:
    num_samples = int(moments.num_samples)
    if num_samples < MIN_SAMPLES:
        raise SpectrumError(
            f"an eigenspectrum needs at least {MIN_SAMPLES} samples, got {num_samples}"
        )
    if not bool(torch.isfinite(moments.mean).all()):
        raise SpectrumError(_not_finite(moments.mean))
    return num_samples


def _drop_rounding(eigenvalues: Tensor, rounding: Tensor, num_features: int) -> Tensor:
    """Zero what rounding alone can produce.

    ``rounding`` is the variance it can give a feature; the solver's own is relative to the
    largest eigenvalue.
    """
    of_solver = torch.finfo(torch.float64).eps * num_features * eigenvalues[0]
    floor = torch.maximum(rounding.to(eigenvalues), of_solver)
    return eigenvalues.where(eigenvalues > floor, 0.0)


def _not_finite(values: Tensor) -> str:
    bad = int((~torch.isfinite(values)).sum())
    return f"{bad} of {len(values)} features hold NaN or infinite values"
