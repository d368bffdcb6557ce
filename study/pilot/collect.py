"""Reads out the checkpoints of the study's sweeps, and writes one JSON file a training.

What is there already is not made again, so that trainings of several days and machines add up.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch.cli import LightningCLI
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import eigenspectrum, fit_power_law, lidar, rankme
from alphareq_lightning.measure.layer_features import LayerFeatures
from alphareq_lightning.readout import extract_features, read_out
from alphareq_lightning.recipes import ImageFolderDataModule
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.records.checkpoints import STATE_KEY_PREFIX, history_from_state
from alphareq_lightning.sweep import read_sweep
from alphareq_lightning.sweep.config import Sweep
from alphareq_lightning.sweep.study import load_study
from alphareq_lightning.sweep.training import (
    build_training,
    find_monitor,
    labelled_datasets,
)
from alphareq_lightning.sweep.trial import PATH, SECONDS, monitored_features
from benchmarks.timing import machine, today
from study.measurements import BATCH, Sides, decoded
from study.pilot.analysis import RESULTS
from study.run import result_path, short, write_result

CONFIGS = Path(__file__).parent / "configs"
TASKS: dict[str, dict[str, Any]] = {
    "cifar10": {"max_train": 5000},  # of 50,000; all 10,000 test images
    "tiny_imagenet": {"holdout": 0.2},  # 8,000 and 2,000 images of 200 classes
}
EVERY_TIME = "cifar10"
"""Read out at every checkpoint; the others at the end of training only."""
LIDAR_IMAGES, LIDAR_VIEWS = 400, 10


def views_of_one(data: ImageFolderDataModule) -> Tensor:
    """Random views of held-out images, shape ``(images * views, 3, h, w)``, always the same."""
    data.setup("fit")
    torch.manual_seed(0)
    chosen = data.heldout_indices[:: len(data.heldout_indices) // LIDAR_IMAGES][:LIDAR_IMAGES]
    images = (data.heldout_source[i][0] for i in chosen)
    return torch.stack([data.view(image) for image in images for _ in range(LIDAR_VIEWS)])


def readouts(features: nn.Module, tasks: dict[str, Sides], views: Tensor) -> dict[str, Any]:
    """Accuracy in percent of a logistic readout on each task, and LiDAR."""
    values: dict[str, Any] = {}
    for name, sides in tasks.items():
        extracted = [extract_features(features, DataLoader(side, BATCH)) for side in sides]
        found = read_out(*extracted[0], *extracted[1])
        values |= {name: found.top1, f"{name}_top5": found.top5}
    unlabelled = TensorDataset(views, torch.zeros(len(views)))
    grouped, _ = extract_features(features, DataLoader(unlabelled, BATCH))
    values["lidar"] = lidar(grouped.unflatten(0, (-1, LIDAR_VIEWS))).item()
    return values


def history(checkpoint: dict[str, Any]) -> Iterator[tuple[int, list[AlphaRecord]]]:
    """Epochs, one-based, and the records of their layers."""
    [state] = [v for k, v in checkpoint["callbacks"].items() if k.startswith(STATE_KEY_PREFIX)]
    records, _ = history_from_state(state)
    for epoch in sorted({r.epoch for r in records}):
        yield epoch + 1, [r for r in records if r.epoch == epoch]


def layer_values(record: AlphaRecord) -> dict[str, Any]:
    """What is kept of a record."""
    values = record.to_dict()
    names = ("alpha", "r2", "alpha_corrected", "alpha_stderr", "fit_range", "num_samples", "scores")
    return {name: values[name] for name in (*names, "eigenvalues")}


def built(sweep: Sweep, params: dict[str, Any]) -> tuple[LightningCLI, LayerFeatures]:
    """A training of a sweep before its first step, and its model cut off at the monitored layer."""
    with TemporaryDirectory() as folder:
        cli = build_training(sweep, params, Path(folder))
    return cli, monitored_features(cli.model, find_monitor(cli.trainer))


def collect(
    sweep: Sweep, trial: FrozenTrial, tasks: dict[str, Sides], views: Tensor
) -> dict[str, Any]:
    """Everything that is known of one training."""
    trained = Path(trial.user_attrs[PATH])
    cli, features = built(sweep, trial.params)
    paths = trained.parent.rglob("epoch=*.ckpt")
    checkpoints = {c["epoch"] + 1: c for p in paths for c in [torch.load(p, weights_only=True)]}
    last = max(checkpoints)
    read: dict[int, dict[str, Any]] = {}
    for epoch, checkpoint in checkpoints.items():
        cli.model.load_state_dict(checkpoint["state_dict"])
        of_epoch = tasks if epoch == last else {EVERY_TIME: tasks[EVERY_TIME]}
        read[epoch] = readouts(features, of_epoch, views)
    epochs = []
    for epoch, records in history(checkpoints[last]):
        values = {"epoch": epoch, "losses": records[0].metrics}
        values["layers"] = {record.layer: layer_values(record) for record in records}
        epochs.append(values | {"readouts": read.get(epoch, {})})
    return {
        "sweep": _name(sweep),
        "params": trial.params,
        "date": today(),
        "machine": machine(),
        "seconds": trial.user_attrs[SECONDS],
        "epochs": epochs,
    }


def _name(sweep: Sweep) -> str:
    return sweep.name.removeprefix("sweep_")


def untrained(sweep: Sweep, tasks: dict[str, Sides], views: Tensor) -> dict[str, Any]:
    """α, RankMe and readouts of the network that every training of a sweep begins with."""
    cli, features = built(sweep, {})
    _, heldout = labelled_datasets(cli.datamodule)
    extracted, _ = extract_features(features, DataLoader(heldout, BATCH))
    fit = fit_power_law(eigenspectrum(extracted), num_samples=len(extracted))
    rank = rankme(torch.linalg.svdvals(extracted.double())).item()
    return {"alpha": fit.alpha.item(), "rankme": rank, **readouts(features, tasks, views)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="*", help="by name, for example barlow_twins; all if none")
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="folder of the images")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    folders = {"cifar10": "cifar10", "tiny_imagenet": "tiny-imagenet-val"}
    data = {
        name: ImageFolderDataModule(str(options.data / folders[name]), **how)
        for name, how in TASKS.items()
    }
    tasks = {name: decoded(module.readout_datasets()) for name, module in data.items()}
    views = views_of_one(data["cifar10"])
    start = options.out / "untrained.json"
    if not start.exists():
        found = untrained(read_sweep(CONFIGS / "sweep_barlow_twins.yaml"), tasks, views)
        start.parent.mkdir(parents=True, exist_ok=True)
        start.write_text(json.dumps(short(found)) + "\n")
    names = options.sweeps or [p.stem for p in sorted(CONFIGS.glob("sweep_*.yaml"))]
    for name in names:
        sweep = read_sweep(CONFIGS / f"sweep_{name.removeprefix('sweep_')}.yaml")
        for trial in load_study(sweep.storage, sweep.name).get_trials(states=[TrialState.COMPLETE]):
            path = result_path(options.out, _name(sweep), trial.params)
            if not path.exists():
                write_result(path, collect(sweep, trial, tasks, views))
                print(path, flush=True)


if __name__ == "__main__":
    main()
