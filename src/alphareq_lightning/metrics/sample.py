"""Scores that need the samples themselves: a bounded, evenly spread share of them is kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional.moments import check_features
from alphareq_lightning.metrics.exact_state import ExactState
from alphareq_lightning.metrics.moments import incoming_tensors
from alphareq_lightning.metrics.ranks import together
from alphareq_lightning.metrics.scores import SCORES
from alphareq_lightning.metrics.without_score import NamedScore, nan_with_warning

MAX_SAMPLES = 4096
"""As many numbers as two ``d × d`` states at ``d = 2048``."""
GOLDEN_STEP = -7046029254386353131
"""2⁶⁴ over the golden ratio, as int64: multiples of it fill the range evenly, wherever cut."""


class FeatureSample(ExactState):
    """At most ``max_samples`` rows of all features seen, spread evenly over them.

    Row ``i`` has the priority ``i`` over the golden ratio, modulo 1, and the lowest priorities
    stay: no random numbers, the same sample for any split into batches, and every stretch of the
    data is in it in proportion.

    Args:
        max_samples: How many rows are kept, over all ranks.
        kwargs: Passed to `torchmetrics.Metric`.

    Raises:
        OptionError: If ``max_samples`` is less than 3.

    Example:
        >>> metric = FeatureSample(max_samples=3)
        >>> for batch in torch.arange(8.0)[:, None].split(4):
        ...     metric.update(batch)
        >>> metric.compute().flatten().tolist()
        [0.0, 2.0, 5.0]
    """

    is_differentiable = False
    full_state_update = True  # a row's priority is its number, counted over all batches

    kept: Tensor
    seen: Tensor

    def __init__(self, max_samples: int = MAX_SAMPLES, **kwargs: Any) -> None:
        if max_samples < 3:
            raise OptionError(f"expected max_samples >= 3, got {max_samples}")
        sync = partial(gather_sample, max_samples=max_samples)
        super().__init__(**{"dist_sync_fn": sync, **kwargs})
        self.max_samples = max_samples
        # Never read: in a MetricCollection equal states are shared, and these must not be. First,
        # because older versions of torchmetrics compare the first state only.
        self.add_state("limit", default=torch.tensor(max_samples), dist_reduce_fx=first)
        # The first column is the priority, so that it travels with its row.
        self.add_state("kept", default=torch.zeros(0, 1), dist_reduce_fx=first)
        self.add_state("seen", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add a batch of features, shape ``(n, d)``.

        Raises:
            SpectrumError: If it is not a floating-point matrix as wide as the batches before.
        """
        check_features(features)
        width = features.shape[1]
        if len(self.kept) and self.kept.shape[1] != width + 1:
            raise SpectrumError(
                f"expected features with {self.kept.shape[1] - 1} columns as in the batches "
                f"before, got shape {tuple(features.shape)}"
            )
        dtype = torch.promote_types(features.dtype, torch.float32)
        index = torch.arange(len(features), device=features.device) + int(self.seen)
        # 24 bits: whole numbers that float32 holds exactly.
        priority = ((index * GOLDEN_STEP) >> 40) & (2**24 - 1)
        rows = torch.cat([priority[:, None].to(dtype), features.detach().to(dtype)], dim=1)
        with torch.inference_mode(False):
            rows = rows.clone()
            both = rows if len(self.kept) == 0 else torch.cat([self.kept, rows])
            self.kept = lowest(both, self.max_samples)
            self.seen = self.seen + len(features)

    def compute(self) -> Any:
        """The sample, shape ``(at most max_samples, d)``."""
        return self.sample()

    def sample(self) -> Tensor:
        """The rows that are kept; inside `compute` those of all ranks together.

        Raises:
            SpectrumError: If no features were seen.
        """
        return _rows(self.kept)

    def reduced(self, *, across_ranks: bool = True) -> Tensor | None:
        """The sample over all ranks without touching the state; `None` if no rank has any.

        Every rank must call it, with or without a batch, unless ``across_ranks`` is false.
        """
        kept = self.kept
        if across_ranks and dist.is_available() and dist.is_initialized():
            [kept] = gather_sample(kept, self.process_group, max_samples=self.max_samples)
        return _rows(kept) if len(kept) else None

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the sample of another metric, for example from another process.

        Raises:
            SpectrumError: If it is not the state of a sample of features of the same width.
        """
        incoming = incoming_tensors(incoming_state, "kept", "seen")
        samples = [s for s in (self.kept, incoming["kept"]) if len(s)]
        widths = [s.shape[1] - 1 for s in samples]
        if len(set(widths)) > 1:
            raise SpectrumError(f"cannot merge samples of {widths[0]} and {widths[1]} features")
        if samples:
            self.kept = lowest(torch.cat(samples), self.max_samples)
        self.seen = self.seen + incoming["seen"]


class SampleScore(NamedScore, FeatureSample):
    """A number read from a bounded sample; NaN with a `NoFitWarning` where there is none.

    Args:
        max_samples: How many rows are kept, over all ranks.
        name: As in `SpectralScore`.
        kwargs: Passed to `torchmetrics.Metric`.
    """

    def __init__(self, max_samples: int = MAX_SAMPLES, *, name: str = "", **kwargs: Any) -> None:
        super().__init__(max_samples, **kwargs)
        self.name = name or self.name

    def score(self, features: Tensor) -> Tensor:
        """The score of the sample, shape ``()``."""
        return SCORES[self.name].of(features, len(features))

    def compute(self) -> Tensor:
        """The score of the sample over all ranks; shape ``()``."""
        return nan_with_warning(self, lambda: self.score(self.sample()))


class Uniformity(SampleScore):
    """Logarithm of the mean Gaussian potential of pairs of directions; lower is more uniform."""

    name = "uniformity"


class IntrinsicDimension(SampleScore):
    """TwoNN: dimension from the distances to the two nearest neighbours."""

    name = "intrinsic_dimension"


class IdEst(SampleScore):
    """Dimension from how the length of a minimum spanning tree grows with its points."""

    name = "idest"


class Coherence(SampleScore):
    """Largest leverage of a sample in units of the mean one."""

    name = "coherence"


def first(stacked: Tensor) -> Tensor:
    """A ``dist_reduce_fx``: `gather_sample` gives a list of one sample, that of all ranks."""
    return stacked[0]


def lowest(rows: Tensor, max_samples: int) -> Tensor:
    """The rows of lowest priority, which is their first column; the order is kept."""
    if len(rows) <= max_samples:
        return rows
    order = rows[:, 0].argsort(stable=True)[:max_samples]
    return rows[order.sort().values]


def gather_sample(kept: Tensor, group: Any = None, *, max_samples: int = MAX_SAMPLES) -> Any:
    """Samples of all ranks together, cut to ``max_samples``; a ``dist_sync_fn`` for torchmetrics.

    Ranks first share the priorities, then send only those rows that stay.

    Raises:
        SpectrumError: On every rank, if ranks saw different numbers of features, or one of them
            ran out of memory.
    """
    if kept.ndim == 0:  # the count of what was seen
        dist.all_reduce(kept := kept.clone(), group=group)
        return [kept]
    device, width = kept.device, kept.shape[1]
    least = width if len(kept) else 2**62
    is_double = int(kept.dtype == torch.float64)
    sizes = torch.tensor([len(kept), width, -least, is_double], device=device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=group)
    most, width, least = int(sizes[0]), int(sizes[1]), -int(sizes[2])
    if most == 0:
        return [kept]
    if least != width:
        raise SpectrumError(
            f"ranks saw different numbers of features: between {least - 1} and {width - 1}"
        )

    def prepared() -> tuple[Tensor, list[Tensor]]:
        rows = kept if len(kept) else kept.new_zeros(0, width)
        # One dtype on every rank, or the buffers would not fit.
        rows = rows.double() if int(sizes[3]) else rows
        return rows, _buffers(rows[:, :1], most, group)

    rows, priorities = together(prepared, device, group)
    dist.all_gather(priorities[1:], priorities[0], group=group)

    def chosen() -> tuple[Tensor, Tensor]:
        found = _without_padding(priorities)
        last = found.flatten().sort().values[min(len(found), max_samples) - 1]
        mine = rows[rows[:, 0] <= last]
        return mine, torch.tensor(len(mine), device=device)

    mine, sent = together(chosen, device, group)
    dist.all_reduce(sent, op=dist.ReduceOp.MAX, group=group)
    parts = together(lambda: _buffers(mine, int(sent), group), device, group)
    dist.all_gather(parts[1:], parts[0], group=group)
    return [lowest(_without_padding(parts), max_samples)]


def _buffers(rows: Tensor, size: int, group: Any) -> list[Tensor]:
    """Rows of this rank, padded to ``size`` for the way, and room for those of every rank."""
    padded = torch.full((size, rows.shape[1]), torch.inf, dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    return [padded, *(torch.empty_like(padded) for _ in range(dist.get_world_size(group)))]


def _without_padding(buffers: list[Tensor]) -> Tensor:
    everything = torch.cat(buffers[1:])
    return everything[everything[:, 0] != torch.inf]


def _rows(kept: Tensor) -> Tensor:
    if len(kept) == 0:
        raise SpectrumError("no features were seen: update() was never called")
    return kept[:, 1:]
