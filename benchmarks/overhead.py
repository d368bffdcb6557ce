"""What `AlphaMonitor` adds to a validation epoch that runs anyway, interleaved with and without."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, resnet50

from alphareq_lightning import AlphaMonitor, AlphaRecord, spectrum_figure
from alphareq_lightning._lightning import quiet
from alphareq_lightning.callbacks.loggers import COURSE_SHARE
from alphareq_lightning.records.record import Fit
from alphareq_lightning.selection.course import with_course
from benchmarks.results import arguments, write

EPOCH_IMAGES = 10_000
"""Images of the epoch that a target is about: CIFAR-10's test split."""
SETTINGS: dict[str, dict[str, Any]] = {
    "resnet18 at 32 px": {"net": resnet18, "pixels": 32, "batch": 128, "batches": 8, "rounds": 7},
    "resnet50 at 224 px": {"net": resnet50, "pixels": 224, "batch": 16, "batches": 4, "rounds": 3},
}


class Classifier(pl.LightningModule):
    """A torchvision network and a loss, as somebody's validation step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


class Clocked(AlphaMonitor):
    """The monitor, with a clock on its parts: first batch, other batches, solves, figure."""

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, *args)
        if batch_idx == 0:  # which also makes room for the state
            self.parts = {"first": sum(tap.seconds for tap in self._gauge.taps)}

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        in_taps = sum(tap.seconds for tap in self._gauge.taps)
        self.parts["update"] = in_taps - self.parts["first"]
        started = time.perf_counter()
        super().on_validation_epoch_end(trainer, pl_module)
        self.parts["solve"] = time.perf_counter() - started

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        started = time.perf_counter()
        super().on_validation_end(trainer, pl_module)
        self.parts["figure"] = time.perf_counter() - started


def epoch(module: Classifier, loader: DataLoader[Any], mode: str, folder: str) -> dict[str, float]:
    """Seconds of one validation epoch, and those of the monitor's parts."""
    images = [image for image, _ in loader.dataset]  # type: ignore[attr-defined]
    monitor = Clocked(
        "net.fc",
        take="input",
        dataloader=DataLoader(images, batch_size=loader.batch_size) if mode == "own" else None,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[] if mode == "without" else [monitor],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    started = time.perf_counter()
    trainer.validate(module, loader, verbose=False)
    seconds = {"epoch": time.perf_counter() - started}
    return seconds if mode == "without" else {**seconds, **monitor.parts}


def course_seconds(rounds: int) -> float:
    """What the course of a training adds to one measurement: its place, and old spectra.

    Its figure, which is not made at each, is counted by `COURSE_SHARE`. CPU seconds, of
    interleaved medians, for a layer of 512 features that was measured twelve times.
    """
    history: list[AlphaRecord] = []
    for step in range(0, 1200, 100):
        alpha = 1.5 + 0.4 * math.sin(step / 400)
        new = AlphaRecord(
            fit=Fit(alpha, 0.99, 0.02, (4, 100)),
            num_samples=EPOCH_IMAGES,
            num_features=512,
            global_step=step,
            scores={"rankme": 100 * alpha},
            metrics={"val_loss": 10 / alpha},
            eigenvalues=tuple(n**-alpha for n in range(1, 513)),
        )
        history.append(with_course(new, history)[0])
    newest, earlier = history[-1], history[:-1]

    def with_it() -> None:
        with_course(newest, earlier)
        spectrum_figure(newest, earlier).canvas.draw()

    def without() -> None:
        spectrum_figure(newest).canvas.draw()

    seconds: dict[Any, list[float]] = {with_it: [], without: []}
    for warm in range(1 + rounds):
        for step, measured in seconds.items():
            started = time.process_time()
            step()
            if warm:
                measured.append(time.process_time() - started)
    return statistics.median(seconds[with_it]) - statistics.median(seconds[without])


def summary(
    runs: dict[str, list[dict[str, float]]], batches: int, batch: int, course: float
) -> dict[str, Any]:
    """Medians in ms, and the share that the monitor has in an epoch of `EPOCH_IMAGES`.

    What it costs once, the figure included, is what an epoch here takes longer by, less the updates
    that were timed; where that is noise it is at least what its parts took.
    """

    def median(mode: str, part: str) -> float:
        return statistics.median(run[part] for run in runs[mode])

    of_batch = median("without", "epoch") / batches
    update = median("reused", "update") / (batches - 1)
    parts = sum(median("reused", part) for part in ("first", "solve", "figure"))
    longer = median("reused", "epoch") - median("without", "epoch") - median("reused", "update")
    once = max(parts, longer)
    many = EPOCH_IMAGES / batch
    return {
        "epoch_ms": {mode: round(median(mode, "epoch") * 1e3, 1) for mode in runs},
        "batch_ms": round(of_batch * 1e3, 2),
        "first_ms": round(median("reused", "first") * 1e3, 2),
        "update_ms": round(update * 1e3, 3),
        "solve_ms": round(median("reused", "solve") * 1e3, 1),
        "once_ms": round(once * 1e3, 1),
        "figure_ms": round(median("reused", "figure") * 1e3, 1),
        "percent_of_10000_images": round(100 * ((many - 1) * update + once) / (many * of_batch), 2),
        "course_ms": round(course * 1e3, 1),
        "course_percent_of_10000_images": round(
            100 * (course / (many * update + once) + COURSE_SHARE), 2
        ),
    }


@quiet()
def main() -> None:
    options = arguments(__doc__)
    warnings.filterwarnings("ignore")
    rows, course = [], course_seconds(1 if options.smoke else 15)
    for name, setting in SETTINGS.items():
        if options.smoke and name != "resnet18 at 32 px":
            continue
        batch = 8 if options.smoke else setting["batch"]
        n = batch * (2 if options.smoke else setting["batches"])
        torch.manual_seed(0)
        pixels = setting["pixels"]
        loader = DataLoader(
            TensorDataset(torch.randn(n, 3, pixels, pixels), torch.zeros(n, dtype=torch.int64)),
            batch_size=batch,
        )
        module = Classifier(setting["net"]())
        runs: dict[str, list[dict[str, float]]] = {"without": [], "reused": [], "own": []}
        rounds = 1 if options.smoke else setting["rounds"]
        with tempfile.TemporaryDirectory() as folder:
            for warm in range(1 + rounds):
                for mode in runs:
                    seconds = epoch(module, loader, mode, folder)
                    if warm:
                        runs[mode].append(seconds)
        rows.append(
            {
                **{"network": name, "images": n, "batch": batch},
                **summary(runs, n // batch, batch, course),
            }
        )
    write(options, "overhead", rows)


if __name__ == "__main__":
    main()
