"""Which models and which images a command is about, as on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from alphareq_lightning.errors import OptionError
from alphareq_lightning.load.models import ModelSource
from alphareq_lightning.load.sources import ImageSource, image_source


@dataclass(frozen=True, kw_only=True)
class WhichModel:
    """What the weights belong to, one of.

    Args:
        config: A LightningCLI config.
        module: Import path of a LightningModule; with ``config`` its arguments are there.
        model: A torchvision or timm model.
        trust: Run code that a checkpoint wants to run.
    """

    config: Path | None = None
    module: str | None = None
    model: str | None = None
    trust: bool = False

    def source(self) -> ModelSource:
        """What builds it and reads its weights.

        Raises:
            OptionError: If it is not one, or cannot be found.
        """
        return ModelSource(
            config=self.config,
            module_class=self.module,
            architecture=self.model,
            trust=self.trust,
        )


@dataclass(frozen=True, kw_only=True)
class WhichImages:
    """Which images.

    Args:
        data: A folder, or 'digits'; default: the data of ``config``.
        image_size: Side in pixels; default: that of ``model``, else 16 for digits and 32 for a
            folder.
        statistics: Of the channels, to normalise; default: those of ``model``, else the recipe's.
        max_images: At most this many held-out images, drawn by chance, always the same ones.
        batch_size: Images in a batch.
        num_workers: Processes that load them.
    """

    data: str | None = None
    image_size: int | None = None
    statistics: Literal["cifar", "imagenet"] | None = None
    max_images: int | None = None
    batch_size: int = 256
    num_workers: int = 0

    def source(self, which: WhichModel, model: ModelSource) -> ImageSource:
        """What reads them as the model expects.

        Raises:
            AlphaReQError: If nothing says which images, or a number is none that can be.
        """
        return image_source(
            self.data,
            config=which.config,
            preprocessing=model.preprocessing,
            image_size=self.image_size,
            statistics=self.statistics,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            max_images=self.max_images,
        )


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
