"""What is in somebody's batches and loaders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from alphareq_lightning._lightning import apply_to_collection
from alphareq_lightning.errors import FeatureTapError


def images_of(batch: Any) -> Tensor:
    """The tensor in a batch that can be images: floating point, with 2 dimensions or more.

    Of several the one with the most dimensions, and of those the first: an index, a label (as one
    hot, too) or boxes may come before it, and a mask or a second view after it.

    Raises:
        FeatureTapError: If there is none; what there is gets named.

    Example:
        >>> import torch
        >>> images_of({"label": torch.zeros(2), "image": torch.ones(2, 3)}).shape
        torch.Size([2, 3])
    """
    tensors = list(_tensors(batch))
    usable = [t for _, t in tensors if t.ndim >= 2 and t.is_floating_point()]
    if usable:
        return max(usable, key=lambda tensor: tensor.ndim)
    if not tensors:
        raise FeatureTapError(
            f"a batch of the unlabeled dataloader holds no tensor, it is a {type(batch).__name__}; "
            "return images as tensors"
        )
    found = ", ".join(f"{name} {t.dtype} {tuple(t.shape)}" for name, t in tensors)
    raise FeatureTapError(
        "no tensor in a batch of the unlabeled dataloader is floating point with 2 dimensions or "
        f"more, as images are: {found}; pass forward= a callable, which gets the whole batch"
    )


def batch_size(batch: Any) -> int:
    """How many samples a batch holds: the length of its images, or else of its first tensor.

    Raises:
        FeatureTapError: If it holds no tensor.
    """
    sizes = [len(tensor) for _, tensor in _tensors(batch) if tensor.ndim > 0]
    try:
        return len(images_of(batch))
    except FeatureTapError:
        if sizes:
            return sizes[0]
        if isinstance(batch, list | tuple) and batch:  # of texts or paths, for a callable
            return len(batch)
        raise


def first_rows(batch: Any, size: int, wanted: int) -> Any:
    """A batch of at most ``wanted`` of its ``size`` samples."""
    if wanted >= size:
        return batch
    return apply_to_collection(
        batch, Tensor, lambda t: t[:wanted] if t.ndim > 0 and len(t) == size else t
    )


def _tensors(batch: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch with its place, in order."""
    if isinstance(batch, Tensor):
        yield name or "tensor", batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _tensors(value, f"{name}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from _tensors(value, f"{name}[{index}]")
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from _tensors(getattr(batch, field.name), f"{name}.{field.name}")


def attention_mask(batch: Any) -> Tensor | None:
    """Which tokens of a batch are no padding, shape ``(n, t)``, as tokenizers say it; or `None`."""
    masks = [t for name, t in _tensors(batch) if name.endswith("['attention_mask']")]
    return next((mask for mask in masks if mask.ndim == 2), None)


def unread_mask(batch: Any) -> str | None:
    """The place of a mask in a batch whose meaning nobody has fixed, if there is one."""
    if attention_mask(batch) is not None:
        return None
    named = (name for name, t in _tensors(batch) if t.ndim == 2 and "mask" in name.lower())
    return next(named, None)


def num_samples(loader: Any) -> int | None:
    """How many samples a loader has, if it says so."""
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None


def flat_loaders(loaders: Any) -> list[Any]:
    """The loaders in whatever collection of them a Trainer was given, in Lightning's order."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return [loader for part in loaders for loader in flat_loaders(part)]
    return [] if loaders is None else [loaders]


def doubt_about_first(loaders: Sequence[Any], of_training: Sequence[Any]) -> str | None:
    """Why the first of several validation loaders may not be the one to measure."""
    sizes = [num_samples(loader) for loader in loaders]
    shown = ", ".join("?" if size is None else f"{size:,}" for size in sizes)
    start = f"of {len(loaders)} validation loaders, with {shown} samples, the first is measured"
    if any(_overlap(loaders[0], loader) for loader in of_training):
        return f"{start}, and it reads the training data; choose another with dataloader_idx="
    if len(set(sizes)) > 1:
        return f"{start}; choose with dataloader_idx=, also to confirm this one"
    return None


def _overlap(first: Any, second: Any) -> bool:
    """Whether two loaders may read the same samples."""
    (one, some), (other, others) = _source(first), _source(second)
    return one is other and (some is None or others is None or not some.isdisjoint(others))


def _source(loader: Any) -> tuple[Any, set[int] | None]:
    """What a loader reads in the end, and which samples of it if it is one subset."""
    source, indices = getattr(loader, "dataset", loader), None
    while hasattr(source, "dataset"):
        mine = getattr(source, "indices", None)
        indices = set(mine) if indices is None and mine is not None else None
        source = source.dataset
    return source, indices
