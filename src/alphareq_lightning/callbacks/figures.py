"""The log-log picture of a spectrum, for every logger that can show one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphareq_lightning.files import written_beside
from alphareq_lightning.records.record import AlphaRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOM_FOR_FIGURES = 2**24
"""Bytes. On a disk with less, the last of them are for the scalars and checkpoints of the user: a
picture that fills it makes TensorBoard's writer thread fail, and the next scalar ends the run."""


def has_room(folder: Path) -> bool:
    """Whether there is space for pictures where a run writes to."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free >= ROOM_FOR_FIGURES


def spectrum_figure(record: AlphaRecord) -> Figure:
    """Eigenvalues against rank, with the fitted line and the range it was fitted on.

    Args:
        record: A measurement; without a fit only the eigenvalues are drawn.

    Returns:
        A matplotlib figure that pyplot does not know, so nothing has to be closed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares, line = record.shares, record.line()
    axes.set(xlabel="rank n", ylabel="eigenvalue λₙ (share of the largest)")
    axes.set_title(f"{record.layer}, epoch {record.epoch}, {record.num_samples:,} images")
    axes.grid(which="major", alpha=0.3)
    if not shares:
        axes.text(0.5, 0.5, "no eigenvalue above 0", ha="center", transform=axes.transAxes)
        return figure
    axes.set(xscale="log", yscale="log")
    axes.plot(range(1, len(shares) + 1), shares, lw=2.2, label="eigenvalues")
    if record.fit is not None:
        label = f"α = {record.alpha:.3f}, R² = {record.r2:.3f}"
        axes.plot(*(line or ([], [])), "--", lw=1.8, color="C3", label=label)
        window = f"fitted ranks {record.ranks}"
        axes.axvspan(*record.fit.fit_range, color="C3", alpha=0.08, label=window)
    axes.legend()
    return figure


def publish_figure(trainer: Any, tag: str, record: AlphaRecord, folder: Path | None) -> None:
    """Draw once and hand the figure to each logger; a PNG goes to ``folder`` for the others.

    Args:
        trainer: Its ``loggers`` are asked what they can do.
        tag: Name of the figure, for example ``"val_alpha_spectrum"``.
        record: What to draw.
        folder: Where PNG files go, or `None` for nowhere.
    """
    figure = spectrum_figure(record)
    # Lightning logs scalars of a step under the number of steps before it.
    step = max(record.global_step - 1, 0)
    shown = [_show(logger, tag, figure, step) for logger in trainer.loggers]
    if not all(shown) and folder is not None:
        name = f"{tag}-epoch={record.epoch}-step={record.global_step}.png"
        with written_beside(folder / name) as unfinished:
            figure.savefig(unfinished, format="png")


def _show(logger: Any, tag: str, figure: Figure, step: int) -> bool:
    """Hand the figure to a logger in its own way; loggers are known by what they can do."""
    experiment = logger.experiment
    if hasattr(experiment, "add_figure"):  # TensorBoard
        experiment.add_figure(tag, figure, global_step=step, close=False)
    elif hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(key=tag, images=[figure])
    elif hasattr(experiment, "log_figure") and getattr(logger, "run_id", None):  # MLflow
        experiment.log_figure(logger.run_id, figure, f"{tag}/step={step}.png")
    else:
        return False
    return True
