"""A verdict in words, and for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection import Verdict

SHOWN = 5
"""Ties and failing trainings that are named; of more the number is told."""


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """The choice, what cannot be told from it, what fails, why to doubt it, and what to do."""
    if verdict.choice is None:
        yield "verdict: no choice"
    else:
        yield f"verdict: {verdict.choice.name}, α = {verdict.choice.alpha:.3f}"
    if verdict.ties:
        yield f"cannot be told from it: {_named(verdict.ties)}"
    if verdict.failing:
        yield f"failing: {_named(verdict.failing)}"
    yield from (f"doubt: {doubt}" for doubt in verdict.doubts)
    yield f"advice: {verdict.advice}"


def verdict_values(verdict: Verdict) -> dict[str, Any]:
    """Plain values: paths, or the steps of records without one."""
    return {
        "choice": None if verdict.choice is None else verdict.choice.name,
        "ties": [record.name for record in verdict.ties],
        "failing": [record.name for record in verdict.failing],
        "doubts": list(verdict.doubts),
        "advice": verdict.advice,
        "phases": {name: course.phase for name, course in verdict.courses.items()},
        "criteria": {
            name: {"believed": criterion.believed, "agreement": criterion.agreement}
            for name, criterion in verdict.scores.items()
        },
    }


def _named(records: Sequence[AlphaRecord]) -> str:
    more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
    return ", ".join(record.name for record in records[:SHOWN]) + more
