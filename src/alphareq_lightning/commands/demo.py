"""``alphareq demo``: the whole idea on digits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alphareq_lightning._checks import check_count
from alphareq_lightning._lightning import quiet
from alphareq_lightning.callbacks import AlphaMonitor, spectrum_figure
from alphareq_lightning.commands._terminal import terminal, tracked
from alphareq_lightning.errors import OptionError
from alphareq_lightning.files import written_beside
from alphareq_lightning.load.sources import from_datamodule
from alphareq_lightning.readout import extract_features, read_out
from alphareq_lightning.recipes import BarlowTwins, DigitsDataModule
from alphareq_lightning.records import AlphaRecord, records_from_checkpoints
from alphareq_lightning.report.verdict import verdict_lines
from alphareq_lightning.selection import rank_checkpoints, verdict

READOUT_BATCH = 512
LABELS_PER_CLASS = 10
"""Few labels tell good features from better ones; with all of them any network reads digits."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    ranked: list[AlphaRecord]
    """Records of all kept checkpoints, the one α chose first."""
    accuracies: dict[str, float]
    """Linear readout accuracy in percent, by checkpoint path."""
    log_dir: Path
    figure: Path


class _Rows(pl.Callback):
    """A line for each epoch, above a bar over the batches, while the Trainer runs."""

    def __init__(self, monitor: AlphaMonitor, console: Console) -> None:
        self.monitor = monitor
        done = (MofNCompleteColumn(), TextColumn("batches"), TimeRemainingColumn())
        self.progress = Progress(BarColumn(), *done, console=console, transient=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the columns."""
        self.task = self.progress.add_task("train", total=trainer.estimated_stepping_batches)
        self._print("epoch", "val_loss", "val_alpha", "R²", "RankMe", "seconds on α")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Advance the bar."""
        self.progress.advance(self.task)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a line; there is nothing to show of the sanity check."""
        for r in self.monitor.history[-1:]:
            scores = f"{r.alpha:.3f}", f"{r.r2:.3f}", f"{r.scores['rankme']:.1f}"
            self._print(f"{r.epoch}", f"{r.metrics['val_loss']:.2f}", *scores, f"{r.seconds:.2f}")

    def _print(self, *cells: str) -> None:
        self.progress.console.print("".join(f"{cell:>13}" for cell in cells))


@quiet()
def run_demo(
    out: Path = Path("runs/demo"),
    *,
    epochs: int = 20,
    seed: int = 0,
    console: Console | None = None,
) -> DemoResult:
    """Train Barlow Twins on digits, watch α, and check the checkpoint it chose.

    Args:
        out: Folder for logs, checkpoints and the figure; each run gets a folder of its own.
        epochs: Length of the training.
        seed: Of everything.
        console: Where it is shown; the terminal by default.

    Raises:
        OptionError: If ``epochs`` is no number of epochs, or tensorboard or matplotlib is missing.
    """
    check_count("epochs", epochs)
    console = console or terminal()
    pl.seed_everything(seed, workers=True, verbose=False)
    data, module = DigitsDataModule(), BarlowTwins()
    monitor = AlphaMonitor()
    try:
        logger = TensorBoardLogger(out, name=None, default_hp_metric=False)
    except ModuleNotFoundError as error:
        raise OptionError(
            "the demo needs its extra: pip install 'alphareq-lightning[demo]'"
        ) from error
    log_dir = Path(logger.log_dir)
    keep = ModelCheckpoint(
        log_dir / "checkpoints", monitor="val_alpha_distance", mode="min", save_top_k=-1
    )
    rows = _Rows(monitor, console)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        logger=logger,
        callbacks=[monitor, keep, rows],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    console.print("Barlow Twins on scikit-learn's digits; α on held-out unlabeled images.")
    started = time.perf_counter()
    with rows.progress:
        trainer.fit(module, datamodule=data)
    console.print(f"\ntrained {epochs} epochs in {time.perf_counter() - started:.0f} s")

    ranked = rank_checkpoints(records_from_checkpoints([log_dir / "checkpoints"]))
    accuracies = _readouts(ranked, data)
    _report(ranked, accuracies, console)
    for line in verdict_lines(verdict(ranked, course=monitor.history)):
        console.print(line, soft_wrap=True)
    figure = log_dir / "spectrum.png"
    with written_beside(figure) as unfinished:
        spectrum_figure(ranked[0]).savefig(unfinished, format="png")
    console.print(f"TensorBoard: tensorboard --logdir {log_dir}", soft_wrap=True)
    console.print(f"spectrum of α's choice: {figure}", soft_wrap=True)
    return DemoResult(ranked, accuracies, log_dir, figure)


def _readouts(records: list[AlphaRecord], data: DigitsDataModule) -> dict[str, float]:
    """Linear readout of each checkpoint: the only place where labels are used."""
    loaders = from_datamodule(data, batch_size=READOUT_BATCH).labelled(LABELS_PER_CLASS)
    accuracies = {}
    for record in tracked(records, "readouts, to check"):
        assert record.path is not None
        module = BarlowTwins.load_from_checkpoint(record.path, map_location="cpu")
        train, test = (extract_features(module, loader) for loader in loaders)
        accuracies[record.path] = read_out(*train, *test).top1
    return accuracies


def _report(ranked: list[AlphaRecord], accuracies: dict[str, float], console: Console) -> None:
    choices = {
        "α nearest to 1": ranked[0],
        "lowest val_loss": min(ranked, key=lambda r: r.metrics["val_loss"]),
        "last epoch": max(ranked, key=lambda r: r.global_step),
        "best readout": max(ranked, key=lambda r: accuracies[str(r.path)]),
    }
    readout = f"readout of {LABELS_PER_CLASS} labels a class"
    columns = ("chosen by", "epoch", "val_alpha", "val_loss", readout)
    table = Table(*columns, title="Kept checkpoints: three ways to choose without labels, checked")
    for name, r in choices.items():
        loss, accuracy = f"{r.metrics['val_loss']:.2f}", f"{accuracies[str(r.path)]:.1f} %"
        table.add_row(name, str(r.epoch), f"{r.alpha:.3f}", loss, accuracy)
    console.print(table)
    console.print(f"nearest to 1: {ranked[0].path}", soft_wrap=True)
