"""How the cost grows with images, features, layers and ranks; `plots` draws it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from alphareq_lightning import StreamingMoments
from alphareq_lightning.functional import moments_eigenvalues
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

BATCH = 256


def fed(n: int, d: int) -> StreamingMoments:
    metric = StreamingMoments()
    batch = torch.randn(min(n, BATCH), d)
    for _ in range(max(n // BATCH, 1)):
        metric.update(batch)
    return metric


def timed(axis: str, values: Iterable[int], work: Callable[[int], Any]) -> list[dict[str, Any]]:
    times = interleaved({str(v): lambda v=v: work(v) for v in values}, repeats=5)
    return [{"axis": axis, "value": int(v), "ms": ms} for v, ms in times.items()]


def _reduce(rank: int, world_size: int, d: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    metric = fed(BATCH, d)
    seconds = []
    for _ in range(6):
        dist.barrier()
        started = time.perf_counter()
        metric.reduced()
        seconds.append(time.perf_counter() - started)
    if rank == 0:
        (Path(folder) / str(world_size)).write_text(str(sorted(seconds)[len(seconds) // 2]))
    dist.destroy_process_group()


def reduction_ms(world_size: int, d: int) -> float:
    """Milliseconds of one reduction over gloo processes on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_reduce, (world_size, d, folder), world_size, start_method="spawn")
        return round(float((Path(folder) / str(world_size)).read_text()) * 1e3, 2)


def main() -> None:
    options = arguments(__doc__)
    small = options.smoke
    images = (256, 512) if small else (1_000, 4_000, 16_000, 64_000)
    features = (32, 64) if small else (128, 256, 512, 1024, 2048)
    layers = (1, 2) if small else (1, 2, 4, 8)
    ranks = (1,) if small else (1, 2, 4)
    solved = {d: fed(BATCH, d).moments() for d in features}
    rows = [
        *timed("images", images, lambda n: fed(n, 64 if small else 512)),
        *timed("features, one batch of 256", features, lambda d: fed(BATCH, d)),
        *timed("features, one solve", features, lambda d: moments_eigenvalues(solved[d])),
        *timed("layers", layers, lambda k: [fed(1024, 64 if small else 512) for _ in range(k)]),
        *(
            {"axis": "ranks", "value": w, "ms": {"median": reduction_ms(w, 64 if small else 1024)}}
            for w in ranks
        ),
    ]
    write(options, "growth", rows)


if __name__ == "__main__":
    main()
