"""Images to profile on: a folder, or the digits that scikit-learn ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from alphareq_lightning.load.architectures import ProfiledModel
from alphareq_lightning.load.images import ImageFiles, Images, collate_images, find_images
from alphareq_lightning.recipes import DigitsDataModule, plain_view

DIGIT_SIZE = 32


def image_loader(
    folder: Path | None,
    model: ProfiledModel,
    *,
    image_size: int | None = None,
    max_images: int = 2000,
    batch_size: int = 64,
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Un-augmented images, resized and normalised for the model; labels are left out.

    Args:
        folder: Images, in subfolders or not, or `None` for the digits.
        model: Says how large its images are and how they are normalised.
        image_size: Side in pixels, instead of what the model expects (32 for the digits).
        max_images: Use at most this many, spread evenly over the sorted files.
        batch_size: Images in a batch.
        num_workers: Worker processes.

    Raises:
        DataError: If there is no image.
    """
    dataset: Any
    if folder is None:
        size = image_size or DIGIT_SIZE
        dataset = DigitsDataModule(size).sources()[0]
        steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(model.mean, model.std)]
        transform: Any = v2.Compose(steps)
    else:
        dataset = ImageFiles(find_images(folder)[0])
        size = image_size or model.image_size
        transform = plain_view(size, mean=model.mean, std=model.std)
    count = min(max_images, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    return DataLoader(
        Images(dataset, transform, indices),
        batch_size,
        collate_fn=collate_images,
        num_workers=num_workers,
        generator=torch.Generator(),  # a loader draws its seed from the global state otherwise
    )
