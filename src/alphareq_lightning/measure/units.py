"""Which layers make the depth of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from alphareq_lightning.errors import OptionError
from alphareq_lightning.measure.layers import Layer, find_matches

_CONTAINERS = (nn.Sequential, nn.ModuleList)
"""Exactly these are looked into; a class derived from one is a block with a name of its own."""
_PRIMITIVES = ("torch.nn.", "torchvision.ops.", "timm.layers.")
CLASSIFIERS = ("fc", "head", "heads", "classifier")


def profiled_layers(model: nn.Module, patterns: Sequence[str] = ()) -> tuple[Layer, ...]:
    """The layers to profile, in the order in which the model defines them.

    Without patterns: every block that is repeated, and every other part with weights, down to the
    input of the classifier. A ResNet gives its stem, each residual block and the penultimate
    features; a vision transformer its patch embedding and each encoder block.

    Args:
        model: Any network.
        patterns: Of dotted names, for example ``"layer*.?"``, see `matches`.

    Raises:
        OptionError: If a pattern matches nothing, or the model has no weights.

    Example:
        >>> from torchvision.models import resnet18
        >>> [layer.label for layer in profiled_layers(resnet18())][:3]
        ['conv1', 'layer1.0', 'layer1.1']
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if patterns:
        chosen = {name for pattern in patterns for name in find_matches(pattern, list(modules))}
        return tuple(Layer(n, m, "output") for n, m in modules.items() if n in chosen)
    units = list(_units("", model))
    if not units:
        raise OptionError(f"{type(model).__name__} has no layer with weights to profile")
    layers = [Layer(name, modules[name], "output") for name in units]
    classifier = _classifier(units[-1], modules)
    if classifier is not None:
        layers[-1] = Layer(classifier, modules[classifier], "input")
    return tuple(layers)


def _units(prefix: str, module: nn.Module) -> Iterator[str]:
    for name, child in module.named_children():
        if type(child) in _CONTAINERS or _num_blocks(child) >= 2:
            yield from _units(f"{prefix}{name}.", child)
        elif any(weight.ndim > 1 for weight in child.parameters()):
            yield f"{prefix}{name}"


def _num_blocks(module: nn.Module) -> int:
    """Modules with a class of their own in containers of ``module``: what it is made of."""
    count = 0
    for child in module.children():
        if type(child) in _CONTAINERS:
            blocks = [block for block in child.children() if type(block) not in _CONTAINERS]
            count += sum(not _is_primitive(block) for block in blocks) + _num_blocks(child)
    return count


def _is_primitive(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_PRIMITIVES)


def _classifier(last: str, modules: dict[str, nn.Module]) -> str | None:
    """The last `nn.Linear`, where it turns features into classes."""
    if isinstance(modules[last], nn.Linear):
        return last
    inside = [n for n, m in modules.items() if n.startswith(f"{last}.") and type(m) is nn.Linear]
    return inside[-1] if inside and last.split(".")[0] in CLASSIFIERS else None
