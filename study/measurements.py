"""What the study needs beside α at each measured step: losses, the error, labelled readouts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning.errors import AlphaReQError
from alphareq_lightning.load.images import few_of_each_class, pixels_in_memory
from alphareq_lightning.measure.evaluating import evaluating
from alphareq_lightning.metrics import Alignment, TwinsError
from alphareq_lightning.readout import extract_features, read_out
from alphareq_lightning.recipes import ImageFolderDataModule, TwoViews
from alphareq_lightning.recipes.views import BatchableView

BATCH = 500
SEED = 0
"""Of the pairs of views, the same for every model and step."""

Sides = tuple[TensorDataset, TensorDataset]


class Measurements(pl.Callback):
    """Measures a training after some numbers of optimizer steps, and leaves it as it was.

    Args:
        at_steps: When to measure the losses and the Barlow Twins error; 0 is before the first.
        readout_at_steps: When to read out as well.
        num_pairs: Held-out images whose two views are compared.
        labels_per_class: Training images of each class that the readout is trained on.
        other_images: A folder of other images with classes, read out at the last step only.

    Attributes:
        rows: What was found, by step.
    """

    def __init__(
        self,
        at_steps: Sequence[int],
        readout_at_steps: Sequence[int],
        *,
        num_pairs: int = 2000,
        labels_per_class: int = 1000,
        other_images: str | None = None,
    ) -> None:
        self.at_steps = frozenset(at_steps)
        self.readout_at_steps = frozenset(readout_at_steps)
        self.num_pairs = num_pairs
        self.labels_per_class = labels_per_class
        self.other_images = other_images
        self.rows: dict[int, dict[str, Any]] = {}
        self._train_losses: list[Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the pairs of views, and decode the labelled images, once."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._pairs = held_out_pairs(data, self.num_pairs)
        self._sides = labelled_images(data, self.labels_per_class)
        self._other_sides = None
        if self.other_images is not None:
            other = ImageFolderDataModule(
                self.other_images, batch_size=data.batch_size, holdout=0.2
            )
            other.plain = data.plain
            self._other_sides = labelled_images(other, self.labels_per_class)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The untrained network."""
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The steps that were asked for."""
        self._train_losses.append(outputs["loss"].detach())
        self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: Any) -> None:
        step = trainer.global_step
        if step not in self.at_steps or step in self.rows:
            return
        started = time.perf_counter()
        row: dict[str, Any] = {"step": step}
        if self._train_losses:
            row["train_loss"] = torch.stack(self._train_losses).mean().item()
            self._train_losses.clear()
        with evaluating(module), isolate_rng(), torch.no_grad():
            row |= pair_values(module, self._pairs, trainer.datamodule.batch_size)  # type: ignore[attr-defined]
            if step in self.readout_at_steps:
                row["readout"] = self._read(module, self._sides)
            if step == max(self.readout_at_steps) and self._other_sides is not None:
                row["other_readout"] = self._read(module, self._other_sides)
        row["seconds"] = time.perf_counter() - started
        self.rows[step] = row
        print(f"{time.strftime('%H:%M:%S')} step {step}", flush=True)

    def _read(self, module: Any, sides: Sides) -> dict[str, Any]:
        try:
            extracted = [
                extract_features(module.backbone, DataLoader(side, BATCH), module.device)
                for side in sides
            ]
            return dict(read_out(*extracted[0], *extracted[1])._asdict())
        except AlphaReQError as error:
            return {"top1": None, "top5": None, "problem": str(error)}


def held_out_pairs(data: Any, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Two views of each of some held-out images, always the same."""
    generator = torch.Generator().manual_seed(SEED)
    chosen = torch.randperm(len(data.heldout_indices), generator=generator)[:num_pairs]
    pixels = pixels_in_memory(data.heldout_source, [data.heldout_indices[i] for i in chosen])
    if pixels is None or not isinstance(data.view, BatchableView):
        raise AlphaReQError("the study needs images of one size that fit into memory")
    with isolate_rng():
        torch.manual_seed(SEED)
        view_a, view_b = TwoViews(data.view.batch)(pixels)
    return view_a, view_b


def labelled_images(data: Any, labels_per_class: int) -> Sides:
    """Plain images and labels to train and to test a readout on; tested on all held-out ones."""
    train, test = data.readout_datasets()
    if data.heldout_source is not data.train_source:  # max_heldout limits what α is measured on
        test.indices = range(len(data.heldout_source))
    return decoded((few_of_each_class(train, labels_per_class), test))


def decoded(sides: tuple[Any, Any]) -> Sides:
    """Images and labels to train and to test a readout on, in memory."""
    train, test = (
        TensorDataset(*next(iter(DataLoader(side, batch_size=len(side))))) for side in sides
    )
    return train, test


def pair_values(module: Any, pairs: tuple[Tensor, Tensor], batch_size: int) -> dict[str, Any]:
    """Losses of batches on the average, and the error of all pairs together with its terms."""
    error, alignment = TwinsError().to(module.device), Alignment().to(module.device)
    losses: list[dict[str, float]] = []
    for view_a, view_b in zip(*(view.split(batch_size) for view in pairs), strict=True):
        features = [module(view.to(module.device)) for view in (view_a, view_b)]
        z_a, z_b = map(module.projector, features)
        error.update(z_a, z_b)
        alignment.update(*features)
        if len(z_a) == batch_size:
            losses.append({k: v.item() for k, v in module.loss(z_a, z_b)._asdict().items()})
    correlation = error.cross_correlation()
    on_diagonal = (1 - correlation.diagonal()).square().sum()
    off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
    return {
        "losses": {key: sum(v[key] for v in losses) / len(losses) for key in losses[0]},
        "twins_error": error.compute().item(),
        "invariance": on_diagonal.item(),
        "redundancy": off_diagonal.item(),
        "alignment": alignment.compute().item(),
    }
