"""What the loggers of a training are shown beside the keys: figures, lines, charts side by side."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphareq_lightning._checks import in_key, key_end
from alphareq_lightning._lightning import Trainer
from alphareq_lightning.callbacks.figures import course_figure, spectrum_figure
from alphareq_lightning.errors import AlphaReQWarning, OutputWarning
from alphareq_lightning.files import written_beside
from alphareq_lightning.records.record import AlphaRecord
from alphareq_lightning.selection.course import of_one_course

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COURSE_SHARE = 0.03
"""Of the time that measuring takes, for drawing courses. One takes some .1 s, nearly all of it
ticks and text of matplotlib; each says all that the one before said, so most can be left out."""
ROOM_FOR_FIGURES = 2**24
"""Bytes. On a disk with less, the last of them are for the scalars and checkpoints of the user: a
picture that fills it makes TensorBoard's writer thread fail, and the next scalar ends the run."""
POINTS = 200
"""Ranks of a spectrum that is sent as numbers, evenly spaced on their logarithmic axis."""
LAYOUT_TAG = b"custom_scalars__config__"
LAYOUT_WITHIN = 2**22
"""Bytes of an event file: a layout is written when a training begins."""


class Display:
    """Shows what one monitor measures in a fit to the loggers of a Trainer, each in its own way.

    Nothing that goes wrong here ends a training: it is one warning.

    Args:
        prefix: Of the monitor's keys.
        target: The α to be near, or an interval.
        warn: Warns once of a kind, as `Gauge.warn` does.
    """

    def __init__(
        self,
        prefix: str,
        target: float | tuple[float, float],
        warn: Callable[[type[AlphaReQWarning], str], None],
    ) -> None:
        self.prefix = prefix
        self.target = target
        self._warn = warn
        self._has_layout = False
        self._owed_seconds = 0.0
        self._not_drawn: list[AlphaRecord] = []
        self._step = 0

    def show(
        self,
        trainer: Trainer,
        records: list[AlphaRecord],
        history: Sequence[AlphaRecord],
        *,
        between: bool,
    ) -> None:
        """The spectra of a measurement; the courses, where their time has come.

        Args:
            trainer: Its ``loggers`` are asked what they can do.
            records: Of this measurement, one for each layer, that of the plain keys first.
            history: All records of the monitor, these among them.
            between: Whether they lie between validations, so that their scalars were logged under
                their step; Lightning logs those of a validation under the number of steps before.
        """
        step = records[0].global_step if records else 0  # of the weights, not of the Trainer
        self._step = max(step - (not between), 0)
        measuring = sum(record.seconds for record in records)
        self._owed_seconds = max(self._owed_seconds - COURSE_SHARE * measuring, 0.0)
        self._not_drawn = records if self._owed_seconds else []
        self._draw(trainer, history, records, [] if self._owed_seconds else records)

    def finish(self, trainer: Trainer, history: Sequence[AlphaRecord]) -> None:
        """The courses that were not drawn when their last measurement was shown."""
        self._draw(trainer, history, [], self._not_drawn)

    def _draw(
        self,
        trainer: Trainer,
        history: Sequence[AlphaRecord],
        spectra: list[AlphaRecord],
        courses: list[AlphaRecord],
    ) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        log_dir = trainer.log_dir  # broadcasts: every rank must ask
        if not trainer.is_global_zero or not (spectra or courses):
            return
        try:
            folder = Path(log_dir or trainer.default_root_dir)
            if not has_room(folder):
                raise OSError(f"the disk of {folder} is nearly full")
            to = None if log_dir is None else Path(log_dir)
            for record in spectra:
                name = f"{self.prefix}alpha_spectrum_{in_key(record.layer)}"
                figure = spectrum_figure(record, of_one_course(record, history)[:-1])
                publish_figure(trainer, name, figure, record, to, self._step)
                publish_lines(trainer, f"{name}_lines", record, self._step)
            for record in courses:
                started = time.perf_counter()
                name = f"{self.prefix}alpha_course_{in_key(record.layer)}"
                if len(course := of_one_course(record, history)) > 1:
                    figure = course_figure(course, self.target)
                    publish_figure(trainer, name, figure, record, to, self._step, replaces=True)
                    self._owed_seconds += time.perf_counter() - started
            self._lay_out(trainer, spectra or courses)
        except Exception as error:  # a full disk or a logger's hiccup must not end a training
            self._warn(OutputWarning, f"a figure of α was lost: {error}")

    def _lay_out(self, trainer: Trainer, records: list[AlphaRecord]) -> None:
        """Once in a fit, as soon as the keys of a validation are known."""
        if self._has_layout or trainer.state.fn != "fit" or trainer.global_step == 0:
            return
        self._has_layout = True
        ends = [key_end(index, record.layer) for index, record in enumerate(records)]

        def tags(*names: str) -> list[str]:
            return [f"{re.escape(self.prefix + name + end)}$" for end in ends for name in names]

        charts = {"α": tags("alpha", "alpha_distance"), "R²": tags("alpha_r2")}
        charts["loss"] = [".*loss(_epoch)?$"]
        if any("rankme" in record.scores for record in records):
            charts["RankMe"] = tags("rankme")
        if any(key.endswith("twins_error") for key in trainer.callback_metrics):
            charts["Barlow Twins error"] = [".*twins_error$"]
        publish_layout(trainer, f"{self.prefix}alpha beside the loss", charts)


