"""Sums of outer products: half the work of a matrix product, in its full precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

MIN_BLOCK, MAX_BLOCK = 64, 256
"""Columns of the blocks of which only the upper ones are computed: wide enough for full speed of
the products, narrow enough to save nearly half of them (four across where that fits)."""


def block_columns(num_features: int) -> int:
    """Columns of a block for a scatter of this width."""
    return min(max(num_features // 4, MIN_BLOCK), MAX_BLOCK)


def add_products_(scatter: Tensor, rows: Tensor) -> None:
    """Add ``rowsᵀ rows`` to the upper blocks of ``scatter``; what is below them is not touched.

    The products are made in the dtype of ``rows`` and added in that of ``scatter``.

    Args:
        scatter: Running sum, shape ``(d, d)``.
        rows: Shape ``(n, d)``.
    """
    block = block_columns(rows.shape[1])
    for first in range(0, rows.shape[1], block):
        last = first + block
        scatter[first:last, first:].add_(rows[:, first:last].T @ rows[:, first:])


def mirror_(scatter: Tensor) -> Tensor:
    """Make ``scatter`` symmetric from its upper triangle, in place, and return it."""
    block = block_columns(scatter.shape[1])
    for first in range(0, scatter.shape[1], block):
        last = first + block
        scatter[last:, first:last] = scatter[first:last, last:].T
        corner = scatter[first:last, first:last]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return scatter


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast and fast float32 products (TF32, bfloat16) out of the block.

    The user's settings are back afterwards, and stay untouched where they ask for nothing fast.
    """
    has_autocast = torch.amp.is_autocast_available(device.type)
    no_autocast = torch.autocast(device.type, enabled=False) if has_autocast else nullcontext()
    with no_autocast, _no_fast_products(device):
        yield


@contextmanager
def _no_fast_products(device: torch.device) -> Iterator[None]:
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    switch: Any = getattr(backend, "matmul", None)
    if hasattr(switch, "fp32_precision"):
        # Since torch 2.9 each backend has its own switch, and reading the common one of old
        # raises where the user has turned these.
        before = switch.fp32_precision
        if before in ("ieee", "none"):
            yield
            return
        # A switch that is not set reads as those above it: then it must go on following them.
        above = [getattr(part, "fp32_precision", None) for part in (backend, torch.backends)]
        follows = before in above
        switch.fp32_precision = "ieee"
        try:
            yield
        finally:
            switch.fp32_precision = "none" if follows else before
        return
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
