"""One self-contained page that shows what was measured, paid for and learnt."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.files import written_beside
from alphareq_lightning.functional.power_law import check_target
from alphareq_lightning.measure.measurement import GOOD_R2
from alphareq_lightning.metrics.scores import better
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.report.ranking import short_names
from alphareq_lightning.report.verdict import verdict_lines
from alphareq_lightning.selection import (
    AlphaIntervalSearch,
    Readout,
    cautions,
    closing_interval,
    mixtures,
    verdict,
)

POINTS_PER_SPECTRUM = 48
"""Evenly spaced over log rank: no more can be seen, and 1,000 models stay below 1 MB."""
LABELS = {"rankme": "RankMe"}


def write_report(
    path: str | PathLike[str],
    records: Sequence[AlphaRecord],
    *,
    course: Sequence[AlphaRecord] = (),
    title: str = "Model selection by α",
    target: float | tuple[float, float] = 1.0,
    top_k: int = 5,
    margin: int = 0,
) -> Path:
    """Write records as one HTML file that needs no network: figures, notes and a table.

    Args:
        path: The file to write.
        records: In the order in which the models were trained. ``accuracy`` is `None` where no
            readout was paid; NaN is a readout that failed.
        course: More measurements of the same trainings, for the verdict; see `verdict`.
        title: Heading of the page.
        target: The α to be near, or an interval ``(low, high)``.
        top_k: As in `AlphaIntervalSearch`; the search is replayed from the records.
        margin: As in `AlphaIntervalSearch`.

    Returns:
        ``path``.

    Raises:
        SelectionError: If there are no records, or the file cannot be written.
        OptionError: If ``target``, ``top_k`` or ``margin`` is outside what is documented.
    """
    data = report_data(records, course=course, target=target, top_k=top_k, margin=margin)
    template = files("alphareq_lightning").joinpath("report.html").read_text(encoding="utf-8")
    # The data first: it holds no "<", so the title's mark cannot occur in it.
    page = template.replace("<!-- data -->", script_json(data))
    page = page.replace("<!-- title -->", html.escape(title))
    try:
        with written_beside(path) as unfinished:
            unfinished.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SelectionError(f"cannot write the report to {path}: {error}") from error
    return Path(path)


def report_data(
    records: Sequence[AlphaRecord],
    *,
    course: Sequence[AlphaRecord] = (),
    target: float | tuple[float, float] = 1.0,
    top_k: int = 5,
    margin: int = 0,
) -> dict[str, Any]:
    """Everything that the page draws, as plain JSON values; NaN and infinity become `None`.

    Arguments and errors are those of `write_report`.
    """
    if not records:
        raise SelectionError("there are no records to report on")
    AlphaIntervalSearch(top_k=top_k, margin=margin)  # checks both
    low, high = check_target(target)
    folder, names = short_names(records)
    ranks = _drawn_ranks(records)
    intervals = _replay(records, top_k, margin)
    models = [
        {
            "name": name,
            "alpha": _plain(record.alpha),
            "paid": record.accuracy is not None,
            "accuracy": _plain(record.accuracy),
            "distance": _plain(record.distance((low, high))),
            "r2": _plain(record.r2),
            "epoch": record.epoch,
            "step": record.global_step,
            "layer": record.layer,
            "window": record.ranks,
            "samples": record.num_samples,
            **{f"score {key}": _plain(value) for key, value in record.scores.items()},
            **{f"metric {key}": _plain(value) for key, value in record.metrics.items()},
            "interval": [_plain(interval[0]), _plain(interval[1])],
            "spectrum": _spectrum(record, ranks),
            "line": _line(record),
        }
        for name, record, interval in zip(names, records, intervals, strict=True)
    ]
    return {
        "folder": folder,
        "target": [low, high],
        "topK": top_k,
        "columns": _columns(records),
        "models": models,
        "ranks": ranks,
        "verdict": _verdict(records, course, (low, high)),
        "notes": _notes(records, (low, high)),
    }


def script_json(data: Any) -> str:
    r"""JSON that cannot end or leave the ``<script>`` element it stands in.

    Example:
        >>> script_json("</script>")
        '"\\u003c/script>"'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.9g}")


