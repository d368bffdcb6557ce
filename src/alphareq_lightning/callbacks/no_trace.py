"""Run somebody's model in the middle of their training and leave no trace of it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler

from alphareq_lightning._lightning import Trainer
from alphareq_lightning.measure.evaluating import GENERATORS, can_be_written
from alphareq_lightning.metrics.ranks import together

PASS_SEED = 0
"""Every pass, on every rank, draws from this seed, a loader's own generators included: a shuffling
loader gives all ranks one order, so they can share it out, and every epoch the same images."""

_FEW = 1000
"""Numbers in a tensor, or items in a list: more are data, which no reader changes."""
STEP = "training_step"


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
def instead(module: nn.Module, **own: Any) -> Iterator[None]:
    """Let a module have attributes of its own, and then those that it had before."""
    attributes = vars(module)
    before = {name: attributes[name] for name in own if name in attributes}
    attributes.update(own)
    try:
        yield
    finally:
        for name in own:
            attributes.pop(name, None)
        attributes.update(before)


@contextmanager
def not_logging(module: nn.Module) -> Iterator[None]:
    """Let what a ``forward`` logs go nowhere: it would count as a result of the training."""
    with ExitStack() as stack:
        for part in module.modules():
            if hasattr(part, "log_dict") and hasattr(part, STEP):
                stack.enter_context(instead(part, log=_log_nothing, log_dict=_log_nothing))
        yield


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    return None


def share_buffers(trainer: Trainer, module: nn.Module) -> None:
    """Give every rank the buffers of rank 0, as DistributedDataParallel does in its forward pass.

    Else each rank would measure with the running statistics of its own batches, and none with
    those that checkpoints hold. Within `evaluating`, which puts the rank's own back.
    """
    if trainer.world_size == 1 or not dist.is_available() or not dist.is_initialized():
        return
    buffers = [b.detach() for b in module.buffers() if not is_lazy(b) and can_be_written(b)]
    if not buffers:
        return
    device = trainer.strategy.root_device
    packed = together(
        lambda: torch.cat([b.flatten().view(torch.uint8).to(device) for b in buffers]), device
    )
    dist.broadcast(packed, src=0)
    sizes = [buffer.numel() * buffer.element_size() for buffer in buffers]
    for buffer, values in zip(buffers, torch.split(packed, sizes), strict=True):
        buffer.copy_(values.clone().view(buffer.dtype).view(buffer.shape))


def seed_generators(loader: Iterable[Any]) -> None:
    """Seed the generators that the order of a loader comes from; for a loader that is `apart`."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    drawing = (loader, getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    for owner in (*drawing, batch_sampler):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(PASS_SEED)


def apart(loader: Iterable[Any]) -> Iterable[Any]:
    """A DataLoader that shares no iterator, generator, counter or position with the one given.

    The Trainer may read the same loader, or another one of the same dataset. Data is not copied:
    of datasets and samplers, and of those inside them, only the objects themselves are, with their
    lists and dicts, small tensors, and whatever in them holds a generator. Anything else is
    returned as it is.
    """
    if not isinstance(loader, DataLoader):
        return loader
    own: DataLoader[Any] = copy.copy(loader)
    # With persistent workers it has one iterator, and `iter` starts that again: the Trainer's
    # epoch would end where this pass ends.
    own._iterator = None
    vars(own)["persistent_workers"] = False
    done: dict[int, Any] = {}
    for name in ("dataset", "sampler", "batch_sampler", "generator"):
        vars(own)[name] = _apart(getattr(loader, name), done, is_root=True)
    return own


def _apart(value: Any, done: dict[int, Any], *, is_root: bool = False) -> Any:
    """A copy of what may change when it is read; ``done`` has those that were made already."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, torch.Generator):
        twin: Any = torch.Generator(device=value.device)
        twin.set_state(value.get_state())
    elif isinstance(value, GENERATORS):
        twin = copy.deepcopy(value)
    elif isinstance(value, Tensor | np.ndarray):
        few = value.size <= _FEW if isinstance(value, np.ndarray) else value.numel() <= _FEW
        twin = copy.deepcopy(value) if few and not is_root else value
    elif isinstance(value, list | dict) and type(value) in (list, dict):
        twin = copy.copy(value)
        done[id(value)] = twin
        places: Any = value.items() if isinstance(value, dict) else enumerate(value)
        if len(value) <= _FEW:
            for place, item in list(places):
                twin[place] = _apart(item, done)
    elif isinstance(value, tuple) and type(value) is tuple and len(value) <= _FEW:
        twin = tuple(_apart(item, done) for item in value)
    elif is_root or isinstance(value, Dataset | Sampler) or _draws(value):
        twin = copy.copy(value) if hasattr(value, "__dict__") else value
        done[id(value)] = twin
        for name, part in list(vars(twin).items()) if hasattr(twin, "__dict__") else ():
            vars(twin)[name] = _apart(part, done)
    else:
        twin = value
    done[id(value)] = twin
    return twin


def _draws(value: Any, depth: int = 3) -> bool:
    """Whether an object, a transform for example, holds a generator somewhere inside."""
    if isinstance(value, GENERATORS):
        return True
    if depth == 0 or isinstance(value, nn.Module | type) or not hasattr(value, "__dict__"):
        inside = list(value)[:_FEW] if isinstance(value, list | tuple) and depth else []
    else:
        inside = list(vars(value).values())
    return any(_draws(part, depth - 1) for part in inside)


def one_shot_parts(dataset: Any, seen: set[int] | None = None) -> dict[int, str]:
    """Attributes of datasets that can be read only once, by who comes first: identity and name."""
    seen = set() if seen is None else seen
    if not isinstance(dataset, Dataset) or id(dataset) in seen:
        return {}
    seen.add(id(dataset))
    found = {}
    for name, part in getattr(dataset, "__dict__", {}).items():
        if isinstance(part, Iterator):
            found[id(part)] = name
        for inner in part if isinstance(part, list | tuple) else [part]:
            found |= one_shot_parts(inner, seen)
    return found
