"""Is α of few samples, corrected, the α that was planted? A table over n / d.

    python -m experiments.finite_sample

Features of width 2048 with the population spectrum λ_k = k^−α: Gaussian ones, ones with heavy
tails (a Student t with 5 degrees of freedom per sample, or per direction), and Gaussian ones
behind a ReLU, whose population covariance is known in closed form.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphareq_lightning.functional import (
    correct_alpha,
    covariance_eigenvalues,
    eigenspectrum,
    fit_power_law,
)
from benchmarks.results import EXPERIMENTS, options_of, write

WIDTH = 2048
ALPHAS = (0.5, 0.8, 1.0, 1.5)
COVERS = (1.0, 1.28, 2.0)
"""Half widths of the intervals, in standard errors."""


def features(kind: str, alpha: float, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, WIDTH + 1, dtype=torch.float64) ** (-alpha / 2)
    gaussian = torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    if kind == "t per sample":
        return gaussian * scale * torch.tensor(np.sqrt(3 / rng.chisquare(5, size=(n, 1))))
    if kind == "t per direction":
        return torch.tensor(rng.standard_t(5, size=(n, WIDTH)) * math.sqrt(3 / 5)) * scale
    if kind == "relu":
        return ((gaussian * scale) @ basis()).relu()
    return gaussian * scale


def basis() -> Tensor:
    noise = torch.randn(WIDTH, WIDTH, generator=torch.manual_seed(7), dtype=torch.float64)
    return torch.linalg.qr(noise).Q


def population(kind: str, alpha: float) -> Tensor:
    """Eigenvalues of the population covariance, up to a factor."""
    values = torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -alpha
    if kind != "relu":
        return values
    before = basis().T @ (values[:, None] * basis())
    sd = before.diagonal().sqrt()
    angle = (before / torch.outer(sd, sd)).clamp(-1, 1).acos()
    # Second moments and means of rectified Gaussians: Cho and Saul, 2009.
    moments = torch.outer(sd, sd) * (angle.sin() + (math.pi - angle) * angle.cos())
    return covariance_eigenvalues((moments - torch.outer(sd, sd)) / (2 * math.pi))


def measure(kind: str, alpha: float, n: int, window: tuple[int, int], draws: int) -> dict[str, Any]:
    truth = fit_power_law(population(kind, alpha), window).alpha.item()
    raw, seconds = [], 0.0
    found: list[tuple[float, float]] = []
    for seed in range(draws):
        x = features(kind, alpha, n, seed)
        spectrum = eigenspectrum(x)
        whole = fit_power_law(spectrum, window, num_samples=n)
        raw.append(whole.alpha.item())
        started = time.perf_counter()
        inverted = correct_alpha(spectrum, window, num_samples=n, num_features=WIDTH)
        seconds += time.perf_counter() - started
        found.append((inverted.alpha.item(), inverted.stderr.item()))
    values, errors = np.array(found).T
    return {
        "features": kind,
        "planted": alpha,
        "truth": round(truth, 4),
        "n": n,
        "n_over_d": n / WIDTH,
        "window": window,
        "draws": draws,
        "raw": round(float(np.mean(raw)), 4),
        "seconds_per_inversion": round(seconds / draws, 3),
        "inversion": {
            "mean": round(float(values.mean()), 4),
            "sd": round(float(values.std(ddof=1)), 4),
            "stderr": round(float(errors.mean()), 4),
            "covered": {
                str(c): round(float((np.abs(values - truth) <= c * errors).mean()), 2)
                for c in COVERS
            },
        },
    }


def main() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--coverage-draws", type=int, default=100)
    parser.add_argument("--rows", type=Path, default=Path("finite_sample_rows.jsonl"))
    options = parser.parse_args()
    plan = [("gaussian", a, 1024, (11, 100), options.coverage_draws) for a in ALPHAS]
    for n in (256, 512, 2048):
        plan += [("gaussian", a, n, (11, 100), options.draws) for a in ALPHAS]
    plan += [("gaussian", a, 1024, (4, 100), options.draws) for a in ALPHAS]
    for kind in ("relu", "t per direction", "t per sample"):
        plan += [(kind, a, 1024, (11, 100), options.draws) for a in (0.5, 1.0)]
    # A killed run goes on where it was: its rows are one JSON object a line.
    done = options.rows.read_text().splitlines() if options.rows.exists() else []
    for step in plan[len(done) :]:
        with options.rows.open("a") as file:
            file.write(json.dumps(measure(*step)) + "\n")
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    write(options, "finite_sample", rows)
    for row in rows:
        name = f"{row['features']}, ranks {row['window'][0]}–{row['window'][1]}"
        inversion = row["inversion"]
        print(
            f"| {name} | {row['n_over_d']:g} | {row['truth']:.3f} | {row['raw']:.3f} "
            f"| {inversion['mean']:.3f} ± {inversion['sd']:.3f} "
            f"| {inversion['stderr']:.3f} | {inversion['covered']['1.28']:.0%} |"
        )


if __name__ == "__main__":
    main()