def has_room(folder: Path) -> bool:
    """Whether there is space for pictures where a run writes to."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free >= ROOM_FOR_FIGURES


def publish_figure(
    trainer: Any,
    tag: str,
    figure: Figure,
    record: AlphaRecord,
    folder: Path | None,
    step: int,
    *,
    replaces: bool = False,
) -> None:
    """Hand a figure to each logger; a PNG goes to ``folder`` for those that show none.

    Args:
        trainer: Its ``loggers`` are asked what they can do.
        tag: Name of the figure, for example ``"val_alpha_spectrum"``.
        figure: What to show.
        record: The measurement that it is of.
        folder: Where PNG files go, or `None` for nowhere.
        step: Under which its scalars were logged.
        replaces: Whether it says all that the one before said, which need not be kept then.
    """
    name = tag if replaces else f"{tag}/step={step}"
    shown = [_show(logger, tag, f"{name}.png", figure, step) for logger in trainer.loggers]
    if not all(shown) and folder is not None:
        moment = "" if replaces else f"-epoch={record.epoch}-step={record.global_step}"
        with written_beside(folder / f"{tag}{moment}.png") as unfinished:
            figure.savefig(unfinished, format="png")


def publish_lines(trainer: Any, tag: str, record: AlphaRecord, step: int) -> None:
    """Hand a spectrum to Weights & Biases as lines to read values off, beside its picture.

    Its chart of lines has linear axes only, so both are log₁₀. A chart shows the newest; a slider
    over the steps is the reader's choice there.

    Args:
        trainer: Its ``loggers`` are asked what they can do.
        tag: Name of the chart.
        record: The measurement.
        step: Under which its scalars were logged.
    """
    takers = [logger for logger in trainer.loggers if hasattr(logger, "log_table")]
    shares = record.shares if takers else []
    if not shares:
        return
    import wandb

    ranks = sorted({round(len(shares) ** (i / (POINTS - 1))) for i in range(POINTS)})
    lines = {"eigenvalues": (ranks, [shares[rank - 1] for rank in ranks])}
    if (line := record.line()) is not None:
        ends = slice(None, None, max(len(line[0]) - 1, 1))
        lines["fit"] = (line[0][ends], line[1][ends])
    for logger in takers:
        chart = wandb.plot.line_series(
            xs=[[math.log10(x) for x in xs] for xs, _ in lines.values()],
            ys=[[math.log10(y) for y in ys] for _, ys in lines.values()],
            keys=list(lines),
            title=f"{record.layer}: log₁₀ eigenvalue (share of the largest) by log₁₀ rank",
            xname="log₁₀ rank",
        )
        logger.log_metrics({tag: chart}, step=step)


def publish_layout(trainer: Any, title: str, charts: Mapping[str, Sequence[str]]) -> None:
    """Put scalars side by side in TensorBoard, under "Custom Scalars"; other loggers have no such.

    A run has one layout, and the last one counts. So a run that has one already keeps it, and one
    that is written later takes the place of this.

    Args:
        trainer: Its ``loggers`` are asked what they can do.
        title: Of the group.
        charts: The tags of each, as regular expressions.
    """
    layout = {title: {name: ["Multiline", list(tags)] for name, tags in charts.items()}}
    for logger in trainer.loggers:
        experiment = logger.experiment
        if hasattr(experiment, "add_custom_scalars") and not _has_layout(experiment):
            experiment.add_custom_scalars(layout)


def _has_layout(experiment: Any) -> bool:
    """Whether the files of a run hold a layout: nothing else tells."""
    experiment.flush()
    for path in Path(experiment.log_dir).glob("events.out.tfevents.*"):
        with path.open("rb") as file:
            if LAYOUT_TAG in file.read(LAYOUT_WITHIN):
                return True
    return False


def _show(logger: Any, tag: str, name: str, figure: Figure, step: int) -> bool:
    """Hand the figure to a logger in its own way; loggers are known by what they can do."""
    experiment = logger.experiment
    if hasattr(experiment, "add_figure"):  # TensorBoard
        experiment.add_figure(tag, figure, global_step=step, close=False)
    elif hasattr(logger, "log_image"):  # Weights & Biases
        logger.log_image(key=tag, images=[figure], step=step)
    elif hasattr(experiment, "log_figure") and getattr(logger, "run_id", None):  # MLflow
        experiment.log_figure(logger.run_id, figure, name)
    else:
        return False
    return True
