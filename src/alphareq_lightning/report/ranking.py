"""A ranking as people, spreadsheets and other programs want to see it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from alphareq_lightning.errors import OptionError
from alphareq_lightning.files import written_beside
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.text import as_json, printable, without_folder

NAME_WIDTH = 16
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""
Target = float | tuple[float, float]


def ranking_rows(records: Sequence[AlphaRecord], target: Target) -> list[dict[str, Any]]:
    """Each record as a flat mapping, in the order given; NaN is `None`.

    ``run`` is there if a record has one.

    Behind what all records have come the corrected α with its standard error if there is one,
    ``weights_step`` if a checkpoint holds weights of another step than was measured, the scores,
    ``accuracy`` if one was paid for, and the logged metrics.
    """
    extra = sorted({name for r in records for name in r.scores})
    metrics = sorted({name for r in records for name in r.metrics} - set(extra))
    corrected = _corrected(records)
    of_others = any(r.path_step is not None for r in records)
    paid = any(r.accuracy is not None for r in records)
    known = any(r.run for r in records)
    rows = []
    for r in records:
        first, last = r.fit_range or (None, None)
        row: dict[str, Any] = {
            "path": r.path,
            **({"run": r.run} if known else {}),
            "layer": r.layer,
            "epoch": r.epoch,
            "step": r.global_step,
            "alpha": r.alpha,
            "distance": r.distance(target),
            "r2": r.r2,
            "first_rank": first,
            "last_rank": last,
            "samples": r.num_samples,
            "features": r.num_features,
        }
        if corrected:
            row |= {"alpha_corrected": r.alpha_corrected, "alpha_stderr": r.alpha_stderr}
        row |= {name: r.scores.get(name) for name in extra}
        if of_others:
            row["weights_step"] = r.global_step if r.path_step is None else r.path_step
        if paid:
            row["accuracy"] = r.accuracy
        row |= {name: r.metrics.get(name) for name in metrics}
        rows.append(as_json(row))
    return rows


def ranking_csv(records: Sequence[AlphaRecord], target: Target) -> str:
    """The ranking as CSV with a header; a text that a spreadsheet would compute has a ' before."""
    rows = ranking_rows(records, target)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, rows[0] if rows else ()))
    writer.writerows(map(_cell, row.values()) for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if value.lstrip().startswith(FORMULA) else value)


def ranking_table(
    records: Sequence[AlphaRecord], target: Target, *, top: int | None = None
) -> Table:
    """The ranking for a terminal, or the first lines of it."""
    paid = any(r.accuracy is not None for r in records)
    known = {name for r in records for name in r.metrics}
    losses = [name for name in ("val_loss", "train_loss") if name in known]
    corrected = _corrected(records)
    columns = ["epoch", "step", "α", *(["α corr."] if corrected else [])]
    columns += ["dist.", "R²", "ranks", "images", "RankMe", *losses[:1]]
    columns += ["readout"] if paid else []
    table = Table("checkpoint", *columns, box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.columns[0].overflow, table.columns[0].min_width = "fold", NAME_WIDTH
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    _, names = short_names(records)
    for name, r in list(zip(names, records, strict=True))[:top]:
        cells = [
            str(r.epoch),
            str(r.global_step) if r.path_step is None else f"{r.global_step} of {r.path_step}",
            _number(r.alpha, 3),
            *([_with_error(r)] if corrected else []),
            _number(r.distance(target), 3),
            _number(r.r2, 3),
            r.ranks,
            f"{r.num_samples}",
            _number(r.scores.get("rankme"), 1),
            *(_number(r.metrics.get(loss), 2) for loss in losses[:1]),
        ]
        table.add_row(Text(printable(name)), *cells, *([_number(r.accuracy, 1)] if paid else []))
    return table


def ranking_plot(records: Sequence[AlphaRecord], target: Target, path: Path) -> None:
    """All spectra, and α against RankMe, as an image file.

    Raises:
        OptionError: If matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("--plot needs matplotlib: pip install 'alphareq-lightning[plot]'") from (
            error
        )
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, record in reversed(list(enumerate(records))):
        best = {"color": "C3", "lw": 2.2, "label": "chosen"} if place == 0 else {}
        style: dict[str, Any] = {"color": "0.6", "lw": 0.8, "alpha": 0.6, **best}
        left.loglog(range(1, len(record.shares) + 1), record.shares, **style)
    left.set(xlabel="rank n", ylabel="eigenvalue λₙ (share of the largest)", title="Eigenspectra")
    left.legend()
    alphas = [r.alpha for r in records]
    right.scatter(alphas, [r.scores.get("rankme", math.nan) for r in records], s=18, color="0.4")
    right.scatter(alphas[:1], [records[0].scores.get("rankme", math.nan)], s=60, color="C3")
    low, high = (target, target) if isinstance(target, int | float) else target
    right.axvspan(low, high, color="C2", alpha=0.25, lw=2, label="target")
    right.set(xlabel="α", ylabel="RankMe", title="Two label-free scores")
    right.legend()
    try:
        with written_beside(path) as unfinished:
            figure.savefig(unfinished, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot write the plot {path}: {error}") from error


def short_names(records: Sequence[AlphaRecord]) -> tuple[str, list[str]]:
    """The folder that all records share, and the name of each without it."""
    names = [record.name for record in records]
    parents = [name.split("/")[:-1] for name in names]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
    folder = "/".join(parts[0] for parts in shared)
    return folder, [without_folder(name, folder) for name in names]


def _corrected(records: Sequence[AlphaRecord]) -> bool:
    return any(r.alpha_corrected is not None for r in records)


def _with_error(record: AlphaRecord) -> str:
    corrected, stderr = record.alpha_corrected, record.alpha_stderr
    text = _number(corrected, 3)
    return text if text == "–" or stderr is None else f"{text} ± {_number(stderr, 3)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
