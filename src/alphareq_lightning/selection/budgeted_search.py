"""Which models to read out when only a handful of readouts can be paid for."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from alphareq_lightning.errors import OptionError, SelectionError

_START = 4
"""Readouts that are spread over the models before anything is believed."""
_LENGTHS = (0.07, 0.2, 0.5)
"""Of the kernel, as shares of the models in the order of a criterion."""
_NOISES = (0.3, 1.0, 3.0)
"""Standard deviations of a readout about what a criterion can tell, in points."""
_WORTH = 0.1
"""A readout that promises fewer points is not paid for,"""
_PATIENCE = 3
"""once so many have brought nothing."""

Numbers = NDArray[np.float64]


class BudgetedSearch:
    """Best first, by the criterion that the readouts so far speak for.

    The first readouts are spread: the best model by each criterion, and then those that lie
    farthest from all that were read. From there on each criterion, in whichever direction, has to
    predict every readout from the others (a Gaussian process over its order of the models, scored
    by the leave-one-out likelihood); the one that predicts best is believed, and the model that
    promises most by it comes next. If none predicts better than the mean does, chance chooses. The
    search ends at the budget, or when three readouts brought nothing and no model promises a tenth
    of a point.

    Args:
        criteria: For each criterion the value of each model by name; smaller is better, as far as
            is known; NaN where a model has none.
        budget: Readouts to pay at most.
        seed: Of the choices by chance.

    Raises:
        OptionError: If ``budget < 1`` or there are no models.

    Example:
        >>> distance = {f"m{i}": abs(i - 20) / 10 for i in range(40)}
        >>> search = BudgetedSearch({"alpha": distance}, budget=12)
        >>> while (name := search.ask()) is not None:
        ...     search.tell(name, 50 + 10 * distance[name])  # upside down
        >>> search.best, search.believed, search.num_readouts < 12
        ('m0', 'alpha', True)

    References:
        Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 5.4.2;
        Jones, Schonlau and Welch, J. Global Optimization 13, 1998 (expected improvement).
    """

    def __init__(
        self, criteria: Mapping[str, Mapping[str, float]], *, budget: int, seed: int = 0
    ) -> None:
        self.names = sorted({name for values in criteria.values() for name in values})
        if budget < 1 or not self.names:
            raise OptionError(f"expected models and budget >= 1, got {len(self.names)}, {budget=}")
        self.budget = budget
        self.seed = seed
        self.believed: str | None = None
        """The criterion that predicts best; `None` if none does."""
        self.scores: dict[str, float] = {}
        """Accuracy of each model that was read out, in points; NaN where the readout failed."""
        self._places = {
            criterion: _places([values.get(name, math.nan) for name in self.names])
            for criterion, values in criteria.items()
        }

    def ask(self) -> str | None:
        """The model to read out next; `None` when the search is over."""
        unread = [i for i, name in enumerate(self.names) if name not in self.scores]
        if not unread or len(self.scores) >= self.budget:
            return None
        if len(self.scores) < min(_START, self.budget):
            return self.names[self._far(unread)]
        promised = self._promised(unread)
        in_vain = len(self.scores) - 1 - list(self.scores).index(self.best) if self.best else 0
        if promised.max() < _WORTH and in_vain >= _PATIENCE:
            return None
        return self.names[unread[int(promised.argmax())]]

    def tell(self, name: str, score: float) -> None:
        """The accuracy of a model in percent; NaN for a readout that failed.

        Raises:
            SelectionError: If there is no such model, or it has a score already.
        """
        if name not in self.names or name in self.scores:
            known = "has a score already" if name in self.scores else "is not among the models"
            raise SelectionError(f"a score came for {name!r}, which {known}")
        self.scores[name] = float(score)

    @property
    def best(self) -> str | None:
        """The model with the best score, the one told first among equals."""
        known = {name: score for name, score in self.scores.items() if math.isfinite(score)}
        return max(known, key=known.__getitem__) if known else None

    @property
    def num_readouts(self) -> int:
        """Readouts paid, failed ones included."""
        return len(self.scores)

    def _far(self, unread: list[int]) -> int:
        """The first by a criterion that has no reading of its first yet, or the farthest model."""
        read = [self.names.index(name) for name in self.scores]
        for places in list(self._places.values())[len(read) :][:1]:
            first = int(places.argmin())
            if first in unread:
                return first
        apart = np.stack([abs(p[unread][:, None] - p[read][None]) for p in self._places.values()])
        nearest = apart.max(0).min(1) if read else np.ones(len(unread))
        return unread[int(nearest.argmax())]

    def _promised(self, unread: list[int]) -> Numbers:
        """Expected improvement of each model over the best so far, in points."""
        told = [(self.names.index(n), s) for n, s in self.scores.items() if math.isfinite(s)]
        if len(told) < 2:
            return self._by_chance(len(unread))
        read, scores = np.array([i for i, _ in told]), np.array([s for _, s in told])
        values, spread = scores - scores.mean(), max(float(scores.var()), 1.0)
        # Chance: every model is as good as the mean of the others, as far as is known.
        n = len(told)
        chance = -0.5 * n * math.log(spread) - 0.5 * float((values**2).sum()) / spread
        gain, sd = np.zeros(len(unread)) - values.max(), np.full(len(unread), math.sqrt(spread))
        found = {("", 0.0, 0.0): (chance, _improvement(gain, sd))}
        for (criterion, places), length, noise in product(self._places.items(), _LENGTHS, _NOISES):
            kernel = spread * _kernel(places[read], places[read], length)
            inverse = np.linalg.inv(kernel + noise**2 * np.eye(n))
            variance = 1 / inverse.diagonal()
            error = (inverse @ values) * variance
            likelihood = float((-0.5 * np.log(variance) - 0.5 * error**2 / variance).sum())
            across = spread * _kernel(places[unread], places[read], length)
            mean = across @ inverse @ values
            sd = np.sqrt(np.clip(spread - (across @ inverse * across).sum(1), 0, None) + noise**2)
            found[criterion, length, noise] = (likelihood, _improvement(mean - values.max(), sd))
        best = max(likelihood for likelihood, _ in found.values())
        weights = {key: math.exp(likelihood - best) for key, (likelihood, _) in found.items()}
        weights["", 0.0, 0.0] *= len(_LENGTHS) * len(_NOISES)  # as much as a criterion before all
        shares: dict[str, float] = {}
        for (criterion, _, _), weight in weights.items():
            shares[criterion] = shares.get(criterion, 0.0) + weight
        self.believed = max(shares, key=shares.__getitem__) or None
        total = sum(weights.values())
        return np.asarray(
            sum(weights[key] / total * promise for key, (_, promise) in found.items())
        )

    def _by_chance(self, count: int) -> Numbers:
        order = list(range(count))
        random.Random(f"{self.seed} {self.num_readouts}").shuffle(order)
        return np.array(order, dtype=np.float64) + 2 * _WORTH


def _places(values: list[float]) -> Numbers:
    """Where each model stands in an order, from 0 to 1; the last, and NaN, at 1."""
    known = np.nan_to_num(np.array(values), nan=math.inf)
    below = (known[:, None] > known).sum(1) + ((known[:, None] == known).sum(1) - 1) / 2
    return np.asarray(below / max(len(values) - 1, 1))


def _kernel(a: Numbers, b: Numbers, length: float) -> Numbers:
    return np.asarray(np.exp(-0.5 * ((a[:, None] - b[None]) / length) ** 2))


def _improvement(gain: Numbers, sd: Numbers) -> Numbers:
    z = gain / sd
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return np.asarray(gain * below + sd * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))
