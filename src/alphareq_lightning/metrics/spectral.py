"""Scores that read one spectrum, as torchmetrics Metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alphareq_lightning.errors import OptionError
from alphareq_lightning.functional.finite_sample import (
    BiasCorrection,
    CorrectedAlpha,
    check_bias_correction,
    correct_alpha,
)
from alphareq_lightning.functional.moments import FeatureMoments
from alphareq_lightning.functional.power_law import (
    FitRange,
    PowerLawFit,
    check_fit_range,
    fit_power_law,
)
from alphareq_lightning.functional.scores import matrix_entropy
from alphareq_lightning.functional.spectrum import moments_eigenvalues, moments_singular_values
from alphareq_lightning.functional.sphere import directions
from alphareq_lightning.metrics.moments import StreamingMoments
from alphareq_lightning.metrics.scores import SCORES
from alphareq_lightning.metrics.without_score import NamedScore, nan_with_warning


class SpectralScore(NamedScore, StreamingMoments):
    """A number read from the spectrum; NaN with a `NoFitWarning` where there is none.

    In a `torchmetrics.MetricCollection` all spectral scores share one state.

    Args:
        name: Of a score in the table, `alphareq_lightning.metrics.scores`; a derived class has
            one of its own.
        kwargs: Passed to `torchmetrics.Metric`.
    """

    def __init__(self, name: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name or self.name

    def score(self, moments: FeatureMoments) -> Tensor:
        """The score of the given moments, shape ``()``."""
        score = SCORES[self.name]
        value: Any = moments
        if score.reads == "eigenvalues":
            value = moments_eigenvalues(moments)
        elif score.reads == "singular_values":
            value = moments_singular_values(moments)
        return score.of(value, moments.num_samples)

    def compute(self) -> Tensor:
        """The score over everything seen, on all ranks; float64, shape ``()``."""
        return nan_with_warning(self, lambda: self.score(self.moments()))


class AlphaReQ(SpectralScore):
    """Decay exponent α of the eigenspectrum of the feature covariance.

    Args:
        fit_range: First and last rank of the fit, one-based and inclusive, or ``"auto"``.
        bias_correction: `None` for α of the samples as they are; ``"inversion"`` for an estimate
            of the population's (`correct_alpha`), which takes rows for independent samples: feed
            one view of each image.
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
        super().__init__(**kwargs)
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
        return self._correct(self.moments())

    def score(self, moments: FeatureMoments) -> Tensor:
        """α of the given moments, corrected as asked for, shape ``()``."""
        fit = self._fit if self.bias_correction is None else self._correct
        return fit(moments).alpha

    def _fit(self, moments: FeatureMoments) -> PowerLawFit:
        eigenvalues = moments_eigenvalues(moments)
        return fit_power_law(eigenvalues, self.fit_range, num_samples=int(moments.num_samples))

    def _correct(self, moments: FeatureMoments) -> CorrectedAlpha:
        return correct_alpha(
            moments_eigenvalues(moments),
            self.fit_range,
            num_samples=int(moments.num_samples),
            num_features=len(moments.mean),
        )


class RankMe(SpectralScore):
    """Exponential of the entropy of the singular values of the uncentred features."""

    name = "rankme"


class EffectiveRank(SpectralScore):
    """Exponential of the entropy of the covariance eigenvalues."""

    name = "effective_rank"


class ParticipationRatio(SpectralScore):
    """``(Σλ)² / Σλ²`` of the covariance eigenvalues.

    Args:
        corrected: Correct for the finite sample, see `participation_ratio`.
        kwargs: Passed to `torchmetrics.Metric`.
    """

    name = "participation_ratio"

    def __init__(self, corrected: bool = False, **kwargs: Any) -> None:
        super().__init__(self.name + "_corrected" * corrected, **kwargs)
        self.corrected = corrected


class NESum(SpectralScore):
    """``Σλ / λ₁`` of the covariance eigenvalues."""

    name = "nesum"


class StableRank(SpectralScore):
    """``‖X‖²_F / ‖X‖²₂`` of the uncentred features."""

    name = "stable_rank"


class ConditionNumber(SpectralScore):
    """``σ₁ / σ_min`` of the uncentred features; infinite when directions are missing.

    Streaming squares the singular values, so beyond about 1e7 it knows no difference.
    """

    name = "condition_number"


class MatrixEntropy(SpectralScore):
    """Rényi entropy of the normalised Gram matrix of the uncentred features, in nats.

    Args:
        order: 1 is von Neumann's entropy.
        kwargs: Passed to `torchmetrics.Metric`.
    """

    name = "matrix_entropy"

    def __init__(self, order: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order

    def score(self, moments: FeatureMoments) -> Tensor:
        """Matrix entropy of the given moments, shape ``()``."""
        return matrix_entropy(moments_singular_values(moments), order=self.order)


class DirectionScore(SpectralScore):
    """A number read from the moments of the features' directions.

    It keeps those alone, so it does not share its state with the other scores.
    """

    def update(self, features: Tensor, computed_in: torch.dtype | Tensor | None = None) -> None:
        """Add a batch of features, shape ``(n, d)``; rows of zeros are left out."""
        super().update(directions(features), features if computed_in is None else computed_in)


class SelfCluster(DirectionScore):
    """How much directions cluster: 0 as if drawn evenly from the sphere, 1 all on one line."""

    name = "selfcluster"
