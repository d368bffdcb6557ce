"""Records, as `AlphaMonitor` leaves them, of the trainings that the study has stored."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alphareq_lightning.records import AlphaRecord

SCORES = (
    "effective_rank",
    "participation_ratio",
    "nesum",
    "stable_rank",
    "matrix_entropy",
    "selfcluster",
    "uniformity",
    "coherence",
)
"""Beside RankMe, of every training."""


def records_of(path: Path, layer: str = "backbone") -> list[AlphaRecord]:
    """The course of one stored training, with the accuracy of each step that was read out."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return list(records_in(values, f"{path.parent.name}/{path.stem}", layer))


def records_in(values: dict[str, Any], run: str, layer: str) -> Iterator[AlphaRecord]:
    """The same of what its file says."""
    for row in values["steps"]:
        kept, readout = row["layers"][layer], row.get("readout") or {}
        losses = {f"val_{k}": v for k, v in row["losses"].items()}
        losses["val_twins_error"] = row["twins_error"]
        read = {
            "alpha": kept["alpha"],
            "r2": kept["r2"],
            "stderr": kept["stderr"],
            "fit_range": kept["fit_range"],
            "num_samples": kept["num_samples"],
            "num_features": len(kept["eigenvalues"]),
            "run": run,
            "layer": layer,
            "global_step": row["step"],
            "scores": _numbers(kept["scores"]),
            "metrics": _numbers(losses),
            "eigenvalues": kept["eigenvalues"],
            "path": f"{run}/step={row['step']}",
            "accuracy": readout.get("top1"),
        }
        yield AlphaRecord.from_dict(read)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in values.items()}
