"""The long study as one flat table, derived from the JSON files of its trainings alone.

One row for each training, layer and measured step; ``results/README.md`` says what its columns are.
The phases are those of ``HYPOTHESES.md``: the product has one rule more, which was found later.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import short
from study.records import SCORES, records_in

RESULTS = Path(__file__).parent / "results"
CSV = RESULTS / "table.csv"
PLANNED = {
    "barlow_twins": 24,
    "seeds": 12,
    "tiny_imagenet": 12,
    "rate_decay": 12,
    "simclr": 6,
    "vicreg": 6,
    "vit": 6,
    "wide": 2,
    "on_cpu": 2,
}
"""Trainings of each experiment; what else is in the folder is beside the study."""
WINDOWS = {"alpha_2_50": (2, 50), "alpha_11_100": (11, 100)}
TEXTS = ("experiment", "training", "images", "backbone", "layer", "phase")
HYPERPARAMETERS = (
    "backbone",
    "lambd",
    "projector_dim",
    "learning_rate",
    "weight_decay",
    "temperature",
    "covariance",
)
"""Those that differ between trainings."""
TURNED = ("settling", "settled")

Row = dict[str, Any]
"""Texts of `TEXTS`, and numbers: NaN where there is none."""


def results(folder: Path = RESULTS) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The stored trainings of the planned experiments."""
    for experiment in PLANNED:
        for path in sorted((folder / experiment).glob("*.json")):
            yield path, json.loads(path.read_text(encoding="utf-8"))


def table(folder: Path = RESULTS) -> list[Row]:
    """All rows, by experiment, training, layer and step."""
    return [
        row
        for path, values in results(folder)
        for layer in values["steps"][0]["layers"]
        for row in _course(path, values, layer)
    ]


def _course(path: Path, values: dict[str, Any], layer: str) -> list[Row]:
    """The rows of one layer of one training."""
    hyper = values["hyperparameters"]
    if not {"temperature", "covariance"}.isdisjoint(hyper):
        hyper = {**hyper, "lambd": None}  # other losses than the recipe's have none
    records = list(records_in(values, path.stem, layer))
    width = max(record.num_features for record in records)
    rows: list[Row] = []
    for measured, record in zip(values["steps"], records, strict=True):
        found, losses = measured["layers"][layer], measured["losses"]
        read, other = (measured.get(key) or {} for key in ("readout", "other_readout"))
        row = {
            "experiment": values["experiment"],
            "training": path.stem,
            "seed": values["seed"],
            "images": values["images"],
            **{name: hyper.get(name) for name in HYPERPARAMETERS},
            "step": measured["step"],
            "layer": layer,
            "num_features": width,
            "num_samples": found["num_samples"],
            **dict(
                zip(("first_rank", "last_rank"), found["fit_range"] or (None, None), strict=True)
            ),
            **{name: found[name] for name in ("alpha", "r2", "stderr")},
            **{name: short(record.refit(window).alpha) for name, window in WINDOWS.items()},
            **{name: found["scores"].get(name) for name in ("rankme", *SCORES)},
            **{name: measured[name] for name in ("twins_error", "invariance", "redundancy")},
            "loss": losses["loss"],
            "loss_invariance": losses.get("invariance"),
            "loss_redundancy": losses.get("redundancy"),
            "alignment": measured["alignment"],
            "train_loss": measured.get("train_loss"),
            **{"top1": read.get("top1"), "top5": read.get("top5")},
            **{"other_top1": other.get("top1"), "other_top5": other.get("top5")},
            "seconds": values["seconds"],
        }
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
        rows[-1]["phase"] = phase(rows)
    return rows


def of_course(rows: Sequence[Row]) -> list[Row]:
    """The rows that tell a course: with a fit, from step 100 on."""
    return [row for row in rows if row["step"] >= 100 and math.isfinite(row["alpha"])]


def phase(rows: Sequence[Row]) -> str:
    """Where a training stands by the last of these rows: the first rule of the page that holds.

    The page leaves open, and it was decided before more than four trainings were looked at: rows
    without a fit are passed over, but for the last; the window 4–51 means the layer's own
    (``"auto"``), where it is another; where the window 2–50 has no fit the own one decides alone.

    Args:
        rows: Of one layer of one training, in the order of steps.
    """
    first, now, past = rows[0], rows[-1], of_course(rows)
    collapsed = now["r2"] < 0.8 or now["rankme"] < 0.02 * now["num_features"]
    if math.isnan(now["alpha"]) or collapsed:
        return "collapsed"
    before = [row for row in past if row["step"] <= 0.75 * now["step"]]
    if first["step"] > 0 or math.isnan(first["alpha"]) or len(past) < 2 or not before:
        return "unknown"
    if now["alpha"] >= max(row["alpha"] for row in past) - max(0.05, 2 * now["stderr"]):
        failing = past[0]["alpha"] < first["alpha"] - 0.1
        return "failing" if failing else "warming up"
    least = max(0.05, 2 * math.hypot(now["stderr"], before[-1]["stderr"]))
    drifts = [abs(now[name] - before[-1][name]) for name in ("alpha", "alpha_2_50")]
    return "settled" if any(drift <= least for drift in drifts) else "settling"


def write_table(rows: Sequence[Row], path: Path = CSV) -> None:
    """A CSV file; a number that is missing is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value != value else value for key, value in row.items()})


def read_table(path: Path = CSV) -> list[Row]:
    """The rows of a CSV file, as `table` made them."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: text if key in TEXTS else float(text or "nan") for key, text in row.items()}
            for row in csv.DictReader(file)
        ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = table()
    write_table(rows)
    print(f"wrote {len(rows)} rows to {CSV}")


if __name__ == "__main__":
    main()
