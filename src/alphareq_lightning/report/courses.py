"""The trainings behind the records of a page: what they were given, and how they went."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection import course_of
from alphareq_lightning.selection.ranking import badness
from alphareq_lightning.selection.trainings import same_alpha, trainings_of

PAIR = re.compile(r"(?:^|[/,])([\w.-]+)=([^/,=]+)(?=[/,]|$)")
"""A hyperparameter in the name of a training, as in ``runs/lambd=0.03,width=256``."""
PLACES = ("epoch", "step")
"""Stand in the names of checkpoints, and are no hyperparameters."""


def hyperparameters_of(
    trainings: Mapping[str, Sequence[AlphaRecord]],
) -> dict[int, dict[str, float | str]]:
    """The hyperparameters of each record, by its `id`; those alone in which records differ.

    A record knows its own; beside them are those that stand in the name of its training.
    """
    found: dict[int, dict[str, float | str]] = {}
    for name, history in trainings.items():
        pairs = PAIR.findall(name.removesuffix(".ckpt"))
        named = {key: _value(text) for key, text in pairs if key not in PLACES}
        found |= {id(record): {**named, **record.params} for record in history}
    for key in {key for params in found.values() for key in params}:
        values = {params.get(key) for params in found.values()}
        words = any(isinstance(value, str) for value in values)
        for params in found.values():
            if key in params and len(values) == 1:
                del params[key]
            elif key in params and words:
                params[key] = str(params[key])
    return found


def _value(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def measured(record: AlphaRecord) -> dict[str, Any]:
    """What is drawn over the steps of a training."""
    return {
        "step": record.global_step,
        "alpha": record.alpha,
        "stderr": record.stderr,
        "loss": badness(record, "loss"),
        "error": badness(record, "twins_error"),
        "rankme": record.scores.get("rankme"),
        "accuracy": record.accuracy,
    }


def courses_of(
    records: Sequence[AlphaRecord], course: Sequence[AlphaRecord]
) -> list[list[dict[str, Any]]]:
    """What was measured of each training, oldest first; nothing where that is a single point.

    ``model`` is the place of a measurement among the records, if it is one of them.
    """
    places = {id(record): place for place, record in enumerate(records)}
    own = trainings_of(records)
    more = [
        r
        for r in course
        if r.layer == records[0].layer
        and r.run
        and r.run in own
        and not any(
            r.global_step == o.global_step and same_alpha(r.alpha, o.alpha) for o in own[r.run]
        )
    ]
    histories = trainings_of([*records, *more])

    def phase(history: Sequence[AlphaRecord]) -> str:
        """As it would have been told then; of many trainings there is no room for it."""
        return course_of(history).phase if len(own) == 1 else ""

    return [
        [
            {**measured(r), "model": places.get(id(r)), "phase": phase(history[: i + 1])}
            for i, r in enumerate(history if len(history) > 1 else ())
        ]
        for history in (histories[name] for name in own)
    ]
