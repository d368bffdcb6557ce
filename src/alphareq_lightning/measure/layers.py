"""Which layer of somebody's module to measure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from alphareq_lightning._checks import in_key
from alphareq_lightning.errors import FeatureTapError, OptionError
from alphareq_lightning.measure.compiled import ancestors, is_compiled, whole_graph_around

Take = Literal["output", "input"]

WHAT = ("backbone", "encoder")
TRAINED = ("student", "online", "query", "context", "base", "anchor")
BACKBONE_NAMES = (
    *WHAT,
    "feature_extractor",
    *(f"{whose}_{what}" for whose in TRAINED for what in WHAT),
    "encoder_q",
    "student",
    "online_network",
)
"""Of a network and its average the trained one: a teacher may as well be frozen for good."""
HEAD_WORDS = ("proj", "pred", "proto", "decoder", "recon", "head")
TRANSPARENT = ("_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module")
CLASSIFIERS = ("fc", "head", "heads")
"""What the last part of a network is called, be it a classifier or a projector in its place."""


@dataclass(frozen=True)
class Layer:
    """A submodule, and which end of it carries the features."""

    name: str
    module: nn.Module
    take: Take
    in_graph: bool = False
    """Whether it lies inside of a compiled module, whose graph a hook has to break."""

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
        layer: Dotted names as in ``module.named_modules()``, or patterns of them, see `matches`:
            each stands for all that it matches, in the module's order. `None` for the rule of
            `choose_layer`.
        take: Take the named layer's output or its first input.

    Raises:
        OptionError: If there is no such layer, near names are listed; or if two of them would be
            logged under one key.
        FeatureTapError: If ``layer`` is `None` and the rule cannot tell; or if a layer lies inside
            a graph that must stay whole.
    """
    if layer is None:
        return (_outside_graphs(module, choose_layer(module)),)
    modules = {name: part for name, part in module.named_modules() if name}
    known = list(modules)
    chosen: dict[str, str] = {}
    for given in [layer] if isinstance(layer, str) else layer:
        if given not in modules:  # named_modules() gives a shared module its first name
            with suppress(AttributeError):
                modules[given] = module.get_submodule(given)
        names = [given] if given and given in modules else find_matches(given, known)
        for name in names:
            if chosen.setdefault(in_key(name), name) != name:
                raise OptionError(
                    f"layers {chosen[in_key(name)]!r} and {name!r} would be logged under one key; "
                    "measure one of them in another AlphaMonitor, with a prefix= of its own"
                )
    return tuple(_outside_graphs(module, Layer(n, modules[n], take)) for n in chosen.values())


