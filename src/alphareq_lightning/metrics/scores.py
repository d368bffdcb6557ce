"""The scores that `AlphaMonitor` knows by name, and what each has to see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from alphareq_lightning.errors import AlphaReQError, OptionError
from alphareq_lightning.functional.moments import FeatureMoments
from alphareq_lightning.functional.point_cloud import coherence, twonn_dimension
from alphareq_lightning.functional.scores import (
    condition_number,
    effective_rank,
    matrix_entropy,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)
from alphareq_lightning.functional.spectrum import moments_eigenvalues, moments_singular_values
from alphareq_lightning.functional.sphere import selfcluster_of_moments, uniformity
from alphareq_lightning.metrics.sample import FeatureSample
from alphareq_lightning.metrics.spectral import SelfCluster

Companion = SelfCluster | FeatureSample
"""What runs beside the moments for scores that cannot be read from them."""


class Seen:
    """Everything that was gathered over all ranks; each spectrum is solved at most once.

    Args:
        moments: Moments of the features.
        beside: What the companions have gathered; `None` if they saw nothing.
    """

    def __init__(
        self, moments: FeatureMoments, beside: Mapping[type[Companion], Any] | None = None
    ) -> None:
        self.moments = moments
        self.beside = {} if beside is None else beside

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of the covariance, largest first."""
        return moments_eigenvalues(self.moments).cpu()

    @cached_property
    def singular_values(self) -> Tensor:
        """Of the uncentred features, largest first: a second solve, only if asked for."""
        return moments_singular_values(self.moments).cpu()


class Score(NamedTuple):
    """How a score is read, and the companion that it needs."""

    read: Callable[[Seen], Tensor]
    needs: type[Companion] | None = None


SCORES: dict[str, Score] = {
    "rankme": Score(lambda seen: rankme(seen.singular_values)),
    "effective_rank": Score(lambda seen: effective_rank(seen.eigenvalues)),
    "participation_ratio": Score(lambda seen: participation_ratio(seen.eigenvalues)),
    "participation_ratio_corrected": Score(
        lambda seen: participation_ratio(
            seen.eigenvalues, num_samples=int(seen.moments.num_samples)
        )
    ),
    "nesum": Score(lambda seen: nesum(seen.eigenvalues)),
    "stable_rank": Score(lambda seen: stable_rank(seen.singular_values)),
    "matrix_entropy": Score(lambda seen: matrix_entropy(seen.singular_values)),
    "condition_number": Score(lambda seen: condition_number(seen.singular_values)),
    "selfcluster": Score(
        lambda seen: selfcluster_of_moments(seen.beside[SelfCluster]), SelfCluster
    ),
    "uniformity": Score(lambda seen: uniformity(seen.beside[FeatureSample]), FeatureSample),
    "coherence": Score(lambda seen: coherence(seen.beside[FeatureSample]), FeatureSample),
    "intrinsic_dimension": Score(
        lambda seen: twonn_dimension(seen.beside[FeatureSample]), FeatureSample
    ),
}
OF_SEVERAL_VIEWS = {"lidar": "LiDAR", "alignment": "Alignment", "cvpca": "CrossValidatedAlpha"}
"""A hook sees one forward pass at a time and cannot know which views belong together."""


def check_scores(scores: str | Sequence[str]) -> tuple[str, ...]:
    """Names of extra scores as a tuple.

    Raises:
        OptionError: If a name is unknown, or needs views that belong together.
    """
    if not isinstance(scores, Sequence):
        raise OptionError(
            f"expected a list of names, got {scores=}; there are: {', '.join(SCORES)}"
        )
    names = (scores,) if isinstance(scores, str) else tuple(scores)
    for name in names:
        if name in OF_SEVERAL_VIEWS:
            raise OptionError(
                f"{name!r} needs views that belong together, which a forward hook cannot know; "
                f"update the metric {OF_SEVERAL_VIEWS[name]} in your validation_step"
            )
    unknown = [name for name in names if name not in SCORES]
    if unknown:
        raise OptionError(f"unknown scores {unknown}; there are: {', '.join(SCORES)}")
    return names


def companions(scores: Sequence[str]) -> tuple[Companion, ...]:
    """A fresh companion of each kind that some of the scores need."""
    kinds = dict.fromkeys(SCORES[name].needs for name in scores)
    return tuple(kind() for kind in kinds if kind is not None)


def read_scores(scores: Sequence[str], seen: Seen) -> dict[str, float]:
    """Every score by name; NaN where there is none."""
    return {name: _read(SCORES[name], seen) for name in scores}


def _read(score: Score, seen: Seen) -> float:
    if score.needs is not None and seen.beside.get(score.needs) is None:
        return math.nan
    try:
        return score.read(seen).item()
    except AlphaReQError:  # nothing varies: the fit says so in its own words
        return math.nan
