"""``alphareq demo``: choose among eight trainings without labels, and check the choice."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alphareq_lightning._checks import check_count
from alphareq_lightning._lightning import quiet
from alphareq_lightning.callbacks import AlphaMonitor
from alphareq_lightning.commands._gather import gather_courses, gather_records
from alphareq_lightning.commands._terminal import terminal, tracked
from alphareq_lightning.errors import OptionError
from alphareq_lightning.load.sources import from_datamodule
from alphareq_lightning.readout import extract_features, read_out
from alphareq_lightning.recipes import BarlowTwins, DigitsDataModule
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.records.json_lines import write_records
from alphareq_lightning.report import write_report
from alphareq_lightning.selection import Verdict, course_of, verdict
from alphareq_lightning.selection.ranking import badness

LAMBDS = tuple(float(f"{lambd:.2g}") for lambd in np.geomspace(1e-4, 3, 8))
"""Weights of the loss's second term: most of the range is too weak or too strong."""
READOUT_BATCH = 512
LABELS_PER_CLASS = 10
"""Few labels tell good features from better ones; with all of them any network reads digits."""
COLUMNS = ("λ", "val_loss", "val_alpha", "R²", "RankMe", "val_twins_error", "phase", "seconds")
MEASUREMENTS = 6
"""Validations of a training; α is measured at log-spaced steps beside them."""


@dataclass(frozen=True)
class _Design:
    """What is trained, and how long."""

    model: dict[str, Any]
    epochs: int
    about: str


