"""On which images, and where, a command runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from alphareq_lightning.errors import OptionError
from alphareq_lightning.load.models import ModelSource
from alphareq_lightning.load.sources import ImageSource, image_source


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Which images.

    Args:
        data: A folder, or 'digits'; default: the data of ``config``.
        image_size: Side in pixels; default: that of ``model``, else 16 for digits and 32 for a
            folder.
        statistics: Of the channels, to normalise; default: those of ``model``, else the recipe's;
            none leaves them in [0, 1].
        max_images: At most this many held-out images, drawn by chance, always the same ones.
        batch_size: Images in a batch.
        num_workers: Processes that load them.
    """

    data: str | None = None
    image_size: int | None = None
    statistics: Literal["cifar", "imagenet", "none"] | None = None
    max_images: int | None = None
    batch_size: int = 256
    num_workers: int = 0

    def source(self, model: ModelSource) -> ImageSource:
        """What reads them as the model expects.

        Raises:
            AlphaReQError: If nothing says which images, or a number is none that can be.
        """
        prepared = model.preprocessing
        return image_source(config=model.config, preprocessing=prepared, **asdict(self))


def device_of(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the GPU if there is one.

    Raises:
        OptionError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
