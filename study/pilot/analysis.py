"""What the stored trainings say: correlations, regret, windows, searches. Numbers only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import hypergeom

from alphareq_lightning import window_spread
from alphareq_lightning.metrics.scores import better
from experiments.interval_search import WITHIN, one_order
from study.correlation import Numbers, spearman
from study.records import SCORES as COMPANIONS

RESULTS = Path(__file__).parent / "results"
ORDERS = 1000
OUTPUT = "backbone"
"""The layer whose α chooses."""
TASKS = {"cifar10": "CIFAR-10", "tiny_imagenet_top5": "Tiny ImageNet"}
"""Accuracies: top-1 of 10 classes; top-5 of 200, of which a small network knows few."""


@dataclass(frozen=True)
class Training:
    """A training as `study.pilot.collect` has stored it."""

    sweep: str
    params: dict[str, Any]
    seconds: dict[str, float]
    date: str
    machine: dict[str, Any]
    epochs: list[dict[str, Any]]

    @property
    def projector_dim(self) -> int:
        """Hidden and output; the sweeps that do not vary it keep that of the training config."""
        return int(self.params.get("model.projector_dim", 256))

    def at(self, epoch: int) -> dict[str, Any]:
        """What was measured after an epoch, one-based."""
        return next(values for values in self.epochs if values["epoch"] == epoch)

    @property
    def epochs_read_out(self) -> list[int]:
        return [values["epoch"] for values in self.epochs if values["readouts"]]


def load(sweep: str, folder: Path = RESULTS) -> list[Training]:
    """The stored trainings of a sweep, ordered by their parameters."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((folder / sweep).glob("*.json"))]
    trainings = [Training(**json.loads(text)) for text in texts]
    return sorted(trainings, key=lambda training: tuple(training.params.values()))


def untrained(folder: Path = RESULTS) -> dict[str, float]:
    """α, RankMe, LiDAR and accuracies of the network that the grid begins with."""
    values: dict[str, float] = json.loads((folder / "untrained.json").read_text(encoding="utf-8"))
    return values


class Score(NamedTuple):
    """A score of a training, turned so that more of it should mean more accuracy."""

    label: str
    read: Callable[[Training, int], float]


def alpha(training: Training, epoch: int, layer: str = OUTPUT, name: str = "alpha") -> float:
    """α of a layer after an epoch; NaN where there is none."""
    return _number(training.at(epoch)["layers"][layer][name])


def loss(training: Training, epoch: int) -> float:
    """Loss on held-out images."""
    return _number(training.at(epoch)["losses"]["val_loss"])


def log_loss_per_width(training: Training, epoch: int) -> float:
    """What the paper compares α with: raw losses do not compare across λ and widths."""
    return math.log(loss(training, epoch)) / training.projector_dim


def companion(name: str) -> Score:
    """A score that `AlphaMonitor` logs."""
    sign = -1 if better(name) == "lower" else 1

    def read(training: Training, epoch: int) -> float:
        return sign * _number(training.at(epoch)["layers"][OUTPUT]["scores"].get(name))

    return Score(name.replace("_", " "), read)


def distance(read_alpha: Callable[[Training, int], float]) -> Callable[[Training, int], float]:
    """How near α is to 1, with its sign turned."""
    return lambda training, epoch: -abs(read_alpha(training, epoch) - 1)


DISTANCE = Score("distance of α from 1", distance(alpha))
CORRECTED = Score(
    "distance of corrected α", distance(lambda t, e: alpha(t, e, name="alpha_corrected"))
)
RANKME = companion("rankme")._replace(label="RankMe")
LIDAR = Score("LiDAR", lambda t, e: _number(t.at(e)["readouts"].get("lidar")))
LOSS = Score("loss", lambda t, e: -loss(t, e))
LOG_LOSS = Score("log(loss) / projector width", lambda t, e: -log_loss_per_width(t, e))
SCORES = (
    DISTANCE,
    CORRECTED,
    Score("α itself, smaller", lambda t, e: -alpha(t, e)),
    RANKME,
    LIDAR,
    *map(companion, COMPANIONS),
    LOSS,
    LOG_LOSS,
)


def values_of(score: Score, trainings: Sequence[Training], epoch: int) -> Numbers:
    """The score of each training; where there is none, it is worse than all others."""
    values = np.array([score.read(training, epoch) for training in trainings])
    return np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def accuracies(trainings: Sequence[Training], epoch: int, task: str = "cifar10") -> Numbers:
    """Accuracy of the readout on one of `TASKS`, in percent."""
    return np.array([training.at(epoch)["readouts"][task] for training in trainings])


def window_correlations(
    trainings: Sequence[Training], epoch: int, windows: Sequence[tuple[int, int]], task: str
) -> Numbers:
    """ρ of the distance of α from 1 with accuracy, for each fit window."""
    alphas = []
    for training in trainings:
        layer = training.at(epoch)["layers"][OUTPUT]
        spectrum = torch.tensor(layer["eigenvalues"], dtype=torch.float64)
        usable = int((spectrum > 0).sum())
        fits = [w for w in windows if w[1] <= usable]
        found = dict(zip(fits, window_spread(spectrum, fits).alphas.tolist(), strict=True))
        alphas.append([found.get(window, math.inf) for window in windows])
    nearness = -np.abs(np.array(alphas) - 1)
    accuracy = accuracies(trainings, epoch, task)
    return np.array([spearman(column, accuracy) for column in nearness.T])


class SearchCurve(NamedTuple):
    """Over random orders of the trainings."""

    readouts: float
    """Mean number that was paid for."""
    success: float
    """Share of orders whose best is within `WITHIN` points of the best of all."""
    found_by: Numbers
    """Share that has succeeded after 1, 2, … readouts."""


def search_curve(alphas: Numbers, accuracy: Numbers, margin: int, step: int) -> SearchCurve:
    """The interval search on a real table, over `ORDERS` random orders."""
    rng = np.random.default_rng(0)
    good = accuracy >= accuracy.max() - WITHIN
    paid, first_good = [], []
    for _ in range(ORDERS):
        order = rng.permutation(len(alphas))
        chosen = one_order(alphas, accuracy, order.tolist(), margin, step)[0] > 0
        hits = np.flatnonzero(good[order[chosen]])
        paid.append(chosen.sum())
        first_good.append(hits[0] + 1 if len(hits) else np.inf)
    counts = np.arange(1, len(alphas) + 1)
    found_by = (np.array(first_good)[:, None] <= counts).mean(axis=0)
    return SearchCurve(float(np.mean(paid)), float(np.isfinite(first_good).mean()), found_by)


def by_chance(accuracy: Numbers) -> Numbers:
    """Chance that 1, 2, … models drawn at random hold one within `WITHIN` points of the best."""
    good = int((accuracy >= accuracy.max() - WITHIN).sum())
    drawn = np.arange(1, len(accuracy) + 1)
    return np.asarray(hypergeom.sf(0, len(accuracy), good, drawn))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
