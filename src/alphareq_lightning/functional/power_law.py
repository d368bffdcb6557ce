"""α: the decay exponent of an eigenspectrum, by a straight line in log-log coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import FitRangeError, OptionError, SpectrumError

FitRange = tuple[int, int] | Literal["auto"]
Weighting = Literal["inverse_rank", "uniform"]

_AUTO_FIRST_RANK = 4
_AUTO_LAST_RANK = 100
"""Ranks 4 to 100 of 2048 features: the window of the training code of the α-ReQ paper."""
_AUTO_TAIL_DIVISOR = 5
"""A narrow layer ends earlier: past a fifth of the attainable ranks the tail bends away."""
_MIN_RANKS = 3
"""Two points always lie on a line; the third can disagree."""

FLAT_ROUNDING = 16 * torch.finfo(torch.float64).eps
"""Differences in log λ below this share of it are rounding, and so is as little more than the sum
of squares of shares that are all equal: the spectrum is flat."""


class PowerLawFit(NamedTuple):
    """Straight line through log λ_n against log n."""

    alpha: Tensor
    """Decay exponent, shape ``()``."""
    intercept: Tensor
    """Fitted log λ at rank 1, shape ``()``."""
    r2: Tensor
    """Weighted R² over the fitted ranks only, shape ``()``."""
    fit_range: tuple[int, int]
    """First and last fitted rank, one-based and inclusive."""
    stderr: Tensor
    """Standard error of ``alpha`` from the residuals of the line, shape ``()``. It says how
    straight the line is; it knows nothing of the error of a finite sample."""

    def line(self, ranks: Tensor) -> Tensor:
        """The eigenvalues of the line at ``ranks``, one-based, any shape.

        Example:
            >>> fit = fit_power_law(3 * torch.arange(1.0, 65.0) ** -2, (4, 40))
            >>> [round(value, 6) for value in fit.line(torch.tensor([1, 10])).tolist()]
            [3.0, 0.03]
        """
        return (self.intercept - self.alpha * ranks.to(self.alpha.dtype).log()).exp()


def fit_power_law(
    eigenvalues: Tensor,
    fit_range: FitRange | Sequence[int] = "auto",
    *,
    num_samples: int | None = None,
    weighting: Weighting = "inverse_rank",
) -> PowerLawFit:
    r"""Fit :math:`\lambda_n \propto n^{-\alpha}` by least squares in log-log coordinates.

    Rank ``n`` has weight ``1/n``, so each octave of ranks counts about equally.

    Args:
        eigenvalues: Covariance eigenvalues, largest first, shape ``(d,)``.
        fit_range: First and last rank of the fit, one-based and inclusive, or ``"auto"``
            (see `resolve_fit_range`).
        num_samples: Number of samples behind the spectrum, when known: at most
            ``num_samples - 1`` ranks carry information.
        weighting: ``"inverse_rank"`` as in the paper's code, or ``"uniform"``.

    Returns:
        The fit as float64 scalars on the device of ``eigenvalues``.

    Raises:
        FitRangeError: If the range holds fewer than three ranks or reaches past those attainable.
        SpectrumError: If an eigenvalue in the range is zero, negative or not finite.

    Example:
        >>> ranks = torch.arange(1, 513, dtype=torch.float64)
        >>> fit = fit_power_law(1 / ranks, (11, 100))
        >>> round(fit.alpha.item(), 6), round(fit.r2.item(), 6)
        (1.0, 1.0)

    References:
        Agrawal et al., "α-ReQ: Assessing representation quality in self-supervised learning by
        measuring eigenspectrum decay", NeurIPS 2022. Stringer et al., Nature 2019 (the weighting).
    """
    if eigenvalues.ndim != 1:
        raise SpectrumError(
            f"expected eigenvalues of shape (d,), got shape {tuple(eigenvalues.shape)}"
        )
    if weighting not in ("inverse_rank", "uniform"):
        raise OptionError(f"expected weighting 'inverse_rank' or 'uniform', got {weighting!r}")
    first, last = resolve_fit_range(fit_range, len(eigenvalues), num_samples=num_samples)
    ranks, fitted = fitted_ranks(eigenvalues, first, last)
    weights = 1 / ranks if weighting == "inverse_rank" else torch.ones_like(ranks)
    weights = weights / weights.sum()
    slope, intercept, r2, variance = weighted_lines(ranks.log(), fitted.log(), weights)
    stderr = (variance / (len(ranks) - 2)).sqrt()
    return PowerLawFit(-slope, intercept, r2, (first, last), stderr)


def weighted_lines(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Straight lines by weighted least squares, one for each row of weights.

    Args:
        x: Shape ``(n,)``.
        y: Shape ``(n,)``.
        weights: Each row adds up to 1, shape ``(..., n)``.

    Returns:
        Slope, intercept, R², and the mean squared residual as a share of that of ``x``, ``(...)``.
    """
    dx = x - (weights * x).sum(-1, keepdim=True)
    dy = y - (weights * y).sum(-1, keepdim=True)
    spread = (weights * dx**2).sum(-1)
    slope = (weights * dx * dy).sum(-1) / spread
    residual = (weights * (dy - slope[..., None] * dx) ** 2).sum(-1)
    intercept = (weights * (y - slope[..., None] * x)).sum(-1)
    # A flat spectrum is fitted exactly by a flat line: R² is 1 there, not rounding by rounding.
    total = (weights * dy**2).sum(-1)
    rounding = FLAT_ROUNDING * (1 + y.abs().max())
    r2 = torch.where(total > rounding**2, 1 - residual / total, 1.0)
    return slope, intercept, r2, residual / spread


