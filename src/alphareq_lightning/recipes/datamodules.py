"""DataModules for self-supervised training: two views to train on, plain images to measure on.

Images of one size are kept in memory, where the views can be made of a whole batch: those to
train on are then made on the device, when the batch is there.

Held-out images never overlap the training images, and their labels are never given out with
them: only `readout_datasets` hands out labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets

from alphareq_lightning.errors import DataError
from alphareq_lightning.load.images import (
    Images,
    Pixels,
    collate_images,
    pixels_in_memory,
    some_indices,
    untouched,
)
from alphareq_lightning.load.preprocessing import DIGITS, BatchableView, View
from alphareq_lightning.load.sources import DIGITS_HOLDOUT, Split, digit_images, folder_images
from alphareq_lightning.recipes.views import TwoViews, barlow_twins_view, digit_view, plain_view

MIN_IMAGES = 2
"""Barlow Twins compares images of a batch; one alone has no loss."""


class ViewsDataModule(pl.LightningDataModule):
    """What all DataModules here share: loaders of views over a training and a held-out part.

    Args:
        view: One random view of an image; a `BatchableView` is made of whole batches where the
            images are in memory.
        plain: The un-augmented image, likewise.
        batch_size: Images in a batch, on each rank.
        num_workers: Worker processes of each loader.
        max_train: Use at most this many training images, chosen by ``seed``.
        max_heldout: Use at most this many held-out images, chosen by ``seed``.
        seed: Of the split and of the subsets.
    """

    def __init__(
        self,
        view: View,
        plain: View,
        *,
        batch_size: int,
        num_workers: int = 0,
        max_train: int | None = None,
        max_heldout: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "max_train": max_train, "max_heldout": max_heldout}
        for name, size in sizes.items():
            if size is not None and size < MIN_IMAGES:
                raise DataError(f"expected {name} >= {MIN_IMAGES}, got {size}")
        self.view = view
        self.plain = plain
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.max_train = max_train
        self.max_heldout = max_heldout
        self.seed = seed
        self._pixels: dict[str, Tensor | None] = {}

    @abstractmethod
    def sources(self) -> Split:
        """Training dataset and indices, held-out dataset and indices, of ``(image, label)``."""

    def setup(self, stage: str) -> None:
        """Find the images, once.

        Raises:
            DataError: If images are missing, or too few for one batch.
        """
        if hasattr(self, "train_source"):
            return
        train, train_indices, heldout, heldout_indices = self.sources()
        self.train_source, self.heldout_source = train, heldout
        self.train_indices = self._at_most(train_indices, self.max_train)
        self.heldout_indices = self._at_most(heldout_indices, self.max_heldout)
        if self.batch_size > len(self.train_indices):
            raise DataError(
                f"batch_size={self.batch_size} leaves no whole batch of "
                f"{len(self.train_indices)} training images; choose a smaller batch"
            )
        if len(self.heldout_indices) < MIN_IMAGES:
            raise DataError(
                f"expected at least {MIN_IMAGES} held-out images, "
                f"got {len(self.heldout_indices)}; hold out more"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches ``(view_a, view_b)`` of training images.

        Images in memory come as they are: `on_after_batch_transfer` makes the views.
        """
        dataset, batched = self._images("train", TwoViews(self.view), self.view)
        collate = collate_images if batched is None else untouched
        return self._loader(dataset, collate, shuffle=True, drop_last=self._is_whole(dataset))

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches ``(view_a, view_b)`` of held-out images."""
        dataset, batched = self._images("heldout", TwoViews(self.view), self.view)
        collate = collate_images if batched is None else TwoViews(batched)
        return self._loader(dataset, collate, drop_last=self._is_whole(dataset))

    def alpha_dataloader(self) -> DataLoader[Any]:
        """Batches of held-out images as they are, for `AlphaMonitor`."""
        dataset, batched = self._images("heldout", self.plain, self.plain)
        return self._loader(dataset, collate_images if batched is None else batched)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make both views of images to train on, where they are; nothing else is augmented."""
        training = self.trainer is not None and self.trainer.training
        are_pixels = isinstance(batch, Tensor) and batch.dtype == torch.uint8
        if training and are_pixels and isinstance(self.view, BatchableView):
            return TwoViews(self.view.batch)(batch)
        return batch

    def readout_datasets(self) -> tuple[Images, Images]:
        """Un-augmented ``(image, label)`` datasets to train and to test a readout on.

        Raises:
            DataError: If the images have no labels.
        """
        self.setup("fit")
        train = Images(self.train_source, self.plain, self.train_indices)
        heldout = Images(self.heldout_source, self.plain, self.heldout_indices)
        if train[0][1] < 0 or heldout[0][1] < 0:
            raise DataError("these images have no labels; a readout needs class folders or classes")
        return train, heldout

    def _at_most(self, indices: Sequence[int], limit: int | None) -> Sequence[int]:
        if limit is None:
            return indices
        return [indices[i] for i in some_indices(len(indices), limit, self.seed)]

    def _images(
        self, side: str, each: Callable[[Any], Any], view: View
    ) -> tuple[Any, Callable[[Tensor], Tensor] | None]:
        """The images of one side, and how ``view`` is made of a batch if they are in memory."""
        source, indices = getattr(self, f"{side}_source"), getattr(self, f"{side}_indices")
        if isinstance(view, BatchableView):
            if side not in self._pixels:
                self._pixels[side] = pixels_in_memory(source, indices)
            pixels = self._pixels[side]
            if pixels is not None:
                return Pixels(pixels), view.batch
        return Images(source, each, indices), None

    def _is_whole(self, dataset: Any) -> bool:
        """Whether a short last batch can be left out.

        The loss of few images is noise, and of one image it is not defined.
        """
        return len(dataset) > self.batch_size

    def _loader(
        self, dataset: Any, collate: Callable[[Any], Any], **options: Any
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            self.batch_size,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )


