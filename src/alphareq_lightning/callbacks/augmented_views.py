"""Random views of the own images, the same ones at every measurement."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from alphareq_lightning._lightning import LightningModule, Trainer, apply_to_collection
from alphareq_lightning.callbacks.no_trace import PASS_SEED
from alphareq_lightning.errors import FeatureTapError, OptionError
from alphareq_lightning.functional.products import full_precision
from alphareq_lightning.measure.batches import images_of
from alphareq_lightning.measure.evaluating import GENERATORS, seeded
from alphareq_lightning.metrics.scores import SCORES, read_views

Augment = Callable[[Any], Any]
"""Of tensors; said so, jsonargparse would refuse every function without annotations."""
_DEEPEST = 6
"""Levels to a generator: a chain, its list, a transform, what that calls, the owner, it."""
_MOST = 1000
"""Items of a list that are looked at: more are data."""
_HOLDERS = (list, tuple, partial, MethodType, FunctionType, *GENERATORS)
"""What of a module's attributes is looked into; its submodules are anyway."""


class AugmentedViews:
    """Makes views of batches of images.

    Each view of each batch has a seed of its own, for the global generators and for those that
    the augmentation holds: every measurement and every number of ranks draws the same, and the
    generators are left as they were.

    Args:
        augment: Images, shape ``(n, *)``, on the device, to one random view of them, same shape.
        count: How many views of each image.
    """

    def __init__(self, augment: Augment, count: int) -> None:
        self.augment, self.count = augment, count

    def of(self, batch: Any, number: int) -> Iterator[Any]:
        """The batch again and again, each time with views in place of its images.

        What it does to the global generators is for the caller to undo.

        Args:
            batch: With images, see `images_of`.
            number: Of the batch in its loader.

        Raises:
            FeatureTapError: If the augmentation fails, or gives something of another shape.
        """
        images = images_of(batch)
        for place in range(self.count):
            yield _with_images(batch, images, self._view(images, number * self.count + place))

    def _view(self, images: Tensor, number: int) -> Tensor:
        seed = PASS_SEED + 1 + number
        for seed_all in (torch.manual_seed, np.random.seed, random.seed):
            seed_all(seed)
        with seeded(generators_of(self.augment), seed), full_precision(images.device):
            try:
                view = self.augment(images.clone())  # it may write to them
            except Exception as error:
                raise FeatureTapError(
                    f"augment= failed on images of shape {tuple(images.shape)}: {error}"
                ) from error
        if not isinstance(view, Tensor) or view.shape != images.shape:
            came = tuple(view.shape) if isinstance(view, Tensor) else f"a {type(view).__name__}"
            raise FeatureTapError(
                f"expected augment= to give one view of shape {tuple(images.shape)}, got {came}"
            )
        return view


def _with_images(batch: Any, images: Tensor, view: Tensor) -> Any:
    return apply_to_collection(batch, Tensor, lambda t: view if t is images else t)


def check_augment(augment: Any, scores: Sequence[str]) -> Augment | None:
    """Raise `OptionError` unless it can be called, and some of the scores read views."""
    if augment is not None and not callable(augment):
        raise OptionError(f"expected augment= a callable of a batch of images, got {augment!r}")
    if augment is not None and not read_views(scores):
        of_views = ", ".join(name for name in SCORES if read_views([name]))
        raise OptionError(f"augment= is for scores of views; ask for some in scores=: {of_views}")
    return cast(Augment | None, augment)


def find_augment(given: Augment | None, trainer: Trainer, module: LightningModule) -> Augment:
    """The augmentation: the one given, else ``alpha_view(images)`` of module or data.

    Raises:
        OptionError: If there is none.
    """
    for owner in (module, getattr(trainer, "datamodule", None)):
        method = getattr(owner, "alpha_view", None)
        if given is None and callable(method):
            given = method
    if given is None:
        raise OptionError(
            "scores of views need to know how views are made: pass augment=, which turns a batch "
            "of images into one random view of each, or write a method alpha_view(images) on the "
            "LightningModule or DataModule"
        )
    return given


def generators_of(augment: Any) -> list[Any]:
    """Generators of its own that a callable draws from, as far as they can be found."""
    found: list[Any] = []
    seen: set[int] = set()
    level: list[Any] = [augment]
    for _ in range(_DEEPEST):
        new = list({id(part): part for part in level if id(part) not in seen}.values())
        seen.update(map(id, new))
        found += [part for part in new if isinstance(part, GENERATORS)]
        level = [inner for part in new for inner in _inside(part)]
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, nn.Module):
        own = [v for part in value.modules() for v in vars(part).values()]
        return [v for v in own if isinstance(v, _HOLDERS)]
    if isinstance(value, list | tuple):
        return list(value[:_MOST])
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or ()]
    plain = isinstance(value, type | Tensor) or not hasattr(value, "__dict__")
    return [] if plain else list(vars(value).values())
