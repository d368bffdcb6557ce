"""Scale on paper: what state and sync cost for wide layers on many ranks; nothing is measured.

``python -m benchmarks.scale`` writes ``docs/scale.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "scale.md"
BYTES = 8  # float64
WIDTHS = (2048, 8192)
RANKS = (64, 1024)
LINKS = {"400 Gbit/s between machines": 50e9, "10 Gbit/s Ethernet": 1.25e9}
"""Bytes a second of each rank's link, one direction."""
MEMORY = {"a CPU with 50 GB/s": 50e9, "a GPU with 3 TB/s": 3e12}
PRODUCTS = {"a CPU with 140 GFLOP/s in float32": 0.14e12, "a GPU with 50 TFLOP/s": 50e12}


def ring(size: float, ranks: int) -> float:
    """Bytes that each rank sends in a ring all-reduce."""
    return 2 * (ranks - 1) / ranks * size


SYNC = """\
# Scale on paper

Computed by `python -m benchmarks.scale`, from formulas; nothing here is measured.

## A sync

Each validation sums d² + d + 3 float64 numbers and four integers over ranks, once a layer, by
all-reduce. A ring sends 2(r − 1)/r times that from each rank, so more ranks cost no more bytes,
only more steps. A gather, as torchmetrics does by default, needs r × d² numbers of memory on every
rank. The times are bytes over bandwidth, without latency.
"""
STATE = """
Only the upper half carries information: sending it alone would halve the bytes. It is not done,
because a sync happens once an epoch and the half would have to be packed first.

## The state

The state is d² float64 numbers a layer; reading α holds them once more (the solver's own copy),
reading RankMe twice more. An update reads and writes the upper half once for every batch, or every
4,096 images of a larger one: that is what a small batch pays for.
"""
TOP = """
## Where top-k would pay

All eigenvalues without vectors take 4/3·d³ operations, half of them bound by memory. A block Krylov
space of 8 steps of 128 vectors, which holds ranks 1–100 of a power law to 1e-6 even for α = 0.2
(`python -m benchmarks.topk`), takes 2·1024·d² for the products, 8·1024²·d for keeping it
orthonormal, and a dense solve of 1024.
"""
KRYLOV = 1024


def document() -> str:
    lines = [SYNC, _head("d", "ranks", "sent by a rank", *LINKS, "a gather would hold")]
    for d in WIDTHS:
        for ranks in RANKS:
            sent = ring((d * d + d + 3) * BYTES, ranks)
            times = [f"{sent / speed * 1e3:.0f} ms" for speed in LINKS.values()]
            held = ranks * d * d * BYTES
            lines.append(_line(d, ranks, f"{sent / 1e9:.2f} GB", *times, f"{held / 1e9:.1f} GB"))
    updates = [f"an update on {memory}" for memory in MEMORY]
    lines += [STATE, _head("d", "state", "with a solve", "with RankMe", *updates)]
    for d in (512, *WIDTHS):
        traffic = d * d / 2 * (2 * BYTES + 2 * 4)  # the sum read and written, the product twice
        times = [f"{traffic / speed * 1e3:.2g} ms" for speed in MEMORY.values()]
        sizes = [f"{k * d * d * BYTES / 1e6:.0f} MB" for k in (1, 2, 3)]
        lines.append(_line(d, *sizes, *times))
    lines.append("\nFrom how many images in a batch the product takes longer than this traffic:\n")
    for (name, flops), speed in zip(PRODUCTS.items(), MEMORY.values(), strict=True):
        lines.append(f"* {name}: {12 * flops / speed:.0f} images")
    lines += [TOP, _head("d", "all", "top 100", "all / top")]
    for d in (2048, 4096, 8192, 16384):
        whole = 4 / 3 * d**3
        top = 2 * KRYLOV * d**2 + 8 * KRYLOV**2 * d + 4 / 3 * KRYLOV**3
        sizes = [f"{operations / 1e9:.0f} GFLOP" for operations in (whole, top)]
        lines.append(_line(d, *sizes, f"{whole / top:.1f}"))
    return "\n".join(lines) + "\n"


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _head(*cells: str) -> str:
    return f"{_line(*cells)}\n{'|---' * len(cells)}|"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    TARGET.write_text(document(), encoding="utf-8")
    print(f"wrote {TARGET}")
