"""Where un-augmented images come from: held-out ones without labels, labelled ones to read out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from alphareq_lightning._checks import check_count
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

    def through(self, view: View) -> tuple[Images, Images]:
        """Both parts, each image through a view."""
        train = Images(self.train, view, self.train_indices)
        return train, Images(self.heldout, view, self.heldout_indices)

    @classmethod
    def by_chance(cls, images: Any, holdout: float, seed: int) -> Split:
        """One dataset, of which a share is held out, see `split_indices`."""
        train, heldout = split_indices(len(images), holdout, seed)
        return cls(images, train, images, heldout)


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
    return Split.by_chance(images, holdout, seed)


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
    return Split.by_chance(images, holdout, seed)


def _heldout_folder(folder: Path) -> Path | None:
    return next((folder / name for name in HELDOUT_FOLDERS if (folder / name).is_dir()), None)


@dataclass(frozen=True)
class ImageSource:
    """Un-augmented images, held out and labelled."""

    give_heldout: Callable[[], Any]
    """Gives the held-out images: a dataset of ``(image, label)``, or a loader of batches."""
    give_labelled: Callable[[], tuple[Any, Any]]
    """Gives datasets of ``(image, label)`` to train and to test a readout on."""
    batch_size: int = 256
    num_workers: int = 0
    max_images: int | None = None
    """At most this many held-out images, and as many to train a readout on, drawn by chance."""
    seed: int = 0
    """Of that; the same one draws the same images."""

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        check_count("num_workers", self.num_workers, at_least=0)
        if self.max_images is not None:
            check_count("max_images", self.max_images)

    def heldout(self) -> Iterable[Any]:
        """Batches of held-out images; labels are left out, but for those of a DataModule's batches.

        Raises:
            DataError: If there are none.
        """
        images = self.give_heldout()
        if isinstance(images, Dataset):
            return self._loader(self._at_most(images), collate_images)
        if self.max_images is None or not isinstance(images, DataLoader):
            return images  # type: ignore[no-any-return]
        return DataLoader(
            self._at_most(images.dataset),
            images.batch_size,
            collate_fn=images.collate_fn,
            num_workers=images.num_workers,
        )

    def labelled(
        self, labels_per_class: int | None = None
    ) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Batches of ``(images, labels)``, to train and to test a readout on.

        Args:
            labels_per_class: At most this many labels of each class to train on.

        Raises:
            DataError: If the images have no labels, or none that a readout could learn.
        """
        train, test = map(self._at_most, self.give_labelled())
        _check_labels(train, test)
        if labels_per_class is not None:
            train = few_of_each_class(train, labels_per_class)
        return self._loader(train, collate_labelled), self._loader(test, collate_labelled)

    def _at_most(self, images: Any) -> Any:
        if self.max_images is None or self.max_images >= len(images):
            return images
        return Subset(images, some_indices(len(images), self.max_images, self.seed))

    def _loader(self, images: Any, collate: Callable[[Any], Any]) -> DataLoader[Any]:
        return DataLoader(
            images,
            self.batch_size,
            collate_fn=collate,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # a loader draws its seed from the global state otherwise
        )


def from_datamodule(datamodule: Any, **options: Any) -> ImageSource:
    """A LightningDataModule that is set up; it prepares its images itself.

    Held out is what its ``alpha_dataloader``, or else its ``val_dataloader``, gives; labelled what
    its ``readout_datasets`` gives.
    """

    def labelled() -> tuple[Any, Any]:
        if not hasattr(datamodule, "readout_datasets"):
            raise DataError(
                f"{type(datamodule).__name__} has no readout_datasets() that gives two labelled "
                "datasets, to train and to test a readout on; add it, or take a folder of class "
                "folders instead"
            )
        train, test = datamodule.readout_datasets()
        return train, test

    def heldout() -> Any:
        return (getattr(datamodule, "alpha_dataloader", None) or datamodule.val_dataloader)()

    return ImageSource(heldout, labelled, **options)


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
        data: ``"digits"``, of which those are held out that `DigitsDataModule` holds out; a folder
            of images, of which what is in ``test`` or ``val`` inside is held out, and else all; or
            a LightningDataModule, which is set up here. `None` for the one in ``config``.
        config: A LightningCLI config with a ``data`` section.
        preprocessing: What the network expects, as `Architecture` says it; of digits its size and
            its channels only. `None` for what the recipe does with digits, or with a folder. A
            DataModule prepares its images itself.
        image_size: Side in pixels, instead of that.
        statistics: ``"cifar"`` or ``"imagenet"``, whose channels to normalise by instead; or
            ``"none"``, which leaves them in [0, 1].
        options: Of `ImageSource`.

    Raises:
        DataError: If nothing says which images.
        OptionError: If the config describes no DataModule, or a number is none that can be.
    """
    if not isinstance(data, str | Path):
        datamodule = _datamodule_of(config) if data is None else data
        datamodule.prepare_data()
        datamodule.setup("fit")
        return from_datamodule(datamodule, **options)
    prepared = preprocessing or (DIGITS if data == "digits" else RECIPE)
    if image_size is not None:
        check_count("image_size", image_size)
        prepared = prepared._replace(image_size=image_size)
    if statistics is not None:
        mean, std = STATISTICS[statistics]
        prepared = prepared._replace(mean=mean, std=std)
    if data == "digits":

        def both() -> tuple[Images, Images]:
            return digit_images(prepared.image_size).through(prepared.normalised())

        return ImageSource(lambda: both()[1], both, **options)
    folder, view = Path(data), prepared.view()
    return ImageSource(
        lambda: Images(ImageFiles(find_images(_heldout_folder(folder) or folder)[0]), view),
        lambda: folder_images(folder, READOUT_HOLDOUT).through(view),
        **options,
    )


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
