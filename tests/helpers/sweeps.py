"""A sweep over tiny trainings, and a callback that marks what ran and can hang; no test here."""

import os
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
import yaml
from torch.utils.data import DataLoader, TensorDataset

from tiny import images

HANG, FAIL, INTERRUPT, TOGETHER = "SWEEP_HANG", "SWEEP_FAIL", "SWEEP_INTERRUPT", "SWEEP_TOGETHER"
WIDTHS = [40, 44, 48, 52]


class TinyData(pl.LightningDataModule):
    """Noise images whose class is the sign pattern of two pixels; or without labels."""

    def __init__(self, labelled: bool = True):
        super().__init__()
        self.labelled = labelled

    def dataset(self, seed):
        pixels = images(200, seed)
        signs = (pixels[:, 0, 0, :2] > 0).long()
        labels = signs[:, 0] + 2 * signs[:, 1] if self.labelled else torch.full((200,), -1)
        return TensorDataset(pixels, labels)

    def train_dataloader(self):
        return DataLoader(self.dataset(0), batch_size=50)

    def val_dataloader(self):
        return DataLoader(self.dataset(1), batch_size=50)

    def readout_datasets(self):
        return self.dataset(0), self.dataset(1)


class Marks(pl.Callback):
    """Leaves a file where a training began and where it ended; the environment makes it fail."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def mark(self, what, module):
        width = module.head.in_features
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{what}-{width}-{os.getpid()}-{time.monotonic_ns()}").touch()

    def on_train_start(self, trainer, module):
        self.mark("begun", module)
        deadline = time.monotonic() + 120
        while len(workers(self.folder)) < int(os.environ.get(TOGETHER, "1")):
            assert time.monotonic() < deadline, "the other workers never came"
            time.sleep(0.05)
        if HANG in os.environ:
            self.mark("hung", module)
            time.sleep(600)

    def on_train_epoch_end(self, trainer, module):
        self.mark("epoch", module)
        width = module.head.in_features
        if os.environ.get(FAIL) == str(width):
            raise RuntimeError(f"a mishap at width {width}\nwith details")
        if os.environ.get(INTERRUPT) == str(width):
            raise KeyboardInterrupt

    def on_train_end(self, trainer, module):
        self.mark("ended", module)


def workers(folder):
    return {path.name.split("-")[2] for path in folder.glob("begun-*")}


def marked(folder, what):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob(f"{what}-*"))


def write_sweep(folder, *, data=None, monitor=None, trainer=None, **options):
    """A sweep file over the width of a tiny network; what is `None` is left out."""
    watch = {"class_path": "alphareq_lightning.AlphaMonitor"}
    watch["init_args"] = {"figures": False, "fit_range": [4, 8], **(monitor or {})}
    marks = {"class_path": "sweeps.Marks", "init_args": {"folder": str(folder / "marks")}}
    train = {
        "seed_everything": 0,
        "model": {"class_path": "tiny.TinyModule"},
        "data": {"class_path": "sweeps.TinyData", "init_args": data or {}},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "callbacks": [watch, marks],
            **(trainer or {}),
        },
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train))
    sweep = {
        "train": "train.yaml",
        "space": {"model.width": WIDTHS},
        "search": {"top_k": 1},
        "out": str(folder / "out"),
        **options,
    }
    path = folder / "tiny_sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in sweep.items() if v is not None}))
    return path


def start_worker(config, *more, **environment):
    """``alphareq sweep`` as a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "alphareq_lightning",
            "sweep",
            "--config",
            str(config),
            *more,
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
