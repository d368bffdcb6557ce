"""The monitor's own forward pass over held-out unlabeled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from alphareq_lightning._lightning import LightningModule, Trainer, isolate_rng
from alphareq_lightning.errors import FeatureTapError, OptionError

PASS_SEED = 0
"""Every pass, on every rank, draws from this seed: a shuffling loader gives all ranks one order,
so they can share it out, and gives every epoch the same images."""
SHARDING_STRATEGIES = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")
"""Their ranks must run every forward pass together; a share of the batches each would hang."""


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
    if isinstance(loader, Iterator):
        raise OptionError(
            "an iterator of unlabeled images can be read only once; pass a DataLoader or a list"
        )
    strategy = type(trainer.strategy).__name__
    if loader is not None and strategy in SHARDING_STRATEGIES:
        raise OptionError(
            f"own unlabeled images cannot be measured under {strategy}, which shards the model; "
            "take the dataloader away, and the validation batches are measured instead"
        )
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
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """Send the images of ``loader`` through the model in eval mode and leave no trace.

    No gradient, no BatchNorm update, no change of the global random state; the Trainer's device
    and precision. Each rank takes its own share, and no image is taken twice.

    Args:
        trainer: The running Trainer.
        module: Its LightningModule.
        loader: Batches of images; a tensor, or a tuple, list or dict whose first tensor is images.
        forward: What to run on the images.
        max_batches: Stop after as many batches on each rank.
        enough: Asked after each batch.

    Returns:
        How many batches this rank has run.

    Raises:
        FeatureTapError: If a batch holds no tensor.
    """
    num_batches = 0
    images_left = _num_own_images(loader)
    precision = trainer.precision_plugin
    with isolate_rng(), evaluating(module), torch.no_grad(), precision.forward_context():
        torch.manual_seed(PASS_SEED)
        for batch in islice(_share_of(loader, trainer), max_batches):
            images = first_tensor(batch)[:images_left].to(module.device, non_blocking=True)
            forward(precision.convert_input(images))
            num_batches += 1
            if images_left is not None:
                images_left -= len(images)
            if enough() or images_left == 0:
                break
    return num_batches


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


def _share_of(loader: Iterable[Any], trainer: Trainer) -> Iterator[Any]:
    """This rank's batches: every ``world_size``-th, so each batch runs on exactly one rank.

    A loader that already shards itself by a `DistributedSampler` is taken as it is.
    """
    if _sharding_sampler(loader) is not None or trainer.world_size == 1:
        return iter(loader)
    return islice(loader, trainer.global_rank, None, trainer.world_size)


def _num_own_images(loader: Iterable[Any]) -> int | None:
    """Where a `DistributedSampler` begins to repeat images, which makes all shares as long."""
    sampler = _sharding_sampler(loader)
    if sampler is None:
        return None
    return len(range(sampler.rank, len(cast(Sized, sampler.dataset)), sampler.num_replicas))


def _sharding_sampler(loader: Iterable[Any]) -> DistributedSampler[Any] | None:
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    return sampler if isinstance(sampler, DistributedSampler) else None
