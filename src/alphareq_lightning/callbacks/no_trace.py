"""Run somebody's model in the middle of their training and leave no trace of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler

from alphareq_lightning._lightning import Trainer

PASS_SEED = 0
"""Every pass, on every rank, draws from this seed, a loader's own generators included: a shuffling
loader gives all ranks one order, so they can share it out, and every epoch the same images."""

PLAIN = (bool, int, float, str, tuple, type(None))
OF_EVERY_MODULE = frozenset(vars(nn.Module()))


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
def not_logging(module: nn.Module) -> Iterator[None]:
    """Let what a ``forward`` logs go nowhere: it would count as a result of the training."""
    loggers = [vars(m) for m in module.modules() if hasattr(m, "log_dict")]
    before: list[dict[str, Any]]
    before = [{n: own[n] for n in ("log", "log_dict") if n in own} for own in loggers]
    for own in loggers:
        own.update(log=_log_nothing, log_dict=_log_nothing)
    try:
        yield
    finally:
        for own, mine in zip(loggers, before, strict=True):
            del own["log"], own["log_dict"]
            own.update(mine)


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    return None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode, and each back as it was, with all that it wrote to.

    Buffers are put back bit for bit (running statistics, observers, averages), so are submodules,
    plain numbers, what lists and dicts hold, and generators; and the parameters of modules with a
    ``train`` of their own and of the layers right inside them: some merge weights there. What a
    forward pass writes outside of the module stays there.
    """
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    kept = [_Kept(submodule) for submodule in module.modules()]
    try:
        module.eval()
        yield
    finally:
        # Parents first: what one does to its children in `train` is undone by the children's turn.
        for submodule, mode in modes:
            if submodule.training != mode:
                submodule.train(mode)
        for submodule, mode in modes:
            submodule.training = mode
        for state in kept:
            state.put_back()


class _Kept:
    """What a forward pass in eval mode may write to in one module, copied."""

    def __init__(self, module: nn.Module) -> None:
        acts_in_train = type(module).train is not nn.Module.train
        acts_in_train |= type(module).eval is not nn.Module.eval
        owners: list[dict[str, Any]] = [module._buffers]
        if acts_in_train:  # and writes to itself, or to the layer that it wraps
            layers = [
                child for child in module.children() if not any(True for _ in child.children())
            ]
            owners += [part._parameters for part in (module, *layers)]
        self.tensors = [
            (owner, name, tensor, tensor.detach().clone())
            for owner in owners
            for name, tensor in owner.items()
            if tensor is not None and not is_lazy(tensor)
        ]
        self.module, self.children = module, dict(module._modules)
        self.plain = {n: v for n, v in vars(module).items() if isinstance(v, PLAIN)}
        self.holders = [
            (value, copy.copy(value))
            for name, value in vars(module).items()
            if isinstance(value, list | dict | set) and name not in OF_EVERY_MODULE
        ]
        self.generators = [
            (v, v.get_state()) for v in vars(module).values() if isinstance(v, torch.Generator)
        ]

    @torch.inference_mode()  # a buffer made in that mode can be written in no other
    def put_back(self) -> None:
        for owner, name, tensor, values in self.tensors:
            owner[name] = tensor
            if tensor.shape != values.shape:
                tensor.resize_(values.shape)
            tensor.copy_(values)
        if self.module._modules != self.children:  # some build another network for eval mode
            self.module._modules.clear()
            self.module._modules.update(self.children)
        vars(self.module).update(self.plain)
        for holder, content in self.holders:
            if isinstance(holder, list):
                holder[:] = content
            else:
                holder.clear()
                holder.update(content)
        for generator, state in self.generators:
            generator.set_state(state)


def share_buffers(trainer: Trainer, module: nn.Module) -> None:
    """Give every rank the buffers of rank 0, as DistributedDataParallel does in its forward pass.

    Else each rank would measure with the running statistics of its own batches, and none with
    those that checkpoints hold. Within `evaluating`, which puts the rank's own back.
    """
    buffers = [buffer.detach() for buffer in module.buffers() if not is_lazy(buffer)]
    alone = trainer.world_size == 1 or not dist.is_available() or not dist.is_initialized()
    if alone or not buffers:
        return
    device = trainer.strategy.root_device
    packed = torch.cat([buffer.flatten().view(torch.uint8).to(device) for buffer in buffers])
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
    of datasets and samplers, and of those inside them, only the objects themselves are, and the
    generators that they hold. Anything else is returned as it is.
    """
    if not isinstance(loader, DataLoader):
        return loader
    own: DataLoader[Any] = copy.copy(loader)
    # With persistent workers it has one iterator, and `iter` starts that again: the Trainer's
    # epoch would end where this pass ends.
    own._iterator = None
    for name in ("dataset", "sampler", "batch_sampler", "generator"):
        vars(own)[name] = _apart(getattr(loader, name))
    return own


def _apart(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        generator = torch.Generator(device=value.device)
        generator.set_state(value.get_state())
        return generator
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        return copy.deepcopy(value)
    if isinstance(value, list | tuple) and any(
        isinstance(item, Dataset | Sampler) for item in value
    ):
        return type(value)(map(_apart, value))
    if not isinstance(value, Dataset | Sampler) or not hasattr(value, "__dict__"):
        return value
    value = copy.copy(value)
    for name, part in list(vars(value).items()):
        vars(value)[name] = _apart(part)
    return value


def one_shot_parts(dataset: Any) -> list[str]:
    """Names of attributes of a dataset that can be read only once, by whoever comes first."""
    if not isinstance(dataset, Dataset):
        return []
    parts: Mapping[str, Any] = getattr(dataset, "__dict__", {})
    return [
        found
        for name, part in parts.items()
        for found in ([name] if isinstance(part, Iterator) else one_shot_parts(part))
    ]
