"""Where un-augmented images come from: held-out ones without labels, labelled ones to read out."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Subset, TensorDataset

from alphareq_lightning.errors import DataError
from alphareq_lightning.load.images import (
    ImageFiles,
    Images,
    class_indices,
    collate_images,
    collate_labelled,
    few_of_each_class,
    find_images,
    labels_of,
    some_indices,
    split_indices,
)
from alphareq_lightning.load.models import instantiate, read_config
from alphareq_lightning.load.preprocessing import (
    DIGITS,
    RECIPE,
    STATISTICS,
    Preprocessing,
    View,
    normalised_view,
    plain_view,
)

HELDOUT_FOLDERS = ("test", "val")
READOUT_HOLDOUT = 0.25
"""Share of a folder without parts that a readout is tested on."""
DIGITS_HOLDOUT = 1 / 3


class Split(NamedTuple):
    """Datasets of ``(image, label)``, and the indices of each part in its own; no overlap."""

    train: Any
    train_indices: Sequence[int]
    heldout: Any
    heldout_indices: Sequence[int]


def digit_images(image_size: int, holdout: float = DIGITS_HOLDOUT, seed: int = 0) -> Split:
    """The 1,797 digits of 8×8 pixels that scikit-learn ships, enlarged, uint8 in memory.

    Raises:
        DataError: If scikit-learn is missing, or a part would be empty.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn: pip install 'alphareq-lightning[demo]'"
        ) from error
    digits = load_digits()
    gray = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    large = interpolate(gray, (image_size, image_size), mode="bilinear").expand(-1, 3, -1, -1)
    images = TensorDataset((large * 255).round().byte(), torch.tensor(digits.target))
    train, heldout = split_indices(len(images), holdout, seed)
    return Split(images, train, images, heldout)


def folder_images(folder: Path, holdout: float, seed: int = 0) -> Split:
    """Image files in a folder: ``train`` and ``test`` or ``val`` inside, else split by chance.

    Raises:
        DataError: If there is no image, or a part would be empty.
    """
    heldout_folder = _heldout_folder(folder)
    if heldout_folder is not None and (folder / "train").is_dir():
        train_paths, train_names = find_images(folder / "train")
        heldout_paths, heldout_names = find_images(heldout_folder)
        train_labels, heldout_labels = class_indices(train_names, heldout_names)
        train = ImageFiles(train_paths, train_labels)
        heldout = ImageFiles(heldout_paths, heldout_labels)
        return Split(train, range(len(train)), heldout, range(len(heldout)))
    paths, names = find_images(folder)
    images = ImageFiles(paths, *class_indices(names))
    train_indices, heldout_indices = split_indices(len(images), holdout, seed)
    return Split(images, train_indices, images, heldout_indices)


def _heldout_folder(folder: Path) -> Path | None:
    return next((folder / name for name in HELDOUT_FOLDERS if (folder / name).is_dir()), None)


