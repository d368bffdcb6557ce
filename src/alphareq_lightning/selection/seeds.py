"""Trainings of one configuration that differ in their seed, and what a seed changes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphareq_lightning.errors import OptionError
from alphareq_lightning.records import AlphaRecord

SEED = r"seed[=_-]?\d+"
"""What tells seeds apart in the folder of a training, in capitals or not."""
_STUDENT = (12.7, 4.3, 3.2, 2.8, 2.6, 2.4, 2.4, 2.3, 2.3, 2.2)
"""97.5 % quantiles of Student's t for 1 to 10 degrees of freedom; for more, 2 is near enough."""


class Spread(NamedTuple):
    """How much trainings of one configuration differ."""

    sd: float
    """Pooled standard deviation between seeds."""
    degrees: int
    """Its degrees of freedom: seeds in excess of one, over all configurations."""

    def threshold(self, first: int, second: int) -> float:
        """Means of so many seeds each that differ by less cannot be told apart (95 %)."""
        quantile = _STUDENT[self.degrees - 1] if self.degrees <= len(_STUDENT) else 2.0
        return quantile * self.sd * math.sqrt(1 / first + 1 / second)


def configurations_of(
    trainings: Mapping[str, Sequence[AlphaRecord]], pattern: str = SEED
) -> dict[str, str]:
    r"""The configuration of each training whose folder tells its seed.

    Folders that are alike but for the pattern hold one configuration, unless two of them name one
    seed: then something else tells these trainings apart, and the word was no seed of theirs. Equal
    hyper-parameters in the checkpoints would prove less: those of the optimizer and of the data
    need not be among them.

    Args:
        trainings: Records by training; where they have no path, the training's name is searched.
        pattern: A regular expression for the part that differs between seeds.

    Raises:
        OptionError: If the pattern is no regular expression.

    Example:
        >>> record = AlphaRecord(num_samples=1000, num_features=256)
        >>> names = ("lambd=1/seed=0", "lambd=1/seed=1", "lambd=2/seed=0", "other")
        >>> configurations_of({name: [record] for name in names})
        {'lambd=1/seed=0': 'lambd=1/', 'lambd=1/seed=1': 'lambd=1/', 'lambd=2/seed=0': 'lambd=2/'}
    """
    try:
        seed = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise OptionError(f"expected a regular expression, got {pattern!r}: {error}") from error
    found: dict[str, list[tuple[str, str]]] = {}
    for name, history in trainings.items():
        path = history[-1].path
        place = name if path is None else str(Path(path).parent)
        told = " ".join(match.group() for match in seed.finditer(place))
        if told:
            found.setdefault(seed.sub("", place), []).append((told, name))
    return {
        name: configuration
        for configuration, members in found.items()
        if len({told for told, _ in members}) == len(members)
        for _, name in members
    }


def spread_between_seeds(
    values: NDArray[np.float64], groups: Sequence[Sequence[int]], *, relative: bool
) -> Spread:
    """The standard deviation about the mean of each configuration, pooled over all of them.

    Args:
        values: Of a criterion, one for each training.
        groups: The trainings of each configuration, by their places in ``values``.
        relative: As a share of each configuration's mean.
    """
    squares, degrees = 0.0, 0
    for group in groups:
        mean = values[list(group)].mean()
        scale = abs(mean) if relative and mean else 1.0
        squares += float((((values[list(group)] - mean) / scale) ** 2).sum())
        degrees += len(group) - 1
    return Spread(math.sqrt(squares / degrees) if degrees else math.nan, degrees)
