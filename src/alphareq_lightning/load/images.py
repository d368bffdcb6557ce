"""Datasets of images: files in folders, arrays in memory, subsets; with or without labels."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import pil_to_tensor

from alphareq_lightning.errors import DataError, ImageWarning

NO_LABEL = -1
IN_MEMORY_BYTES = 2**32
"""The largest dataset that is kept in memory by every process; STL-10 takes 2.8 GB."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises on files that are cut, damaged, or unreasonably large."""


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files as ``(PIL image, label)``; the image is `None` where a file cannot be read.

    Args:
        paths: The files.
        labels: One class index for each, or `None`.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int] | None = None) -> None:
        self.paths = list(paths)
        self.labels = None if labels is None else list(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label = NO_LABEL if self.labels is None else self.labels[index]
        try:
            with Image.open(self.paths[index]) as image:
                return image.convert("RGB"), label
        except UNREADABLE as error:
            message = f"left out an unreadable image, {self.paths[index]}: {error}"
            warnings.warn(message, ImageWarning, stacklevel=2)
            return None, label


class Images(Dataset[tuple[Any, int]]):
    """Any dataset of ``(image, label)``, cut to some of its indices, through a transform.

    Args:
        dataset: The images.
        transform: Applied to each image.
        indices: Which to use, all by default.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Callable[[Any], Any],
        indices: Sequence[int] | None = None,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.indices = range(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[self.indices[index]]
        return (None if image is None else self.transform(image)), int(label)


class Pixels(Dataset[Tensor]):
    """Images of one size in memory, read a batch at a time.

    Args:
        pixels: Uint8, shape ``(n, 3, h, w)``.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A batch, which a ``collate_fn`` gets as it is."""
        return self.pixels[indices]


def pixels_in_memory(images: Any, indices: Sequence[int]) -> Tensor | None:
    """Uint8 pixels ``(n, 3, h, w)`` of a dataset of ``(image, label)``, unreadable ones left out.

    `None` if the images differ in size or would take more than `IN_MEMORY_BYTES`; the first
    image that differs ends the reading.
    """
    pixels: Tensor | None = None
    count = 0
    for index in indices:
        image = images[index][0]
        if image is None:
            continue
        one = image if isinstance(image, Tensor) else pil_to_tensor(image)
        if pixels is None:
            are_pixels = one.dtype == torch.uint8 and one.ndim == 3 and len(one) == 3
            if not are_pixels or one.numel() * len(indices) > IN_MEMORY_BYTES:
                return None
            pixels = torch.empty(len(indices), *one.shape, dtype=torch.uint8)
        if one.shape != pixels.shape[1:]:
            return None
        pixels[count] = one
        count += 1
    return None if pixels is None else pixels[:count]


def untouched(batch: Any) -> Any:
    """A ``collate_fn`` for batches that are whole already."""
    return batch


def collate_images(samples: list[tuple[Any, int]]) -> Any:
    """Stack images or pairs of views; labels and unreadable images are left out.

    Raises:
        DataError: If no image of the batch could be read.
    """
    return collate_labelled(samples)[0]


def collate_labelled(samples: list[tuple[Any, int]]) -> Any:
    """Stack ``(images, labels)``; unreadable images are left out.

    Raises:
        DataError: If no image of the batch could be read.
    """
    readable = [sample for sample in samples if sample[0] is not None]
    if not readable:
        raise DataError(f"none of the {len(samples)} images of a batch could be read")
    return default_collate(readable)


def labels_of(images: Dataset[Any]) -> list[int]:
    """Labels of a dataset of ``(image, label)``, without reading the images where that can be.

    Example:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> images = TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]))
        >>> labels_of(Subset(images, [1, 2]))
        [0, 1]
    """
    if isinstance(images, Subset | Images):
        inside = labels_of(images.dataset)
        return [inside[index] for index in images.indices]
    if isinstance(images, TensorDataset):
        return [int(label) for label in images.tensors[-1]]
    for name in ("labels", "targets"):  # our folders, torchvision's datasets
        found = getattr(images, name, None)
        if found is not None:
            return [int(label) for label in found]
    return [int(images[index][1]) for index in range(len(cast(Sized, images)))]


def few_of_each_class(images: Dataset[Any], limit: int) -> Subset[Any]:
    """The first ``limit`` images of each class.

    Example:
        >>> images = TensorDataset(torch.zeros(4, 3), torch.tensor([0, 0, 1, 0]))
        >>> few_of_each_class(images, 1).indices
        [0, 2]
    """
    seen: Counter[int] = Counter()
    chosen = []
    for index, label in enumerate(labels_of(images)):
        if seen[label] < limit:
            seen[label] += 1
            chosen.append(index)
    return Subset(images, chosen)


def find_images(folder: Path) -> tuple[list[Path], list[str] | None]:
    """Image files below a folder, sorted, and their class names if each lies in a class folder.

    Raises:
        DataError: If the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; pass the folder that holds the images")
    paths = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file()
    )
    if not paths:
        raise DataError(f"no image in {folder}; looked for {', '.join(IMG_EXTENSIONS)}")
    if any(path.parent == folder for path in paths):
        return paths, None
    return paths, [path.relative_to(folder).parts[0] for path in paths]


def class_indices(*sides: list[str] | None) -> list[list[int] | None]:
    """Class names of each side as indices that mean the same on every side.

    Example:
        >>> class_indices(["cat", "dog"], ["dog"], None)
        [[0, 1], [1], None]
    """
    names = sorted({name for side in sides if side for name in side})
    index = {name: i for i, name in enumerate(names)}
    return [None if side is None else [index[name] for name in side] for side in sides]


def split_indices(num_images: int, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of training and held-out images: disjoint, together all, the same for one seed.

    Raises:
        DataError: If ``holdout`` is not a share that leaves images on both sides.

    Example:
        >>> train, heldout = split_indices(10, 0.3, seed=0)
        >>> len(train), len(heldout), set(train) & set(heldout)
        (7, 3, set())
    """
    num_heldout = round(num_images * holdout)
    if not 0 < num_heldout < num_images:
        raise DataError(
            f"{holdout=} of {num_images} images leaves {num_heldout} held out; "
            "expected a share between 0 and 1 with images on both sides"
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[num_heldout:]), sorted(order[:num_heldout])


def some_indices(num_images: int, limit: int, seed: int) -> list[int]:
    """At most ``limit`` indices drawn by chance, in order; the same ones for one seed.

    Example:
        >>> len(some_indices(10, 3, seed=0)), some_indices(2, 3, seed=0)
        (3, [0, 1])
    """
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:limit].tolist())