def _columns(records: Sequence[AlphaRecord]) -> list[list[str]]:
    """Key, heading, format and better end (``"high"`` or ``"low"``) of each table column."""
    scores = sorted({name for record in records for name in record.scores})
    losses = sorted({name for r in records for name in r.metrics if "loss" in name})
    read_out = any(record.accuracy is not None for record in records)
    layers = len({record.layer for record in records}) > 1
    ends = {score: "low" if better(score) == "lower" else "high" for score in scores}
    return [
        ["name", "model", "text", "low"],
        *([["accuracy", "accuracy", "percent", "high"]] if read_out else []),
        ["alpha", "α", "fixed", "low"],
        ["distance", "distance", "fixed", "low"],
        ["r2", "R²", "fixed", "high"],
        ["window", "fit ranks", "text", "low"],
        *([["layer", "layer", "text", "low"]] if layers else []),
        ["samples", "images", "count", "high"],
        *([f"score {s}", LABELS.get(s, s.replace("_", " ")), "short", ends[s]] for s in scores),
        *([f"metric {loss}", loss, "short", "low"] for loss in losses),
        ["epoch", "epoch", "count", "low"],
        ["step", "step", "count", "low"],
    ]


def _replay(records: Sequence[AlphaRecord], top_k: int, margin: int) -> list[tuple[float, float]]:
    """The interval after each model, from the readouts paid until then."""
    readouts: list[Readout] = []
    intervals = [(-math.inf, math.inf)]
    for record in records:
        if record.accuracy is not None and record.fit is not None:
            readouts.append(Readout(record.alpha, record.accuracy))
            intervals.append(closing_interval(readouts, top_k=top_k, margin=margin))
        else:
            intervals.append(intervals[-1])
    return intervals[1:]


def _drawn_ranks(records: Sequence[AlphaRecord]) -> list[int]:
    longest = max(len(record.eigenvalues) for record in records)
    if longest == 0:
        return []
    ends = {rank for record in records for rank in record.fit_range or () if rank <= longest}
    spaced = np.geomspace(1, longest, POINTS_PER_SPECTRUM).round()
    return sorted(ends | {int(rank) for rank in spaced})


def _spectrum(record: AlphaRecord, ranks: Sequence[int]) -> list[float]:
    shares = record.shares
    return [round(math.log10(shares[rank - 1]), 3) for rank in ranks if rank <= len(shares)]


def _line(record: AlphaRecord) -> list[float] | None:
    """First and last fitted rank, and log₁₀ of the fitted line there."""
    found = record.line()
    if found is None:
        return None
    ends = [(rank, math.log10(share)) for rank, share in zip(*found, strict=True)]
    (first, left), *_, (last, right) = ends
    return [first, last, round(left, 3), round(right, 3)]


def _verdict(
    records: Sequence[AlphaRecord], course: Sequence[AlphaRecord], target: tuple[float, float]
) -> list[str]:
    try:
        return list(verdict_lines(verdict(records, course=course, target=target)))
    except SelectionError as error:  # they can be shown beside each other, and not be chosen from
        return [f"no verdict: {error}"]


def _notes(records: Sequence[AlphaRecord], target: tuple[float, float]) -> list[str]:
    """What a careful reader would want to be told about these numbers."""
    mixed = mixtures(records)
    notes = [f"{sentence}." for sentence in mixed]
    if not mixed:
        notes += [f"Note that {sentence}." for sentence in cautions(records, target=target)]
    without = [r for r in records if r.fit is None]
    if without:
        reason = next((f", for example: {r.problem}" for r in without if r.problem), "")
        notes.append(f"Without α: {len(without):,} of {len(records):,} models{reason}.")
    poor = sum(r.r2 < GOOD_R2 for r in records)
    if poor:
        notes.append(
            f"R² is below {GOOD_R2} in {poor:,} of {len(records):,} models: their spectra are no "
            "power law over the fitted ranks, and their α says little."
        )
    failed = sum(r.accuracy is not None and math.isnan(r.accuracy) for r in records)
    if failed:
        notes.append(f"Readouts that failed: {failed:,}. They count as paid.")
    return notes
