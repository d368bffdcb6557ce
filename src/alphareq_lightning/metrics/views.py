"""Scores of several views of the same images: update them where you have the views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional.lidar import (
    LIDAR_DELTA,
    LIDAR_EPSILON,
    ViewMoments,
    accumulate_views_,
    check_views,
    lidar,
)
from alphareq_lightning.functional.moments import FeatureMoments, moments_dtype
from alphareq_lightning.functional.power_law import (
    FitRange,
    PowerLawFit,
    check_fit_range,
)
from alphareq_lightning.functional.sphere import pair_distances
from alphareq_lightning.functional.two_views import (
    cross_correlation,
    cross_validated_eigenvalues,
    fit_shared_power_law,
    pair_features,
    pair_sums,
    pair_width,
)
from alphareq_lightning.metrics.exact_state import ExactState
from alphareq_lightning.metrics.moments import (
    all_reduce_packed,
    empty_packed,
    incoming_tensors,
    merge_packed,
    merge_stacked,
    running,
    unpack,
)
from alphareq_lightning.metrics.ranks import common_size, together
from alphareq_lightning.metrics.scores import SCORES
from alphareq_lightning.metrics.spectral import SpectralScore
from alphareq_lightning.metrics.without_score import NamedScore, nan_with_warning


class OfViews(NamedScore):
    """A score that reads several views of each image."""

    def add_views(self, views: Tensor) -> None:
        """Add images with all their views; scores of pairs take 1 with 2, 3 with 4, and so on.

        Args:
            views: Features, shape ``(n, q, d)``.
        """
        even = views.shape[1] // 2 * 2
        first, second = (views[:, start:even:2].flatten(0, 1) for start in (0, 1))
        self.update(first, second)

    def gathered(self) -> Any:
        """What the score's function reads; inside of a sync of all ranks together.

        Raises:
            SpectrumError: If no views were seen.
        """
        raise NotImplementedError

    def reduced(self, *, across_ranks: bool = True) -> Any | None:
        """`gathered` over all ranks, the state untouched; `None` if no rank has seen any views.

        Every rank must call it, with or without views, unless ``across_ranks`` is false.
        """
        over_ranks = {"dist_sync_fn": self.dist_sync_fn, "process_group": self.process_group}
        with self.sync_context(**over_ranks, should_sync=across_ranks):
            try:
                found = self.gathered()
            except SpectrumError:
                found = None
        return found

    def compute(self) -> Tensor:
        """The score of all views on all ranks; NaN with a `NoFitWarning` if there is none."""
        return nan_with_warning(self, lambda: self.score(self.gathered()))

    def score(self, gathered: Any) -> Tensor:
        """The score of what was gathered, shape ``()``."""
        return SCORES[self.name].of(gathered, 0)


class LiDAR(OfViews, ExactState):
    """Effective rank of the differences between images, measured against those between views.

    Two ``d × d`` states, whatever the number of images and views.

    Args:
        delta: Added to the diagonal of the within-image covariance.
        epsilon: Added to each normalised eigenvalue.
        kwargs: Passed to `torchmetrics.Metric`.

    Example:
        >>> images = 10 * torch.randn(500, 1, 4, generator=torch.manual_seed(0))
        >>> metric = LiDAR()
        >>> for batch in (images + torch.randn(500, 8, 4)).split(100):
        ...     metric.update(batch)
        >>> round(metric.compute().item(), 1)
        4.0
    """

    name = "lidar"
    is_differentiable = False
    full_state_update = False

    between: Tensor
    within: Tensor

    def __init__(
        self, delta: float = LIDAR_DELTA, epsilon: float = LIDAR_EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(**{"dist_sync_fn": all_reduce_packed, **kwargs})
        self.delta = delta
        self.epsilon = epsilon
        for name in ("between", "within"):
            self.add_state(name, default=torch.zeros(0), dist_reduce_fx=merge_stacked)

    def update(self, views: Tensor) -> None:
        """Add images with all their views.

        Args:
            views: Features, shape ``(n, q, d)``; two batches of views are
                ``torch.stack([z_a, z_b], dim=1)``.

        Raises:
            SpectrumError: If it is not a floating-point tensor of that shape, as wide as before.
        """
        check_views(views)
        if self.between.numel() == 0:
            self.between = empty_packed(views.shape[2], views.device)
            self.within = empty_packed(views.shape[2], views.device)
        accumulate_views_(ViewMoments(running(self.between), running(self.within)), views)

    def add_views(self, views: Tensor) -> None:
        """Add images with all their views, as `update` does."""
        self.update(views)

    def moments(self) -> ViewMoments:
        """The state as `ViewMoments`; inside `compute` it is summed over ranks.

        Raises:
            SpectrumError: If no views were seen.
        """
        if self.between.numel() == 0:
            raise SpectrumError("no views were seen: update() was never called")
        return ViewMoments(unpack(self.between), unpack(self.within))

    gathered = moments

    def score(self, gathered: ViewMoments) -> Tensor:
        """LiDAR of the given moments, shape ``()``."""
        return lidar(gathered, delta=self.delta, epsilon=self.epsilon)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        # As in `StreamingMoments`.
        self.merge_state(incoming_state)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the images of another metric, for example from another process.

        Raises:
            SpectrumError: If it is not the state of a LiDAR of features of the same width.
        """
        incoming = incoming_tensors(incoming_state, "between", "within")
        self.between = merge_packed(self.between, incoming["between"])
        self.within = merge_packed(self.within, incoming["within"])


