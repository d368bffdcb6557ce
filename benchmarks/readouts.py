"""α and RankMe against labelled readouts, in seconds, on the same features."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, resnet50

from alphareq_lightning import RankMe, eigenspectrum, fit_power_law
from alphareq_lightning.readout import extract_features, read_out
from alphareq_lightning.readout.probes import PROBES
from benchmarks.peers import features
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

SIZES = [(10_000, 512), (50_000, 512), (10_000, 2048), (50_000, 2048)]
"""Labelled training images × features; α is of the same."""
TEST_IMAGES = 10_000
CLASSES = 10
NETWORKS: dict[int, tuple[Any, int, int]] = {512: (resnet18, 32, 512), 2048: (resnet50, 224, 32)}
"""By features: the network, pixels, and how many images its time is measured on."""
REPEATS = 3


def classified(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Features with λ_k = 1/k along random axes, and noisy labels that are linear in them.

    Ten classes favour the readouts: the time of a linear one grows with their number.
    """
    generator = torch.Generator().manual_seed(1)
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator))
    x = features(n, d)
    scores = x @ torch.randn(d, CLASSES, generator=generator)
    scores += 0.5 * scores.std() * torch.randn(n, CLASSES, generator=generator)
    return x @ axes, scores.argmax(dim=1)


def extraction(d: int, images: int) -> dict[str, float]:
    """Milliseconds for one image, as a monitor of own images and every readout pay them."""
    network, pixels, _ = NETWORKS[d]
    model = network()
    model.fc = torch.nn.Identity()
    pictures = torch.randn(images, 3, pixels, pixels)
    loader = DataLoader(TensorDataset(pictures, torch.zeros(images, dtype=torch.int64)), 32)
    device = torch.device("cpu")
    times = interleaved({"extract": lambda: extract_features(model, loader, device)}, REPEATS)
    return {clock: times["extract"][clock] / images for clock in ("median", "cpu")}


def main() -> None:
    options = arguments(__doc__)
    rows, an_image = [], {}
    for n, d in [(200, 512)] if options.smoke else SIZES:
        test_images = 50 if options.smoke else TEST_IMAGES
        if d not in an_image:
            an_image[d] = extraction(d, 8 if options.smoke else NETWORKS[d][2])
        x, y = classified(n + test_images, d)
        sides = (x[:n].contiguous(), y[:n], x[n:].contiguous(), y[n:])

        def alpha(x: Tensor = sides[0]) -> float:
            return fit_power_law(eigenspectrum(x), num_samples=len(x)).alpha.item()

        accuracies: dict[str, float] = {}

        def probe(name: Any, sides: Any = sides, top1: dict[str, float] = accuracies) -> None:
            top1[name] = read_out(*sides, probe=name).top1

        times = interleaved(
            {
                "alpha": alpha,
                "rankme": lambda x=sides[0]: RankMe()(x),
                **{name: partial(probe, name) for name in PROBES},
            },
            1 if options.smoke else REPEATS,
            warmup=0,
        )
        extracted = {clock: round(ms * n, 3) for clock, ms in an_image[d].items()}
        about = {"n": n, "d": d, "test_images": test_images, "top1": accuracies}
        rows.append({**about, "ms": {"extract": extracted, **times}})
    write(options, "readouts", rows)


if __name__ == "__main__":
    main()
