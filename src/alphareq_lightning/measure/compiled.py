"""Hooks and compiled modules: what is inside a graph, and how to listen outside of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


class OutsideGraph:
    """Calls a forward hook behind a module that was compiled in place by ``module.compile()``.

    Such a module takes its registered hooks into the graph, which ours would break in two, and
    ``fullgraph=True`` forbids that.

    Args:
        module: Compiled in place.
        hook: As for ``register_forward_hook(with_kwargs=True)``.
    """

    def __init__(self, module: nn.Module, hook: Hook) -> None:
        self.module, self.compiled = module, module._compiled_call_impl
        assert self.compiled is not None
        compiled = self.compiled

        def call(*args: Any, **kwargs: Any) -> Any:
            output = compiled(*args, **kwargs)
            if not self.removed:
                hook(module, args, kwargs, output)
            return output

        call.__wrapped__ = compiled  # type: ignore[attr-defined]
        self.call, self.removed = call, False
        module._compiled_call_impl = call

    def remove(self) -> None:
        """Leave the module as it was, unless it was compiled or listened to again since."""
        self.removed = True
        if self.module._compiled_call_impl is self.call:
            self.module._compiled_call_impl = self.compiled


def is_compiled(module: nn.Module) -> bool:
    """Whether a module runs as a compiled graph."""
    return in_place(module) or isinstance(module, OptimizedModule)


def in_place(module: nn.Module) -> bool:
    """Whether a module was compiled by ``module.compile()``, its own hooks included."""
    return getattr(module, "_compiled_call_impl", None) is not None


def ancestors(root: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a dotted name leads through, the last one not among them."""
    parts = name.split(".")
    for depth in range(len(parts)):
        path = ".".join(parts[:depth])
        yield path, root.get_submodule(path)


def whole_graph_around(root: nn.Module, name: str) -> str | None:
    """The name of a module around a layer that was compiled with ``fullgraph=True``, if any.

    The root itself has the name "", and calls it by what it is.
    """
    for path, module in ancestors(root, name):
        if _stays_whole(getattr(module, "dynamo_ctx", None) or _context_of_call(module)):
            return path
    return None


def _stays_whole(context: Any) -> bool:
    if hasattr(context, "fullgraph"):
        return bool(context.fullgraph)
    # In older torch, 2.4 among them, only the converter inside of the context's callback knows.
    callback = getattr(context, "callback", None)
    converters = (
        getattr(callback, f"_torchdynamo_orig_{kind}", None) for kind in ("callable", "backend")
    )
    return any(getattr(converter, "_one_graph", False) for converter in converters)


def _context_of_call(module: nn.Module) -> Any:
    call: Any = getattr(module, "_compiled_call_impl", None)
    while getattr(call, "__qualname__", "").startswith(OutsideGraph.__name__):
        call = call.__wrapped__
    variables = getattr(getattr(call, "__code__", None), "co_freevars", ())
    cells = getattr(call, "__closure__", None) or ()
    found = dict(zip(variables, cells, strict=False)).get("self")
    return found.cell_contents if found is not None else None