class Alignment(OfViews, ExactState):
    """Mean squared distance between the directions of two views of an image.

    Args:
        power: Of the distance.
        kwargs: Passed to `torchmetrics.Metric`.
    """

    name = "alignment"
    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, power: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _all_reduce_sum, **kwargs})
        self.power = power
        for name in ("total", "count"):
            self.add_state(name, default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, view_a: Tensor, view_b: Tensor) -> None:
        """Add a batch of pairs, both of shape ``(n, d)``.

        Raises:
            SpectrumError: If the shapes differ.
        """
        distances = pair_distances(view_a, view_b).pow(self.power)
        dtype = moments_dtype(distances.device)
        self.total = self.total.to(dtype) + distances.sum()
        self.count = self.count.to(dtype) + len(distances)

    def gathered(self) -> Tensor:
        """The sum of the distances and the number of pairs, shape ``(2,)``."""
        return torch.stack([self.total, self.count])

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the pairs of another metric, for example from another process.

        Raises:
            SpectrumError: If it is not the state of an Alignment.
        """
        incoming = incoming_tensors(incoming_state, "total", "count")
        self.total = self.total + incoming["total"]
        self.count = self.count + incoming["count"]


class CrossValidatedAlpha(SpectralScore, OfViews):
    """cvPCA: α of the spectrum that two views of an image share.

    Args:
        fit_range: First and last rank of the fit, one-based and inclusive, or ``"auto"``.
        kwargs: Passed to `torchmetrics.Metric`.

    Raises:
        FitRangeError: If ``fit_range`` is not a range of at least three ranks.
    """

    name = "cvpca"

    def __init__(self, fit_range: FitRange | Sequence[int] = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_fit_range(fit_range)
        self.fit_range = fit_range

    def update(self, view_a: Tensor, view_b: Tensor) -> None:  # type: ignore[override]
        """Add a batch of pairs, both of shape ``(n, d)``; the state is ``2d × 2d``.

        Raises:
            SpectrumError: If the shapes differ.
        """
        super().update(pair_features(view_a, view_b))

    def gathered(self) -> FeatureMoments:
        """The moments of pairs, see `pair_moments`."""
        return self.moments()

    def eigenvalues(self) -> Tensor:
        """The shared spectrum of what this process has seen, see `cross_validated_eigenvalues`."""
        return cross_validated_eigenvalues(self.moments())

    def fit(self) -> PowerLawFit:
        """The whole fit of what this process has seen.

        Raises:
            AlphaReQError: If there is no spectrum to fit.
        """
        return fit_shared_power_law(self.moments(), self.fit_range)

    def score(self, moments: FeatureMoments) -> Tensor:
        """α of the given moments of pairs, shape ``()``."""
        return fit_shared_power_law(moments, self.fit_range).alpha


class TwinsError(OfViews, ExactState):
    """The Barlow Twins error of all pairs seen: comparable across λ and projector widths.

    In anybody's module: make it in ``__init__``, and in ``validation_step`` call
    ``self.twins_error.update(z_a, z_b)`` and ``self.log("val_twins_error", self.twins_error)``.
    One ``p × p`` state, whatever the number of images; ranks are summed. See `twins_error` for
    where it may be compared and where not.

    Args:
        kwargs: Passed to `torchmetrics.Metric`.

    Example:
        >>> z = torch.randn(500, 8, generator=torch.manual_seed(0))
        >>> metric = TwinsError()
        >>> for batch in z.split(100):
        ...     metric.update(batch, batch + 0.1 * batch.flip(0))
        >>> round(metric.compute().item(), 2)
        0.0
    """

    name = "twins_error"
    is_differentiable = False
    full_state_update = False

    sums: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _all_reduce_lazy_sum, **kwargs})
        self.add_state("sums", default=torch.zeros(0), dist_reduce_fx=_add_stacked)

    def update(self, view_a: Tensor, view_b: Tensor) -> None:
        """Add projections of a batch of pairs, both of shape ``(n, p)``.

        Raises:
            SpectrumError: If the shapes differ, or from those of the batches before.
        """
        self.sums = _add(self.sums, pair_sums(view_a, view_b))

    def cross_correlation(self) -> Tensor:
        """Of what this process has seen, shape ``(p, p)``.

        Raises:
            SpectrumError: If there are fewer than two images.
        """
        return cross_correlation(self.gathered())

    def gathered(self) -> Tensor:
        """`pair_sums` of what this process has seen.

        Raises:
            SpectrumError: If no pairs were seen.
        """
        if self.sums.numel() == 0:
            raise SpectrumError("no pair of views was seen: update() was never called")
        return self.sums

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        # How `forward` and `torchmetrics.wrappers.Running` put states together.
        self.merge_state(incoming_state)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the pairs of another metric, for example from another process.

        Raises:
            SpectrumError: If it is not the state of a `TwinsError` of the same width.
        """
        self.sums = _add(self.sums, incoming_tensors(incoming_state, "sums")["sums"])


