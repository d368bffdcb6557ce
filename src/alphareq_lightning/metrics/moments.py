"""The running state that every spectral metric shares."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional.moments import (
    FeatureMoments,
    accumulate_,
    check_features,
    empty_moments,
    merge_moments,
    moments_dtype,
)
from alphareq_lightning.functional.products import mirror_
from alphareq_lightning.metrics.exact_state import ExactState
from alphareq_lightning.metrics.ranks import common_size, together


class StreamingMoments(ExactState):
    """Count, mean and scatter of features in O(d²) memory, whatever the number of samples.

    The number of features is read from the first batch. Ranks are summed with ``all_reduce``:
    four integers, ``d + 3`` and ``d²`` numbers, never ``world × d²`` as a gather would take.

    Args:
        kwargs: Passed to `torchmetrics.Metric`.

    Example:
        >>> metric = StreamingMoments()
        >>> for batch in torch.ones(10, 4).split(3):
        ...     metric.update(batch)
        >>> metric.compute().num_samples.item()
        10.0
    """

    is_differentiable = False
    full_state_update = False
    packed: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": all_reduce_packed, **kwargs})
        # One flat tensor, because mean and scatter must be reduced together.
        self.add_state("packed", default=torch.zeros(0), dist_reduce_fx=merge_stacked)

    def update(self, features: Tensor, computed_in: torch.dtype | Tensor | None = None) -> None:
        """Add a batch of features.

        Args:
            features: Floating-point features, shape ``(n, d)``.
            computed_in: As in `accumulate_`: where they come from, if they were widened since.

        Raises:
            SpectrumError: If it is not a floating-point matrix as wide as the batches before.
        """
        if self.packed.numel() == 0:
            check_features(features)
            self.packed = empty_packed(features.shape[1], features.device)
        accumulate_(running(self.packed), features, computed_in)

    def compute(self) -> Any:
        """Moments of everything seen so far, over all ranks.

        Raises:
            SpectrumError: If no rank has seen a batch.
        """
        return self.moments()

    def moments(self) -> FeatureMoments:
        """The state as `FeatureMoments`; inside `compute` it is summed over ranks."""
        if self.packed.numel() == 0:
            raise SpectrumError("no features were seen: update() was never called")
        return unpack(self.packed)

    def reduced(self, *, across_ranks: bool = True) -> FeatureMoments | None:
        """Moments over all ranks without touching the state; `None` if no rank has seen a batch.

        Every rank must call it, unless ``across_ranks`` is false: a process group may be alive
        while one rank works alone. Other than ``compute`` it does not mind a rank without a batch.
        """
        packed = self.packed
        if across_ranks and dist.is_available() and dist.is_initialized():
            [packed] = all_reduce_packed(packed, self.process_group)
        return unpack(packed) if packed.numel() else None

    @property
    def num_features(self) -> int:
        """Width ``d`` of the features; 0 before the first batch."""
        return _width(len(self.packed))

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        # How `forward` and `torchmetrics.wrappers.Running` put states together.
        self.merge_state(incoming_state)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the samples of another metric, for example from another process.

        Raises:
            SpectrumError: If it is not the state of a metric of this family, of the same width.
        """
        self.packed = merge_packed(
            self.packed, incoming_tensors(incoming_state, "packed")["packed"]
        )


def incoming_tensors(state: dict[str, Any] | Metric, *names: str) -> dict[str, Tensor]:
    """The named states of another metric, for `Metric.merge_state`.

    Raises:
        SpectrumError: If one of them is missing, or is no tensor.
    """
    values: Any = state.metric_state if isinstance(state, Metric) else state
    for name in names:
        if not isinstance(values.get(name), Tensor):
            raise SpectrumError(f"expected a state with {name!r}, got {sorted(values)}")
    return {name: values[name] for name in names}


def merge_packed(mine: Tensor, incoming: Tensor) -> Tensor:
    """Packed moments of two disjoint sets of samples together; empty ones have no width yet.

    Raises:
        SpectrumError: If they differ in width.
    """
    with torch.inference_mode(False):  # so that it can be updated outside of that mode
        if mine.numel() == 0 or incoming.numel() == 0:
            return (incoming if mine.numel() == 0 else mine).clone()
        if mine.numel() != incoming.numel():
            raise SpectrumError(
                f"cannot merge states of {_width(len(mine))} and {_width(len(incoming))} features"
            )
        return pack(merge_moments(unpack(mine), unpack(incoming)))


def all_reduce_packed(packed: Tensor, group: Any = None) -> list[Tensor]:
    """Sum packed moments over ranks; a ``dist_sync_fn`` for torchmetrics.

    Every rank is first told the common mean and moves its scatter there, so the scatters can
    simply be added. A rank without a batch takes part with zeros.

    Raises:
        SpectrumError: On every rank, if ranks saw different numbers of features, or one of them
            ran out of memory.
    """
    size = packed.numel()
    largest = common_size(packed, _width, "features", group)
    if largest == 0:
        return [packed]

    def copied() -> tuple[Tensor, Tensor]:
        whole = torch.zeros(largest, dtype=moments_dtype(packed.device), device=packed.device)
        whole[:size] = packed
        count, mean, _, rounding = running(whole)
        return whole, torch.cat([count.reshape(1), rounding, mean * count])

    whole, head = together(copied, packed.device, group)
    dist.all_reduce(head, group=group)
    count, mean, scatter, _ = running(whole)

    def moved() -> None:
        common_mean = head[3:].div_(head[0].clamp(min=1))
        shift = mean - common_mean
        scatter.addr_(shift * count, shift)
        whole[: len(head)] = head

    together(moved, packed.device, group)
    dist.all_reduce(scatter, group=group)
    return [whole]


def merge_stacked(stacked: Tensor) -> Tensor:
    """A ``dist_reduce_fx``: packed moments, one a row, together; `all_reduce_packed` gives one."""
    whole = stacked[0]
    for packed in stacked[1:]:
        whole = merge_packed(whole, packed)
    return whole


def empty_packed(num_features: int, device: torch.device) -> Tensor:
    """Packed moments of no samples; even in inference mode they can be updated outside of it."""
    with torch.inference_mode(False):
        return pack(empty_moments(num_features, device))


def pack(moments: FeatureMoments) -> Tensor:
    """One flat tensor, shape ``(3 + d + d²,)``."""
    count, mean, scatter, rounding = moments
    return torch.cat([count.reshape(1), rounding, mean, scatter.flatten()])


def unpack(packed: Tensor) -> FeatureMoments:
    """Views into ``packed`` to read; the blocks that updates leave behind are completed first."""
    moments = running(packed)
    with torch.inference_mode():  # a state merged or moved in that mode can be written in no other
        mirror_(moments.scatter)
    return moments


def running(packed: Tensor) -> FeatureMoments:
    """Views into ``packed`` for `accumulate_` to write to; only `unpack` gives what may be read."""
    d = _width(len(packed))
    return FeatureMoments(
        num_samples=packed[0],
        mean=packed[3 : d + 3],
        scatter=packed[d + 3 :].view(d, d),
        rounding=packed[1:3],
    )


def _width(size: int) -> int:
    # size = 3 + d + d², and d² <= d² + d < (d + 1)².
    return math.isqrt(max(size - 3, 0))
