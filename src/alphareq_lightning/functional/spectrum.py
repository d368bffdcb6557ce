"""Eigenvalues of the feature covariance, largest first."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from alphareq_lightning.errors import EigensolverWarning, RoundedTailWarning, SpectrumError
from alphareq_lightning.functional.moments import (
    CHUNK_ROWS,
    FeatureMoments,
    centre,
    check_features,
    feature_moments,
    moments_dtype,
    rounding_steps,
)
from alphareq_lightning.functional.products import (
    SUM_ROWS,
    add_products_,
    full_precision,
    mirror_,
    product_rounding,
)
from alphareq_lightning.functional.scores import rankme

Solved = TypeVar("Solved")

_LARGEST_LOSS = 0.01
"""Of RankMe, that may be lost to rounding without a word."""
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
    return mirror_(moments.scatter / degrees)


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
    eigenvalues: Tensor = solve_symmetric(_eigvalsh, cov).flip(0).clamp(min=0)
    has_float64 = moments_dtype(cov.device) == torch.float64
    return eigenvalues.to(cov.device) if has_float64 else eigenvalues


def _eigvalsh(matrix: Tensor) -> Tensor:
    """Read from the upper triangle alone: LAPACK finds the lower one of the transpose."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(matrix.mT)
    return eigenvalues


def solve_symmetric(solver: Callable[[Tensor], Solved], matrix: Tensor) -> Solved:
    """Run a solver for symmetric matrices in float64, on the CPU where the device cannot.

    Args:
        solver: For example `torch.linalg.eigvalsh`.
        matrix: Symmetric matrix, shape ``(d, d)``.

    Raises:
        SpectrumError: If ``matrix`` holds NaN or infinite entries.
    """
    # The extremes of a matrix with a NaN are NaN; unlike `isfinite` they need no second matrix.
    if not bool(torch.isfinite(torch.stack(torch.aminmax(matrix))).all()):
        raise SpectrumError(_not_finite(matrix.diagonal()))
    matrix = in_float64(matrix)
    try:
        return solver(matrix)
    except RuntimeError as error:  # LinAlgError on ill-conditioned input, others from cuSOLVER
        warnings.warn(
            f"the eigensolver failed on {matrix.device} ({error}); solved on the CPU instead",
            EigensolverWarning,
            stacklevel=3,
        )
        return solver(matrix.cpu())


def in_float64(matrix: Tensor) -> Tensor:
    """Widened where it is, or on the CPU if its device has no float64."""
    if moments_dtype(matrix.device) != torch.float64:
        matrix = matrix.cpu()
    return matrix.double()


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
    num_samples = checked_count(moments)
    # The scatter itself is solved, which saves a copy of it for the covariance.
    eigenvalues = covariance_eigenvalues(moments.scatter) / (num_samples - 1)
    rounding = rounding_variance(moments)
    return drop_rounding(eigenvalues, rounding, len(moments.mean))[:num_samples]


def rounding_variance(moments: FeatureMoments) -> Tensor:
    """The variance that rounding alone can give a feature, shape ``()``."""
    power = moments.scatter.diagonal().sum() / moments.num_samples + moments.mean.square().sum()
    relative, absolute = (moments.rounding / moments.num_samples).unbind()
    return relative * power / len(moments.mean) + absolute


