"""Where the channels of a layer's tensor are: behind the samples, or last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from alphareq_lightning.measure.layers import Layer

Channels = Literal["first", "last"]

_OVER_TIME = (
    *(nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.GroupNorm),
    *(nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d),
)
_OVER_MAPS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d),
)
LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_KNOWN = (*_OVER_TIME, *_OVER_MAPS, *LAST)
"""Also where a class derived from one holds other modules, as timm's ``BatchNormAct2d`` does."""
WIDTHS = {
    "output": ("out_features", "out_channels", "embedding_dim", "nf"),
    "input": ("in_features", "in_channels", "nx"),
}
"""``nf`` and ``nx`` are those of GPT-2's linear layers, which transformers calls ``Conv1D``."""
_NORM_WIDTHS = ("num_features", "num_channels")


def channels_of(shape: Sequence[int], layer: Layer) -> Channels | None:
    """Tell where the channels are by what the layer is made of, and by the shape.

    A convolution, a batch norm or a pooling has them first; exactly an `nn.Linear`, `nn.LayerNorm`,
    `nn.RMSNorm` or `nn.Embedding` has them last. What holds other modules is asked three things,
    and the majority counts:

    - Which of the second dimension and the last is as wide as the last module in it says that its
      output is (of the input: the first module), or else as any module in it says?
    - Are two sides equal: ``(n, c, a, a)`` or ``(n, a, a, c)``? The second alone is no proof.
    - Are all the modules in it of one of the two kinds? Convolutions over time are no proof, for
      around them sequences are turned and turned back.

    Args:
        shape: Of the tensor, at least three dimensions; memory formats do not matter.
        layer: Where it comes from.

    Returns:
        `None` if nothing tells, or as much speaks for one as for the other.
    """
    own = _kind(layer.module, len(shape))
    if own is not None:
        return own
    parts = [m for m in layer.module.modules() if isinstance(m, _KNOWN) or not any(m.children())]
    by_width = _by_width(
        shape, [w for part in parts if (w := _width(part, layer.take))], layer.take
    )
    kinds = {kind for part in parts if (kind := _kind(part, len(shape))) is not None}
    by_kind = kinds.pop() if len(kinds) == 1 else None
    if len(shape) == 3 and by_kind == "first":
        by_kind = None
    votes = [vote for vote in (by_width, squared(shape), by_kind) if vote is not None]
    lead = votes.count("first") - votes.count("last")
    if lead == 0 or (lead < 0 and by_width is None and by_kind is None):
        return None
    return "first" if lead > 0 else "last"


def _by_width(shape: Sequence[int], widths: Sequence[int], take: str) -> Channels | None:
    nearest = widths[-1:] if take == "output" else widths[:1]
    for known in (nearest, widths):
        if (shape[1] in known) != (shape[-1] in known):
            return "first" if shape[1] in known else "last"
    return None


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
    if isinstance(leaf, _OVER_TIME if num_dimensions == 3 else _OVER_MAPS):
        return "first"
    # The ``LayerNorm2d`` of torchvision and timm derive from `nn.LayerNorm` and turn it round.
    is_last = type(leaf) in LAST
    return "last" if is_last and len(getattr(leaf, "normalized_shape", "1")) == 1 else None


def _width(part: nn.Module, take: str) -> int | None:
    """How many features a module declares, by the names that torch's own modules use."""
    values: list[Any] = [getattr(part, name, None) for name in (*WIDTHS[take], *_NORM_WIDTHS)]
    normalized = getattr(part, "normalized_shape", ())
    values += normalized if len(normalized) == 1 else ()
    weights = list(part.parameters(recurse=False))
    if weights and all(weight.numel() == max(weight.shape, default=0) for weight in weights):
        values.append(weights[0].numel())  # a norm or a scale that somebody wrote
    return next((value for value in values if isinstance(value, int)), None)
