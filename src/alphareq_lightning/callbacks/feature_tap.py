"""One gated forward hook: a layer's tensors become running moments of its features."""

from __future__ import annotations

import copyreg
import math
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alphareq_lightning.callbacks.batches import batch_size
from alphareq_lightning.callbacks.layers import Layer
from alphareq_lightning.callbacks.scores import Companion
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional.projection import project_features
from alphareq_lightning.metrics.moments import StreamingMoments

Pool = Literal["mean", "cls", "flatten", "project"]


STEP = "validation_step"


class FeatureTap:
    """Adds the features of a layer to its moments, each time the layer runs while it is open.

    The hook stays registered from attaching to `remove` and does nothing while closed, so that
    compiled modules see one graph. It never raises into somebody's forward pass: what goes wrong
    is kept in ``problem``.

    Args:
        layer: Where to listen.
        pool: How ``(n, *)`` becomes ``(n, d)``, see `pool_features`.
        companions: See the same features, for scores that the moments do not hold.
        halves: Also keep the moments of every second sample.
    """

    is_open = False

    def __init__(
        self,
        layer: Layer,
        pool: Pool = "mean",
        companions: Sequence[Companion] = (),
        *,
        halves: bool = False,
    ) -> None:
        self.layer = layer
        self.pool: Pool = pool
        self.moments = StreamingMoments(halves=halves)
        self.companions = companions
        self.start()
        try:
            self._handle = layer.module.register_forward_hook(self._hook, with_kwargs=True)
        except RuntimeError as error:  # a ScriptModule
            raise FeatureTapError(
                f"layer {layer.name!r}, a {type(layer.module).__name__}, takes no hook: {error}"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles of a module carry its hooks along: theirs are closed for good."""
        return copyreg.__newobj__, (FeatureTap,)  # type: ignore[attr-defined]

    def start(self, device: torch.device | str = "cpu", max_samples: int | None = None) -> None:
        """Forget everything, and take at most ``max_samples`` rows from now on."""
        for metric in (self.moments, *self.companions):
            metric.reset()
            metric.to(device)
        self.max_samples = max_samples
        self.num_samples = 0
        self._images_left = math.inf
        self._module: nn.Module | None = None
        self.num_images = 0
        self.seconds = 0.0
        self.problem: str | None = None

    def open(self, batch: Any, in_step_of: nn.Module | None = None) -> None:
        """Listen to the forward pass of a batch.

        Args:
            batch: What the layer's features will come from.
            in_step_of: Listen only within the validation step of this LightningModule: other
                callbacks, kNN probes or another monitor, run forward passes of their own before
                and after it.
        """
        self.is_open, self._module = True, in_step_of
        try:
            self._images_left = batch_size(batch)
        except FeatureTapError:  # then each row counts as an image
            self._images_left = math.inf

    def beside(self, *, across_ranks: bool = True) -> dict[type[Companion], Any]:
        """What the companions have gathered over all ranks; then every rank must ask."""
        return {type(c): c.reduced(across_ranks=across_ranks) for c in self.companions}

    @property
    def is_full(self) -> bool:
        """Whether no more samples are wanted."""
        return self.max_samples is not None and self.num_samples >= self.max_samples

    def remove(self) -> None:
        """Take the hook off the layer."""
        self.is_open = False
        self._handle.remove()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _hook(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not self.is_open or self.is_full or not _in_step(self._module):
            return
        started = time.perf_counter()
        try:
            self._add(output if self.layer.take == "output" else _first_input(args, kwargs))
        except Exception as error:  # an observer must not end the validation it observes
            self.problem = str(error) or type(error).__name__
        self.seconds += time.perf_counter() - started

    def _add(self, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise FeatureTapError(
                f"the {self.layer.take} of layer {self.layer.name!r} is a "
                f"{type(value).__name__}, not a tensor; name a layer inside it that returns one"
            )
        features = pool_features(value.detach(), self.pool)
        if self.max_samples is not None:
            features = features[: self.max_samples - self.num_samples]
        self.moments.update(features, computed_in(value))
        for companion in self.companions:
            companion.update(features)
        self.num_samples += len(features)
        # What the layer gives beyond the images of the batch is other views of them.
        new = int(min(len(features), self._images_left))
        self.num_images += new
        self._images_left -= new


def _in_step(module: nn.Module | None) -> bool:
    # Lightning notes there which hook of whom is running; "validation_step" is the module's own.
    return module is None or getattr(module, "_current_fx_name", STEP) == STEP


def computed_in(value: Tensor) -> torch.dtype:
    """The dtype whose rounding is in a tensor: under autocast a float32 one may have been half."""
    kind = value.device.type
    if not value.is_floating_point() or not torch.is_autocast_enabled(kind):
        return value.dtype
    return max(value.dtype, torch.get_autocast_dtype(kind), key=lambda d: torch.finfo(d).eps)


def pool_features(value: Tensor, pool: Pool = "mean") -> Tensor:
    """Turn a layer's tensor into one feature vector per sample.

    Args:
        value: ``(n, d)``, tokens ``(n, t, d)``, or maps ``(n, c, h, w)`` and ``(n, c, t, h, w)``.
            Maps with channels last, as inside torchvision's Swin, look the same and would be
            pooled over their channels: name a later layer there.
        pool: ``"mean"`` over tokens or positions, ``"cls"`` for the first token,
            ``"flatten"`` to keep them all, or ``"project"`` to keep them all in at most 2,048
            random sums, see `project_features`.

    Returns:
        Features, shape ``(n, d)``.

    Raises:
        FeatureTapError: If ``value`` has no sample dimension, or ``"cls"`` meets no tokens.

    Example:
        >>> pool_features(torch.ones(8, 16, 4, 4)).shape
        torch.Size([8, 16])
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
        if value.ndim != 3:
            raise FeatureTapError(
                f"pool='cls' needs tokens of shape (n, t, d), got shape {tuple(value.shape)}"
            )
        return value[:, 0]
    # The mean of many positions is kept in float32, not in the half precision they came in.
    wide = value if value.dtype == torch.float64 else value.float()
    return wide.mean(dim=1) if value.ndim == 3 else wide.flatten(start_dim=2).mean(dim=2)


def _first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)
