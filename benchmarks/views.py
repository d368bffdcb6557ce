"""Steps a second of Barlow Twins: views of one image after the other, and of whole batches.

On the settings of the long study: 128 images of 32 pixels, two views of 16, 256 features. Images
are written as JPEG files first, as the study's are; pixels kept in memory are read once. kornia is
measured too where it is installed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import write_jpeg

from alphareq_lightning.recipes import BarlowTwins, ImageFolderDataModule, TwoViews
from alphareq_lightning.recipes.views import CIFAR_MEAN, CIFAR_STD
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

BATCH, SIZE, NUM_IMAGES = 128, 16, 2048
STEPS, REPEATS = 2, 7


def write_images(folder: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    large = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear") * 255
    for index, image in enumerate(large.byte()):
        write_jpeg(image, str(folder / f"{index:05}.jpg"))


def kornia_view() -> Callable[[Tensor], Tensor] | None:
    try:
        from kornia import augmentation as k
    except ImportError:
        return None
    changes = k.AugmentationSequential(
        k.RandomResizedCrop((SIZE, SIZE), scale=(0.08, 1.0), cropping_mode="resample"),
        k.RandomHorizontalFlip(p=0.5),
        k.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.Normalize(torch.tensor(CIFAR_MEAN), torch.tensor(CIFAR_STD)),
    )
    return lambda images: changes(images.float() / 255)


class Training:
    """Steps of one way to make views, as a Trainer makes them."""

    def __init__(self, folder: Path, batch: int, view: str) -> None:
        self.data = ImageFolderDataModule(str(folder), SIZE, batch_size=batch)
        self.batched: Callable[[Tensor], Tensor] | None = {
            "one by one": None,
            "batch": self.data.view.batch,
            "kornia": kornia_view(),
        }[view]
        if self.batched is None:
            self.data.view = self.data.view.one
        self.data.setup("fit")
        self.batches = self.endless()
        torch.manual_seed(0)
        self.module = BarlowTwins(
            backbone_options={"width": [16, 32, 64, 256]}, projector_dim=256, lambd=0.01
        )
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=2e-3)

    def endless(self) -> Any:
        loader = self.data.train_dataloader()
        while True:
            yield from loader

    def views(self) -> tuple[Tensor, Tensor]:
        batch = next(self.batches)
        return batch if self.batched is None else TwoViews(self.batched)(batch)

    def projections(self, view: Tensor) -> Tensor:
        return self.module.projector(self.module(view))

    def steps(self, count: int) -> None:
        for _ in range(count):
            loss = self.module.loss(*map(self.projections, self.views())).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def seconds_of_views(self, count: int) -> float:
        started = time.process_time()
        for _ in range(count):
            self.views()
        return (time.process_time() - started) / count


def main() -> None:
    options = arguments(__doc__)
    batch, count, repeats = (8, 32, 1) if options.smoke else (BATCH, NUM_IMAGES, REPEATS)
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), count)
        ways = ["one by one", "batch"] + ([] if kornia_view() is None else ["kornia"])
        trainings = {way: Training(Path(name), batch, way) for way in ways}
        times = interleaved(
            {way: lambda t=t: t.steps(STEPS) for way, t in trainings.items()}, repeats
        )
        views = {way: t.seconds_of_views(2 * STEPS) for way, t in trainings.items()}
    rows = []
    for way, row in times.items():
        cpu = row["cpu"] / STEPS
        rows.append(
            {
                "views": way,
                "images": batch,
                "ms_per_step": round(row["median"] / STEPS, 1),
                "cpu_ms_per_step": round(cpu, 1),
                "steps_per_second": round(1e3 / cpu, 2),
                "cpu_ms_of_views": round(views[way] * 1e3, 1),
                "share_of_views": round(views[way] * 1e3 / cpu, 3),
                "times_faster": round(times["one by one"]["cpu"] / row["cpu"], 2),
            }
        )
    write(options, "views", rows)


if __name__ == "__main__":
    main()
