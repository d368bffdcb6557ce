"""What a decision says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.course import Course


class Criterion(NamedTuple):
    """How one criterion orders the candidates."""

    order: tuple[AlphaRecord, ...]
    """Best first."""
    agreement: float
    """Kendall's τ with the order that was believed; NaN where one of them is constant."""
    believed: bool
    """Whether the choice is made by it, alone or with others."""


@dataclass(frozen=True)
class Verdict:
    """An answer with its ties and its reasons, or none.

    Attributes:
        choice: The record to keep, or `None`.
        ties: Records that cannot be told from it, best first.
        failing: The newest record of each training that fails or has collapsed.
        doubts: Why the choice, or that there is none, may be wrong; a sentence each.
        advice: What to do next, in one sentence.
        scores: Each criterion's order of the candidates, and how well it agrees.
        courses: Where each training stands, by its name.
        spread: What another seed changes: of each score the standard deviation between seeds as a
            share, of α as it is. Empty where no configuration has several seeds.
    """

    choice: AlphaRecord | None
    advice: str
    ties: tuple[AlphaRecord, ...] = ()
    failing: tuple[AlphaRecord, ...] = ()
    doubts: tuple[str, ...] = ()
    scores: Mapping[str, Criterion] = field(default_factory=dict)
    courses: Mapping[str, Course] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