class ImageSource(ABC):
    """Un-augmented images.

    Args:
        batch_size: Images in a batch.
        num_workers: Worker processes of each loader.
        max_images: Use at most this many held-out images, and as many to train a readout on; drawn
            by chance, the same ones for one seed.
        seed: Of that.
    """

    def __init__(
        self,
        *,
        batch_size: int = 256,
        num_workers: int = 0,
        max_images: int | None = None,
        seed: int = 0,
    ) -> None:
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.max_images = max_images
        self.seed = seed

    @abstractmethod
    def heldout(self) -> Iterable[Any]:
        """Batches of held-out images; their labels are left out.

        Raises:
            DataError: If there are none.
        """

    @abstractmethod
    def labelled_datasets(self) -> tuple[Any, Any]:
        """Datasets of ``(image, label)`` to train and to test a readout on.

        Raises:
            DataError: If there are none.
        """

    def labelled(
        self, labels_per_class: int | None = None
    ) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Batches of ``(images, labels)``, to train and to test a readout on.

        Args:
            labels_per_class: At most this many labels of each class to train on.

        Raises:
            DataError: If the images have no labels, or none that a readout could learn.
        """
        train, test = map(self._at_most, self.labelled_datasets())
        _check_labels(train, test)
        if labels_per_class is not None:
            train = few_of_each_class(train, labels_per_class)
        return self._loader(train, collate_labelled), self._loader(test, collate_labelled)

    def _at_most(self, images: Any) -> Any:
        if self.max_images is None or self.max_images >= len(images):
            return images
        return Subset(images, some_indices(len(images), self.max_images, self.seed))

    def _loader(self, images: Any, collate: Any) -> DataLoader[Any]:
        return DataLoader(
            images,
            self.batch_size,
            collate_fn=collate,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # a loader draws its seed from the global state otherwise
        )


class DigitImages(ImageSource):
    """The digits that scikit-learn ships; held out are those of `DigitsDataModule`.

    Args:
        preprocessing: The digits are enlarged to its size, whole, and normalised by it.
        options: Of `ImageSource`.
    """

    def __init__(self, preprocessing: Preprocessing = DIGITS, **options: Any) -> None:
        super().__init__(**options)
        self.view: View = normalised_view(preprocessing.mean, preprocessing.std)
        self.image_size = preprocessing.image_size

    def heldout(self) -> Iterable[Any]:
        """Batches of the held-out digits."""
        return self._loader(self._at_most(self.labelled_datasets()[1]), collate_images)

    def labelled_datasets(self) -> tuple[Any, Any]:
        """Both parts."""
        return _both_parts(digit_images(self.image_size), self.view)


class FolderImages(ImageSource):
    """A folder of images, with or without class folders.

    Held out is what is in ``test`` or ``val`` inside, and else all of it.

    Args:
        folder: Where the images are.
        preprocessing: How they are prepared.
        options: Of `ImageSource`.
    """

    def __init__(self, folder: Path, preprocessing: Preprocessing = RECIPE, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.view: View = plain_view(**preprocessing._asdict())

    def heldout(self) -> Iterable[Any]:
        """Batches of the held-out files."""
        paths, _ = find_images(_heldout_folder(self.folder) or self.folder)
        images = Images(ImageFiles(paths), self.view)
        return self._loader(self._at_most(images), collate_images)

    def labelled_datasets(self) -> tuple[Any, Any]:
        """Both parts; labels are the first-level class folders."""
        return _both_parts(folder_images(self.folder, READOUT_HOLDOUT), self.view)


class DataModuleImages(ImageSource):
    """The images of somebody's LightningDataModule, prepared as it prepares them.

    Args:
        datamodule: Ready to give its loaders; its ``alpha_dataloader``, or else its
            ``val_dataloader``, gives the held-out images.
        options: Of `ImageSource`; the batches of held-out images have the DataModule's size.
    """

    def __init__(self, datamodule: Any, **options: Any) -> None:
        super().__init__(**options)
        self.datamodule = datamodule

    def heldout(self) -> Iterable[Any]:
        """Batches as its loader gives them."""
        make = getattr(self.datamodule, "alpha_dataloader", None) or self.datamodule.val_dataloader
        loader = make()
        if self.max_images is None or not isinstance(loader, DataLoader):
            return loader  # type: ignore[no-any-return]
        return DataLoader(
            self._at_most(loader.dataset),
            loader.batch_size,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
        )

    def labelled_datasets(self) -> tuple[Any, Any]:
        """What its ``readout_datasets`` gives."""
        give = getattr(self.datamodule, "readout_datasets", None)
        if give is None:
            raise DataError(
                f"{type(self.datamodule).__name__} has no readout_datasets() that gives two "
                "labelled datasets, to train and to test a readout on; add it, or take the "
                "images from a folder of class folders"
            )
        train, test = give()
        return train, test


def image_source(
    data: str | Path | Any = None,
    *,
    config: Path | None = None,
    preprocessing: Preprocessing | None = None,
    image_size: int | None = None,
    statistics: str | None = None,
    **options: Any,
) -> ImageSource:
    """The images that a name, a folder, a config or a DataModule stands for.

    Args:
        data: ``"digits"``, a folder of images, or a LightningDataModule, which is set up here;
            `None` for the ``data`` section of ``config``.
        config: A LightningCLI config.
        preprocessing: What the network expects, as `Architecture` says it. `None` for what the
            recipe does with digits, or with a folder. A DataModule prepares its images itself.
        image_size: Side in pixels, instead of that.
        statistics: ``"cifar"`` or ``"imagenet"``, whose channels to normalise by instead.
        options: Of `ImageSource`.

    Raises:
        DataError: If nothing says which images.
        OptionError: If the config describes no DataModule.
    """
    if isinstance(data, str | Path):
        prepared = preprocessing or (DIGITS if data == "digits" else RECIPE)
        if image_size is not None:
            prepared = prepared._replace(image_size=image_size)
        if statistics is not None:
            mean, std = STATISTICS[statistics]
            prepared = prepared._replace(mean=mean, std=std)
        if data == "digits":
            return DigitImages(prepared, **options)
        return FolderImages(Path(data), prepared, **options)
    if data is None:
        data = _datamodule_of(config)
    data.prepare_data()
    data.setup("fit")
    return DataModuleImages(data, **options)


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


def _both_parts(split: Split, view: View) -> tuple[Images, Images]:
    train = Images(split.train, view, split.train_indices)
    return train, Images(split.heldout, view, split.heldout_indices)


def _check_labels(train: Any, test: Any) -> None:
    """Find what would spoil every readout before the first one is paid."""
    train_labels, test_labels = labels_of(train), labels_of(test)
    missing = sum(label < 0 for label in (*train_labels, *test_labels))
    if missing:
        raise DataError(
            f"{missing} of the images have no labels; a readout needs them: class folders"
        )
    classes = set(train_labels)
    if len(classes) < 2:
        raise DataError(
            f"a readout needs images of at least two classes, got {len(train_labels)} of "
            f"{len(classes)}; put each class into a folder of its own"
        )
    if not classes & set(test_labels):
        raise DataError("the images to train on and those to test on have no class in common")


def _datamodule_of(config: Path | None) -> Any:
    from lightning.pytorch import LightningDataModule

    if config is None:
        raise DataError(
            "say which images, by --data digits, --data FOLDER, or a --config with data"
        )
    where = f"the config {config}"
    return instantiate(LightningDataModule, read_config(config).get("data"), where, option="--data")
