"""The targets on a CUDA GPU: update, solve, α against reptrix on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from reptrix.alpha import get_alpha

from alphareq_lightning import StreamingMoments
from alphareq_lightning.functional import moments_eigenvalues
from benchmarks.peers import features, ours
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved


def synchronised(function: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        function()
        torch.cuda.synchronize()

    return run


def main() -> None:
    options = arguments(__doc__)
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA GPU, and torch sees none")
    n, d = (2000, 128) if options.smoke else (50_000, 2048)
    host = features(n, d)
    x = host.cuda()
    batch = x[:1024]
    metric = StreamingMoments().cuda()
    metric.update(batch)
    moments = metric.moments()
    times = interleaved(
        {
            "update": synchronised(lambda: metric.update(batch)),
            "solve": synchronised(lambda: moments_eigenvalues(moments)),
            "eigvalsh": synchronised(lambda: torch.linalg.eigvalsh(moments.scatter)),
            "alpha": synchronised(lambda: ours(x)),
        },
        repeats=1 if options.smoke else 20,
        warmup=3,
    )
    times |= interleaved({"reptrix on the CPU": lambda: get_alpha(host)}, 1, warmup=0)
    write(options, "gpu", [{"n": n, "d": d, "ms": times}])


if __name__ == "__main__":
    main()
