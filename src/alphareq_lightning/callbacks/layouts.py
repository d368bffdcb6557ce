"""Where the channels of a layer's tensor are: behind the samples, or last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from alphareq_lightning.callbacks.layers import Layer

Channels = Literal["first", "last"]

OVER_TIME = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
)
OVER_MAPS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
)
WIDTHS = {
    "output": ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim"),
    "input": ("in_features", "in_channels", "num_features", "num_channels"),
}


def channels_of(shape: Sequence[int], layer: Layer) -> Channels | None:
    """Tell where the channels are by what the layer is made of, else by the shape.

    The first of these that tells the second dimension from the last:

    1. The layer itself is a convolution, a batch norm or a pooling (first), or exactly an
       `nn.Linear` or an `nn.LayerNorm` (last).
    2. Only one of the two is as wide as the last module in the layer says that its output is (of
       its input: the first module).
    3. Or as wide as any module in it says.
    4. A square: ``(n, c, a, a)`` or ``(n, a, a, c)``.
    5. Of the modules named in 1, the layer holds one kind only.

    Args:
        shape: Of the tensor, at least three dimensions; memory formats do not matter.
        layer: Where it comes from.

    Returns:
        `None` if nothing tells.
    """
    leaves = [module for module in layer.module.modules() if not any(module.children())]
    kinds = {kind for leaf in leaves if (kind := _kind(leaf, len(shape))) is not None}
    only = kinds.pop() if len(kinds) == 1 else None
    if only is not None and leaves == [layer.module]:
        return only
    widths = [width for leaf in leaves if (width := _width(leaf, layer.take)) is not None]
    nearest = widths[-1:] if layer.take == "output" else widths[:1]
    for known in (nearest, widths):
        if (shape[1] in known) != (shape[-1] in known):
            return "first" if shape[1] in known else "last"
    return squared(shape) or only


def puts_samples_second(module: nn.Module) -> bool:
    """Whether a layer may give ``(t, n, d)``, as torch's own attention and RNNs do by default."""
    return any(getattr(part, "batch_first", True) is False for part in module.modules())


def squared(shape: Sequence[int]) -> Channels | None:
    """Tell a map's channels by its two equal sides.

    Example:
        >>> squared((8, 512, 7, 7)), squared((8, 7, 7, 768)), squared((8, 64, 64, 64))
        ('first', 'last', None)
    """
    if len(shape) < 4 or (shape[-2] == shape[-1]) == (shape[-3] == shape[-2]):
        return None
    return "first" if shape[-2] == shape[-1] else "last"


def _kind(leaf: nn.Module, num_dimensions: int) -> Channels | None:
    # A convolution over maps whose output has three dimensions was flattened: into tokens?
    if isinstance(leaf, OVER_TIME if num_dimensions == 3 else OVER_MAPS):
        return "first"
    # The ``LayerNorm2d`` of torchvision and timm derive from `nn.LayerNorm` and turn it round.
    is_last = type(leaf) is nn.Linear or type(leaf) is nn.LayerNorm
    return "last" if is_last and len(getattr(leaf, "normalized_shape", "1")) == 1 else None


def _width(leaf: nn.Module, take: str) -> int | None:
    """How many features a module declares, by the names that torch's own modules use."""
    values: list[Any] = [getattr(leaf, name, None) for name in WIDTHS[take]]
    normalized = getattr(leaf, "normalized_shape", ())
    values += normalized if len(normalized) == 1 else ()
    weight = getattr(leaf, "weight", None)
    if getattr(weight, "ndim", 0) == 1:  # a norm or a scale that somebody wrote
        values.append(len(weight))  # type: ignore[arg-type]
    return next((value for value in values if isinstance(value, int)), None)
