"""Scores that read one spectrum, as torchmetrics Metrics."""

from __future__ import annotations

from abc import abstractmethod
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
from alphareq_lightning.functional.scores import (
    condition_number,
    effective_rank,
    matrix_entropy,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)
from alphareq_lightning.functional.spectrum import moments_eigenvalues, moments_singular_values
from alphareq_lightning.functional.sphere import directions, selfcluster_of_moments
from alphareq_lightning.metrics.moments import StreamingMoments
from alphareq_lightning.metrics.without_score import nan_with_warning


class SpectralScore(StreamingMoments):
    """A number read from the spectrum; NaN with a `NoFitWarning` where there is none.

    In a `torchmetrics.MetricCollection` all spectral scores share one state.
    """

    higher_is_better: bool | None = None

    @abstractmethod
    def score(self, moments: FeatureMoments) -> Tensor:
        """The score of the given moments, shape ``()``."""

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
    """``(Σλ)² / Σλ²`` of the covariance eigenvalues.

    Args:
        corrected: Correct for the finite sample, see `participation_ratio`.
        kwargs: Passed to `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, corrected: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.corrected = corrected

    def score(self, moments: FeatureMoments) -> Tensor:
        """Participation ratio of the given moments, shape ``()``."""
        num_samples = int(moments.num_samples) if self.corrected else None
        return participation_ratio(moments_eigenvalues(moments), num_samples=num_samples)


class NESum(SpectralScore):
    """``Σλ / λ₁`` of the covariance eigenvalues.

    References:
        He and Ozay, ICML 2022.
    """

    higher_is_better = True

    def score(self, moments: FeatureMoments) -> Tensor:
        """NESum of the given moments, shape ``()``."""
        return nesum(moments_eigenvalues(moments))


class StableRank(SpectralScore):
    """``‖X‖²_F / ‖X‖²₂`` of the uncentred features.

    References:
        Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.
    """

    higher_is_better = True

    def score(self, moments: FeatureMoments) -> Tensor:
        """Stable rank of the given moments, shape ``()``."""
        return stable_rank(moments_singular_values(moments))


class ConditionNumber(SpectralScore):
    """``σ₁ / σ_min`` of the uncentred features; infinite when directions are missing.

    Streaming squares the singular values, so beyond about 1e7 it knows no difference.

    References:
        Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.
    """

    higher_is_better = False

    def score(self, moments: FeatureMoments) -> Tensor:
        """Condition number of the given moments, shape ``()``."""
        return condition_number(moments_singular_values(moments))


class MatrixEntropy(SpectralScore):
    """Rényi entropy of the normalised Gram matrix of the uncentred features, in nats.

    Args:
        order: 1 is von Neumann's entropy.
        kwargs: Passed to `torchmetrics.Metric`.

    References:
        Skean et al., "Layer by layer", ICML 2025.
    """

    higher_is_better = True

    def __init__(self, order: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order

    def score(self, moments: FeatureMoments) -> Tensor:
        """Matrix entropy of the given moments, shape ``()``."""
        return matrix_entropy(moments_singular_values(moments), order=self.order)


class SelfCluster(SpectralScore):
    """How much directions cluster: 0 as if drawn evenly from the sphere, 1 all on one line.

    It keeps the moments of directions, so it does not share its state with the other scores.

    References:
        Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.
    """

    higher_is_better = False

    def update(self, features: Tensor, computed_in: torch.dtype | Tensor | None = None) -> None:
        """Add a batch of features, shape ``(n, d)``; rows of zeros are left out."""
        super().update(directions(features), features if computed_in is None else computed_in)

    def score(self, moments: FeatureMoments) -> Tensor:
        """SelfCluster of the given moments of directions, shape ``()``."""
        return selfcluster_of_moments(moments)