def resolve_fit_range(
    fit_range: FitRange | Sequence[int], num_features: int, *, num_samples: int | None = None
) -> tuple[int, int]:
    """Turn ``fit_range`` into two ranks and check them.

    ``"auto"`` is rank 4 to rank ``min(100, attainable // 5)``, where
    ``attainable = min(num_samples - 1, num_features)``.

    Raises:
        FitRangeError: If the range holds fewer than three ranks or reaches past those attainable.

    Example:
        >>> resolve_fit_range("auto", 2048), resolve_fit_range("auto", 2048, num_samples=256)
        ((4, 100), (4, 51))
    """
    attainable = num_features if num_samples is None else min(num_samples - 1, num_features)
    if isinstance(fit_range, str):
        check_fit_range(fit_range)
        first, last = _AUTO_FIRST_RANK, min(_AUTO_LAST_RANK, attainable // _AUTO_TAIL_DIVISOR)
        if last - first + 1 < _MIN_RANKS:
            needed = _AUTO_TAIL_DIVISOR * (_AUTO_FIRST_RANK + _MIN_RANKS - 1)
            raise FitRangeError(
                f"fit_range='auto' needs at least {needed} attainable ranks, got {attainable} "
                f"({num_samples=}, {num_features=}); use more samples, a wider layer, "
                "or an explicit (first, last)"
            )
        return first, last
    first, last = check_fit_range(fit_range)
    if last > attainable:
        raise FitRangeError(
            f"{fit_range=} reaches past the {attainable} attainable ranks "
            f"({num_samples=}, {num_features=}); use more samples or an earlier last rank"
        )
    return first, last


def check_fit_range(fit_range: FitRange | Sequence[int]) -> tuple[int, int]:
    """Check what can be checked of ``fit_range`` before any features are seen.

    Raises:
        FitRangeError: If it is neither ``"auto"`` nor two ranks at least two apart.
    """
    if fit_range == "auto":
        return _AUTO_FIRST_RANK, _AUTO_LAST_RANK
    is_list = isinstance(fit_range, Sequence) and not isinstance(fit_range, str)
    is_pair = is_list and len(fit_range) == 2
    if not is_pair or not all(isinstance(rank, Integral) for rank in fit_range):
        raise FitRangeError(f"expected 'auto' or two ranks (first, last), got {fit_range=}")
    first, last = int(fit_range[0]), int(fit_range[1])
    if first > last:
        raise FitRangeError(
            f"expected the first rank before the last, got {fit_range=}; "
            f"did you mean ({last}, {first})?"
        )
    if first < 1 or last - first + 1 < _MIN_RANKS:
        raise FitRangeError(
            f"ranks are one-based and inclusive and at least {_MIN_RANKS} are needed, "
            f"got {fit_range=}"
        )
    return first, last


def alpha_distance(alpha: Tensor, target: float | tuple[float, float] = 1.0) -> Tensor:
    """How far α is from where good encoders lie; smaller is better.

    Args:
        alpha: Decay exponents, any shape.
        target: One value, or an interval ``(low, high)`` inside which the distance is 0.

    Raises:
        OptionError: If the interval is empty or not finite.

    Example:
        >>> alpha_distance(torch.tensor([0.5, 1.0, 1.5]), (0.8, 1.2)).tolist()
        [0.30000001192092896, 0.0, 0.2999999523162842]
    """
    low, high = check_target(target)
    return (low - alpha).clamp(min=0) + (alpha - high).clamp(min=0)


def check_target(target: float | Sequence[float]) -> tuple[float, float]:
    """``target`` as an interval ``(low, high)``.

    Raises:
        OptionError: If it is not a finite number or a non-empty finite interval.
    """
    bounds = tuple(target) if isinstance(target, Sequence) else (target, target)
    is_pair = len(bounds) == 2 and all(isinstance(bound, int | float) for bound in bounds)
    if not is_pair or not 0 <= bounds[0] <= bounds[1] < float("inf"):
        raise OptionError(f"expected target a number >= 0 or an interval (low, high), got {target}")
    return float(bounds[0]), float(bounds[1])


def fitted_ranks(eigenvalues: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Ranks ``first`` to ``last`` and the eigenvalues there, float64, each with a logarithm.

    Raises:
        SpectrumError: If an eigenvalue there has none.
    """
    fitted = eigenvalues[first - 1 : last].detach().double()
    bad = ~(torch.isfinite(fitted) & (fitted > 0))
    if not bool(bad.any()):
        return torch.arange(first, last + 1, dtype=torch.float64, device=fitted.device), fitted
    index = int(bad.nonzero()[0])
    value = fitted[index].item()
    reason = (
        f"the features span at most {first + index - 1} dimensions (collapse)"
        if value == 0
        else "eigenvalues of a covariance are finite and not negative"
    )
    raise SpectrumError(
        f"the eigenvalue at rank {first + index} of the fit range ({first}, {last}) is {value:g}: "
        f"{reason}"
    )
