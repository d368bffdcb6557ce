"""Sums of outer products: half the work of a matrix product, and what they round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

SUM_ROWS = 512
"""Rows that a BLAS adds up in one run, at most: MKL, OpenBLAS and BLIS take 192 to 512."""
_LEAST_SPREAD = 8
"""Directions that must share the variance, as `participation_ratio` counts them, for float32."""
_SAMPLE_ROWS = 16
"""Rows that stand for all when their directions are compared."""
_LARGEST_ROW = 16
"""No row may have more of the variance than so many do on average: the sample would miss it."""
_FLOAT32_SIZES = 1e-10, 1e10
"""Root mean square of rows whose float32 products neither vanish nor overflow."""

MIN_BLOCK, MAX_BLOCK = 64, 256
"""Columns of the blocks of which only the upper ones are computed: wide enough for full speed of
the products, narrow enough to save nearly half of them (four across where that fits)."""


def block_columns(num_features: int) -> int:
    """Columns of a block for a scatter of this width."""
    return min(max(num_features // 4, MIN_BLOCK), MAX_BLOCK)


def product_dtypes(features: Tensor) -> tuple[torch.dtype, ...]:
    """Dtypes to try for products of features, the cheapest first; the last one has to do.

    `float32_suffices` decides by a value, which a CPU has at hand and for which a GPU would have
    to be waited for: there it is float64 at once. MPS has none.
    """
    if features.device.type == "mps":
        return (torch.float32,)
    if features.device.type == "cpu" and features.dtype != torch.float64:
        return torch.float32, torch.float64
    return (torch.float64,)


def float32_suffices(rows: Tensor) -> bool:
    r"""Whether float32 sums of the rows' outer products round little against their variance.

    In any order, a sum of :math:`K` float32 terms errs by at most :math:`Ku` times the largest
    partial sum, :math:`u = 2^{-24}` (Higham, "Accuracy and stability of numerical algorithms",
    2002, section 4.2). Partial sums of :math:`X^\top X` are below the whole in Frobenius norm, so
    the error has a norm of at most :math:`Ku\,\|X^\top X\|_F`, and :math:`\|X^\top X\|_F` is the
    trace over the root of the participation ratio. Where one row, one unit or one direction holds
    most of the variance, that is too much for the rest: their terms no longer change the sum.

    A few rows stand for all, so the ratio that this holds to scatters about `_LEAST_SPREAD`.

    Args:
        rows: Float32 rows about their mean, on the CPU, shape ``(n, d)``.
    """
    if len(rows) < _LEAST_SPREAD:  # they span too few directions to look
        return False
    sample = rows[:: -(-len(rows) // _SAMPLE_ROWS)]
    gram = sample @ sample.T
    count, mean = len(sample), gram.trace().item() / len(sample)
    smallest_size, largest_size = (size**2 * rows.shape[1] for size in _FLOAT32_SIZES)
    if not smallest_size < mean < largest_size:
        return False
    largest = torch.linalg.vector_norm(rows, dim=1).max().item() ** 2
    # Of rows that vary along few directions alone, many pairs are alike.
    alike = torch.linalg.vector_norm(gram).item() ** 2 - count * mean**2
    alike /= count * (count - 1) * mean**2
    # The inverse of the ratio: each row with itself, and all pairs of them.
    inverse = (1 + (len(rows) - 1) * alike) / len(rows)
    return bool(largest <= _LARGEST_ROW * mean and inverse * _LEAST_SPREAD <= 1)


def product_rounding(diagonal: Tensor, num_terms: int) -> Tensor:
    """Variance in one direction that float32 sums can give by rounding alone, shape ``()``.

    The bound of `float32_suffices` is on the root of the sum of squares over all directions.
    Errors of different entries have nothing to do with each other, so each direction has its share
    of it: among as many as there are units that vary, the sum of the variances over the root of
    that number is the norm of the diagonal. Of 400 collapsed draws none had more than a sixth.

    Args:
        diagonal: Of the float32 sums, shape ``(d,)``.
        num_terms: Terms in each.
    """
    spread = 1 if diagonal.device.type == "mps" else _LEAST_SPREAD
    unit_roundoff = torch.finfo(torch.float32).eps / 2
    share = min(num_terms, SUM_ROWS) * unit_roundoff / spread**0.5
    norm: Tensor = torch.linalg.vector_norm(diagonal)
    rounding: Tensor = norm * share
    return rounding


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
    kind = device.type
    backend: Any = torch.backends.cuda if kind == "cuda" else torch.backends.mkldnn
    switch: Any = getattr(backend, "matmul", None)
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if hasattr(switch, "fp32_precision"):
            # Since torch 2.9 each backend has its own switch, and reading the common one of old
            # raises where the user has turned these.
            before = switch.fp32_precision
            if before not in ("ieee", "none"):
                # A switch that is not set reads as those above it: then it must go on following
                # them.
                above = [
                    getattr(part, "fp32_precision", None) for part in (backend, torch.backends)
                ]
                own = "none" if before in above else before
                stack.callback(setattr, switch, "fp32_precision", own)
                switch.fp32_precision = "ieee"
        elif (common := torch.get_float32_matmul_precision()) != "highest":
            stack.callback(torch.set_float32_matmul_precision, common)
            torch.set_float32_matmul_precision("highest")
        yield
