"""How much α hangs on the fitted ranks: many windows at once, and a line with one bend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import FitRangeError
from alphareq_lightning.functional.power_law import (
    FitRange,
    fitted_ranks,
    resolve_fit_range,
    weighted_lines,
)

_FIRST_RANKS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32)
_LAST_RANKS = (12, 16, 24, 32, 48, 64, 100, 150, 200, 300, 500)
"""From the narrowest window in the literature to the widest, about two an octave."""
_LEAST_RATIO = 4
"""A window of fewer than two octaves is no test of a power law."""
_LEAST_SIDE = 3
"""Ranks on each side of a bend."""


class WindowSpread(NamedTuple):
    """α over a family of fit windows."""

    windows: Tensor
    """First and last ranks, one-based and inclusive, shape ``(w, 2)``."""
    alphas: Tensor
    """Decay exponent of each window, shape ``(w,)``."""
    r2s: Tensor
    """Weighted R² of each window, shape ``(w,)``."""

    @property
    def spread(self) -> float:
        """Largest less smallest α."""
        return float(self.alphas.max() - self.alphas.min())

    @property
    def best(self) -> tuple[int, int]:
        """The window with the highest R², the longest of equals."""
        ratio = self.windows[:, 1] / self.windows[:, 0]
        ties = torch.where(self.r2s >= self.r2s.max() - 1e-12, ratio, 0.0)
        first, last = self.windows[int(ties.argmax())].tolist()
        return first, last


class BrokenPowerLawFit(NamedTuple):
    """Two straight lines in log-log coordinates that meet at a rank."""

    head: Tensor
    """Decay exponent up to the break, shape ``()``."""
    tail: Tensor
    """Decay exponent after the break, shape ``()``."""
    break_rank: int
    """Where the lines meet, one-based."""
    r2: Tensor
    """Weighted R² over the fitted ranks, shape ``()``."""
    fit_range: tuple[int, int]
    """First and last fitted rank, one-based and inclusive."""


def window_family(attainable: int) -> list[tuple[int, int]]:
    """Windows of at least two octaves, up to half the attainable ranks.

    Example:
        >>> window_family(40)
        [(1, 12), (1, 16), (2, 12), (2, 16), (3, 12), (3, 16), (4, 16)]
    """
    return [
        (first, last)
        for first in _FIRST_RANKS
        for last in _LAST_RANKS
        if _LEAST_RATIO * first <= last <= attainable // 2
    ]


def window_spread(
    eigenvalues: Tensor,
    windows: Sequence[tuple[int, int]] | None = None,
    *,
    num_samples: int | None = None,
) -> WindowSpread:
    """Fit α over many windows of ranks at once, each as `fit_power_law` does.

    Args:
        eigenvalues: Covariance eigenvalues, largest first, shape ``(d,)``.
        windows: First and last ranks, one-based and inclusive; `window_family` by default.
        num_samples: Number of samples behind the spectrum, when known.

    Raises:
        FitRangeError: If a window holds fewer than three ranks or reaches past those attainable,
            or if there are too few ranks for any window.
        SpectrumError: If an eigenvalue that is needed is zero, negative or not finite.

    Example:
        >>> ranks = torch.arange(1, 513, dtype=torch.float64)
        >>> bent = torch.where(ranks < 30, 1 / ranks, 30 / ranks**2)
        >>> found = window_spread(bent, [(1, 20), (4, 100), (40, 200)])
        >>> [round(alpha, 2) for alpha in found.alphas.tolist()], round(found.spread, 2)
        ([1.0, 1.3, 2.0], 1.0)
    """
    attainable = len(eigenvalues) if num_samples is None else min(num_samples - 1, len(eigenvalues))
    chosen = window_family(attainable) if windows is None else list(windows)
    if not chosen:
        raise FitRangeError(
            f"no window to fit: got {windows=} and {attainable} attainable ranks; "
            f"the default windows need {2 * _LAST_RANKS[0]}"
        )
    pairs = [resolve_fit_range(w, len(eigenvalues), num_samples=num_samples) for w in chosen]
    bounds = torch.tensor(pairs)
    top = int(bounds[:, 1].max())
    ranks, fitted = fitted_ranks(eigenvalues.cpu(), 1, top)
    inside = (bounds[:, :1] <= ranks) & (ranks <= bounds[:, 1:])
    weights = inside / ranks
    weights = weights / weights.sum(1, keepdim=True)
    slopes, _, r2s, _ = weighted_lines(ranks.log(), fitted.log(), weights)
    return WindowSpread(bounds, -slopes, r2s)


def fit_broken_power_law(
    eigenvalues: Tensor,
    fit_range: FitRange | Sequence[int] = "auto",
    *,
    num_samples: int | None = None,
) -> BrokenPowerLawFit:
    """Fit two decay exponents that meet at a rank, by weighted least squares over all breaks.

    Where one line has R² below 0.95, this says which part of the window is straight. The two
    exponents are descriptive: on a smooth curve the break is only where a bend costs least.

    Args:
        eigenvalues: Covariance eigenvalues, largest first, shape ``(d,)``.
        fit_range: As in `fit_power_law`; at least seven ranks.
        num_samples: Number of samples behind the spectrum, when known.

    Raises:
        FitRangeError: If there are too few ranks.
        SpectrumError: If an eigenvalue in the range is zero, negative or not finite.

    Example:
        >>> ranks = torch.arange(1, 257, dtype=torch.float64)
        >>> fit = fit_broken_power_law(torch.where(ranks < 30, 1 / ranks, 30 / ranks**2), (4, 200))
        >>> round(fit.head.item(), 6), round(fit.tail.item(), 6), fit.break_rank
        (1.0, 2.0, 30)
    """
    first, last = resolve_fit_range(fit_range, len(eigenvalues), num_samples=num_samples)
    breaks = torch.arange(first + _LEAST_SIDE, last - _LEAST_SIDE + 1)
    if len(breaks) == 0:
        raise FitRangeError(
            f"a broken line needs at least {2 * _LEAST_SIDE + 1} ranks, got {(first, last)}"
        )
    ranks, fitted = fitted_ranks(eigenvalues.cpu(), first, last)
    root = (1 / ranks / (1 / ranks).sum()).sqrt()
    x, y = ranks.log(), fitted.log()
    hinge = (x - breaks.double().log()[:, None]).clamp(min=0)
    design = torch.stack([torch.ones_like(hinge), x.expand_as(hinge), hinge], dim=2)
    solved = torch.linalg.lstsq(design * root[:, None], (y * root).expand_as(hinge)[:, :, None])
    residuals = ((y - (design @ solved.solution)[:, :, 0]) * root).square().sum(1)
    best = int(residuals.argmin())
    _, slope, bend = solved.solution[best, :, 0]
    total = (root**2 * (y - (root**2 * y).sum()) ** 2).sum()
    r2 = torch.where(total > 1e-24, 1 - residuals[best] / total.clamp(min=1e-300), 1.0)
    return BrokenPowerLawFit(-slope, -slope - bend, int(breaks[best]), r2, (first, last))
