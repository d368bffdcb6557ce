"""One self-contained page that shows what was measured, paid for and learnt.

The charts are drawn by Vega-Lite, whose JavaScript vl-convert puts into the page: it is a fifth of
Plotly's (0.9 and 4.8 MB), needs no ``eval`` under the page's content security policy, takes names
as plain text, and draws SVG, which stays sharp on paper and takes its colours from the style sheet,
so that the dark needs no second drawing. Neither can be walked through by keyboard: ``page.js``
adds that to every chart alike.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alphareq_lightning._version import __version__
from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.files import written_beside
from alphareq_lightning.functional.power_law import check_target
from alphareq_lightning.measure.measurement import GOOD_R2
from alphareq_lightning.metrics.scores import better
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.report.choices import CRITERIA, choices_by_score
from alphareq_lightning.report.courses import courses_of, hyperparameters_of, measured
from alphareq_lightning.report.ranking import short_names
from alphareq_lightning.selection import (
    AlphaIntervalSearch,
    Readout,
    cautions,
    closing_interval,
    mixtures,
    verdict,
)
from alphareq_lightning.selection.trainings import trainings_of
from alphareq_lightning.text import as_json, without_folder

POINTS_PER_SPECTRUM = 48
"""Evenly spaced over log rank: no more can be seen, and 1,000 models take less than 1 MB."""
Target = float | tuple[float, float]


def write_report(
    path: str | PathLike[str],
    records: Sequence[AlphaRecord],
    *,
    course: Sequence[AlphaRecord] = (),
    title: str = "Model selection by α",
    target: Target = 1.0,
    top_k: int = 5,
    margin: int = 0,
    command: str = "",
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
        command: What was typed to write it, for the last line of the page.

    Returns:
        ``path``.

    Raises:
        SelectionError: If there are no records, or the file cannot be written.
        OptionError: If ``target``, ``top_k`` or ``margin`` is outside what is documented, or the
            charts are not installed.
    """
    library = _chart_library()
    data = report_data(records, course=course, target=target, top_k=top_k, margin=margin)
    now = datetime.now(timezone.utc)
    data["written"] = f"Written {now:%Y-%m-%d %H:%M} UTC by alphareq-lightning {__version__}"
    data["command"] = command
    room = files("alphareq_lightning.report")
    template, style, script = (
        room.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    parts = {
        "title": html.escape(title),
        "style": style,
        "data": script_json(data),
        "library": library,
        "script": script,
        "hashes": f"{_hash(library)} {_hash(script)}",
    }
    # In one pass: what a part holds is never taken for the mark of another.
    page = re.sub(r"<!-- (\w+) -->", lambda mark: parts[mark[1]], template)
    try:
        with written_beside(path) as unfinished:
            unfinished.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SelectionError(f"cannot write the report to {path}: {error}") from error
    return Path(path)


@cache
def _chart_library() -> str:
    """Vega-Lite and what it needs, as one script; making it takes 3 s."""
    try:
        import vl_convert
    except ImportError as error:
        raise OptionError(
            "the report needs its extra: pip install 'alphareq-lightning[report]'"
        ) from error
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _hash(script: str) -> str:
    """How a content security policy names the one script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def report_data(
    records: Sequence[AlphaRecord],
    *,
    course: Sequence[AlphaRecord] = (),
    target: Target = 1.0,
    top_k: int = 5,
    margin: int = 0,
) -> dict[str, Any]:
    """Everything that the page draws, as plain JSON values; NaN and infinity become `None`.

    Arguments and errors are those of `write_report`.
    """
    if not records:
        raise SelectionError("there are no records to report on")
    AlphaIntervalSearch(top_k=top_k, margin=margin)  # checks both
    target = check_target(target)
    folder, names = short_names(records)
    ranks = _drawn_ranks(records)
    intervals = _replay(records, top_k, margin)
    trainings = trainings_of(records)
    training = {id(r): place for place, h in enumerate(trainings.values()) for r in h}
    newest = {id(history[-1]) for history in trainings.values()}
    params = hyperparameters_of(trainings)
    keys = list(dict.fromkeys(key for found in params.values() for key in found))
    lines, roles = _verdict(records, course, target, folder)
    models = [
        {
            **measured(record),
            "name": name,
            "training": training[id(record)],
            "newest": id(record) in newest,
            "role": roles.get(id(record), ""),
            **{f"param {key}": params[id(record)].get(key) for key in keys},
            "paid": record.accuracy is not None,
            "distance": record.distance(target),
            "r2": record.r2,
            "epoch": record.epoch,
            "layer": record.layer,
            "window": record.ranks,
            "samples": record.num_samples,
            **{f"score {key}": value for key, value in record.scores.items()},
            **{f"metric {key}": value for key, value in record.metrics.items() if "loss" in key},
            "interval": interval,
            "spectrum": _spectrum(record, ranks),
            "line": _line(record),
        }
        for name, record, interval in zip(names, records, intervals, strict=True)
    ]
    data: dict[str, Any] = as_json(
        {
            "folder": folder,
            "target": target,
            "topK": top_k,
            "columns": _columns(records, keys),
            "params": keys,
            "models": models,
            "trainings": [without_folder(name, folder) for name in trainings],
            "courses": [] if mixtures(records) else courses_of(records, course),
            "ranks": ranks,
            "verdict": lines,
            "choices": _choices(records, target, roles),
            "notes": _notes(records, target),
        }
    )
    return data


def script_json(data: Any) -> str:
    r"""JSON that cannot end or leave the ``<script>`` element it stands in.

    Example:
        >>> script_json("</script>")
        '"\\u003c/script>"'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")


def _choices(
    records: Sequence[AlphaRecord], target: Target, roles: dict[int, str]
) -> dict[str, Any]:
    places = {id(record): place for place, record in enumerate(records)}
    chosen = next((record for record in records if roles.get(id(record)) == "choice"), None)
    count, found = choices_by_score(records, target, chosen)
    rows = [{**row._asdict(), "choice": places.get(id(row.choice))} for row in found]
    return {"count": count, "rows": rows}


def _columns(records: Sequence[AlphaRecord], params: Sequence[str]) -> list[list[str]]:
    """Key, heading, format and better end (``"high"`` or ``"low"``) of each table column."""
    scores = sorted({name for record in records for name in record.scores})
    losses = sorted({name for r in records for name in r.metrics if "loss" in name})
    read_out = any(record.accuracy is not None for record in records)
    layers = len({record.layer for record in records}) > 1
    ends = {score: "low" if better(score) == "lower" else "high" for score in scores}
    return [
        ["name", "model", "text", "low"],
        *([f"param {key}", key, "short", "low"] for key in params),
        *([["accuracy", "accuracy", "percent", "high"]] if read_out else []),
        ["alpha", "α", "fixed", "low"],
        ["distance", "distance", "fixed", "low"],
        ["r2", "R²", "fixed", "high"],
        ["window", "fit ranks", "text", "low"],
        *([["layer", "layer", "text", "low"]] if layers else []),
        ["samples", "images", "count", "high"],
        *([f"score {s}", CRITERIA.get(s, s.replace("_", " ")), "short", ends[s]] for s in scores),
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
    records: Sequence[AlphaRecord], course: Sequence[AlphaRecord], target: Target, folder: str
) -> tuple[list[list[str]], dict[int, str]]:
    """The verdict as pairs of a label and a text, and what it says of a record, by its identity."""
    try:
        found = verdict(records, course=course, target=target)
    except SelectionError as error:  # they can be shown beside each other, and not be chosen from
        return [["no verdict", str(error)]], {}
    roles = {"failing": found.failing, "tie": found.ties, "choice": filter(None, [found.choice])}
    parts = (line.partition(": ") for line in found.lines(folder))
    lines = [[label, text] if colon else ["", label] for label, colon, text in parts]
    return lines, {id(record): role for role, rs in roles.items() for record in rs}


def _notes(records: Sequence[AlphaRecord], target: Target) -> list[str]:
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
