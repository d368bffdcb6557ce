"""Peak extra memory of streaming n features of width d, and of reading α off."""

from __future__ import annotations

import torch

from alphareq_lightning import AlphaReQ
from benchmarks.timing import arguments, peak_memory, write

BATCH = 512


def stream(n: int, d: int) -> None:
    metric = AlphaReQ()
    for seed in range(0, n, BATCH):
        generator = torch.Generator().manual_seed(seed)
        metric.update(torch.randn(BATCH, d, generator=generator))
    metric.compute()


def main() -> None:
    options = arguments(__doc__)
    d = 64 if options.smoke else 2048
    stream(BATCH, d)  # what libraries allocate once is not the metric's
    rows = []
    for n in (1_000, 2_000) if options.smoke else (10_000, 100_000):
        rows.append(
            {
                "n": n,
                "d": d,
                "batch": BATCH,
                "peak_bytes": peak_memory(lambda n=n: stream(n, d)),
                "allowed_bytes": 3 * d * d * 8 + BATCH * d * 4,
            }
        )
    write(options, "memory", rows)


if __name__ == "__main__":
    main()
