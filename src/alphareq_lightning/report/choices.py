"""What each score would have chosen, where labels are there to check it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torchmetrics.functional import spearman_corrcoef

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.ranking import badness
from alphareq_lightning.selection.trainings import trainings_of

CRITERIA = {
    "alpha": "α",
    "rankme": "RankMe",
    "selfcluster": "SelfCluster",
    "twins_error": "Barlow Twins error",
    "loss": "loss",
}
FEWEST = 2
"""Models with a readout: of one there is nothing to choose."""
FEWEST_TO_CORRELATE = 4
"""Of fewer the order says nothing, and ρ has no standard error."""
NORMAL = 1.96
"""Standard errors to each side of a 95 % interval."""


class ChoiceByScore(NamedTuple):
    """A way to choose, and what it would have been worth."""

    criterion: str
    choice: AlphaRecord | None
    """`None` where it is left to chance."""
    accuracy: float
    """In percent; the mean of all models where it is left to chance."""
    lost: float
    """Points of accuracy that the best of these models has more."""
    rho: float = math.nan
    """Spearman's correlation of the score with the accuracy; NaN where one does not vary, and of
    fewer than four models."""
    interval: tuple[float, float] = (math.nan, math.nan)
    """Of ``rho``, 95 %."""


def choices_by_score(
    records: Sequence[AlphaRecord],
    target: float | tuple[float, float] = 1.0,
    chosen: AlphaRecord | None = None,
) -> tuple[int, list[ChoiceByScore]]:
    """How many models were compared, and the choice of each score, of chance and of the labels.

    Compared are the models with a readout: the checkpoints of one training, or of several the
    newest of each. Nothing is returned where there are fewer than two.

    Args:
        records: Models, some of them with an ``accuracy``.
        target: The α to be near, or an interval ``(low, high)``.
        chosen: The choice of a verdict, which comes first if its accuracy is known.
    """
    read_out = [r for r in records if r.accuracy is not None and math.isfinite(r.accuracy)]
    trainings = trainings_of(read_out)
    if len(trainings) > 1:
        read_out = [history[-1] for history in trainings.values()]
    if len(read_out) < FEWEST:
        return len(read_out), []
    accuracies = [_accuracy(record) for record in read_out]
    best = max(accuracies)
    found = []
    if chosen is not None and any(chosen is record for record in read_out):
        accuracy = _accuracy(chosen)
        found.append(ChoiceByScore("the verdict", chosen, accuracy, best - accuracy))
    for name, shown in CRITERIA.items():
        goodness = [-badness(record, name, target) for record in read_out]
        if all(map(math.isfinite, goodness)):
            choice = read_out[goodness.index(max(goodness))]
            rho = _spearman(goodness, accuracies)
            interval = _interval(rho, len(read_out))
            accuracy = _accuracy(choice)
            found.append(ChoiceByScore(shown, choice, accuracy, best - accuracy, rho, interval))
    mean = sum(accuracies) / len(accuracies)
    oracle = read_out[accuracies.index(best)]
    by_chance = ChoiceByScore("random", None, mean, best - mean)
    return len(read_out), [*found, by_chance, ChoiceByScore("oracle", oracle, best, 0.0)]


def _accuracy(record: AlphaRecord) -> float:
    return math.nan if record.accuracy is None else record.accuracy


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (first, second))
    rho: Any = spearman_corrcoef(a, b)
    constant = min(a.std(), b.std()) == 0
    return math.nan if constant or len(first) < FEWEST_TO_CORRELATE else float(rho)


def _interval(rho: float, count: int) -> tuple[float, float]:
    """95 % by Fisher's z with the standard error of Bonett and Wright, Psychometrika 2000.

    A perfect order is taken half a step down to the next one that there is, 12 / (n³ − n) away: it
    would have an interval of no width otherwise.
    """
    if math.isnan(rho):
        return math.nan, math.nan
    largest = 1 - 6 / (count**3 - count)
    z = math.atanh(max(-largest, min(largest, rho)))
    error = NORMAL * math.sqrt((1 + rho**2 / 2) / (count - 3))
    return math.tanh(z - error), math.tanh(z + error)
