"""Peak memory of LiDAR at n = 1000 images, q = 10 views, d = 2048 features.

python -m benchmarks.lidar_memory
"""

from __future__ import annotations

from functools import partial

import torch

from alphareq_lightning import LiDAR
from benchmarks.results import arguments, write
from benchmarks.timing import peak_memory, resident

WAYS = {"streamed, 20 images at a time": 20, "all images in one update": None}


def fill(metric: LiDAR, num_images: int, num_views: int, num_features: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, num_features + 1) ** -0.5
    for _ in range(0, num_images, batch):
        images = torch.randn(batch, 1, num_features, generator=generator) * scale
        noise = torch.randn(batch, num_views, num_features, generator=generator)
        metric.update(noise.mul_(0.02).add_(images))
    metric.compute()


def main() -> None:
    options = arguments(__doc__)
    n, q, d = (40, 10, 64) if options.smoke else (1000, 10, 2048)
    rows = []
    for way, batch in WAYS.items():
        metric, before = LiDAR(), resident()
        peak = before + peak_memory(partial(fill, metric, n, q, d, batch or n))
        sizes = {"peak_mb": peak, "of_which_imports_mb": before}
        megabytes = {name: round(size / 2**20, 1) for name, size in sizes.items()}
        rows.append({"way": way, "lidar": round(metric.compute().item(), 2), **megabytes})
    whole = n * d**2 * 4 / 2**20
    write(options, "lidar_memory", rows, n=n, q=q, d=d, n_times_d_squared_would_be_mb=whole)


if __name__ == "__main__":
    main()
