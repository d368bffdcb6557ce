"""Tried: the largest eigenvalues alone, by block Krylov iteration, against all by eigvalsh."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

RANKS = 100
"""Last rank of the default fit window."""
BLOCK = 128


def krylov(matrix: Tensor, steps: int) -> Tensor:
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
    d, ladder = (400, (2,)) if options.smoke else (2048, (6, 8, 10))
    truths = {alpha: torch.arange(1, RANKS + 1).double() ** -alpha for alpha in (0.2, 0.5, 1.0)}
    matrices = {alpha: planted(alpha, d) for alpha in truths}
    solvers: dict[str, Callable[[Tensor], Tensor]] = {
        "eigvalsh": lambda matrix: torch.linalg.eigvalsh(matrix).flip(0),
        "eigvalsh float32": lambda matrix: torch.linalg.eigvalsh(matrix.float()).flip(0),
    }
    for steps in ladder:
        solvers[f"top 100, {steps} steps"] = lambda matrix, steps=steps: krylov(matrix, steps)
    times = interleaved(
        {name: lambda solve=solve: solve(matrices[1.0]) for name, solve in solvers.items()},
        repeats=1 if options.smoke else 3,
    )
    rows = [
        {
            "solver": name,
            "d": d,
            "ms": times[name],
            "worst_relative_error": {
                str(alpha): (solve(matrix)[:RANKS].double() / truths[alpha] - 1).abs().max().item()
                for alpha, matrix in matrices.items()
            },
        }
        for name, solve in solvers.items()
    ]
    write(options, "topk", rows)


if __name__ == "__main__":
    main()
