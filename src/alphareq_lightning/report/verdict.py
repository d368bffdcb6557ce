"""A verdict in words, and for other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection import Verdict

SHOWN = 5
"""Ties and failing trainings that are named; of more the number is told."""


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """The choice, its ties, the phases, what fails, why to doubt it, and what to do."""
    if verdict.choice is None:
        yield "verdict: no choice"
    else:
        yield f"verdict: {_name(verdict.choice, verdict)}, α = {verdict.choice.alpha:.3f}"
    if verdict.ties:
        yield f"cannot be told from it: {_named(verdict.ties, verdict)}"
    phases = Counter(course.phase for course in verdict.courses.values())
    if len(verdict.courses) > 1:
        yield f"phases: {', '.join(f'{count} {phase}' for phase, count in phases.most_common())}"
    else:
        yield from (f"phase: {phase}" for phase in phases)
    if verdict.spread:
        changes = ", ".join(_changed(name, sd) for name, sd in verdict.spread.items())
        yield f"another seed changes {changes}"
    if verdict.failing:
        yield f"failing or collapsed: {_named(verdict.failing, verdict)}"
    yield from (f"doubt: {doubt}" for doubt in verdict.doubts)
    yield f"advice: {verdict.advice}"


def verdict_values(verdict: Verdict) -> dict[str, Any]:
    """Plain values: paths, or the steps of records without one."""
    return {
        "choice": None if verdict.choice is None else _name(verdict.choice, verdict),
        "ties": [_name(record, verdict) for record in verdict.ties],
        "failing": [_name(record, verdict) for record in verdict.failing],
        "doubts": list(verdict.doubts),
        "advice": verdict.advice,
        "phases": {name: course.phase for name, course in verdict.courses.items()},
        "spread": dict(verdict.spread),
        "criteria": {
            name: {"believed": criterion.believed, "agreement": criterion.agreement}
            for name, criterion in verdict.scores.items()
        },
    }


def _changed(name: str, spread: float) -> str:
    return f"α by {spread:.3f}" if name == "alpha" else f"{name} by {spread:.1%}".replace("%", " %")


def _name(record: AlphaRecord, verdict: Verdict) -> str:
    """A path; without one, the step, and of which training where there are several."""
    of_one = record.path is not None or not record.run or len(verdict.courses) < 2
    return record.name if of_one else f"{record.name} of {record.run}"


def _named(records: Sequence[AlphaRecord], verdict: Verdict) -> str:
    more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
    return ", ".join(_name(record, verdict) for record in records[:SHOWN]) + more
