"""How un-augmented images are made ready for a network: resized, cut to a square, normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

CIFAR_MEAN, CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS = {
    "cifar": (CIFAR_MEAN, CIFAR_STD),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
HALF = (0.5, 0.5, 0.5)

View = Callable[[Any], Tensor]


@dataclass(frozen=True)
class BatchableView:
    """A view that can be made of one image, or, many times faster, of a batch in memory.

    Both must be the same in distribution.
    """

    one: View
    """An image → a float tensor ``(3, h, w)``."""
    batch: Callable[[Tensor], Tensor]
    """Uint8 pixels ``(n, 3, h, w)`` on any device → a float tensor ``(n, 3, h, w)``."""

    def __call__(self, image: Any) -> Tensor:
        """The view of one image."""
        return self.one(image)


class Preprocessing(NamedTuple):
    """What a network expects of un-augmented images."""

    image_size: int = 32
    """Side of the square that is cut out of the middle, in pixels."""
    mean: Sequence[float] = CIFAR_MEAN
    std: Sequence[float] = CIFAR_STD
    crop_share: float = 1.0
    """The side as a share of the shorter side of the resized image."""
    interpolation: str = "bilinear"

    def view(self) -> BatchableView:
        """The image resized, cut to a square, normalised."""
        resized = v2.Resize(
            round(self.image_size / self.crop_share),
            interpolation=v2.InterpolationMode(self.interpolation),
            antialias=True,
        )
        steps = [v2.ToImage(), resized, v2.CenterCrop(self.image_size)]
        transform = v2.Compose([*steps, *to_normalised(self.mean, self.std)])
        return BatchableView(transform, transform)

    def normalised(self) -> BatchableView:
        """The image normalised, and its size left as it is."""
        transform = v2.Compose(to_normalised(self.mean, self.std))
        return BatchableView(transform, transform)


def to_normalised(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    """The last steps of every view: uint8 → float32 in [0, 1] → normalised."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


RECIPE = Preprocessing()
"""Of the recipe's own backbones on photographs."""
DIGITS = Preprocessing(16, HALF, HALF)
"""Of the recipe's own backbones on digits."""
