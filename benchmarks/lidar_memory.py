"""Peak memory of LiDAR at n = 1000 images, q = 10 views, d = 2048 features.

    python -m benchmarks.lidar_memory

Each way runs in a process of its own, because a process never gives its peak back.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

from benchmarks.results import options_of, write

NUM_IMAGES, NUM_VIEWS, NUM_FEATURES = 1000, 10, 2048
WAYS = {
    "streamed, 20 images at a time": 20,
    "all 1000 images in one update": NUM_IMAGES,
}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(batch_size: int) -> dict[str, float]:
    import torch

    from alphareq_lightning import LiDAR

    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, NUM_FEATURES + 1) ** -0.5
    after_import = peak_mb()
    metric = LiDAR()
    for _ in range(0, NUM_IMAGES, batch_size):
        images = torch.randn(batch_size, 1, NUM_FEATURES, generator=generator) * scale
        noise = torch.randn(batch_size, NUM_VIEWS, NUM_FEATURES, generator=generator)
        metric.update(noise.mul_(0.02).add_(images))
    value = metric.compute().item()
    return {
        "lidar": round(value, 2),
        "peak_mb": round(peak_mb(), 1),
        "of_which_imports_mb": round(after_import, 1),
    }


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--batch-size", type=int, help="measure this one way, in this process")
    options = parser.parse_args()
    if options.batch_size is not None:
        print(json.dumps(measure(options.batch_size)))
        return
    rows: list[dict[str, Any]] = []
    for way, batch_size in WAYS.items():
        command = [sys.executable, "-m", "benchmarks.lidar_memory", f"--batch-size={batch_size}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append({"way": way, **json.loads(output.splitlines()[-1])})
    sizes = {"n": NUM_IMAGES, "q": NUM_VIEWS, "d": NUM_FEATURES}
    whole = NUM_IMAGES * NUM_FEATURES**2 * 4 / 2**20
    write(options, "lidar_memory", rows, **sizes, n_times_d_squared_would_be_mb=whole)


if __name__ == "__main__":
    main()
