"""How what a layer gives becomes one feature vector per sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from alphareq_lightning.errors import FeatureTapError, OptionError, SpectrumError
from alphareq_lightning.functional.projection import project_features
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.layouts import (
    Channels,
    channels_of,
    puts_samples_second,
    squared,
)

PoolName = Literal["mean", "mean_first", "mean_last", "cls", "flatten", "project"]
Pool = PoolName | Callable[[Any], Any]
_POOLS: tuple[PoolName, ...] = get_args(PoolName)

_FEATURE_FIELDS = ("last_hidden_state", "embedding", "encoded")
"""Of transformers and of stable-pretraining (twice)."""
_NO_FEATURES = ("loss", "logits", "mask", "prediction", "target", "hidden_states", "attentions")


def check_pool(pool: Any) -> Pool:
    """Raise `OptionError` unless ``pool`` is a known name or a callable."""
    if not callable(pool) and pool not in _POOLS:
        raise OptionError(f"expected pool to be one of {_POOLS}, or a callable, got {pool!r}")
    return pool  # type: ignore[no-any-return]


def pool_name(pool: Pool) -> str:
    """What to call it where only text can stand."""
    return pool if isinstance(pool, str) else getattr(pool, "__qualname__", type(pool).__name__)


class Pooling:
    """The same way from a layer's output to features, batch after batch.

    Args:
        layer: Where the output comes from; what it is made of tells where its channels are.
        pool: As in `pool_features`.

    Attributes:
        unmasked_lengths: How many tokens or steps were averaged in each batch that came without a
            mask. More than one number: sequences of several lengths, which are padded as a rule.
    """

    def __init__(self, layer: Layer, pool: Pool = "mean") -> None:
        self.layer = layer
        self.pool = pool
        self.restart()

    def restart(self) -> None:
        """Forget the batches that were seen."""
        self.unmasked_lengths: set[int] = set()
        self._size: int | None = None
        self._channels: dict[tuple[int, ...], Channels | None] = {}
        self._samples_second = puts_samples_second(self.layer.module)

    def pick(self, output: Any) -> Any:
        """The tensor in what the layer gave, see `_tensor_in`; a callable has all of it."""
        return output if callable(self.pool) else _tensor_in(output, self.layer).detach()

    def __call__(self, value: Any, mask: Tensor | None = None) -> Tensor:
        """Features of a batch, shape ``(n, d)``, from what `pick` took out.

        Raises:
            FeatureTapError: If there is no telling which features are meant.
            SpectrumError: If ``"project"`` meets samples of another size than before.
        """
        if callable(self.pool):
            return _pooled_by(self.pool, value)
        if self.pool == "project" and value.ndim > 1:
            size = value[0].numel()
            if self._size not in (None, size):
                raise SpectrumError(
                    f"expected samples of {self._size} values as in the batches before, got "
                    f"shape {tuple(value.shape)}; pool='project' cannot mix sizes: use 'mean', or "
                    "images of one size"
                )
            self._size = size
        if value.ndim < 3 or not value.is_floating_point():
            return pool_features(value, self.pool)
        return pool_features(value, self._told(value, mask), mask)

    def _told(self, value: Tensor, mask: Tensor | None) -> PoolName:
        """Which axes ``"mean"`` is about; what is known of them must not contradict ``pool``."""
        pool, shape = self.pool, tuple(value.shape)
        assert isinstance(pool, str)
        if pool in ("mean_first", "mean_last"):
            return pool
        if value.ndim == 3 and self._samples_second:
            raise FeatureTapError(
                f"shape {shape} of layer {self.layer.label!r} may be (t, n, d), for something in "
                "it has batch_first=False; pass pool='mean_last' if samples come first, else a "
                "callable that returns (n, d)"
            )
        if pool in ("flatten", "project"):
            return pool
        if shape[1:] not in self._channels:
            self._channels[shape[1:]] = channels_of(shape, self.layer)
        channels = self._channels[shape[1:]]
        if pool == "cls":
            if channels == "first":
                raise FeatureTapError(
                    f"pool='cls' needs tokens of shape (n, t, d), got shape {shape} with channels "
                    "first"
                )
            return pool
        if channels is None:
            raise FeatureTapError(
                f"cannot tell whether shape {shape} of layer {self.layer.label!r} has its channels "
                "first or last; pass pool='mean_first' for (n, c, ...) or 'mean_last' for "
                "(n, ..., c), 'flatten', 'project' or a callable"
            )
        if value.ndim == 3 and mask is None:
            self.unmasked_lengths.add(shape[2 if channels == "first" else 1])
        return "mean_first" if channels == "first" else "mean_last"


def pool_features(value: Tensor, pool: PoolName = "mean", mask: Tensor | None = None) -> Tensor:
    """Turn a layer's tensor into one feature vector per sample.

    Args:
        value: ``(n, d)``, tokens ``(n, t, d)``, or maps ``(n, c, h, w)`` and ``(n, c, t, h, w)``.
        pool: ``"mean"`` over tokens or positions: without the layer at hand, tokens have their
            channels last, and maps have them first unless two equal sides say otherwise.
            ``"mean_first"`` and ``"mean_last"`` say where the channels are; ``"cls"`` is the first
            token, ``"flatten"`` keeps all, and ``"project"`` keeps all in at most 2,048 random
            sums, see `project_features`.
        mask: Which of the tokens count, shape ``(n, t)``: the others, which fill a batch up, are
            left out of the mean. For values without a dimension of tokens it says nothing.

    Returns:
        Features, shape ``(n, d)``.

    Raises:
        FeatureTapError: If ``value`` has no sample dimension, ``"cls"`` meets no tokens, or
            ``mask`` belongs to other tokens.

    Example:
        >>> import torch
        >>> pool_features(torch.ones(8, 16, 4, 4)).shape
        torch.Size([8, 16])
        >>> pool_features(torch.tensor([[[2.0], [9.0]]]), mask=torch.tensor([[1, 0]]))
        tensor([[2.]])
    """
    if value.ndim == 0:
        raise FeatureTapError("expected a tensor of shape (n, ...), got a scalar")
    if value.ndim == 1:
        return value[:, None]
    if not value.is_floating_point():  # refused further on
        return value.flatten(start_dim=1)
    if pool == "project":
        return project_features(value.flatten(start_dim=1))
    if value.ndim == 2 or pool == "flatten":
        return value.flatten(start_dim=1)
    if pool == "cls":
        return _first_token(value, mask)
    if pool == "mean":
        first = value.ndim > 3 and squared(value.shape) != "last"
        pool = "mean_first" if first else "mean_last"
    # The mean of many positions is kept in float32, not in the half precision they came in.
    wide = value if value.dtype.itemsize > 4 else value.float()
    wide = wide.flatten(start_dim=2) if pool == "mean_first" else wide.flatten(1, -2).mT
    if mask is None or value.ndim != 3 or bool(mask.all()):
        return wide.mean(dim=2)
    counts = _checked(mask, value, wide.shape[2])[:, None]
    return wide.masked_fill(~counts, 0).sum(dim=2) / counts.sum(dim=2)


def _first_token(value: Tensor, mask: Tensor | None) -> Tensor:
    if value.ndim != 3:
        raise FeatureTapError(
            f"pool='cls' needs tokens of shape (n, t, d), got shape {tuple(value.shape)}"
        )
    if mask is not None and not bool(mask[:, 0].all()):
        padding = int((mask[:, 0] == 0).sum())
        raise FeatureTapError(
            f"pool='cls' takes the first token, which is padding in {padding} of {len(value)} "
            "samples; use pool='mean', or pad on the right"
        )
    return value[:, 0]


def _checked(mask: Tensor, value: Tensor, num_tokens: int) -> Tensor:
    if mask.shape != (len(value), num_tokens):
        raise FeatureTapError(
            f"expected a mask of shape {(len(value), num_tokens)} for the tokens of shape "
            f"{tuple(value.shape)}, got {tuple(mask.shape)}; take a layer that gives one feature "
            "vector a sample, or pass pool= a callable"
        )
    empty = int((mask == 0).all(dim=1).sum())
    if empty:
        raise FeatureTapError(f"the mask leaves no token in {empty} of {len(mask)} samples")
    return mask.to(value.device) != 0


def _tensor_in(output: Any, layer: Layer) -> Tensor:
    """The features in what a layer gives.

    A tensor; else, by name, a ``last_hidden_state``, ``embedding`` or ``encoded``; else the only
    floating-point tensor with at least two dimensions, losses, logits and masks aside.

    Raises:
        FeatureTapError: If there is none, or no telling which.
    """
    if isinstance(output, Tensor):
        return output
    fields = _fields(output)
    tensors = {name: v for name, v in fields.items() if isinstance(v, Tensor)}
    named = [name for name in _FEATURE_FIELDS if name in tensors]
    usable = [
        name
        for name, tensor in tensors.items()
        if name not in _NO_FEATURES and tensor.is_floating_point() and tensor.ndim > 1
    ]
    if named or len(usable) == 1:
        return tensors[(named or usable)[0]]
    found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    kind = "nothing" if output is None else f"a {type(output).__name__} with {found or 'no tensor'}"
    raise FeatureTapError(
        f"the {layer.take} of layer {layer.name!r} is {kind}, and there is no telling which are "
        "the features; name a layer inside it, or pass pool= a callable that takes them out"
    )


def _fields(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):  # ModelOutput of transformers is one
        return {str(name): value for name, value in output.items()}
    if dataclasses.is_dataclass(output):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, Sequence) and not isinstance(output, str):
        return {f"[{index}]": value for index, value in enumerate(output)}
    return {}


def _pooled_by(pool: Callable[[Any], Any], output: Any) -> Tensor:
    features = pool(output)
    if not isinstance(features, Tensor) or features.ndim != 2:
        came = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise FeatureTapError(
            f"expected features of shape (n, d) from pool={pool_name(pool)}, got {came}"
        )
    return features.detach()
