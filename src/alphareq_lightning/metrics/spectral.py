"""Scores that read one spectrum, as torchmetrics Metrics."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alphareq_lightning.errors import AlphaReQError, NoFitWarning, OptionError
from alphareq_lightning.functional.finite_sample import (
    BiasCorrection,
    CorrectedAlpha,
    check_bias_correction,
    corrected_alpha,
)
from alphareq_lightning.functional.moments import FeatureMoments
from alphareq_lightning.functional.power_law import (
    FitRange,
    PowerLawFit,
    check_fit_range,
    fit_power_law,
)
from alphareq_lightning.functional.scores import effective_rank, participation_ratio, rankme
from alphareq_lightning.functional.spectrum import moments_eigenvalues, moments_singular_values
from alphareq_lightning.metrics.moments import StreamingMoments


class SpectralScore(StreamingMoments):
    """A number read from the spectrum; NaN with a `NoFitWarning` where there is none.

    A metric runs inside training, so it warns where the function it wraps would raise. In a
    `torchmetrics.MetricCollection` all spectral scores share one state.
    """

    higher_is_better: bool | None = None

    @abstractmethod
    def score(self, moments: FeatureMoments) -> Tensor:
        """The score of the given moments, shape ``()``."""

    def compute(self) -> Tensor:
        """The score over everything seen, on all ranks; float64, shape ``()``."""
        try:
            return self.score(self.moments())
        except AlphaReQError as error:
            message = f"{type(self).__name__} is NaN: {error}"
            warnings.warn(message, NoFitWarning, stacklevel=2)
            return torch.full((), torch.nan, dtype=torch.float64, device=self.packed.device)


class AlphaReQ(SpectralScore):
    """Decay exponent α of the eigenspectrum of the feature covariance.

    Args:
        fit_range: First and last rank of the fit, one-based and inclusive, or ``"auto"``.
        bias_correction: `None` for α of the samples as they are; ``"inversion"`` for an estimate
            of the population's (`correct_alpha`), or ``"richardson"`` (`richardson_alpha`), which
            doubles the state.
        kwargs: Passed to `torchmetrics.Metric`.

    Raises:
        FitRangeError: If ``fit_range`` is not a range of at least three ranks.
        OptionError: If there is no such correction.

    Example:
        >>> features = torch.randn(5000, 64, generator=torch.manual_seed(0))
        >>> features = features * torch.arange(1, 65) ** -0.5  # λ_n ∝ 1/n
        >>> metric = AlphaReQ()
        >>> for batch in features.split(512):
        ...     metric.update(batch)
        >>> round(metric.compute().item(), 1)
        1.0

    References:
        Agrawal et al., "α-ReQ", NeurIPS 2022.
    """

    def __init__(
        self,
        fit_range: FitRange | Sequence[int] = "auto",
        *,
        bias_correction: BiasCorrection | None = None,
        **kwargs: Any,
    ) -> None:
        check_bias_correction(bias_correction)
        super().__init__(halves=bias_correction == "richardson", **kwargs)
        check_fit_range(fit_range)
        self.fit_range = fit_range
        self.bias_correction = bias_correction

    def fit(self) -> PowerLawFit:
        """The whole fit (R², ranks used, standard error) of what this process has seen.

        Raises:
            AlphaReQError: If there is no spectrum to fit.
        """
        return self._fit(self.moments())

    def corrected(self) -> CorrectedAlpha:
        """α, corrected as asked for, with its standard error; needs a ``bias_correction``.

        Raises:
            OptionError: If the metric was made without one.
            AlphaReQError: If there is no spectrum to fit.
        """
        if self.bias_correction is None:
            raise OptionError("this AlphaReQ was made without bias_correction=; pass one")
        halves = self.half_moments() if self.halves else None
        return corrected_alpha(self.moments(), halves, self.fit_range, self.bias_correction)

    def score(self, moments: FeatureMoments) -> Tensor:
        """α of the given moments, shape ``()``."""
        if self.bias_correction is not None:
            return self.corrected().alpha
        return self._fit(moments).alpha

    def _fit(self, moments: FeatureMoments) -> PowerLawFit:
        eigenvalues = moments_eigenvalues(moments)
        return fit_power_law(eigenvalues, self.fit_range, num_samples=int(moments.num_samples))


class RankMe(SpectralScore):
    """Exponential of the entropy of the singular values of the uncentred features.

    References:
        Garrido et al., "RankMe", ICML 2023.
    """

    higher_is_better = True

    def score(self, moments: FeatureMoments) -> Tensor:
        """RankMe of the given moments, shape ``()``."""
        return rankme(moments_singular_values(moments))


class EffectiveRank(SpectralScore):
    """Exponential of the entropy of the covariance eigenvalues.

    References:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """

    higher_is_better = True

    def score(self, moments: FeatureMoments) -> Tensor:
        """Effective rank of the given moments, shape ``()``."""
        return effective_rank(moments_eigenvalues(moments))


class ParticipationRatio(SpectralScore):
    """``(Σλ)² / Σλ²`` of the covariance eigenvalues."""

    higher_is_better = True

    def score(self, moments: FeatureMoments) -> Tensor:
        """Participation ratio of the given moments, shape ``()``."""
        return participation_ratio(moments_eigenvalues(moments))
