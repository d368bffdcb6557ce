"""Run somebody's model in eval mode and leave it as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from alphareq_lightning.errors import FeatureTapError

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (bool, int, float, str, tuple, type(None))
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@contextmanager
def evaluating(module: nn.Module, *, sharded: bool = False) -> Iterator[None]:
    """Put every submodule in eval mode, and each back as it was, with all that it wrote to.

    Put back are attributes, what was made in the meantime included; submodules; bit for bit the
    content of buffers (running statistics, observers, averages) and of other tensors; what lists
    and dicts hold; generators; and the parameters of modules with a ``train`` of their own and of
    the layers right inside them: some merge weights there. What a forward pass writes outside of
    the module stays there.

    Args:
        module: With all its submodules.
        sharded: Leave alone what a strategy that shards the module moves about in it.

    Raises:
        FeatureTapError: If another parameter was written to: that cannot be put back.
    """
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    kept = [_Kept(submodule, sharded) for submodule in module.modules()]
    copied = {id(tensor) for state in kept for tensor, _ in state.tensors}
    versions = [] if sharded else [(n, p, p._version) for n, p in module.named_parameters()]
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
        written = [n for n, p, v in versions if id(p) not in copied and p._version != v]
        for state in kept:
            state.put_back()
    if written:
        raise FeatureTapError(
            f"the parameter {written[0]!r} is written to by a forward pass in eval mode, which "
            "would change the training; pass forward= a part of the module that does not"
        )


class _Kept:
    """What a forward pass in eval mode may write to in one module, copied."""

    def __init__(self, module: nn.Module, sharded: bool) -> None:
        acts_in_train = type(module).train is not nn.Module.train
        acts_in_train |= type(module).eval is not nn.Module.eval
        own = vars(module)
        self.module, self.sharded = module, sharded
        # Parameters are moved about by strategies that shard them.
        registries: tuple[dict[str, Any], ...] = (module._buffers, module._modules)
        self.registered = [(registry, dict(registry)) for registry in registries]
        self.parameters = set(module._parameters)
        self.attributes = {n: v for n, v in own.items() if not sharded or isinstance(v, _PLAIN)}
        written = [*module._buffers.values()]
        if acts_in_train:  # and writes to itself, or to the layer that it wraps
            inside = [c for c in module.children() if not any(True for _ in c.children())]
            written += [p for part in (module, *inside) for p in part._parameters.values()]
        if not sharded:
            written += [value for value in own.values() if isinstance(value, Tensor)]
        self.tensors = [
            (tensor, tensor.detach().clone())
            for tensor in written
            if tensor is not None and not is_lazy(tensor) and can_be_written(tensor)
        ]
        values = [value for name, value in own.items() if name not in _OF_EVERY_MODULE]
        self.refills = [refill for value in values if (refill := _refill(value)) is not None]

    @torch.inference_mode()  # a buffer made in that mode can be written in no other
    def put_back(self) -> None:
        for tensor, content in self.tensors:
            if tensor.shape != content.shape:
                tensor.resize_(content.shape)
            tensor.copy_(content)
        for registry, entries in self.registered:
            if list(map(id, registry.values())) != list(map(id, entries.values())):
                registry.clear()
                registry.update(entries)
        for name in set(self.module._parameters) - self.parameters:
            del self.module._parameters[name]
        own = vars(self.module)
        if not self.sharded:
            for name in set(own) - set(self.attributes):
                del own[name]
        for name, value in self.attributes.items():
            if name not in own or own[name] is not value:
                own[name] = value
        for refill in self.refills:
            refill()


def can_be_written(tensor: Tensor) -> bool:
    """Not one that repeats its numbers, as `Tensor.expand` gives: nothing can write into that."""
    return all(
        stride > 0 or size < 2 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


@contextmanager
def seeded(generators: Sequence[Any], seed: int) -> Iterator[None]:
    """Let generators draw from a seed, and then from where they were."""
    refills = [_refill(generator) for generator in generators]
    for generator in generators:
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(seed).state
        elif isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        else:
            generator.seed(seed)
    try:
        yield
    finally:
        for refill in refills:
            if refill is not None:
                refill()


def _refill(value: Any) -> Callable[[], object] | None:
    """What gives a list, a dict, a set, an array or a generator back the content of now."""
    if isinstance(value, list):
        return partial(value.__setitem__, slice(None), copy.copy(value))
    if isinstance(value, np.ndarray):
        return partial(value.__setitem__, ..., value.copy())
    if isinstance(value, dict | set):
        items = copy.copy(value)

        def refill() -> None:
            value.clear()
            value.update(items)

        return refill
    if isinstance(value, np.random.Generator):
        state = copy.deepcopy(value.bit_generator.state)
        return partial(setattr, value.bit_generator, "state", state)
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, torch.Generator | np.random.RandomState):
        generator: Any = value  # each takes the kind of state that it gives
        return partial(generator.set_state, generator.get_state())
    return None
