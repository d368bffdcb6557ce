"""What ranks must do together, so that none waits for one that gave up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

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
