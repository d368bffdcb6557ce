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


class StreamingMoments(Metric):
    """Count, mean and scatter of features in O(d²) memory, whatever the number of samples.

    The number of features is read from the first batch. Ranks are summed with ``all_reduce``:
    two integers, ``d + 3`` and ``d²`` numbers, never ``world × d²`` as a gather would take.

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
    # Batch and running values are computed apart in `forward`: an empty state has no width yet,
    # so the two could not be stacked as torchmetrics does for states of one shape.
    full_state_update = True

    packed: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": all_reduce_packed, **kwargs})
        # One flat tensor, because mean and scatter must be reduced together.
        self.add_state("packed", default=torch.zeros(0), dist_reduce_fx=_first)

    def update(self, features: Tensor, computed_in: torch.dtype | None = None) -> None:
        """Add a batch of features.

        Args:
            features: Floating-point features, shape ``(n, d)``.
            computed_in: The dtype that they come from, if they were widened since.

        Raises:
            SpectrumError: If it is not a floating-point matrix as wide as the batches before.
        """
        if self.packed.numel() == 0:
            check_features(features)
            # Made inside inference mode, the state could not be updated outside of it.
            with torch.inference_mode(False):
                self.packed = _pack(empty_moments(features.shape[1], features.device))
        accumulate_(_unpack(self.packed), features, computed_in)

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
        return _complete(self.packed)

    def reduced(self) -> FeatureMoments | None:
        """Moments over all ranks without touching the state; `None` if no rank has seen a batch.

        Every rank must call it. Other than ``compute`` it does not mind a rank without a batch.
        """
        packed = self.packed
        if dist.is_available() and dist.is_initialized():
            [packed] = all_reduce_packed(packed, self.process_group)
        return _complete(packed) if packed.numel() else None

    @property
    def num_features(self) -> int:
        """Width ``d`` of the features; 0 before the first batch."""
        return _width(self.packed)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the samples of another metric, for example from another process.

        Raises:
            SpectrumError: If it is not the state of a metric of this family, of the same width.
        """
        if isinstance(incoming_state, Metric):
            incoming_state = incoming_state.metric_state
        incoming = incoming_state.get("packed")
        if not isinstance(incoming, Tensor):
            raise SpectrumError(f"expected a state with 'packed', got {sorted(incoming_state)}")
        if self.packed.numel() and incoming.numel() not in (0, self.packed.numel()):
            raise SpectrumError(
                f"cannot merge states of {_width(self.packed)} and {_width(incoming)} features"
            )
        if self.packed.numel() == 0:
            self.packed = incoming.clone()
        elif incoming.numel():
            self.packed = _pack(merge_moments(_unpack(self.packed), _unpack(incoming)))


def all_reduce_packed(packed: Tensor, group: Any = None) -> list[Tensor]:
    """Sum packed moments over ranks; a ``dist_sync_fn`` for torchmetrics.

    Every rank is first told the common mean and moves its scatter there, so the scatters can
    simply be added. A rank without a batch takes part with zeros.

    Raises:
        SpectrumError: On every rank, if ranks saw different numbers of features.
    """
    size = packed.numel()
    # One reduction finds the largest size and, negated, the smallest of ranks that have a state.
    sizes = torch.tensor([size, -size if size else -(2**62)], device=packed.device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = int(sizes[0]), -int(sizes[1])
    if largest == 0:
        return [packed]
    if smallest != largest:
        raise SpectrumError(
            "ranks saw different numbers of features: "
            f"between {_width_of_size(smallest)} and {_width_of_size(largest)}"
        )
    if size == 0:
        packed = torch.zeros(largest, dtype=moments_dtype(packed.device), device=packed.device)
    count, mean, scatter, rounding = _unpack(packed)
    head = torch.cat([count.reshape(1), rounding, mean * count])
    dist.all_reduce(head, group=group)
    total, rounding, common_mean = head[0], head[1:3], head[3:] / head[0].clamp(min=1)
    shift = mean - common_mean
    scatter = scatter + torch.outer(shift * count, shift)
    dist.all_reduce(scatter, group=group)
    return [_pack(FeatureMoments(total, common_mean, scatter, rounding))]


def _first(stacked: Tensor) -> Tensor:
    # `all_reduce_packed` hands torchmetrics a list of one state, already summed.
    return stacked[0]


def _pack(moments: FeatureMoments) -> Tensor:
    count, mean, scatter, rounding = moments
    return torch.cat([count.reshape(1), rounding, mean, scatter.flatten()])


def _unpack(packed: Tensor) -> FeatureMoments:
    """Views into ``packed``: writing to them writes to the state."""
    d = _width(packed)
    return FeatureMoments(
        num_samples=packed[0],
        mean=packed[3 : d + 3],
        scatter=packed[d + 3 :].view(d, d),
        rounding=packed[1:3],
    )


def _complete(packed: Tensor) -> FeatureMoments:
    """`_unpack`, with the scatter's lower blocks too, which updates leave behind."""
    moments = _unpack(packed)
    mirror_(moments.scatter)
    return moments


def _width(packed: Tensor) -> int:
    return _width_of_size(packed.numel())


def _width_of_size(size: int) -> int:
    # size = 3 + d + d², and d² <= d² + d < (d + 1)².
    return math.isqrt(max(size - 3, 0))
