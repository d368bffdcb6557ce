"""What was tried and left out of the hot path, so that nobody has to try it again."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import torch

from alphareq_lightning import eigenspectrum, fit_power_law
from alphareq_lightning.functional import moments, products
from alphareq_lightning.functional.moments import accumulate_, empty_moments
from benchmarks.peers import features
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

PASSIVE = "OMP_WAIT_POLICY"


def blocks(x: torch.Tensor, columns: int) -> None:
    """With blocks of one width, whatever the width of the scatter."""
    with patch.object(products, "block_columns", lambda num_features: columns):
        accumulate_(empty_moments(x.shape[1]), x)


def chunks(x: torch.Tensor, rows: int) -> None:
    """With so many rows in a float32 sum."""
    with patch.object(moments, "CHUNK_ROWS", rows):
        accumulate_(empty_moments(x.shape[1]), x)


def shift_by_half_products(alpha: float) -> float:
    """How far bfloat16 products of bfloat16 features move α, d = 256, n = 2,000."""
    scale = torch.arange(1, 257) ** (-alpha / 2)
    x = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0)) * scale
    half = (x - x.mean(0)).bfloat16()
    rough = torch.linalg.eigvalsh((half.T @ half).double()).flip(0)
    exact = fit_power_law(eigenspectrum(half.double()), num_samples=2000).alpha
    return abs(fit_power_law(rough, num_samples=2000).alpha - exact).item()


def main() -> None:
    options = arguments(__doc__)
    n, d, repeats = (300, 64, 1) if options.smoke else (10_000, 512, 15)
    matrix = torch.cov(torch.randn(d, 2 * d, dtype=torch.float64))
    solvers = {
        "eigvalsh of torch": lambda: torch.linalg.eigvalsh(matrix),
        "eigvalsh of numpy": lambda: np.linalg.eigvalsh(matrix.numpy()),
    }
    policy = os.environ.get(PASSIVE, "default")
    rows = [{"what": f"d = {d}, {PASSIVE} {policy}", "ms": interleaved(solvers, repeats, 2)}]
    if policy == "passive":  # the child, which was asked for this line alone
        write(options, "tried_passive", rows)
        return
    for width, count in ((d // 4, n), (d, n)):
        x = features(count, width)
        tried = {f"blocks of {c}": lambda c=c, x=x: blocks(x, c) for c in (32, 64, 128, 256, width)}
        tried["plain product"] = lambda x=x: x.T @ x
        rows.append({"what": f"{count} × {width}", "ms": interleaved(tried, repeats, 1)})
    x = features(5 * n, d)
    tried = {f"chunks of {r}": lambda r=r: chunks(x, r) for r in (512, 1024, 2048, 4096)}
    tried["plain product"] = lambda: x.T @ x
    rows.append({"what": f"{5 * n} × {d}", "ms": interleaved(tried, repeats, 1)})
    shifts = {f"bfloat16 products, α = {alpha}": shift_by_half_products(alpha) for alpha in (1, 2)}
    rows.append({"what": "error of α", "values": shifts})
    write(options, "tried", rows)
    command = [sys.executable, "-m", "benchmarks.tried", "--out", str(options.out)]
    command += ["--smoke"] if options.smoke else []
    subprocess.run(command, env={**os.environ, PASSIVE: "passive"}, check=True)


if __name__ == "__main__":
    main()
