"""What a decision says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection.course import Course, Phase
from alphareq_lightning.text import without_folder

SHOWN = 5
"""Ties and trainings that are named; of more the number is told."""
NAMED: tuple[Phase, ...] = ("settled", "settling", "warming up", "unknown")
"""Phases whose trainings are named in a line each; those that fail have one together."""


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
        newest: The record that stands for each of several trainings, by its name.
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
    newest: Mapping[str, AlphaRecord] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)

    def lines(self, folder: str = "") -> Iterator[str]:
        """The choice, its ties, the phases, what fails, why to doubt it, and what to do.

        Args:
            folder: Left out of all names but the choice's, where they begin with it.
        """
        if self.choice is None:
            yield "verdict: no choice"
        else:
            yield f"verdict: {self._name(self.choice)}, α = {self.choice.alpha:.3f}"
        if self.ties:
            yield f"cannot be told from it: {self._named(self.ties, folder)}"
        phases = Counter(course.phase for course in self.courses.values())
        if len(self.courses) > 1:
            counts = (f"{count} {phase}" for phase, count in phases.most_common())
            yield f"phases: {', '.join(counts)}"
            for phase in NAMED:
                if named := [self.newest[n] for n, c in self.courses.items() if c.phase == phase]:
                    yield f"{phase}: {self._named(named, folder)}"
        else:
            for course in self.courses.values():
                yield f"phase: {course.phase}"
        if self.spread:
            changes = ", ".join(_changed(name, sd) for name, sd in self.spread.items())
            yield f"another seed changes {changes}"
        if self.failing:
            yield f"failing or collapsed: {self._named(self.failing, folder)}"
        yield from (f"doubt: {doubt}" for doubt in self.doubts)
        yield f"advice: {self.advice}"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """Plain values: paths, or the steps of records without one."""
        return {
            "choice": None if self.choice is None else self._name(self.choice),
            "ties": list(map(self._name, self.ties)),
            "failing": list(map(self._name, self.failing)),
            "doubts": list(self.doubts),
            "advice": self.advice,
            "phases": {self._of(name): course.phase for name, course in self.courses.items()},
            "spread": dict(self.spread),
            "criteria": {
                name: {"believed": criterion.believed, "agreement": _number(criterion.agreement)}
                for name, criterion in self.scores.items()
            },
        }

    def _of(self, training: str) -> str:
        return self._name(self.newest.get(training, self.courses[training].latest))

    def _name(self, record: AlphaRecord) -> str:
        """A path; without one, the step, and of which training where there are several."""
        of_one = record.path is not None or not record.run or len(self.courses) < 2
        return record.name if of_one else f"{record.name} of {record.run}"

    def _named(self, records: Sequence[AlphaRecord], folder: str) -> str:
        more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
        names = (without_folder(self._name(record), folder) for record in records[:SHOWN])
        return "; ".join(names) + more


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _changed(name: str, spread: float) -> str:
    return f"α by {spread:.3f}" if name == "alpha" else f"{name} by {spread:.1%}".replace("%", " %")
