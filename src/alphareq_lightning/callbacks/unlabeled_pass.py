"""The monitor's own forward pass over held-out unlabeled images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from alphareq_lightning._lightning import (
    SHARDING_STRATEGIES,
    CombinedLoader,
    LightningModule,
    Trainer,
    isolate_rng,
)
from alphareq_lightning.errors import FeatureTapError, OptionError

PASS_SEED = 0
"""Every pass, on every rank, draws from this seed, a loader's own generators included: a shuffling
loader gives all ranks one order, so they can share it out, and every epoch the same images."""


def find_loader(
    given: Iterable[Any] | None, trainer: Trainer, module: LightningModule
) -> Iterable[Any] | None:
    """The unlabeled dataloader: the one given, else ``alpha_dataloader()`` of module or data.

    Raises:
        OptionError: If it cannot be iterated again and again, or the strategy shards the model.
    """
    loader = given
    for owner in (module, getattr(trainer, "datamodule", None)):
        make = getattr(owner, "alpha_dataloader", None)
        if loader is None and callable(make):
            with isolate_rng():
                loader = make()
    if loader is not None and not isinstance(loader, Iterable):
        raise OptionError(
            f"expected a DataLoader of unlabeled images, got a {type(loader).__name__}"
        )
    if isinstance(loader, CombinedLoader):
        raise OptionError(
            "a CombinedLoader has one place for all its readers; pass a DataLoader inside it"
        )
    if isinstance(loader, Iterator):
        raise OptionError(
            "an iterator of unlabeled images can be read only once; pass a DataLoader or a list"
        )
    if loader is not None and isinstance(trainer.strategy, SHARDING_STRATEGIES):
        raise OptionError(
            f"own unlabeled images cannot be measured under {type(trainer.strategy).__name__}, "
            "which shards the model; take the dataloader away, and the validation batches are "
            "measured instead"
        )
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        # It has one iterator and `iter` starts that again: if the Trainer reads the same loader,
        # its epoch would end where the monitor's pass ends. A copy has workers of its own.
        loader = copy.copy(loader)
        loader._iterator = None
    return loader


def find_forward(
    forward: str | Callable[[Tensor], Any] | None, module: LightningModule
) -> Callable[[Tensor], Any]:
    """What to run on the images: the module itself, one of its submodules, or a callable.

    Raises:
        OptionError: If there is no submodule of that name.
    """
    if forward is None:
        return module
    if callable(forward):
        return forward
    try:
        return module.get_submodule(forward)
    except AttributeError as error:
        names = ", ".join(name for name, _ in module.named_children())
        raise OptionError(
            f"{forward=} is not a submodule of the LightningModule; there are: {names}"
        ) from error


def run_unlabeled_pass(
    trainer: Trainer,
    module: LightningModule,
    loader: Iterable[Any],
    forward: Callable[[Tensor], Any],
    *,
    max_batches: int | None = None,
    max_images: int | None = None,
) -> int:
    """Send the images of ``loader`` through the model in eval mode and leave no trace.

    No gradient, no BatchNorm update, no change of any random state; the Trainer's device and
    precision, and the hooks that transfer the user's own batches. Of the batches that every rank
    reads each runs on one rank; a `DistributedSampler` has shared out the images already, and what
    it repeats is left out. An iterable dataset that splits itself by rank would be split twice:
    give the monitor the whole stream.

    Args:
        trainer: The running Trainer.
        module: Its LightningModule.
        loader: Batches of images; a tensor, or a tuple, list or dict whose first tensor is images.
        forward: What to run on the images.
        max_batches: Stop after as many batches on each rank.
        max_images: Stop after as many images over all ranks: the same images on any number.

    Returns:
        How many batches this rank has run.

    Raises:
        FeatureTapError: If a batch holds no tensor.
    """
    num_batches = 0
    sampler = _sharding_sampler(loader)
    images_left = max_images if sampler is None else _num_own_images(sampler, max_images)
    stride = 1 if sampler is not None else trainer.world_size
    precision = trainer.precision_plugin
    with (
        isolate_rng(),
        seeded_generators(loader),
        as_validation(trainer),
        evaluating(module),
        torch.no_grad(),
        precision.forward_context(),
    ):
        torch.manual_seed(PASS_SEED)
        for index, batch in enumerate(loader):
            if images_left == 0 or num_batches == max_batches:
                break
            num_images = len(first_tensor(batch)[:images_left])
            if images_left is not None:
                images_left -= num_images
            if index % stride == trainer.global_rank % stride:
                on_device = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                forward(precision.convert_input(first_tensor(on_device)[:num_images]))
                num_batches += 1
    return num_batches


@contextmanager
def seeded_generators(loader: Iterable[Any]) -> Iterator[None]:
    """Seed the generators that a DataLoader may share with others, and put each back."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    drawing = (loader, getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in (*drawing, batch_sampler)]
    states = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    for generator, _ in states:
        generator.manual_seed(PASS_SEED)
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


@contextmanager
def as_validation(trainer: Trainer) -> Iterator[None]:
    """Let hooks see a validation: what augments batches on the device asks ``trainer.training``."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, and each back as it was."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def first_tensor(batch: Any) -> Tensor:
    """The first tensor in a batch, whatever it is nested in; labels come after images.

    Raises:
        FeatureTapError: If there is none.

    Example:
        >>> first_tensor({"image": torch.ones(2, 3), "label": torch.zeros(2)}).shape
        torch.Size([2, 3])
    """
    found = _find_tensor(batch)
    if found is None:
        raise FeatureTapError(
            f"a batch of the unlabeled dataloader holds no tensor, it is a {type(batch).__name__}; "
            "return images as tensors"
        )
    return found


def _find_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if not isinstance(batch, list | tuple):
        return None
    return next((t for t in map(_find_tensor, batch) if t is not None), None)


def own_share(num_images: int, rank: int, world_size: int) -> int:
    """How many of the first images are this rank's, if they are dealt out one by one.

    Example:
        >>> [own_share(201, rank, 2) for rank in (0, 1)]
        [101, 100]
    """
    return len(range(rank, num_images, world_size))


def _num_own_images(sampler: DistributedSampler[Any], max_images: int | None) -> int:
    """Where a `DistributedSampler` begins to repeat images, which makes all shares as long."""
    num_images = len(cast(Sized, sampler.dataset))
    wanted = num_images if max_images is None else min(num_images, max_images)
    return own_share(wanted, sampler.rank, sampler.num_replicas)


def _sharding_sampler(loader: Iterable[Any]) -> DistributedSampler[Any] | None:
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    return next((s for s in samplers if isinstance(s, DistributedSampler)), None)
