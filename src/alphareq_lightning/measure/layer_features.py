"""A model cut off at the layer whose α was measured: what a readout reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.measure.feature_tap import first_input
from alphareq_lightning.measure.layers import Take, resolve_layers
from alphareq_lightning.measure.pooling import Pool, Pooling

HINTS = {
    'required "forward"': "; it needs a method forward(images), on whose way the layer lies",
    "channels": "; image files and digits have 3 channels, a DataModule of your own its own",
}
"""What helps, by a word in torch's message."""


def run_on(model: Callable[[Tensor], Any], images: Tensor) -> None:
    """Run a model on images.

    Raises:
        FeatureTapError: If it does not run on images of this shape.
    """
    try:
        model(images)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        hint = next((told for word, told in HINTS.items() if word in str(error)), "")
        raise FeatureTapError(
            f"the model does not run on images of shape {tuple(images.shape)}: {error}{hint}"
        ) from error


class LayerFeatures(nn.Module):
    """A model cut off at a layer: images in, that layer's features out.

    Args:
        module: Run as it is.
        label: The layer as records name it: its dotted name, with ``:input`` behind it for its
            first input.
        pool: As in `AlphaMonitor`.
        run: What to run on the images; the module itself by default.

    Raises:
        OptionError: If there is no such layer.
    """

    def __init__(
        self,
        module: nn.Module,
        label: str,
        pool: Pool = "mean",
        run: Callable[[Tensor], Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.run = run or module
        name, _, taken = label.partition(":")
        take: Take = "input" if taken == "input" else "output"
        [self.layer] = resolve_layers(module, name, take)
        self.pooling = Pooling(self.layer, pool)
        self.caught: list[Any] = []
        self.layer.module.register_forward_hook(self._catch, with_kwargs=True)

    def forward(self, images: Tensor) -> Tensor:
        """Features of the layer, shape ``(n, d)``; of its last run, if it ran several times."""
        self.caught.clear()
        run_on(self.run, images)
        if not self.caught:
            raise FeatureTapError(f"layer {self.layer.label!r} did not run in the forward pass")
        return self.pooling(self.pooling.pick(self.caught.pop()))

    def _catch(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.caught = [output if self.layer.take == "output" else first_input(args, kwargs)]
