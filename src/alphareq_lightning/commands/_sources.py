"""Which models and which images a command is about, as on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from alphareq_lightning._checks import check_count
from alphareq_lightning.commands._gather import Sources, several
from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.load.data import DataOptions
from alphareq_lightning.load.models import ModelSource

WEIGHT_FILES = (".ckpt", ".pt", ".pth", ".safetensors")


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
        image_size: Side in pixels; default: 32, and 224 with ``model``.
        statistics: Of the channels, to normalise; default: cifar, and imagenet with ``model``.
        max_images: At most this many, chosen by chance.
        batch_size: Images in a batch.
        num_workers: Processes that load them.
    """

    data: str | None = None
    image_size: int | None = None
    statistics: Literal["cifar", "imagenet"] | None = None
    max_images: int | None = None
    batch_size: int = 256
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("image_size", "max_images", "batch_size"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("num_workers", self.num_workers, at_least=0)

    def options(self, model: WhichModel, labels_per_class: int | None = None) -> DataOptions:
        """As the model wants them."""
        foreign = model.model is not None
        return DataOptions(
            data=self.data,
            config=model.config,
            image_size=self.image_size or (224 if foreign else 32),
            statistics=self.statistics or ("imagenet" if foreign else "cifar"),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            max_images=self.max_images,
            labels_per_class=labels_per_class,
        )


def weight_files(paths: Sources) -> list[Path]:
    """The files themselves, and all files of weights below the folders among them.

    Raises:
        SelectionError: If there is none in a folder.
    """
    found: list[Path] = []
    for path in map(Path, several(paths)):
        inside = sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_FILES)
        if path.is_dir() and not inside:
            raise SelectionError(f"no file {', '.join(WEIGHT_FILES)} in the folder {path}")
        found += inside if path.is_dir() else [path]
    return found


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
