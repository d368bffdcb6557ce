"""Scale on paper: what state and sync cost for wide layers on many ranks; nothing is measured.

``python -m benchmarks.scale`` writes the tables of ``docs/scale.md``, which says what they mean.
"""

from __future__ import annotations

import argparse

from benchmarks.tables import ROOT, rendered, table

PAGE = ROOT / "docs" / "scale.md"
BYTES = 8  # float64
WIDTHS = (2048, 8192)
RANKS = (64, 1024)
LINKS = {"400 Gbit/s between machines": 50e9, "10 Gbit/s Ethernet": 1.25e9}
"""Bytes a second of each rank's link, one direction."""
MEMORY = {"a CPU with 50 GB/s": 50e9, "a GPU with 3 TB/s": 3e12}
PRODUCTS = {"a CPU with 140 GFLOP/s in float32": 0.14e12, "a GPU with 50 TFLOP/s": 50e12}
KRYLOV = 1024


def ring(size: float, ranks: int) -> float:
    """Bytes that each rank sends in a ring all-reduce."""
    return 2 * (ranks - 1) / ranks * size


def sync() -> list[str]:
    rows = []
    for d in WIDTHS:
        for ranks in RANKS:
            sent = ring((d * d + d + 3) * BYTES, ranks)
            times = [f"{sent / speed * 1e3:.0f} ms" for speed in LINKS.values()]
            held = ranks * d * d * BYTES
            rows.append([d, ranks, f"{sent / 1e9:.2f} GB", *times, f"{held / 1e9:.1f} GB"])
    return table(f"d | ranks | sent by a rank | {' | '.join(LINKS)} | a gather would hold", rows)


def state() -> list[str]:
    rows = []
    for d in (512, *WIDTHS):
        traffic = d * d / 2 * (2 * BYTES + 2 * 4)  # the sum read and written, the product twice
        times = [f"{traffic / speed * 1e3:.2g} ms" for speed in MEMORY.values()]
        rows.append([d, *(f"{k * d * d * BYTES / 1e6:.0f} MB" for k in (1, 2, 3)), *times])
    updates = " | ".join(f"an update on {memory}" for memory in MEMORY)
    return table(f"d | state | with a solve | with RankMe | {updates}", rows)


def products() -> list[str]:
    return [
        f"* {name}: {12 * flops / speed:.0f} images"
        for (name, flops), speed in zip(PRODUCTS.items(), MEMORY.values(), strict=True)
    ]


def top_k() -> list[str]:
    rows = []
    for d in (2048, 4096, 8192, 16384):
        whole = 4 / 3 * d**3
        top = 2 * KRYLOV * d**2 + 8 * KRYLOV**2 * d + 4 / 3 * KRYLOV**3
        sizes = [f"{operations / 1e9:.0f} GFLOP" for operations in (whole, top)]
        rows.append([d, *sizes, f"{whole / top:.1f}"])
    return table("d | all | top 100 | all / top", rows)


TABLES = {made.__name__: made for made in (sync, state, products, top_k)}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")
    print(f"wrote {PAGE}")
