"""One trial: train without labels, measure α, and pay a readout where α is promising."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningCLI
from optuna import Trial, TrialPruned
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from torch import nn

from alphareq_lightning.callbacks import AlphaMonitor
from alphareq_lightning.callbacks.unlabeled_pass import find_forwards
from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.files import written_beside
from alphareq_lightning.load.sources import from_datamodule
from alphareq_lightning.measure.layer_features import LayerFeatures
from alphareq_lightning.measure.layers import resolve_layers
from alphareq_lightning.readout import extract_features, read_out
from alphareq_lightning.sweep.config import Sweep
from alphareq_lightning.sweep.pruner import ALPHA
from alphareq_lightning.sweep.training import build_training, find_monitor

READOUT_BATCH = 512
CHECKPOINT = "trained.ckpt"
FOLDER = "folder"
"""The attribute of a study that keeps its trials apart from those of others with one ``out``."""

RECORD, PATH, SECONDS, PAID, OUTCOME = "record", "path", "seconds", "paid", "outcome"
"""User attributes of a trial, beside its α."""
READ_OUT, OUTSIDE, NO_ALPHA, STOPPED = "read out", "outside", "no α", "stopped early"
"""Outcomes of a trial that did not fail."""


class StopEarly(pl.Callback):
    """Reports how near α has come after each epoch, and ends trainings that fall behind."""

    def __init__(self, trial: Trial, monitor: AlphaMonitor) -> None:
        self.trial = trial
        self.monitor = monitor
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was measured before the first step says nothing of this trial."""
        self._seen = len(self.monitor.history)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is over by now, and the last epoch is not worth stopping."""
        distance = trainer.callback_metrics.get(f"{self.monitor.prefix}alpha_distance")
        if distance is None or len(self.monitor.history) == self._seen:
            return
        self._seen = len(self.monitor.history)
        epochs = trainer.current_epoch + 1
        self.trial.report(-distance.item(), step=epochs)
        if epochs != trainer.max_epochs and self.trial.should_prune():
            raise TrialPruned(STOPPED)


def run_trial(sweep: Sweep, trial: Trial) -> float:
    """Train a trial and read it out if the study's pruner lets it.

    Returns:
        Top-1 accuracy of the readout in percent.

    Raises:
        TrialPruned: If the training was stopped early, or its α is not worth a readout.
        KeyboardInterrupt: If the training was interrupted.
    """
    token = trial.study.user_attrs[FOLDER]
    folder = (sweep.out / "trials" / token / f"{trial.number:04d}").resolve()
    params = {key: suggest(trial, key, choices) for key, choices in sweep.space.items()}
    cli = build_training(sweep, params, folder)
    monitor = find_monitor(cli.trainer)
    if sweep.early_stopping is not None:
        callbacks: list[pl.Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.append(StopEarly(trial, monitor))
    try:
        _train(cli.trainer, cli.model, cli.datamodule, monitor, trial)
    except TrialPruned:
        trial.set_user_attr(OUTCOME, STOPPED)
        raise
    _keep_record(cli.trainer, monitor, trial, folder)
    if trial.should_prune():
        has_alpha = trial.user_attrs[ALPHA] is not None
        trial.set_user_attr(OUTCOME, OUTSIDE if has_alpha else NO_ALPHA)
        raise TrialPruned
    return _read_out(sweep, trial, cli, monitor)


def suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    """A value for a key: the one of the plan if it names one, else one of the sampler's."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        d = distribution
        return trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    return trial.suggest_float(key, low, high, step=distribution.step, log=distribution.log)


def _train(
    trainer: pl.Trainer, model: pl.LightningModule, data: Any, monitor: AlphaMonitor, trial: Trial
) -> None:
    started = time.perf_counter()
    try:
        trainer.fit(model, datamodule=data)
    except SystemExit as error:  # what Lightning makes of Ctrl-C and SIGTERM
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from error
    finally:
        on_alpha = sum(record.seconds for record in monitor.history)
        _add_seconds(trial, train=time.perf_counter() - started - on_alpha, alpha=on_alpha)


def _keep_record(trainer: pl.Trainer, monitor: AlphaMonitor, trial: Trial, folder: Path) -> None:
    if not monitor.history:
        raise SpectrumError("the training ended before α was measured once")
    newest = monitor.history[-1].global_step
    record = next(r for r in monitor.history if r.global_step == newest)  # of the first layer
    path = folder / CHECKPOINT
    with written_beside(path) as unfinished:
        trainer.save_checkpoint(unfinished)
    trial.set_user_attr(PATH, str(path))
    trial.set_user_attr(RECORD, record.to_json())
    trial.set_user_attr("r2", record.r2 if math.isfinite(record.r2) else None)
    trial.set_user_attr(ALPHA, record.alpha if math.isfinite(record.alpha) else None)


def _read_out(sweep: Sweep, trial: Trial, cli: LightningCLI, monitor: AlphaMonitor) -> float:
    trial.set_user_attr(PAID, True)
    started = time.perf_counter()
    features = monitored_features(cli.model, monitor)
    num_workers = getattr(cli.datamodule, "num_workers", 0)
    images = from_datamodule(cli.datamodule, batch_size=READOUT_BATCH, num_workers=num_workers)
    sides = images.labelled(sweep.readout.labels_per_class)
    device = cli.trainer.strategy.root_device
    extracted = [extract_features(features, side, device) for side in sides]
    probe: Any = sweep.readout.probe
    scores = read_out(*extracted[0], *extracted[1], probe=probe, seed=sweep.seed)
    _add_seconds(trial, readout=time.perf_counter() - started)
    trial.set_user_attr("top5", scores.top5)
    trial.set_user_attr(OUTCOME, READ_OUT)
    return scores.top1


def monitored_features(module: nn.Module, monitor: AlphaMonitor) -> LayerFeatures:
    """The module, cut off at the layer whose α the monitor measures."""
    layer = resolve_layers(module, monitor.layer, monitor.take)[0]
    runs = find_forwards(monitor.forward, module)
    return LayerFeatures(
        module, layer.label, monitor.pool, lambda images: [run.on(images) for run in runs]
    )


def _add_seconds(trial: Trial, **seconds: float) -> None:
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    trial.set_user_attr(SECONDS, {**trial.user_attrs.get(SECONDS, {}), **rounded})
