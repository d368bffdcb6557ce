"""α as all images would show it, from a sample of them, and how far off it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.power_law import FitRange, PowerLawFit, fit_power_law
from alphareq_lightning.functional.sample_law import (
    SampleLaw,
    at_ranks,
    rank_groups,
    sample_law,
)

BiasCorrection = Literal["inversion"]

_MAX_STEPS = 20
_TRACE_WEIGHT = 30.0
"""The total variance of a sample is unbiased and sharp: the population must have the same."""
_LARGEST_JUMP = 2.0
"""A Gauss-Newton step may change a log eigenvalue by this much."""

_LARGEST_RISE = 0.1
"""Eigenvalues are in order: a curve whose logarithm rises by more is no spectrum. Ordinary ones
rise by less from sampling noise; those whose α was absurd rose by 0.6 and more."""


class CorrectedAlpha(NamedTuple):
    """α without the bias of a finite sample."""

    alpha: Tensor
    """Estimate of the exponent of the population over the same ranks, shape ``()``."""
    stderr: Tensor
    """Standard error of ``alpha`` from the finite sample, shape ``()``."""
    raw: PowerLawFit
    """The fit of the sample's own eigenvalues."""


def check_bias_correction(bias_correction: str | None) -> None:
    """Raise `OptionError` unless it is `None` or the name of the correction that there is."""
    if bias_correction not in (None, "inversion"):
        raise OptionError(
            f"expected bias_correction None or 'inversion', which is the one there is, "
            f"got {bias_correction!r}"
        )


def correct_alpha(
    eigenvalues: Tensor,
    fit_range: FitRange | Sequence[int] = "auto",
    *,
    num_samples: int,
    num_features: int,
    num_images: int | None = None,
) -> CorrectedAlpha:
    """α of the population, by inverting what a finite sample does to its spectrum.

    The population is modelled as a curve in log-log coordinates, straight between ranks 1, 2, 4,
    8, …; the curve is sought whose `expected_eigenvalues` are those observed, and whose trace is
    the observed one. The difference of α between the two, the bias, is taken off the raw α.
    Neither a power law nor random numbers are assumed, and the spectrum is all that is needed.

    The standard error treats the log eigenvalues as independent with variance ``2 / (n - 1)``, and
    carries them through the inversion. For Gaussian features that is right for steep spectra and
    up to twice too large for flat ones (eigenvalues repel each other). Heavy tails make it too
    small, and where the lengths of feature vectors have them, the correction itself is off.

    Args:
        eigenvalues: Eigenvalues of the sample covariance, largest first, shape ``(d,)`` or
            ``(min(n, d),)``.
        fit_range: As in `fit_power_law`.
        num_samples: Number of samples ``n`` behind the spectrum.
        num_features: Width ``d`` of the features, which a short spectrum does not tell.
        num_images: How many independent images the samples show, if not one each: views of one
            image vary together, and what a finite sample does to their spectrum is not known.

    Returns:
        Float64 scalars on the CPU.

    Raises:
        FitRangeError: As `fit_power_law`.
        SpectrumError: As `fit_power_law`; if there are more samples than images; or if no falling
            curve was found, as where one outlier direction holds most of the variance of a flat
            spectrum and ``n < d``.

    Example:
        >>> from alphareq_lightning.functional import eigenspectrum
        >>> scale = torch.arange(1, 513, dtype=torch.float64) ** -0.5  # α = 1
        >>> x = torch.randn(300, 512, generator=torch.manual_seed(0), dtype=torch.float64) * scale
        >>> found = correct_alpha(eigenspectrum(x), num_samples=300, num_features=512)
        >>> round(found.raw.alpha.item(), 2), round(found.alpha.item(), 2)
        (0.93, 1.01)

    References:
        El Karoui, "Spectrum estimation for large dimensional covariance matrices using random
        matrix theory", Ann. Statist. 2008 (inverting the Marchenko-Pastur equation). Ledoit and
        Wolf, "Spectrum estimation", J. Multivariate Anal. 2015.
    """
    if num_images is not None and num_samples > num_images:
        raise SpectrumError(
            f"{num_samples} samples show only {num_images} images: views of one image are not "
            "independent, and a correction would take them for more data than they are; "
            "measure one sample of each image"
        )
    raw = fit_power_law(eigenvalues, fit_range, num_samples=num_samples)
    observed = eigenvalues.detach().cpu().double()
    attainable = min(num_samples - 1, num_features)
    positive = int((observed[:attainable] > 0).sum())
    if positive < attainable:  # dead directions are no part of the population
        num_features = attainable = positive
    model = _SmoothSpectrum(num_features, num_samples - 1, attainable, raw.fit_range[1])
    curve, jacobian = model.solve(observed)
    rise = curve.diff().max().item()
    if not rise <= _LARGEST_RISE:
        raise SpectrumError(
            "the population spectrum that fits best comes out rising, by a factor of "
            f"{math.exp(rise):.3g}: one direction outweighs the rest; measure more samples than "
            f"the {num_samples}"
        )

    first, last = raw.fit_range
    ranks = torch.arange(first, last + 1, dtype=torch.float64)
    slope = _slope_weights(ranks)
    expected, sensitivity = at_ranks(model.law(curve), ranks)
    population = model.basis(ranks)
    alpha = raw.alpha.cpu() - slope @ (expected - population @ curve)
    # First-order change of α with each observed log eigenvalue, directly and through the curve.
    through = slope @ (population - sensitivity @ model.levels)
    num_used = len(model.sizes)
    normal = jacobian.T @ jacobian
    change = torch.linalg.solve(normal, jacobian.T[:, :num_used] * model.weights)
    influence = torch.zeros(attainable, dtype=torch.float64)
    influence[: model.edges[-1]] = ((through @ change) / model.sizes).repeat_interleave(model.sizes)
    influence[first - 1 : last] += slope
    stderr = (influence.square().sum() * 2 / (num_samples - 1)).sqrt()
    return CorrectedAlpha(alpha, stderr, raw)


