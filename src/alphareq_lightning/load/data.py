"""Images for measuring and reading out models that were trained before."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from alphareq_lightning.errors import DataError
from alphareq_lightning.load.images import (
    ImageFiles,
    Images,
    collate_images,
    collate_labelled,
    few_of_each_class,
    find_images,
    labels_of,
)
from alphareq_lightning.load.models import instantiate, read_config
from alphareq_lightning.recipes import DigitsDataModule, ImageFolderDataModule, plain_view
from alphareq_lightning.recipes.datamodules import MIN_IMAGES
from alphareq_lightning.recipes.views import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD

STATISTICS = {"cifar": (CIFAR_MEAN, CIFAR_STD), "imagenet": (IMAGENET_MEAN, IMAGENET_STD)}
HELDOUT_FOLDERS = ("test", "val")
READOUT_HOLDOUT = 0.25


class DataOptions(NamedTuple):
    """Which images, and how they are prepared."""

    data: str | None = None
    """``"digits"``, a folder of images, or `None` for the ``data`` section of ``config``."""
    config: Path | None = None
    image_size: int = 32
    statistics: str = "cifar"
    batch_size: int = 256
    num_workers: int = 0
    max_images: int | None = None
    """At most this many held-out images, and as many to train a readout on."""
    labels_per_class: int | None = None
    """At most this many labels of each class to train a readout on."""


def unlabeled_loader(options: DataOptions) -> Any:
    """Batches of un-augmented held-out images.

    Of a folder with ``test`` or ``val`` inside that part, of any other folder all images.

    Raises:
        DataError: If there are none.
    """
    folder = None if options.data in (None, "digits") else Path(str(options.data))
    if folder is None:
        module = _datamodule(options)
        make = getattr(module, "alpha_dataloader", None) or module.val_dataloader
        return _shortened(make(), options.max_images)
    inside = next((folder / n for n in HELDOUT_FOLDERS if (folder / n).is_dir()), folder)
    paths, _ = find_images(inside)
    mean, std = STATISTICS[options.statistics]
    images = Images(ImageFiles(paths), plain_view(options.image_size, mean=mean, std=std))
    return DataLoader(
        _at_most(images, options.max_images),
        options.batch_size,
        collate_fn=collate_images,
        num_workers=options.num_workers,
    )


def labelled_loaders(options: DataOptions) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Batches of un-augmented ``(image, label)``, to train and to test a readout on.

    Raises:
        DataError: If the images have no labels.
    """
    module = _datamodule(options)
    if not hasattr(module, "readout_datasets"):
        raise DataError(
            f"{type(module).__name__} has no method readout_datasets() that gives labelled "
            "training and test images; add it, or pass --data with a folder of class folders"
        )
    train, test = module.readout_datasets()
    train, test = (_at_most(images, options.max_images) for images in (train, test))
    _check_labels(train, test)
    if options.labels_per_class is not None:
        train = few_of_each_class(train, options.labels_per_class)
    return tuple(
        DataLoader(
            images,
            options.batch_size,
            collate_fn=collate_labelled,
            num_workers=options.num_workers,
        )
        for images in (train, test)
    )  # type: ignore[return-value]


def fingerprint(images: Any) -> Any:
    """What a dataset of images consists of: names, sizes and times of files, and transforms."""
    if isinstance(images, Subset):
        return list(images.indices), fingerprint(images.dataset)
    if isinstance(images, Images):
        return list(images.indices), _shown(images.transform), fingerprint(images.dataset)
    if isinstance(images, ImageFiles):
        stats = ((path, path.stat()) for path in images.paths)
        return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    if isinstance(images, TensorDataset):
        return [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in images.tensors]
    return type(images).__qualname__, len(images), _shown(images)


def _shown(thing: Any) -> str:
    """Its `repr`, without what differs from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _check_labels(train: Any, test: Any) -> None:
    """Find what would spoil every readout before the first one is paid."""
    train_labels, test_labels = labels_of(train), labels_of(test)
    missing = sum(label < 0 for label in (*train_labels, *test_labels))
    if missing:
        raise DataError(f"{missing} images have no label; a readout needs class folders")
    classes = set(train_labels)
    if len(classes) < 2:
        raise DataError(
            f"a readout needs images of at least two classes, got {len(train_labels)} of "
            f"{len(classes)}; put each class into a folder of its own"
        )
    if not classes & set(test_labels):
        raise DataError("the images to train on and those to test on have no class in common")


def _datamodule(options: DataOptions) -> Any:
    from lightning.pytorch import LightningDataModule

    if options.data == "digits":
        module: Any = DigitsDataModule(batch_size=options.batch_size)
    elif options.data is not None:
        mean, std = STATISTICS[options.statistics]
        # Its batches are for training, and refused where the folder is smaller than one.
        module = ImageFolderDataModule(
            options.data, options.image_size, MIN_IMAGES, holdout=READOUT_HOLDOUT
        )
        module.plain = plain_view(options.image_size, mean=mean, std=std)
    elif options.config is not None:
        section = read_config(options.config).get("data")
        where = f"the config {options.config}"
        module = instantiate(LightningDataModule, section, where, option="--data")
    else:
        raise DataError(
            "say which images, by --data digits, --data FOLDER, or a --config with data"
        )
    module.prepare_data()
    module.setup("fit")
    return module


def _shortened(loader: Any, limit: int | None) -> Any:
    if limit is None or not isinstance(loader, DataLoader):
        return loader
    return DataLoader(
        _at_most(loader.dataset, limit),
        loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )


def _at_most(images: Any, limit: int | None) -> Any:
    if limit is None or limit >= len(images):
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Subset(images, sorted(order[:limit].tolist()))