def moments_singular_values(moments: FeatureMoments) -> Tensor:
    """Singular values of the *uncentred* ``(n, d)`` feature matrix, as RankMe defines them.

    What rounding alone explains is 0, as in `moments_eigenvalues`, with a `RoundedTailWarning`
    where it would change RankMe by more than a hundredth: it may have been signal after all.

    Args:
        moments: Moments of at least three samples.

    Returns:
        Float64 singular values, largest first, shape ``(min(n, d),)``.

    Raises:
        SpectrumError: If there are fewer than three samples or features that are not finite.
    """
    num_samples = checked_count(moments)
    rounding = rounding_variance(moments) * moments.num_samples
    eigenvalues = covariance_eigenvalues(second_moments(moments))[:num_samples]
    kept = drop_rounding(eigenvalues, rounding, len(moments.mean)).sqrt()
    if bool((kept > 0).any()):
        low, high = (rankme(values).item() for values in (kept, eigenvalues.sqrt()))
        if high > (1 + _LARGEST_LOSS) * low:
            warnings.warn(
                f"{int((kept == 0).sum())} of {len(kept)} singular values cannot be told from "
                f"rounding and count as 0: RankMe is {low:.4g} without and {high:.4g} with them; "
                "take features in a wider dtype to know",
                RoundedTailWarning,
                stacklevel=2,
            )
    return kept


def second_moments(moments: FeatureMoments) -> Tensor:
    """``XᵀX`` of the uncentred features, shape ``(d, d)``, symmetric to the last bit."""
    return mirror_(torch.addr(moments.scatter, moments.mean * moments.num_samples, moments.mean))


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
    with full_precision(features.device):
        centred, mean = centre(features)
        gram = torch.zeros(
            num_samples, num_samples, dtype=moments_dtype(features.device), device=features.device
        )
        for columns in torch.split(centred, CHUNK_ROWS, dim=1):
            add_products_(gram, columns.T)
    _check_sizes(mean, gram.diagonal())
    degrees = num_samples - 1
    relative, absolute = rounding_steps(features)
    power = gram.diagonal().sum() / (degrees * num_features) + mean.square().mean()
    rounding = relative**2 * power + absolute**2
    if centred.dtype != torch.float64:
        rounding = rounding + product_rounding(gram.diagonal(), num_features) / degrees
    return drop_rounding(covariance_eigenvalues(gram) / degrees, rounding, num_features)


def checked_count(moments: FeatureMoments) -> int:
    """The number of samples.

    Raises:
        SpectrumError: If there are fewer than three, or features that are not finite.
    """
    num_samples = int(moments.num_samples)
    if num_samples < MIN_SAMPLES:
        raise SpectrumError(
            f"an eigenspectrum needs at least {MIN_SAMPLES} samples, got {num_samples}"
        )
    _check_sizes(moments.mean, moments.scatter.diagonal())
    return num_samples


def _check_sizes(mean: Tensor, squares: Tensor) -> None:
    """Raise `SpectrumError` where features are not finite, or their squares leave the float range.

    Args:
        mean: Mean feature, which shows all that is not finite in a feature, shape ``(d,)``.
        squares: Sums of squares about it, of features or of samples.
    """
    if not bool(torch.isfinite(mean).all()):
        raise SpectrumError(_not_finite(mean))
    range_ = torch.finfo(squares.dtype)
    size = max(mean.abs().max().item(), squares.max().item() ** 0.5)
    if not size < range_.max**0.5:
        raise SpectrumError(
            f"the squares of these features overflow {squares.dtype}: "
            f"divide them all by a constant such as {mean.abs().max().item():.0e}"
        )
    if 0 < size < (range_.smallest_normal / range_.eps) ** 0.5:
        raise SpectrumError(
            f"the squares of features as small as {size:.0e} vanish in {squares.dtype}: "
            "multiply them all by a constant"
        )


def drop_rounding(eigenvalues: Tensor, rounding: Tensor, num_features: int) -> Tensor:
    """Zero what rounding alone can produce.

    ``rounding`` is the variance it can give a feature; that of float64 sums and of the solver is
    relative to the largest eigenvalue.
    """
    in_float64 = torch.finfo(torch.float64).eps * max(num_features, SUM_ROWS) * eigenvalues[0]
    floor = torch.maximum(rounding.to(eigenvalues), in_float64)
    return eigenvalues.where(eigenvalues > floor, 0.0)


def _not_finite(values: Tensor) -> str:
    bad = int((~torch.isfinite(values)).sum())
    return f"{bad} of {len(values)} features hold NaN or infinite values"
