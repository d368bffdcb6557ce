"""α against reptrix, scikit-learn's PCA, svdvals and the naive limit, on the same features."""

from __future__ import annotations

from typing import Any

import torch
from reptrix.alpha import get_alpha
from sklearn.decomposition import PCA

from alphareq_lightning import AlphaReQ, eigenspectrum, fit_power_law
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

PEER_SIZES = [(20_000, 2048), (20_000, 1280), (512, 1280)]
"""Sizes of the targets against reptrix."""
REPEATS = (5, 15)
"""Of large and of small sizes."""


def features(n: int, d: int) -> torch.Tensor:
    """Gaussian features with λ_k = 1/k and a mean of the size of the spread, float32."""
    scale = torch.arange(1, d + 1) ** -0.5
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)) * scale + scale


def ours(x: torch.Tensor) -> float:
    return fit_power_law(eigenspectrum(x), num_samples=len(x)).alpha.item()


def streamed(x: torch.Tensor) -> float:
    metric = AlphaReQ()
    for batch in x.split(1024):
        metric.update(batch)
    return metric.compute().item()


def naive(x: torch.Tensor) -> Any:
    """One product and one solve, not even centred: the limit."""
    return torch.linalg.eigvalsh((x.T @ x).double())


def main() -> None:
    options = arguments(__doc__)
    sizes = [(200, 128), (120, 160)] if options.smoke else PEER_SIZES
    rows = []
    for n, d in sizes:
        x = features(n, d)
        # reptrix moves what it is given, and numpy is what scikit-learn wants anyway.
        times = interleaved(
            {
                "ours": lambda x=x: ours(x),
                "streamed": lambda x=x: streamed(x),
                "reptrix": lambda x=x: get_alpha(x),
                "sklearn": lambda x=x: PCA().fit(x.numpy()).explained_variance_,
                "svdvals": lambda x=x: torch.linalg.svdvals(x),
                "naive": lambda x=x: naive(x),
            },
            1 if options.smoke else REPEATS[n < 1000],
            warmup=0 if options.smoke else 1,
        )
        rows.append({"n": n, "d": d, "ms": times})
    write(options, "peers", rows)


if __name__ == "__main__":
    main()
