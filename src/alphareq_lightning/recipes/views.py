"""Augmentations: two views of an image for training, one plain view for measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from alphareq_lightning.load.preprocessing import (
    CIFAR_MEAN,
    CIFAR_STD,
    HALF,
    BatchableView,
    Preprocessing,
    View,
    to_normalised,
)
from alphareq_lightning.recipes.batch_views import crop_and_colour, turn_and_erase


class TwoViews:
    """Applies one random transform twice.

    Example:
        >>> first, second = TwoViews(lambda image: image + torch.rand(()))(torch.zeros(3))
        >>> bool((first == second).all())
        False
    """

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> tuple[Tensor, Tensor]:
        """Two augmented views of ``image``."""
        return self.transform(image), self.transform(image)


def barlow_twins_view(
    image_size: int,
    *,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
    jitter: float = 0.8,
    grayscale: float = 0.2,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
) -> BatchableView:
    """One random view, with the augmentations of the α-ReQ case study.

    Args:
        image_size: Side of the crop, in pixels.
        crop_scale: Area of the crop as a share of the image.
        flip: Probability of a horizontal flip.
        jitter: Probability of a change of brightness, contrast, saturation (0.4) and hue (0.1).
        grayscale: Probability of dropping the colour.
        mean: Subtracted from each channel.
        std: Divided out of each channel.
    """
    one: View = v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=crop_scale, antialias=True),
            v2.RandomHorizontalFlip(flip),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], jitter),
            v2.RandomGrayscale(grayscale),
            v2.ToImage(),  # last: small images are changed twice as fast by Pillow
            *to_normalised(mean, std),
        ]
    )
    together = partial(
        crop_and_colour,
        image_size=image_size,
        crop_scale=crop_scale,
        flip=flip,
        jitter=jitter,
        grayscale=grayscale,
    )
    return BatchableView(one, v2.Compose([together, v2.Normalize(mean, std, inplace=True)]))


def digit_view() -> BatchableView:
    """One random view of a gray digit: shifted, turned, with pieces missing; never mirrored."""
    moved: dict[str, Any] = {"degrees": 15, "scale": (0.8, 1.2), "shear": 10}
    shift, erase, erase_scale, noise = 0.1, 0.5, (0.02, 0.15), 0.1
    bilinear = v2.InterpolationMode.BILINEAR
    one: View = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomAffine(**moved, translate=(shift, shift), interpolation=bilinear),
            v2.RandomErasing(erase, scale=erase_scale),
            v2.GaussianNoise(sigma=noise),
            v2.Normalize(list(HALF), list(HALF)),
        ]
    )
    together = partial(
        turn_and_erase,
        **moved,
        translate=shift,
        erase=erase,
        erase_scale=erase_scale,
        noise=noise,
    )
    return BatchableView(one, v2.Compose([together, v2.Normalize(HALF, HALF, inplace=True)]))


def plain_view(
    image_size: int, *, mean: Sequence[float] = CIFAR_MEAN, std: Sequence[float] = CIFAR_STD
) -> BatchableView:
    """The un-augmented image: resized, cut to a square, normalised."""
    return Preprocessing(image_size, mean, std).view()
