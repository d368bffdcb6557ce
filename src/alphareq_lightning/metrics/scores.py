"""The one table of scores: what each reads, how, which way is better, who defined it.

Metrics, `AlphaMonitor`, ranking, the help of the commands and the docs read it: a new score is one
more entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from torch import Tensor

from alphareq_lightning.errors import AlphaReQError, OptionError
from alphareq_lightning.functional.lidar import lidar
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
from alphareq_lightning.functional.spanning_tree import mst_dimension
from alphareq_lightning.functional.spectrum import moments_eigenvalues, moments_singular_values
from alphareq_lightning.functional.sphere import selfcluster_of_moments, uniformity
from alphareq_lightning.functional.two_views import (
    fit_shared_power_law,
    mean_distance,
    twins_error_of_sums,
)

Reads = Literal["eigenvalues", "singular_values", "directions", "sample", "views"]
"""Of the covariance, largest first; of the uncentred features, largest first; the moments of the
features' directions; some of the features; what the score's own Metric has gathered of several
views of each image."""
Better = Literal["higher", "lower", "neither"]


class Score(NamedTuple):
    """One label-free score."""

    reads: Reads
    function: Callable[..., Tensor]
    """From what it reads to a number, shape ``()``."""
    better: Better
    what: str
    """In a few words or symbols."""
    caveat: str
    """Where it is known to fail."""
    reference: str
    counts: bool = False
    """Whether the function takes ``num_samples=``, too."""

    def of(self, value: Any, num_samples: Any) -> Tensor:
        """The score of what it reads."""
        return self.function(value, **({"num_samples": int(num_samples)} if self.counts else {}))


TSITSULIN = 'Tsitsulin et al., "Unsupervised embedding quality evaluation", 2023.'
SCORES: dict[str, Score] = {
    "rankme": Score(
        *("singular_values", rankme, "higher"),
        "entropy of uncentred singular values",
        "compares runs of one method only; counts noise as rank; a large mean hides everything",
        'Garrido et al., "RankMe", ICML 2023.',
    ),
    "effective_rank": Score(
        *("eigenvalues", effective_rank, "higher"),
        "entropy of covariance eigenvalues",
        "counts noise; grows with width",
        'Roy and Vetterli, "The effective rank", EUSIPCO 2007.',
    ),
    "participation_ratio": Score(
        *("eigenvalues", participation_ratio, "higher"),
        "(Σλ)²/Σλ²",
        "led by the first few λ; low by a share of about PR/n",
        "Gao et al., bioRxiv 2017.",
    ),
    "participation_ratio_corrected": Score(
        *("eigenvalues", participation_ratio, "higher"),
        "the same, unbiased for Gaussian features",
        "heavy tails; infinite when n is too small to tell",
        "Srivastava, 2005 (the moments of Wishart matrices).",
        counts=True,
    ),
    "nesum": Score(
        *("eigenvalues", nesum, "higher"),
        "Σλ/λ₁",
        "hangs on one eigenvalue",
        "He and Ozay, ICML 2022.",
    ),
    "stable_rank": Score(
        *("singular_values", stable_rank, "higher"),
        "‖X‖²_F/‖X‖²₂, uncentred",
        "measures the mean when it is large; centred, it is NESum",
        TSITSULIN,
    ),
    "matrix_entropy": Score(
        *("singular_values", matrix_entropy, "higher"),
        "entropy of σ², uncentred",
        "as `rankme`",
        'Skean et al., "Layer by layer", ICML 2025.',
    ),
    "condition_number": Score(
        *("singular_values", condition_number, "lower"),
        "σ₁/σ_min, uncentred",
        "infinite with one dead unit; no digits past about 1e7",
        TSITSULIN,
    ),
    "selfcluster": Score(
        *("directions", selfcluster_of_moments, "lower"),
        "d × d second moment of unit vectors",
        "about 1 for any large mean (ReLU features); classes are clusters too",
        TSITSULIN,
    ),
    "uniformity": Score(
        *("sample", uniformity, "lower"),
        "pairs in 4,096 unit vectors",
        "good for collapse, says nothing about what is kept",
        "Wang and Isola, ICML 2020.",
    ),
    "coherence": Score(
        *("sample", coherence, "lower"),
        "largest leverage in 4,096 features",
        "one outlier decides; 1, its best value, under total collapse; NaN unless n exceeds the "
        "rank",
        TSITSULIN,
    ),
    "intrinsic_dimension": Score(
        *("sample", twonn_dimension, "neither"),
        "TwoNN on 4,096 features",
        "reads low above about 20 dimensions; noise has many",
        "Facco et al., Scientific Reports 2017.",
    ),
    "idest": Score(
        *("sample", mst_dimension, "lower"),
        "growth of minimum spanning trees of 4,096 features",
        "low under collapse, too; rough above about 10 dimensions; takes seconds",
        'Mordacq et al., "IdEst", ICML 2026.',
    ),
    "lidar": Score(
        *("views", lidar, "higher"),
        "rank of what differs between images more than between views",
        "compares one augmentation and one number of views (the paper has 10 to 50) only; needs "
        "more images than features",
        'Thilak et al., "LiDAR", ICLR 2024.',
    ),
    "alignment": Score(
        *("views", mean_distance, "lower"),
        "squared distance between unit vectors of two views",
        "0, its best value, under total collapse",
        "Wang and Isola, ICML 2020.",
    ),
    "twins_error": Score(
        *("views", twins_error_of_sums, "lower"),
        "distance of two views' cross-correlation from the identity",
        "of projectors; compares one augmentation and one number of images only",
        'Zbontar et al., "Barlow Twins", ICML 2021 (its two terms).',
    ),
    "cvpca": Score(
        *("views", lambda moments: fit_shared_power_law(moments).alpha, "neither"),
        "α of the spectrum that two views share, ranks by `auto`",
        "falls off too fast where noise outweighs signal",
        "Stringer et al., Nature 2019.",
    ),
}
COSTS: dict[Reads, str] = {
    "eigenvalues": "–",
    "singular_values": "second solve",
    "directions": "a d × d state",
    "sample": "a sample",
    "views": "passes over views",
}


def without_views() -> list[str]:
    """The scores that need nothing but the images."""
    return [name for name in SCORES if not read_views([name])]


def read_views(scores: Sequence[str]) -> list[str]:
    """Those of the scores that need views of the images."""
    return [name for name in scores if SCORES[name].reads == "views"]


def check_scores(scores: str | Sequence[str], views: int = 0) -> tuple[str, ...]:
    """Names of extra scores as a tuple.

    Args:
        scores: One name or several.
        views: How many views of each image there will be.

    Raises:
        OptionError: If a name is unknown, or needs views and there are none.
    """
    if not isinstance(scores, Sequence):
        raise OptionError(
            f"expected a list of names, got {scores=}; there are: {', '.join(SCORES)}"
        )
    names = (scores,) if isinstance(scores, str) else tuple(scores)
    unknown = [name for name in names if name not in SCORES]
    if unknown:
        raise OptionError(f"unknown scores {unknown}; there are: {', '.join(SCORES)}")
    if views < 2 and read_views(names):
        raise OptionError(
            f"{read_views(names)[0]!r} needs two views of each image or more, and here are none: "
            "they are made in a training, by AlphaMonitor(dataloader=..., views=2, augment=...), "
            "or in a loop of your own, with GaugeOptions(views=2)"
        )
    return names


def better(name: str) -> Better:
    """Which way a score is better; more, if it is not in the table."""
    return SCORES[name].better if name in SCORES else "higher"


def scores_table() -> str:
    """The table as Markdown, for the docs."""
    rows = ["| name | reads | better | costs | known to fail | defined by |", "|---" * 6 + "|"]
    rows += [
        f"| `{name}` | {s.what} | {s.better} | {COSTS[s.reads]} | {s.caveat} | {s.reference} |"
        for name, s in SCORES.items()
    ]
    return "\n".join(rows)


class Seen:
    """Everything that was gathered over all ranks; each spectrum is solved at most once.

    Args:
        moments: Moments of the features.
        beside: What the companions have gathered, by what it is, or by the name of the score that
            it is for; `None` if they saw nothing.
    """

    def __init__(self, moments: FeatureMoments, beside: Mapping[str, Any] | None = None) -> None:
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


def read_scores(scores: Sequence[str], seen: Seen) -> dict[str, float]:
    """Every score by name; NaN where there is none."""
    return {name: _read(name, seen) for name in scores}


def _read(name: str, seen: Seen) -> float:
    score = SCORES[name]
    if score.reads in ("directions", "sample", "views"):
        value = seen.beside.get(name if score.reads == "views" else score.reads)
    else:
        value = getattr(seen, score.reads)
    try:
        return math.nan if value is None else score.of(value, seen.moments.num_samples).item()
    except AlphaReQError:  # nothing varies: the fit says so in its own words
        return math.nan
