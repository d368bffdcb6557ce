"""Which submodules ran: for the message when the layer that was asked for did not."""

from __future__ import annotations

import copyreg
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alphareq_lightning.measure.compiled import ancestors, in_place, is_compiled
from alphareq_lightning.measure.layers import CLASSIFIERS, Layer, is_head
from alphareq_lightning.measure.pooling import Pooling

SHOWN = 4
ELSEWHERE = "pass dataloader_idx= or forward= to run another"
"""What to do in `AlphaMonitor`."""


class WhatRan:
    """Sees the submodules of a module run while it is open, and which of them can be measured.

    Light hooks on all of them, so only for as long as a message may need it: the sanity check, the
    trial before training, or the first validation. What has been compiled is not looked into.

    Args:
        module: The LightningModule.
    """

    is_open = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.ran: dict[str, tuple[int, ...] | None] = {}
        self._handles = []
        for name, submodule in module.named_modules():
            around = (parent for _, parent in ancestors(module, name))
            compiled = in_place(submodule) or any(map(is_compiled, around))
            if name and not compiled and not isinstance(submodule, torch.jit.ScriptModule):
                self._handles.append(submodule.register_forward_hook(partial(self._hear, name)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles of a module carry its hooks along: theirs are deaf for good."""
        return copyreg.__newobj__, (WhatRan,)  # type: ignore[attr-defined]

    def remove(self) -> None:
        """Take the hooks off."""
        self.is_open = False
        for handle in self._handles:
            handle.remove()

    def did_not_run(self, layer: Layer, elsewhere: str = ELSEWHERE) -> str:
        """Say that a layer did not run, and what to name, or what to do, instead."""
        text = f"layer {layer.name!r} did not run in the forward pass that is measured; "
        found = self.instead_of(layer)
        text += f"{found}; or " if found else "no layer did that could be measured; "
        text += elsewhere
        if any(is_compiled(part) for part in self.module.modules()):
            text += "; a module that has run compiled must be compiled anew to see hooks"
        return text

    def instead_of(self, layer: Layer) -> str:
        """Layers that ran and can be measured with ``pool="mean"``; empty if there is none.

        Those inside of ``layer`` first, then the least deep, then the last to run; no heads.
        """
        usable = {name: shape for name, shape in self.ran.items() if shape is not None}
        within = f"{layer.name}."
        last_first = reversed(usable)
        names = sorted(last_first, key=lambda n: (not n.startswith(within), n.count(".")))
        named = ", ".join(f"{name!r} {usable[name]}" for name in names[:SHOWN])
        return f"these did, and pool='mean' suits them: layer= {named}" if named else ""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _hear(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.is_open and name not in self.ran:
            self.ran[name] = _shape_if_usable(Layer(name, module, "output"), output)


def _shape_if_usable(layer: Layer, output: Any) -> tuple[int, ...] | None:
    parts = layer.name.split(".")
    if any(is_head(part) or "class" in part.lower() or part in CLASSIFIERS for part in parts):
        return None
    pooling = Pooling(layer)
    try:
        value: Tensor = pooling.pick(output)
        features = pooling(value)
    except Exception:  # whatever is wrong with it, it is not to be suggested
        return None
    suits = features.is_floating_point() and features.ndim == 2 and features.shape[1] > 1
    return tuple(value.shape) if suits else None
