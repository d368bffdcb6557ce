"""Trains the models of the study one after the other, and writes one JSON file for each.

What is there already is not trained again; a training that was killed starts anew.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.sweep.config import Sweep
from alphareq_lightning.sweep.training import build_training, find_monitor
from benchmarks.results import DIGITS, machine, of_training, short, today, write_training
from study.measurements import Measurements

HERE = Path(__file__).parent
CONFIGS, RESULTS = HERE / "configs", HERE / "results"
ORDER = (
    "barlow_twins",
    "seeds",
    "tiny_imagenet",
    "rate_decay",
    "simclr",
    "vicreg",
    "vit",
    "wide",
    "on_cpu",
)
EIGENVALUES = 512
"""As many are kept of each layer as a record has; the study's layers are narrower."""
PACKAGES = ("alphareq-lightning", "torch", "torchvision", "lightning", "torchmetrics")

Params = dict[str, Any]


def planned(config: dict[str, Any]) -> Iterator[Params]:
    """What each training of an experiment varies, in order; no two are the same.

    Example:
        >>> runs = [{"a": [1, 2], "b": [3]}, {"a": [1], "b": [3, 4]}]
        >>> list(planned({"runs": runs}))
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}, {'a': 1, 'b': 4}]
    """
    seen: list[Params] = []
    for block in config["runs"]:
        for values in itertools.product(*block.values()):
            params = dict(zip(block, values, strict=True))
            if params not in seen:
                seen.append(params)
                yield params


def read_experiment(path: Path) -> dict[str, Any]:
    """What an experiment file says, with its name and the path of its training config."""
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    train = path.parent / config["train"]
    return {"overrides": {}, **config, "name": path.stem, "train": train}


def built(config: dict[str, Any], params: Params, data: Path, folder: Path) -> LightningCLI:
    """Model, images and Trainer of a training; nothing runs yet."""
    overrides = {**config["overrides"], "data.folder": str(data / config["images"])}
    sweep = Sweep(name=config["name"], train=config["train"], space={}, overrides=overrides)
    return build_training(sweep, params, folder)


def train(config: dict[str, Any], params: Params, data: Path) -> dict[str, Any]:
    """One training from its first to its last step, and all that was measured on the way."""
    other = config.get("other_images")
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        cli = built(config, params, data, Path(folder))
        beside = Measurements(
            **config["measurements"],
            other_images=str(data / other) if other and (data / other).is_dir() else None,
        )
        monitor = find_monitor(cli.trainer)
        monitor.at_steps = tuple(sorted(beside.at_steps))
        cli.trainer.callbacks.append(beside)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        seconds = time.perf_counter() - started
    if cli.trainer.global_step not in beside.rows:
        raise RuntimeError(f"the training ended after {cli.trainer.global_step} steps")
    data_options = cli.config.as_dict()["data"]["init_args"]
    return {
        "experiment": config["name"],
        "params": params,
        "seed": cli.config.seed_everything,
        "images": config["images"],
        "hyperparameters": {k: v for k, v in cli.model.hparams.items() if not k.startswith("_")},
        "data": {k: v for k, v in data_options.items() if k != "folder"},
        "date": today(),
        "seconds": seconds,
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "steps": [
            {**row, "layers": layers_at(monitor.history, step)}
            for step, row in sorted(beside.rows.items())
        ],
    }


def layers_at(history: list[AlphaRecord], step: int) -> dict[str, Any]:
    """What is kept of the records of one step, by layer."""
    kept = ("alpha", "r2", "stderr", "fit_range", "num_samples", "scores", "problem", "seconds")
    found: dict[str, Any] = {}
    for record in history:
        if record.global_step == step and record.layer not in found:
            values = record.to_dict()
            found[record.layer] = {name: values[name] for name in kept}
            found[record.layer]["eigenvalues"] = short(
                list(record.eigenvalues[:EIGENVALUES]), DIGITS - 1
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", help=f"all if none: {', '.join(ORDER)}")
    parser.add_argument("--data", type=Path, required=True, help="folder of the image folders")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of the experiments")
    parser.add_argument("--accelerator", help="another one than the experiments say: cpu or gpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for experiment in options.experiments or ORDER:
        config = read_experiment(options.configs / f"{experiment}.yaml")
        if options.accelerator:
            config["overrides"]["trainer.accelerator"] = options.accelerator
        for params in planned(config):
            path = of_training(options.out, experiment, params)
            if path.exists():
                continue
            print(f"{time.strftime('%H:%M:%S')} {path.stem}", flush=True)
            try:
                write_training(path, train(config, params, options.data), "steps")
            except Exception:  # the next one may well train
                traceback.print_exc()


if __name__ == "__main__":
    main()