class DigitsDataModule(ViewsDataModule):
    """1,797 scanned digits that scikit-learn ships, 8×8 pixels, enlarged: no download.

    Args:
        image_size: Side in pixels, after enlarging.
        batch_size: Images in a batch.
        holdout: Share of the images that is held out.
        options: Of `ViewsDataModule`.
    """

    def __init__(
        self,
        image_size: int = 16,
        batch_size: int = 128,
        holdout: float = DIGITS_HOLDOUT,
        **options: Any,
    ) -> None:
        super().__init__(digit_view(), DIGITS.normalised(), batch_size=batch_size, **options)
        self.image_size = image_size
        self.holdout = holdout

    def sources(self) -> Split:
        """The digits, as uint8 tensors in memory."""
        return digit_images(self.image_size, self.holdout, self.seed)


class ImageFolderDataModule(ViewsDataModule):
    """A folder of images, with or without class folders.

    Subfolders ``train`` and ``test`` or ``val`` are used as they are; any other folder is split.
    Labels are the first-level class folders, and are used by `readout_datasets` only.

    Args:
        folder: Where the images are.
        image_size: Side of the views in pixels.
        batch_size: Images in a batch, on each rank.
        holdout: Share of the images that is held out, where the folder says nothing.
        crop_scale: Area of the random crops as a share of the image.
        options: Of `ViewsDataModule`.
    """

    def __init__(
        self,
        folder: str,
        image_size: int = 32,
        batch_size: int = 256,
        holdout: float = 0.1,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        **options: Any,
    ) -> None:
        view = barlow_twins_view(image_size, crop_scale=crop_scale)
        super().__init__(view, plain_view(image_size), batch_size=batch_size, **options)
        self.folder = Path(folder)
        self.holdout = holdout

    def sources(self) -> Split:
        """The files, split by folder or by chance."""
        return folder_images(self.folder, self.holdout, self.seed)


class _TorchvisionDataModule(ViewsDataModule):
    """A dataset of torchvision: trains on one split, holds out another."""

    def __init__(
        self,
        root: str = "data",
        image_size: int = 32,
        batch_size: int = 256,
        num_workers: int = 4,
        download: bool = False,
        **options: Any,
    ) -> None:
        view, plain = barlow_twins_view(image_size), plain_view(image_size)
        super().__init__(view, plain, batch_size=batch_size, num_workers=num_workers, **options)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download once per machine, before any rank reads."""
        if self.download:
            self.setup("fit")

    @abstractmethod
    def split(self, train: bool) -> Any:
        """The torchvision dataset of one side."""

    def sources(self) -> Split:
        """Both sides."""
        try:
            train, heldout = self.split(True), self.split(False)
        except RuntimeError as error:
            raise DataError(f"{error} (root={self.root!r})") from error
        return Split(train, range(len(train)), heldout, range(len(heldout)))


class CIFAR10DataModule(_TorchvisionDataModule):
    """torchvision's CIFAR-10: trains on 50,000 images, measures on the 10,000 test images."""

    def split(self, train: bool) -> Any:
        """Training or test images."""
        return datasets.CIFAR10(self.root, train=train, download=self.download)


class STL10DataModule(_TorchvisionDataModule):
    """torchvision's STL-10: trains on 100,000 unlabeled images, measures on the 8,000 test images.

    `readout_datasets` trains the readout on the 5,000 labelled images.
    """

    def split(self, train: bool) -> Any:
        """The unlabeled or the test images."""
        name = "unlabeled" if train else "test"
        return datasets.STL10(self.root, split=name, download=self.download)

    def readout_datasets(self) -> tuple[Images, Images]:
        """The labelled training and test images, un-augmented."""
        labelled = datasets.STL10(self.root, split="train", download=self.download)
        return Images(labelled, self.plain), Images(self.split(False), self.plain)