def find_matches(pattern: str, known: Sequence[str]) -> list[str]:
    """The names that a pattern matches, in their order.

    Raises:
        OptionError: If there is none; near names are listed.
    """
    found = [name for name in known if matches(name, pattern)]
    if found:
        return found
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    near += [name for name in known if matches(name, f"**.{pattern}") and name not in near]
    hint = (
        f"did you mean {', '.join(map(repr, near[:5]))}?"
        if near
        else "try one of " + ", ".join(known[:10])
    )
    is_pattern = any(sign in pattern for sign in "*?[")
    missing = "no layer matches" if is_pattern else "the module has no layer"
    raise OptionError(f"{missing} {pattern!r}; {hint}")


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name fits a pattern: ``*`` and ``?`` stay within one part of the name.

    As for files in a shell, with dots for slashes: ``blocks.*`` are the children of ``blocks``
    alone, ``**`` crosses dots, ``[12]`` is one of these and ``[!12]`` none of them.

    Example:
        >>> [matches(name, "blocks.*") for name in ("blocks", "blocks.3", "blocks.3.attn")]
        [False, True, False]
    """
    signs = {"**": ".*", "*": "[^.]*", "?": "[^.]"}

    def as_regex(part: re.Match[str]) -> str:
        if len(part[0]) > 2:
            return "[" + part[0][1:].replace("!", "^", 1)
        return signs.get(part[0], re.escape(part[0]))

    regex = re.sub(r"\*\*|\[!?[\w-]+\]|.", as_regex, pattern)
    return re.fullmatch(regex, name) is not None


def _outside_graphs(module: nn.Module, layer: Layer) -> Layer:
    in_graph = any(is_compiled(parent) for _, parent in ancestors(module, layer.name))
    if in_graph or getattr(module, "_compiler_ctx", None) is not None:  # by Lightning, unwrapped
        layer = replace(layer, in_graph=True)
    around = whole_graph_around(module, layer.name)
    if around is not None:
        raise FeatureTapError(
            f"layer {layer.name!r} lies inside of {around or 'a module'!r}, which is compiled with "
            "fullgraph=True: a hook there would break its graph; measure "
            + (f"layer={around!r}, whose output is outside of it" if around else "another layer")
        )
    return layer


def replaced(module: nn.Module, layer: Layer) -> str | None:
    """What happened to a layer since it was found, if its name leads to something else by now.

    Wrappers that run the very module as it is (of FSDP, of compilation, of activation
    checkpointing) are looked through; one that adds to it, such as LoRA, is not.
    """
    try:
        found = module.get_submodule(layer.name)
    except AttributeError:
        return f"layer {layer.name!r} is gone from the module since the monitor found it"
    while found is not layer.module:
        inner = next((found._modules[n] for n in TRANSPARENT if n in found._modules), None)
        if inner is None:
            return (
                f"layer {layer.name!r} was a {type(layer.module).__name__} when the monitor found "
                f"it; by now another {type(found).__name__} has its name"
            )
        found = inner
    return None


def choose_layer(module: nn.Module) -> Layer:
    """Choose the penultimate layer of a module: backbone features, never those of a head.

    1. The first child called as in ``BACKBONE_NAMES``, its output. Where that child holds a
       backbone and then a head itself, the backbone inside; where it holds a student and a
       teacher, the teacher, which is what such wrappers run in validation; where its ``fc`` or
       ``head`` is a projector of several layers, the input of that.
    2. Else the input of the last `nn.Linear`, unless that is part of a head (a projector, a
       predictor, prototypes, a decoder) or of a repeated block.
    3. Else the only child in which a backbone is followed by a head, as in 1.

    Raises:
        FeatureTapError: If no part of the rule applies; candidates are listed.
    """
    children = dict(module.named_children())
    known = _known_child(module)
    if known is not None:
        return _inside(known, children[known])
    linears = [name for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    candidates = ", ".join(children) or "none"
    if not linears:
        raise FeatureTapError(
            f"cannot choose a layer: no child is called {', '.join(BACKBONE_NAMES)} and there is "
            f"no nn.Linear; pass layer=, for example one of: {candidates}"
        )
    reason = _why_not(module, linears[-1])
    if reason is None:
        return Layer(linears[-1], module.get_submodule(linears[-1]), "input")
    with_heads = [name for name, child in children.items() if _backbone_before_head(child)]
    if len(with_heads) == 1:
        return _inside(with_heads[0], children[with_heads[0]])
    raise FeatureTapError(
        f"cannot choose a layer: the last nn.Linear, {linears[-1]!r}, {reason}; "
        f"pass layer=, for example one of: {candidates}"
    )


def _known_child(module: nn.Module) -> str | None:
    names = {name for name, _ in module.named_children()}
    return next((name for name in BACKBONE_NAMES if name in names), None)


def _inside(name: str, module: nn.Module) -> Layer:
    """The features of a network that may carry more than its backbone."""
    children = dict(module.named_children())
    inner = _backbone_before_head(module)
    if {"student", "teacher"} <= children.keys():
        inner = "teacher"
    if inner is not None:
        return _inside(f"{name}.{inner}", children[inner])
    for last in CLASSIFIERS:
        if last in children and _num_linears(children[last]) > 1:
            return Layer(f"{name}.{last}", children[last], "input")
    return Layer(name, module, "output")


def _backbone_before_head(module: nn.Module) -> str | None:
    """The child that is a backbone, if a head with weights comes after it."""
    known = _known_child(module)
    if known is None:
        return None
    children = list(module.named_children())
    after = children[[name for name, _ in children].index(known) + 1 :]
    # The ``heads`` of torchvision's vision transformer are its classifier.
    heads = [m for name, m in after if is_head(name) and name != "heads"]
    return known if any(True for head in heads for _ in head.parameters()) else None


def is_head(part: str) -> bool:
    """Whether a module of this name turns features into something else; no classifier."""
    return any(word in part.lower() for word in HEAD_WORDS) and "class" not in part.lower()


def _num_linears(module: nn.Module) -> int:
    return sum(isinstance(m, nn.Linear) for m in module.modules())


def _why_not(module: nn.Module, name: str) -> str | None:
    """Why the input of the last `nn.Linear` is not what to measure, if so."""
    parts = name.split(".")
    for depth, part in enumerate(parts, start=1):
        path = ".".join(parts[:depth])
        if part in CLASSIFIERS:  # of one layer it is a classifier, and its input are features
            if _num_linears(module.get_submodule(path)) > 1:
                return (
                    "looks like a head of several layers, and α belongs on backbone features; "
                    f"what goes into it is layer={path!r}, take='input'"
                )
        elif is_head(part):
            return "looks like a head, and α belongs on backbone features"
    return "lies inside a repeated block" if any(p.isdigit() for p in parts[:-1]) else None
