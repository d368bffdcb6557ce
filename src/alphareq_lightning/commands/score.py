"""``alphareq score``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from rich.console import Console

from alphareq_lightning.commands._gather import Sources, several
from alphareq_lightning.commands._sources import ImageOptions, device_of
from alphareq_lightning.commands._terminal import note, tracked
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.load.models import ModelSource
from alphareq_lightning.load.weights import find_weights
from alphareq_lightning.measure import profile_layers
from alphareq_lightning.measure.layers import resolve_layers
from alphareq_lightning.measure.pooling import PoolName
from alphareq_lightning.metrics.scores import without_views
from alphareq_lightning.records import AlphaRecord, append_record, read_records
from alphareq_lightning.records.checkpoints import record_of_checkpoint
from alphareq_lightning.report.ranking import ranking_rows, ranking_table
from alphareq_lightning.text import json_text, printable

LEAST_OFF = 0.1
"""A smaller difference between α here and in training says nothing of the images."""


class Scored(NamedTuple):
    """What was measured, and what could not be read."""

    records: list[AlphaRecord]
    out: Path
    """The file that they were appended to."""
    refused: list[SelectionError]
    """One for each file that is no checkpoint, or does not fit the model."""
    differing: list[str]
    """A sentence for each checkpoint whose own record has another α."""


def score_checkpoints(
    paths: Sources,
    model: ModelSource,
    images: ImageOptions,
    *,
    layer: str | Sequence[str] | None = None,
    take: Literal["output", "input"] = "output",
    pool: PoolName = "mean",
    fit_range: tuple[int, int] | None = None,
    scores: Annotated[str | Sequence[str], without_views] = ("rankme",),
    device: str = "auto",
    out: Path = Path("records.jsonl"),
) -> Scored:
    """Measure α of checkpoints or weights that have none.

    The records go to a file that alphareq rank reads. A file that cannot be read is told of at
    the end; the others are measured.

    Args:
        paths: Checkpoints, weight files, or folders of them.
        model: What the weights belong to.
        images: Which images.
        layer: Names or patterns, such as 'blocks.*'; default: the penultimate layer.
        take: The layer's output, or its first input.
        pool: How a layer becomes one vector an image.
        fit_range: Ranks of the fit; default: auto.
        scores: Extra scores.
        device: Where to run; auto is a GPU if there is one.
        out: The file of records; they are added to it.

    Example:
        alphareq score runs/ --config runs/config.yaml

    Raises:
        AlphaReQError: If an option cannot work; found out before the first pass.
    """
    out, files = Path(out), find_weights(several(paths))  # from Python a name is good, too
    if out.exists():
        read_records(out)  # refuses a file of something else before the first pass
    where = device_of(device)
    batches = images.source(model).heldout()
    measured: list[AlphaRecord] = []
    refused: list[SelectionError] = []
    differing: list[str] = []
    for path in tracked(files, "α of each checkpoint"):
        try:
            loaded = model.load(path)
        except SelectionError as error:
            refused.append(error)
            continue
        for record in profile_layers(
            loaded.module,
            batches,
            layers=resolve_layers(loaded.module, layer, take),
            pool=pool,
            fit_range=fit_range or "auto",
            scores=scores,
            device=where,
        ):
            record = replace(
                record, path=str(path), epoch=loaded.epoch, global_step=loaded.global_step
            )
            append_record(out, record)
            measured.append(record)
            differing += _other_than_kept(record)
    return Scored(measured, out, refused, differing)


def _other_than_kept(record: AlphaRecord) -> list[str]:
    """That the monitor of the training has found another α: then it has seen other images."""
    with suppress(SelectionError):  # most files carry no record
        kept, _ = record_of_checkpoint(Path(record.name), record.layer)
        if record.fit_range is not None:
            kept = kept.refit(record.fit_range)
        alike = (kept.path_step, kept.num_features) == (None, record.num_features)
        if alike and abs(kept.alpha - record.alpha) > max(LEAST_OFF, 2 * kept.stderr):
            return [
                f"α of {record.name} is {record.alpha:.3f} here and was {kept.alpha:.3f} in "
                "training: are the images (--data, --max-images), their size (--image-size), their "
                "normalisation (--statistics), and the pooling the same?"
            ]
    return []


def show(scored: Scored, console: Console) -> None:
    """A table, and why some have no α."""
    if not scored.records:
        return
    console.print(ranking_table(scored.records, 1.0))
    for record in scored.records:
        if record.problem is not None:
            problem = f"no α for {record.path}: {record.problem}"
            console.print(printable(problem), style="yellow")
    console.print(f"records: {printable(str(scored.out))}", soft_wrap=True)


def as_json(scored: Scored) -> str:
    """A list of flat objects."""
    return json_text(ranking_rows(scored.records, 1.0))


def exit_code(scored: Scored) -> int:
    """2 where a file was refused; each is told of, and that α is another than in training."""
    for refusal in scored.refused:
        note(str(refusal))
    for sentence in scored.differing[:1]:
        more = f" ({len(scored.differing)} such checkpoints)" if scored.differing[1:] else ""
        note(f"caution: {sentence}{more}")
    return 2 if scored.refused else 0
