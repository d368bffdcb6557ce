"""Images for measuring and reading out models that were trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Subset

from alphareq_lightning.errors import DataError
from alphareq_lightning.posthoc.models import instantiate, read_config
from alphareq_lightning.readout import features_key
from alphareq_lightning.recipes import DigitsDataModule, ImageFolderDataModule, plain_view
from alphareq_lightning.recipes.datamodules import MIN_IMAGES
from alphareq_lightning.recipes.images import (
    ImageFiles,
    Images,
    collate_images,
    collate_labelled,
    few_of_each_class,
    find_images,
)
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

    @property
    def key(self) -> str:
        """Names the images: file names, sizes and times of a folder; all options otherwise."""
        folder = Path(str(self.data))
        files = []
        if self.data is not None and folder.is_dir():
            for path in find_images(folder)[0]:
                stat = path.stat()
                files.append((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns))
        config = None if self.config is None else read_config(self.config).get("data")
        return features_key(self._replace(config=None, batch_size=0, num_workers=0), files, config)


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
        module = instantiate(LightningDataModule, section, f"the config {options.config}")
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
