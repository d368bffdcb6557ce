"""Records, as `AlphaMonitor` leaves them, of the trainings that the studies have stored."""

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
"""Beside RankMe, of every training of both studies."""
PILOT_STEPS = 15
"""Optimizer steps of an epoch of the short study."""


def records_of(path: Path, layer: str = "backbone") -> list[AlphaRecord]:
    """The course of one stored training, with the accuracy of each step that was read out."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return list(records_in(values, f"{path.parent.name}/{path.stem}", layer))


def records_in(values: dict[str, Any], run: str, layer: str) -> Iterator[AlphaRecord]:
    """The same of what its file says."""
    for row in values.get("steps") or values["epochs"]:
        of_pilot = "epoch" in row
        kept, readout = row["layers"][layer], row.get("readout") or row.get("readouts") or {}
        width = values["params"].get("model.projector_dim", 256)
        losses = {f"val_{k.removeprefix('val_')}": v for k, v in row["losses"].items()}
        losses["val_twins_error"] = row.get("twins_error")
        if of_pilot and "val_redundancy" in losses:
            rest = losses["val_redundancy"] / (width * (width - 1))
            losses["val_twins_error"] = losses["val_invariance"] / width + rest
        step = row["epoch"] * PILOT_STEPS if of_pilot else row["step"]
        read = {
            "alpha": kept["alpha"],
            "r2": kept["r2"],
            "stderr": kept.get("stderr"),
            "fit_range": kept["fit_range"],
            "num_samples": kept["num_samples"],
            "num_features": len(kept["eigenvalues"]),
            "run": run,
            "layer": layer,
            "global_step": step,
            "scores": _numbers(kept["scores"]),
            "metrics": _numbers(losses),
            "eigenvalues": kept["eigenvalues"],
            "path": f"{run}/step={step}",
            "accuracy": readout.get("top1", readout.get("cifar10")),
        }
        yield AlphaRecord.from_dict(read)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in values.items()}
