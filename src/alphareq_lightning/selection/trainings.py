"""Records by the training that they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from alphareq_lightning.records import AlphaRecord

_SAME_ALPHA = 1e-3
"""One model measured twice gives α that differ by this share of themselves at most."""


def trainings_of(records: Iterable[AlphaRecord]) -> dict[str, list[AlphaRecord]]:
    """Records by the training that they belong to, in the order of their steps.

    A training is known by the ``run`` of its records, or, where they are older than that field, by
    the folder of their checkpoints; by each checkpoint alone, where those of one folder contradict
    each other.
    """
    found: dict[str, list[AlphaRecord]] = {}
    older: dict[str, list[AlphaRecord]] = {}
    for record in sorted(records, key=lambda r: r.global_step):
        if record.run or record.path is None:
            found.setdefault(record.run, []).append(record)
        else:
            older.setdefault(str(Path(record.path).parent), []).append(record)
    for folder, history in older.items():
        apart = contradictions(history) > 0
        for record in history:
            found.setdefault(str(record.path) if apart else folder, []).append(record)
    return found


def contradictions(history: Sequence[AlphaRecord]) -> int:
    """Steps that were measured more than once, with results that are not one."""
    first: dict[int, float] = {}
    return len(
        {
            r.global_step
            for r in history
            if math.isfinite(r.alpha)
            and not same_alpha(first.setdefault(r.global_step, r.alpha), r.alpha)
        }
    )


def same_alpha(alpha: float, other: float) -> bool:
    """Whether two values may be of one model: measured anew, it differs by rounding."""
    return math.isclose(alpha, other, rel_tol=_SAME_ALPHA) or (alpha != alpha and other != other)


def each_once(history: Sequence[AlphaRecord]) -> list[AlphaRecord]:
    """Without the repeats of a merged history, and second checkpoints of one step."""
    kept: dict[int, list[AlphaRecord]] = {}
    for record in history:
        of_step = kept.setdefault(record.global_step, [])
        if not any(same_alpha(r.alpha, record.alpha) for r in of_step):
            of_step.append(record)
    return [record for of_step in kept.values() for record in of_step]
