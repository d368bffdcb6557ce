"""What ranks must do together, so that none waits for one that gave up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from alphareq_lightning.errors import SpectrumError

Result = TypeVar("Result")


def together(step: Callable[[], Result], device: torch.device, group: Any = None) -> Result:
    """Do on every rank what must succeed on all before the next collective.

    A rank that runs out of memory between two collectives never reaches the second, where all
    others would wait for it until the time-out ends their training.

    Args:
        step: What to do; it must hold no collective.
        device: Where the process group can reduce one number.
        group: The process group.

    Raises:
        SpectrumError: On every rank, if the step failed on one.
    """
    failed = torch.zeros((), dtype=torch.int64, device=device)
    reason: Exception | None = None
    try:
        result = step()
    except Exception as error:
        reason = error
        failed += 1
    dist.all_reduce(failed, group=group)
    if reason is not None:
        raise SpectrumError(f"this rank failed in the sum over ranks: {reason}") from reason
    if int(failed):
        raise SpectrumError(f"{int(failed)} other ranks failed in the sum over ranks")
    return result


def common_size(state: Tensor, width: Callable[[int], int], what: str, group: Any = None) -> int:
    """The size of a flat state on the ranks that have one; 0 if none has.

    Args:
        state: Of this rank; empty before its first batch.
        width: How wide what it has seen is, from its size.
        what: What that is called, for example ``"features"``.
        group: The process group.

    Raises:
        SpectrumError: On every rank, if ranks saw different widths.
    """
    size = state.numel()
    # One reduction finds the largest size and, negated, the smallest of ranks that have a state.
    sizes = torch.tensor([size, -size if size else -(2**62)], device=state.device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = int(sizes[0]), -int(sizes[1])
    if largest and smallest != largest:
        raise SpectrumError(
            f"ranks saw different numbers of {what}: between {width(smallest)} and {width(largest)}"
        )
    return largest
