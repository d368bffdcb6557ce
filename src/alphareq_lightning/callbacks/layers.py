"""Which layer of somebody's module to measure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from torch import nn

from alphareq_lightning.errors import FeatureTapError, OptionError

Take = Literal["output", "input"]

BACKBONE_NAMES = ("backbone", "encoder", "feature_extractor", "student", "online_encoder")
NOT_PENULTIMATE = ("proj", "pred", "head_teacher")


@dataclass(frozen=True)
class Layer:
    """A submodule, and which end of it carries the features."""

    name: str
    module: nn.Module
    take: Take

    @property
    def label(self) -> str:
        """Name as shown to people and stored in records."""
        return self.name if self.take == "output" else f"{self.name}:input"


def resolve_layers(
    module: nn.Module, layer: str | Sequence[str] | None, take: Take
) -> tuple[Layer, ...]:
    """Find the layers to measure.

    Args:
        module: The LightningModule, or any module.
        layer: Dotted names as in ``module.named_modules()``, or `None` for the rule of
            `choose_layer`.
        take: Take the named layer's output or its first input.

    Raises:
        OptionError: If a name does not exist; near names are listed.
        FeatureTapError: If ``layer`` is `None` and the rule cannot tell.
    """
    if layer is None:
        return (choose_layer(module),)
    names = [layer] if isinstance(layer, str) else list(layer)
    modules = dict(module.named_modules())
    for name in names:
        if name and name not in modules:  # named_modules() gives a shared module its first name
            with suppress(AttributeError):
                modules[name] = module.get_submodule(name)
        if not name or name not in modules:
            raise OptionError(_unknown(name, [known for known in modules if known]))
    return tuple(Layer(name, modules[name], take) for name in names)


def choose_layer(module: nn.Module) -> Layer:
    """Choose the penultimate layer of a module.

    The output of the first child called ``backbone``, ``encoder``, ``feature_extractor``,
    ``student`` or ``online_encoder``; else the input of the last `nn.Linear`, unless that one
    belongs to a projector or to a repeated block.

    Raises:
        FeatureTapError: If neither part of the rule applies; candidates are listed.
    """
    children = dict(module.named_children())
    for name in BACKBONE_NAMES:
        if name in children:
            return Layer(name, children[name], "output")
    linears = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    candidates = ", ".join(children) or "none"
    if not linears:
        raise FeatureTapError(
            "cannot choose a layer: no child is called "
            f"{', '.join(BACKBONE_NAMES)} and there is no nn.Linear; "
            f"pass layer=, for example one of: {candidates}"
        )
    name, linear = linears[-1]
    parts = name.split(".")
    if any(word in part.lower() for part in parts for word in NOT_PENULTIMATE):
        reason = "looks like a projector, and α belongs on backbone features"
    elif any(part.isdigit() for part in parts[:-1]):
        reason = "lies inside a repeated block"
    else:
        return Layer(name, linear, "input")
    raise FeatureTapError(
        f"cannot choose a layer: the last nn.Linear, {name!r}, {reason}; "
        f"pass layer=, for example one of: {candidates}"
    )


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near += [full for full in known if full.endswith(f".{name}") and full not in near]
    hint = (
        f"did you mean {', '.join(map(repr, near[:5]))}?"
        if near
        else "try one of " + ", ".join(known[:10])
    )
    return f"the module has no layer {name!r}; {hint}"
