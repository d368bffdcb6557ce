"""Tried: the largest eigenvalues alone, by block Krylov iteration, against all by eigvalsh."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.timing import arguments, interleaved, write

RANKS = 100
"""Last rank of the default fit window."""
BLOCK = 128
STEPS = 10


def krylov(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """The `RANKS` largest eigenvalues, by Rayleigh-Ritz in an orthonormal block Krylov space."""
    d = matrix.shape[0]
    generator = torch.Generator().manual_seed(1)
    block = torch.linalg.qr(torch.randn(d, BLOCK, dtype=matrix.dtype, generator=generator)).Q
    basis, images = block, matrix @ block
    for _ in range(steps - 1):
        block = images[:, -BLOCK:]
        for _ in range(2):  # once leaves rounding behind
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        basis = torch.cat([basis, block], dim=1)
        images = torch.cat([images, matrix @ block], dim=1)
    return torch.linalg.eigvalsh(basis.T @ images).flip(0)[:RANKS]


def planted(alpha: float, d: int) -> Tensor:
    """A covariance with λ_k = k^−α in a random basis."""
    generator = torch.Generator().manual_seed(0)
    values = torch.arange(1, d + 1, dtype=torch.float64) ** -alpha
    reflection = torch.nn.functional.normalize(
        torch.randn(d, 4, dtype=torch.float64, generator=generator), dim=0
    )
    matrix = torch.diag(values)
    for v in reflection.T:
        matrix -= 2 * torch.outer(v, v @ matrix)
        matrix -= 2 * torch.outer(matrix @ v, v)
    return matrix


def main() -> None:
    options = arguments(__doc__)
    rows = []
    steps = 2 if options.smoke else STEPS
    for d in (400,) if options.smoke else (2048, 4096):
        for alpha in (1.0,) if options.smoke else (0.2, 0.5, 1.0, 2.0):
            matrix = planted(alpha, d)
            truth = torch.arange(1, RANKS + 1, dtype=torch.float64) ** -alpha
            error = krylov(matrix, steps) / truth - 1
            row = {"d": d, "alpha": alpha, "worst_relative_error": error.abs().max().item()}
            if alpha == 1.0:
                row["ms"] = interleaved(
                    {
                        "top 100": lambda m=matrix: krylov(m, steps),
                        "eigvalsh": lambda m=matrix: torch.linalg.eigvalsh(m),
                        "eigvalsh float32": lambda m=matrix: torch.linalg.eigvalsh(m.float()),
                    },
                    repeats=1 if options.smoke or d > 2048 else 3,
                    warmup=0 if d > 2048 else 1,
                )
                single = torch.linalg.eigvalsh(matrix.float()).flip(0)[:RANKS].double()
                row["worst_relative_error_float32"] = (single / truth - 1).abs().max().item()
            rows.append(row)
    write(options, "topk", rows)


if __name__ == "__main__":
    main()