EASY = _Design(
    {"backbone": "mlp", "projector_dim": 128, "learning_rate": 2e-3},
    66,
    "Eight Barlow Twins on scikit-learn's digits: a small MLP, another λ in each.\n"
    "This network was picked among several with labels in view, so that α has something to show;\n"
    "`alphareq demo --hard` shows a design where it fails.",
)
HARD = _Design(
    {},
    6,
    "Eight Barlow Twins on scikit-learn's digits, a small ResNet, that differ in λ\n"
    "only: trainings so short that α has not turned, and its nearness to 1 misleads.",
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    records: list[AlphaRecord]
    """The end of each training, with the readout accuracy in percent, in the order of λ."""
    verdict: Verdict
    """Found before any label was read."""
    log_dir: Path
    """Logs, checkpoints and ``records.jsonl`` of all trainings."""
    report: Path


@quiet()
def run_demo(
    out: Path = Path("runs/demo"),
    *,
    hard: bool = False,
    epochs: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> DemoResult:
    """Train eight models on digits, choose one without labels, and check the choice.

    Args:
        out: Folder for logs, checkpoints and the report; each run gets a folder of its own.
        hard: Trainings of 54 steps, which are too short to choose among.
        epochs: Length of each training; default: as long as it was designed.
        seed: Of everything.
        console: Where it is shown; the terminal by default.

    Raises:
        OptionError: If ``epochs`` is no number of epochs, or tensorboard or matplotlib is missing.

    Example:
        alphareq demo --hard
    """
    if epochs is not None:
        check_count("epochs", epochs)
    console = console or terminal()
    design = HARD if hard else EASY
    design = replace(design, epochs=epochs or design.epochs)
    try:
        log_dir = Path(TensorBoardLogger(out, name=None).log_dir)
    except ModuleNotFoundError as error:
        raise OptionError(
            "the demo needs its extra: pip install 'alphareq-lightning[demo]'"
        ) from error
    console.print(f"{design.about}\nα is measured on held-out digits; no label is read.\n")
    started = time.perf_counter()
    _train_all(design, seed, log_dir, console)
    console.print(f"\ntrained {len(LAMBDS)} models in {time.perf_counter() - started:.0f} s\n")

    found = gather_records(log_dir)
    found.sort(key=lambda record: LAMBDS.index(_lambd(record)))
    course = gather_courses(found)
    chosen = verdict(found, course=course)
    for line in chosen.lines():
        console.print(line, soft_wrap=True)
    read = _readouts(found, DigitsDataModule(seed=seed))
    console.print(_check(read, chosen))
    write_records(log_dir / "records.jsonl", read)
    page = write_report(log_dir / "report.html", read, course=course, title="Eight λ on digits")
    console.print(f"report: {page}", soft_wrap=True)
    console.print(f"TensorBoard: tensorboard --logdir {log_dir}", soft_wrap=True)
    console.print(f"the same again: alphareq rank {log_dir}", soft_wrap=True)
    return DemoResult(read, chosen, log_dir, page)


def _train_all(design: _Design, seed: int, log_dir: Path, console: Console) -> None:
    """One training after another, each with a row of its end, above a bar over all steps."""
    columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    _row(console, *COLUMNS)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(LAMBDS) * design.epochs)
        for index, lambd in enumerate(LAMBDS):
            progress.update(task, description=f"training {index + 1} of {len(LAMBDS)}")
            started = time.perf_counter()
            history = _train(design, lambd, seed, log_dir, _Advance(progress, task))
            r, seconds = history[-1], time.perf_counter() - started
            loss, error = r.metrics["val_loss"], r.metrics["val_twins_error"]
            cells = f"{r.alpha:.3f}", f"{r.r2:.3f}", f"{r.scores['rankme']:.1f}", f"{error:.3f}"
            phase = course_of(history).phase
            _row(progress.console, f"{lambd:g}", f"{loss:.2f}", *cells, phase, f"{seconds:.0f}")


def _train(
    design: _Design, lambd: float, seed: int, log_dir: Path, advance: pl.Callback
) -> list[AlphaRecord]:
    pl.seed_everything(seed, workers=True, verbose=False)
    scores = "rankme", "selfcluster"
    monitor = AlphaMonitor(scores=scores, at_steps="log")
    folder = log_dir / f"lambd={lambd:g}"
    trainer = pl.Trainer(
        max_epochs=design.epochs,
        check_val_every_n_epoch=min(max(design.epochs // MEASUREMENTS, 1), design.epochs),
        accelerator="auto",
        devices=1,
        logger=TensorBoardLogger(log_dir, name=None, version=folder.name, default_hp_metric=False),
        callbacks=[monitor, ModelCheckpoint(folder), advance],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    module = BarlowTwins(lambd=lambd, **design.model)
    trainer.fit(module, datamodule=DigitsDataModule(seed=seed))
    return monitor.history


class _Advance(pl.Callback):
    """Moves the bar on after each epoch."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress, self.task = progress, task

    def on_train_epoch_end(self, *args: Any) -> None:
        """One epoch of one training."""
        self.progress.advance(self.task)


def _row(console: Console, *cells: str) -> None:
    console.print("".join(f"{cell:>16}" for cell in cells))


def _lambd(record: AlphaRecord) -> float:
    return float(Path(str(record.path)).parent.name.removeprefix("lambd="))


def _readouts(records: list[AlphaRecord], data: DigitsDataModule) -> list[AlphaRecord]:
    """With the accuracy of a linear readout: the only place where labels are used."""
    loaders = from_datamodule(data, batch_size=READOUT_BATCH).labelled(LABELS_PER_CLASS)
    read = []
    for record in tracked(records, "readouts, to check"):
        module = BarlowTwins.load_from_checkpoint(str(record.path), map_location="cpu")
        train, test = (extract_features(module, loader) for loader in loaders)
        read.append(replace(record, accuracy=read_out(*train, *test).top1))
    return read


def _check(read: list[AlphaRecord], chosen: Verdict) -> Table:
    """What each way to choose would have taken, and what a readout says of it."""
    title = f"The check: a linear readout of {LABELS_PER_CLASS} labels a class"
    table = Table("chosen by", "λ", "accuracy", title=title)
    accuracies = {record.path: record.accuracy or 0.0 for record in read}
    choices = {} if chosen.choice is None else {"the verdict": chosen.choice}
    for name, criterion in (
        ("α nearest to 1", "alpha"),
        ("largest RankMe", "rankme"),
        ("smallest Barlow Twins error", "twins_error"),
        ("lowest loss", "loss"),
    ):
        choices[name] = min(read, key=lambda record: badness(record, criterion))
    choices["the best of all"] = max(read, key=lambda record: accuracies[record.path])
    if chosen.choice is None:
        table.add_row("the verdict", "no choice", "–")
    for name, record in choices.items():
        table.add_row(name, f"{_lambd(record):g}", f"{accuracies[record.path]:.1f} %")
    table.add_row("one at random, on average", "–", f"{np.mean(list(accuracies.values())):.1f} %")
    return table
