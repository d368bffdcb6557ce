"""One gated forward hook: a layer's tensors become running moments of its features."""

from __future__ import annotations

import copyreg
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from alphareq_lightning.errors import AlphaReQWarning, FeatureTapError, PaddingWarning
from alphareq_lightning.measure.batches import attention_mask, batch_size, unread_mask
from alphareq_lightning.measure.compiled import OutsideGraph, in_place
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.pooling import Pool, Pooling, pool_name
from alphareq_lightning.measure.state_size import check_room
from alphareq_lightning.metrics.companions import Companion
from alphareq_lightning.metrics.moments import StreamingMoments
from alphareq_lightning.metrics.views import OfViews

STEP = "validation_step"


class FeatureTap:
    """Adds the features of a layer to its moments, each time the layer runs while it is open.

    The hook stays registered from attaching to `remove` and does nothing while closed, so that
    compiled modules see one graph. It never raises into somebody's forward pass: what goes wrong
    is kept in ``problem``.

    Args:
        layer: Where to listen.
        pool: How what the layer gives becomes ``(n, d)``, see `pool_features`; or a callable that
            is given it as it is.
        companions: See the same features, for scores that the moments do not hold, by name.

    Attributes:
        mask: Which tokens of the batch count, shape ``(n, t)``; `None` counts all.
        shape: What the layer gave, the samples aside; `None` before it has run.
    """

    is_open = False

    def __init__(
        self,
        layer: Layer,
        pool: Pool = "mean",
        companions: Mapping[str, Companion] | None = None,
    ) -> None:
        self.pooling = Pooling(layer, pool)
        self.moments = StreamingMoments()
        self.companions = companions or {}
        self._handle: RemovableHandle | OutsideGraph | None = None
        self.start()
        self.move_to(layer)

    def move_to(self, layer: Layer) -> None:
        """Listen to this layer from now on.

        Raises:
            FeatureTapError: If it takes no hook.
        """
        if self._handle is not None:
            self._handle.remove()
        self.layer = self.pooling.layer = layer
        if in_place(layer.module):
            self._handle = OutsideGraph(layer.module, self._hook)
            return
        hook = self._hook if layer.in_graph else self._hook_outside_graphs
        try:
            self._handle = layer.module.register_forward_hook(hook, with_kwargs=True)
        except RuntimeError as error:  # a ScriptModule
            raise FeatureTapError(
                f"layer {layer.name!r}, a {type(layer.module).__name__}, takes no hook: {error}"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles of a module carry its hooks along: theirs are closed for good."""
        return copyreg.__newobj__, (FeatureTap,)  # type: ignore[attr-defined]

    def start(self, device: torch.device | str = "cpu", max_samples: int | None = None) -> None:
        """Forget everything, and take at most ``max_samples`` rows from now on."""
        for metric in (self.moments, *self.companions.values()):
            metric.reset()
            metric.to(device)
        self.max_samples = max_samples
        self.pooling.restart()
        self.mask: Tensor | None = None
        self.num_samples = 0
        self._images_left = math.inf
        self._module: nn.Module | None = None
        self._before_batch, self._ran = 0, False
        self._views: list[Tensor] | None = None
        self.num_images = 0
        self.shape: tuple[int, ...] | None = None
        self.unread_mask: str | None = None
        self.seconds = 0.0
        self.problem: str | None = None

    def open(self, batch: Any, in_step_of: nn.Module | None = None, *, again: bool = False) -> None:
        """Listen to the forward pass of a batch.

        Args:
            batch: What the layer's features will come from.
            in_step_of: Listen only within the validation step of this LightningModule: other
                callbacks, kNN probes or another monitor, run forward passes of their own before
                and after it.
            again: The images are those of the pass before, for another network.
        """
        self.is_open, self._module = True, in_step_of
        if not again:
            self._before_batch = self.num_samples
        self._ran = self.num_samples > self._before_batch
        self.mask = attention_mask(batch)
        self.unread_mask = self.unread_mask or unread_mask(batch)
        try:
            self._images_left = batch_size(batch)
        except FeatureTapError:  # then each row counts as an image
            self._images_left = math.inf

    def open_views(self, batch: Any) -> None:
        """Listen to passes over views of a batch, for the scores of views alone."""
        self.is_open, self._views = True, []
        self.mask = attention_mask(batch)

    def close_views(self, num_views: int) -> None:
        """Add the views that were heard, all of them of the same images."""
        heard, self._views, self.is_open = self._views or [], None, False
        if not heard and self.num_samples == 0:
            return  # it did not run at all: that is said elsewhere
        try:
            if len(heard) != num_views:
                raise FeatureTapError(
                    f"layer {self.layer.label!r} ran {len(heard)} times in the passes over "
                    f"{num_views} views, and scores of views need it once in each; leave them out, "
                    "or run one network alone with forward="
                )
            views = torch.stack(heard, dim=1)
            for companion in self.companions.values():
                if isinstance(companion, OfViews):
                    companion.add_views(views)
        except Exception as error:  # see `_hook`
            self.problem = str(error) or type(error).__name__

    def describe(self) -> str:
        """What is measured, for people: ``'backbone' (n, 512, 4, 4) → 512 features by mean``."""
        shape = "" if self.shape is None else f" (n, {', '.join(map(str, self.shape))})"
        how = "" if shape and len(self.shape or ()) == 1 else f" by {pool_name(self.pooling.pool)}"
        return f"{self.layer.label!r}{shape} → {self.moments.num_features:,} features{how}"

    def complaints(self) -> Iterator[tuple[type[AlphaReQWarning], str]]:
        """What a user should hear about padding, and as which kind of warning."""
        lengths, where = self.pooling.unmasked_lengths, f"layer {self.layer.label!r} gave sequences"
        if self.unread_mask is not None and lengths:
            yield (
                PaddingWarning,
                f"{where}, and the batches have {self.unread_mask} "
                "whose meaning is not known here: all tokens are in the mean; call it "
                "'attention_mask', with 1 for what counts, or pass pool= a callable",
            )
        if len(lengths) > 1:
            yield (
                PaddingWarning,
                f"{where} of {len(lengths)} lengths, {min(lengths)} "
                f"to {max(lengths)}, and no batch had an 'attention_mask': if they are padded, "
                "padding is in the mean; give batches as dicts with that mask, or pool= a callable",
            )

    @property
    def is_full(self) -> bool:
        """Whether no more samples are wanted."""
        return self.max_samples is not None and self.num_samples >= self.max_samples

    def remove(self) -> None:
        """Take the hook off the layer."""
        self.is_open = False
        if self._handle is not None:
            self._handle.remove()

    def follow(self) -> None:
        """Listen outside of the layer's graph if it was compiled in place since."""
        if in_place(self.layer.module) and not isinstance(self._handle, OutsideGraph):
            self.move_to(self.layer)

    def _hook_outside_graphs(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not torch.compiler.is_compiling():  # compiled later: the graph stays whole
            self._hook(module, args, kwargs, output)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _hook(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not self.is_open or self.is_full or not _in_step(self._module):
            return
        started = time.perf_counter()
        try:
            self._add(output if self.layer.take == "output" else first_input(args, kwargs))
        except Exception as error:  # an observer must not end the validation it observes
            self.problem = str(error) or type(error).__name__
        self.seconds += time.perf_counter() - started

    def _add(self, output: Any) -> None:
        value = self.pooling.pick(output)
        features = self.pooling(value, self.mask)
        if self._views is not None:
            self._views.append(features)
            return
        if self._ran:
            raise FeatureTapError(
                f"layer {self.layer.label!r} runs in two of the forward passes over the same "
                "images, which would count twice; take one of them out of forward=, or measure "
                "the layer with an AlphaMonitor of its own"
            )
        if isinstance(value, Tensor):
            self.shape = tuple(value.shape[1:])
        if self.max_samples is not None:
            features = features[: self.max_samples - self.num_samples]
        if self.moments.num_features == 0:
            check_room(features.shape[1], features.device, self.layer.label)
        self.moments.update(features, computed_in(value if isinstance(value, Tensor) else features))
        for companion in self.companions.values():
            if not isinstance(companion, OfViews):
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


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer was called with, positional or by keyword."""
    return args[0] if args else next(iter(kwargs.values()), None)