class _SmoothSpectrum:
    """A population spectrum that is straight, in log-log coordinates, between few ranks."""

    def __init__(self, num_features: int, degrees: int, attainable: int, last: int) -> None:
        self.degrees = degrees
        # Near the last attainable rank eigenvalues say little of single population eigenvalues.
        trusted = max(attainable // 2, last)
        octaves = 2.0 ** torch.arange(1 + int(math.log2(trusted)), dtype=torch.float64)
        ends = torch.unique(torch.cat([octaves, octaves.new_tensor([num_features])]))
        self.knots = ends.log()
        edges = rank_groups(num_features)
        used = int((edges[1:] <= trusted).sum())
        self.edges = edges[: used + 1]
        self.sizes = self.edges.diff()
        self.multiplicity = edges.diff().double()
        middles = (edges[:-1] + 1 + edges[1:]) / 2
        self.levels = self.basis(middles.double())
        self.middles = middles[:used].double()
        self.weights = ((self.edges[1:] + 0.5) / (self.edges[:-1] + 0.5)).log().sqrt()
        # A bend costs what the sampling noise of one log eigenvalue does: no wiggles from noise.
        slopes = torch.eye(len(ends), dtype=torch.float64).diff(dim=0) / self.knots.diff()[:, None]
        self.bends = math.sqrt(2 / degrees) * slopes.diff(dim=0)

    def basis(self, ranks: Tensor) -> Tensor:
        """Matrix from the curve's log eigenvalues at the knots to those at ``ranks``."""
        x = ranks.log()
        right = torch.searchsorted(self.knots, x).clamp(1, len(self.knots) - 1)
        share = (x - self.knots[right - 1]) / (self.knots[right] - self.knots[right - 1])
        rows = torch.zeros(len(x), len(self.knots), dtype=torch.float64)
        rows.scatter_(1, (right - 1)[:, None], (1 - share)[:, None])
        return rows.scatter_add_(1, right[:, None], share[:, None])

    def law(self, curve: Tensor) -> SampleLaw:
        return sample_law((self.levels @ curve).exp(), self.multiplicity, self.degrees)

    def solve(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Levenberg-Marquardt; gives the curve, and the Jacobian of the residuals there."""
        logs = torch.cat([torch.zeros(1, dtype=torch.float64), observed[: self.edges[-1]].log()])
        target = logs.cumsum(0)[self.edges].diff() / self.sizes
        trace = observed.sum()

        def residuals(curve: Tensor) -> tuple[Tensor, Tensor]:
            expected, sensitivity = at_ranks(self.law(curve), self.middles)
            variance = (self.levels @ curve).exp() * self.multiplicity
            missing = _TRACE_WEIGHT * (variance.sum() / trace).log()
            parts = [self.weights * (expected - target), missing[None], self.bends @ curve]
            of_trace = _TRACE_WEIGHT * (variance @ self.levels) / variance.sum()
            rows = [self.weights[:, None] * (sensitivity @ self.levels), of_trace[None], self.bends]
            return torch.cat(parts), torch.cat(rows)

        start = torch.cat([self.weights[:, None] * self.levels[: len(target)], self.bends])
        goal = torch.cat([self.weights * target, torch.zeros(len(self.bends))])
        curve = torch.linalg.lstsq(start, goal[:, None]).solution[:, 0]
        value, jacobian = residuals(curve)
        damping = 1e-3
        for _ in range(_MAX_STEPS):
            normal = jacobian.T @ jacobian
            damped = normal + damping * torch.diag(normal.diagonal())
            step = -torch.linalg.solve(damped, jacobian.T @ value)
            step = step.clamp(-_LARGEST_JUMP, _LARGEST_JUMP)
            tried, tried_jacobian = residuals(curve + step)
            gain = value.square().sum() - tried.square().sum()
            if gain > 0:
                damping /= 10
                curve, value, jacobian = curve + step, tried, tried_jacobian
                if gain < 1e-9 * value.square().sum():
                    break
            else:
                damping *= 10
        return curve, jacobian


def _slope_weights(ranks: Tensor) -> Tensor:
    """Weights whose sum with log eigenvalues is the α of `fit_power_law`."""
    weights = ranks.reciprocal() / ranks.reciprocal().sum()
    centred = ranks.log() - weights @ ranks.log()
    return -weights * centred / (weights @ centred**2)
