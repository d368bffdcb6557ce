"""``alphareq report``."""

from __future__ import annotations

import shlex
from inspect import signature
from pathlib import Path
from typing import Any

from rich.console import Console

from alphareq_lightning.commands._gather import (
    Sources,
    gather_courses,
    gather_records,
    search_settings,
    several,
)
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.functional.power_law import check_fit_range
from alphareq_lightning.report import write_report
from alphareq_lightning.selection import mixtures
from alphareq_lightning.text import printable


def report(
    sources: Sources,
    *,
    study: str | None = None,
    layer: str | None = None,
    fit_range: tuple[int, int] | None = None,
    out: Path = Path("report.html"),
    title: str = "Model selection by α",
    target: float | tuple[float, float] = 1.0,
    top_k: int | None = None,
    margin: int | None = None,
) -> Path:
    """Write one HTML page: the verdict, the courses, α and accuracy, the search, spectra, a table.

    Args:
        sources: Checkpoints, run folders, record files, or the storage of a sweep.
        study: Which one, where the storage of a sweep holds several.
        layer: Show this layer's records.
        fit_range: Refit all on these ranks.
        out: The file to write.
        title: Heading of the page.
        target: The α to be near, or two ends.
        top_k: Models that span the interval; default: that of the search, or 5.
        margin: Models kept on each side of it; default: that of the search, or 0.

    Example:
        alphareq report runs/ --out report.html

    Raises:
        AlphaReQError: If there are no records, they do not compare, or the file cannot be written.
    """
    command = _typed(**locals())
    records = gather_records(sources, layer=layer, study=study)
    course = gather_courses(records)
    if fit_range is not None:
        window = check_fit_range(fit_range)
        records, course = ([r.refit(window) for r in of] for of in (records, course))
    for sentence in mixtures(records):
        raise SelectionError(f"{sentence} with --fit-range" if "windows" in sentence else sentence)
    given = {"top_k": top_k, "margin": margin}
    search = search_settings(sources, study=study)
    search |= {name: value for name, value in given.items() if value is not None}
    return write_report(
        out, records, course=course, title=title, target=target, command=command, **search
    )


def _typed(sources: Sources, **options: Any) -> str:
    """The command that gives this page again."""
    words = ["alphareq", "report", *several(sources)]
    for name, value in options.items():
        if value != signature(report).parameters[name].default:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def show(path: Path, console: Console) -> None:
    """Where the page is."""
    console.print(printable(str(path)), soft_wrap=True)
