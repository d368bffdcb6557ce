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
STATISTICS = {"cifar": (CIFAR_MEAN, CIFAR_STD), "imagenet": (IMAGENET_MEAN, IMAGENET_STD)}
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


def plain_view(
    image_size: int,
    *,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    crop_share: float = 1.0,
    interpolation: str = "bilinear",
) -> BatchableView:
    """The un-augmented image: resized, cut to a square, normalised.

    Args:
        image_size: Side of the square, in pixels.
        mean: Subtracted from each channel.
        std: Divided out of each channel.
        crop_share: Side of the square as a share of the shorter side of the resized image.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
    """
    mode = v2.InterpolationMode(interpolation)
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(round(image_size / crop_share), interpolation=mode, antialias=True),
            v2.CenterCrop(image_size),
            *to_normalised(mean, std),
        ]
    )
    return BatchableView(transform, transform)


def normalised_view(mean: Sequence[float] = HALF, std: Sequence[float] = HALF) -> BatchableView:
    """The image as it is, normalised."""
    transform = v2.Compose(to_normalised(mean, std))
    return BatchableView(transform, transform)


def to_normalised(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    """The last steps of every view: uint8 → float32 in [0, 1] → normalised."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


class Preprocessing(NamedTuple):
    """What a network expects of its images; the options of `plain_view`."""

    image_size: int = 32
    mean: Sequence[float] = CIFAR_MEAN
    std: Sequence[float] = CIFAR_STD
    crop_share: float = 1.0
    interpolation: str = "bilinear"


RECIPE = Preprocessing()
"""Of the recipe's own backbones on photographs."""
DIGITS = Preprocessing(16, HALF, HALF)
"""Of the recipe's own backbones on digits."""
