"""Whether the state of a layer this wide fits into memory."""

from __future__ import annotations

from pathlib import Path

import torch

from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional.moments import moments_dtype


def check_room(num_features: int, device: torch.device, label: str) -> None:
    """Refuse a ``d × d`` state that the device has no room for, before it is asked for.

    As much again is needed to solve for the eigenvalues.

    Raises:
        FeatureTapError: With the width, the bytes, and what to do.
    """
    state = num_features**2 * moments_dtype(device).itemsize
    free = free_bytes(device)
    if free is not None and 2 * state > free:
        raise FeatureTapError(
            f"layer {label!r} is {num_features:,} wide: its covariance takes {_size(state)}, and "
            f"as much again to solve, but {device} has {_size(free)} free; measure the backbone "
            "before its head, pool='mean' instead of 'flatten', or pool='project', which keeps "
            "2,048 sums"
        )


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated; `None` where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself and does not use.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")), None)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