def _add(sums: Tensor, more: Tensor) -> Tensor:
    if sums.numel() == 0 or more.numel() == 0:
        return more if sums.numel() == 0 else sums
    if sums.shape != more.shape:
        raise SpectrumError(
            f"expected {pair_width(len(sums))} projections as in the batches before, "
            f"got {pair_width(len(more))}"
        )
    return sums + more


def _add_stacked(stacked: Tensor) -> Tensor:
    """A ``dist_reduce_fx``: sums of several states, one a row, together."""
    return stacked.sum(dim=0)


def _all_reduce_lazy_sum(sums: Tensor, group: Any = None) -> list[Tensor]:
    """Sum over ranks; one without a batch does not know the width, and takes part with zeros.

    Raises:
        SpectrumError: On every rank, if ranks saw different numbers of projections.
    """
    size = sums.numel()
    largest = common_size(sums, pair_width, "projections", group)
    if largest == 0:
        return [sums]

    def copied() -> Tensor:
        whole = torch.zeros(largest, dtype=moments_dtype(sums.device), device=sums.device)
        whole[:size] = sums
        return whole

    whole = together(copied, sums.device, group)
    dist.all_reduce(whole, group=group)
    return [whole]


def _all_reduce_sum(value: Tensor, group: Any = None) -> list[Tensor]:
    # In one dtype on every rank: a rank without a batch still has its float32 zero.
    value = value.to(moments_dtype(value.device), copy=True)
    dist.all_reduce(value, group=group)
    return [value]
