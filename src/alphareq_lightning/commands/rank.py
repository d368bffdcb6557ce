"""``alphareq rank``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from rich.console import Console

from alphareq_lightning._checks import check_count
from alphareq_lightning.commands._gather import (
    Sources,
    gather_configurations,
    gather_courses,
    gather_records,
)
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.functional.power_law import check_fit_range, check_target
from alphareq_lightning.metrics.scores import SCORES
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.report.ranking import (
    ranking_csv,
    ranking_plot,
    ranking_rows,
    ranking_table,
)
from alphareq_lightning.selection import Verdict, cautions, rank_checkpoints, verdict
from alphareq_lightning.selection.ranking import LOGGED
from alphareq_lightning.selection.seeds import SEED
from alphareq_lightning.text import as_json as plain
from alphareq_lightning.text import json_text, printable

NO_CHOICE = 3
CRITERIA = tuple(dict.fromkeys(("alpha", *LOGGED, "accuracy", *SCORES, "any logged metric")))


class Ranking(NamedTuple):
    """Records in order, and why to doubt it."""

    records: list[AlphaRecord]
    """The best first."""
    cautions: list[str]
    verdict: Verdict | None
    """`None` where they were ranked by force."""
    target: tuple[float, float]
    top: int | None
    """How many to show in a table."""
    by: str = "alpha"
    """What they are in the order of."""


def rank(
    paths: Sources,
    *,
    by: Annotated[str, CRITERIA] = "alpha",
    target: float | tuple[float, float] = 1.0,
    min_r2: float = 0.0,
    seeds: str = SEED,
    study: str | None = None,
    layer: str | None = None,
    fit_range: tuple[int, int] | None = None,
    force: bool = False,
    top: int | None = None,
    plot: Path | None = None,
) -> Ranking:
    """Sort checkpoints by α: no data, no model, no labels.

    Args:
        paths: Checkpoints, run folders, record files, or the storage of a sweep.
        by: What orders the table, and the verdict on several trainings; accuracy the table only.
        target: The α to be near, or two ends.
        min_r2: Least R² of a line to believe.
        seeds: What tells seeds of one configuration apart in the names of folders.
        study: Which one, where the storage of a sweep holds several.
        layer: Rank this layer's records.
        fit_range: Refit all on these ranks.
        force: Rank mixed layers or windows too.
        top: Show this many; default: all.
        plot: Draw spectra and scores into this file.

    Example:
        alphareq rank runs/ --by rankme --top 5

    Raises:
        AlphaReQError: If there are no records, or they do not compare.
    """
    if top is not None:
        check_count("top", top)
    wanted = check_target(target)
    records = gather_records(paths, layer=layer, study=study)
    courses = gather_courses(records)
    lost: list[AlphaRecord] = []
    if fit_range is not None:
        window = check_fit_range(fit_range)
        records, lost = _refit(records, window)
        courses, more = _refit(courses, window)
        lost += more
        if lost and all(record.fit is None for record in records):
            raise SelectionError(f"no record has α on these ranks: {lost[0].problem}")
    ranked = rank_checkpoints(records, by=by, target=wanted, min_r2=min_r2, force=force)
    if plot is not None:
        ranking_plot(ranked, wanted, plot)
    if force:
        return Ranking(ranked, [], None, wanted, top)
    doubts = cautions(ranked, target=wanted)
    if lost:  # that they have no α is no sign of a collapse
        doubts.append(
            f"{len(lost)} measurements have no α on these ranks and no part in the verdict: "
            f"{lost[0].problem}"
        )
    try:
        believe = None if by in ("alpha", "accuracy") else [by]
        left_out = {id(record) for record in lost}
        known = [record for record in ranked if id(record) not in left_out]
        courses = [record for record in courses if id(record) not in left_out]
        found = verdict(
            known,
            course=courses,
            believe=believe,
            target=wanted,
            min_r2=min_r2,
            configurations=gather_configurations(paths, known, pattern=seeds, study=study),
        )
    except SelectionError as error:  # ranked they can be, chosen from not
        found = Verdict(None, str(error))
    return Ranking(ranked, doubts, found, wanted, top, by)


def _refit(
    records: list[AlphaRecord], window: tuple[int, int]
) -> tuple[list[AlphaRecord], list[AlphaRecord]]:
    """Records on another window, and those of them that had a fit and lost it."""
    refit = [record.refit(window) for record in records]
    return refit, [
        new for old, new in zip(records, refit, strict=True) if old.fit and new.fit is None
    ]


def show(ranking: Ranking, console: Console) -> None:
    """The verdict, a table, and what speaks against its order."""
    for line in () if ranking.verdict is None else ranking.verdict.lines():
        console.print(printable(line), soft_wrap=True)
    if ranking.verdict is not None:  # whose choice need not be the first of the table
        order = "the distance of α" if ranking.by == "alpha" else ranking.by
        console.print(printable(f"all records, in the order of {order} alone:"), soft_wrap=True)
    shown = ranking.records[: ranking.top]
    console.print(ranking_table(ranking.records, ranking.target, top=ranking.top))
    if len(shown) < len(ranking.records):
        console.print(f"and {len(ranking.records) - len(shown)} more; show them with --top")
    for record in shown:
        if record.problem is not None:
            console.print(printable(f"no α for {record.name}: {record.problem}"), style="yellow")
    for caution in ranking.cautions:
        console.print(
            f"caution about this order: {printable(caution)}", style="yellow", soft_wrap=True
        )


def as_json(ranking: Ranking) -> str:
    """``{"verdict": {...}, "records": [...], "cautions": [...]}``."""
    found = None if ranking.verdict is None else ranking.verdict.to_dict()
    rows = ranking_rows(ranking.records, ranking.target)
    return json_text({"verdict": plain(found), "records": rows, "cautions": ranking.cautions})


def as_csv(ranking: Ranking) -> str:
    """A line for each record, below a header."""
    return ranking_csv(ranking.records, ranking.target).removesuffix("\n")


def exit_code(ranking: Ranking) -> int:
    """3 where there is no choice."""
    return NO_CHOICE if ranking.verdict is not None and ranking.verdict.choice is None else 0
