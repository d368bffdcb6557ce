"""What ``alphareq rank``, ``score``, ``select`` and ``report`` do."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os.path import isfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from alphareq_lightning.commands.gather import gather_records, search_settings
from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.functional.power_law import check_fit_range, check_target
from alphareq_lightning.load.data import (
    DataOptions,
    fingerprint,
    labelled_loaders,
    unlabeled_loader,
)
from alphareq_lightning.load.models import ModelSource
from alphareq_lightning.measure import profile_layers
from alphareq_lightning.measure.layer_features import LayerFeatures
from alphareq_lightning.measure.layers import resolve_layers
from alphareq_lightning.readout import cached_features, extract_features, features_key, read_out
from alphareq_lightning.records import AlphaRecord, append_record, read_records
from alphareq_lightning.report.page import write_report
from alphareq_lightning.report.ranking import (
    ranking_csv,
    ranking_json,
    ranking_plot,
    ranking_rows,
    ranking_table,
)
from alphareq_lightning.selection import (
    cautions,
    rank_checkpoints,
    select_by_readouts,
)
from alphareq_lightning.selection.paid_readouts import RECORDS
from alphareq_lightning.text import json_text, one_line, printable

PIPE_WIDTH = 140
WEIGHT_FILES = (".ckpt", ".pt", ".pth", ".safetensors")


def rank(options: argparse.Namespace) -> int:
    """Sort the records in files and folders, without data, model or labels."""
    records = gather_records(options.paths, layer=options.layer, study=options.study, note=_note)
    if options.fit_range is not None:
        window = check_fit_range(options.fit_range)
        records = [record.refit(window) for record in records]
    target = _target(options)
    ranked = rank_checkpoints(
        records, by=options.by, target=target, min_r2=options.min_r2, force=options.force
    )
    doubts = [] if options.force else cautions(ranked, target=target)
    if options.plot is not None:
        ranking_plot(ranked, target, options.plot)
    if options.json:
        print(ranking_json(ranked, target, doubts))
    elif options.csv:
        print(ranking_csv(ranked, target), end="")
    else:
        console = _console()
        shown = ranked[: options.top]
        console.print(ranking_table(shown, target))
        if len(shown) < len(ranked):
            console.print(f"and {len(ranked) - len(shown)} more; show them with --top")
        for doubt in doubts:
            console.print(f"caution: {printable(doubt)}", style="yellow", soft_wrap=True)
    return 0


def score(options: argparse.Namespace) -> int:
    """Measure α of checkpoints and append records to a file that ``rank`` reads.

    A file that cannot be read is told of at the end, with exit code 2; the others are measured.
    """
    source = _source(options)
    paths = _weight_files(options.paths)
    if options.out.exists():
        read_records(options.out)  # refuses a file of something else before the first pass
    device = _device(options.device)
    images = unlabeled_loader(_data(options, source))
    measured: list[AlphaRecord] = []
    refused: list[SelectionError] = []
    for path in _tracked(paths, "α of each checkpoint", quiet=options.json):
        try:
            model = source.load(path)
        except SelectionError as error:
            refused.append(error)
            continue
        for record in profile_layers(
            model.module,
            images,
            layers=resolve_layers(model.module, options.layer, options.take),
            pool=options.pool,
            fit_range=options.fit_range or "auto",
            scores=options.scores,
            device=device,
        ):
            record = replace(
                record, path=str(path), epoch=model.epoch, global_step=model.global_step
            )
            append_record(options.out, record)
            measured.append(record)
    if options.json:
        print(json_text(ranking_rows(measured, 1.0)))
    elif measured:
        console = _console()
        console.print(ranking_table(measured, 1.0))
        for record in measured:
            if record.problem is not None:
                problem = f"no α for {record.path}: {record.problem}"
                console.print(printable(problem), style="yellow")
        console.print(f"records: {printable(str(options.out))}", soft_wrap=True)
    for refusal in refused:
        _note(str(refusal))
    return 2 if refused else 0


def select(options: argparse.Namespace) -> int:
    """Pay readouts for the models that the interval search asks for."""
    records = gather_records(options.records, layer=options.layer, study=options.study, note=_note)
    rank_checkpoints(records)  # refuses what does not compare
    missing = [r.path for r in records if r.path is None or not isfile(r.path)]
    if missing:
        raise SelectionError(
            f"{len(missing)} of {len(records)} checkpoints are not where their records say, "
            f"{missing[0]} among them; a readout needs the weights"
        )
    source = _source(options)
    data = _data(options, source)
    loaders = labelled_loaders(data)
    cache = options.out / "features"
    settings = {
        "probe": options.probe,
        "pool": options.pool,
        "data": features_key(*(fingerprint(loader.dataset) for loader in loaders)),
        "model": features_key(options.config, options.module, options.model),
    }
    device = _device(options.device)

    def read(record: AlphaRecord) -> float:
        path = Path(str(record.path))
        key = features_key(path, settings["data"], settings["model"], record.layer, options.pool)
        sides = []
        for side, loader in zip(("train", "test"), loaders, strict=True):

            def make(loader: Any = loader) -> tuple[Tensor, Tensor]:
                backbone = LayerFeatures(source.load(path).module, record.layer, options.pool)
                return extract_features(backbone, loader, device)

            sides.append(cached_features(cache, f"{key}-{side}", make))
        (train, train_labels), (test, test_labels) = sides
        found = read_out(
            train, train_labels, test, test_labels, probe=options.probe, seed=options.seed
        )
        return found.top1

    console = _console(stderr=options.json)

    def tell(record: AlphaRecord, what: str) -> None:
        line = f"α = {record.alpha:.3f}  {what:>8}  {record.path}"
        console.print(printable(line), soft_wrap=True)

    selected = select_by_readouts(
        records,
        read,
        options.out,
        top_k=options.top_k,
        margin=1 if options.careful else 0,
        step=1 if options.careful else None,
        seed=options.seed,
        settings=settings,
        report=tell,
    )
    search, best = selected.search, selected.best
    low, high = search.interval
    found = {
        "best": None if best is None else best.path,
        "accuracy": None if best is None else best.accuracy,
        "alpha": None if best is None else best.alpha,
        "interval": [x if math.isfinite(x) else None for x in (low, high)],
        "readouts_paid": search.num_readouts,
        "readouts_saved": search.num_saved,
        "records": str(options.out / RECORDS),
    }
    if options.json:
        print(json_text(found))
        return 0
    if best is None:
        console.print("no readout succeeded, so there is no best model", style="yellow")
    else:
        line = f"best: {best.path}, {best.accuracy:.2f} %, α = {best.alpha:.3f}"
        console.print(printable(line))
    learnt = " and ".join(
        f"{side} {end:.3f}" for side, end in (("above", low), ("below", high)) if math.isfinite(end)
    )
    console.print(f"interval learnt: α {learnt or 'of any size, it never closed'}")
    console.print(f"readouts: {search.num_readouts} paid, {search.num_saved} saved")
    line = f"records, with accuracies: {found['records']}"
    console.print(printable(line), soft_wrap=True)
    return 0


def report(options: argparse.Namespace) -> int:
    """Write one page about the records in files and folders."""
    records = gather_records(options.sources, layer=options.layer, study=options.study, note=_note)
    low, high = _target(options)
    search = search_settings(options.sources, study=options.study, note=_note)
    given = {"top_k": options.top_k, "margin": options.margin}
    search |= {name: value for name, value in given.items() if value is not None}
    path = write_report(
        options.out,
        records,
        title=options.title,
        target=(low, high),
        **search,
    )
    print(printable(str(path)))
    return 0


def _target(options: argparse.Namespace) -> tuple[float, float]:
    if len(options.target) > 2:
        raise OptionError(f"expected one target or two ends, got {options.target}")
    return check_target(options.target[0] if len(options.target) == 1 else options.target)


def _source(options: argparse.Namespace) -> ModelSource:
    return ModelSource(
        config=options.config,
        module_class=options.module,
        architecture=options.model,
        trust=options.trust,
    )


def _data(options: argparse.Namespace, source: ModelSource) -> DataOptions:
    foreign = source.is_architecture
    size = options.image_size or (224 if foreign else 32)
    return DataOptions(
        data=options.data,
        config=options.config,
        image_size=size,
        statistics=options.statistics or ("imagenet" if foreign else "cifar"),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        max_images=options.max_images,
        labels_per_class=getattr(options, "labels_per_class", None),
    )


def _weight_files(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_FILES)
        if path.is_dir() and not inside:
            raise SelectionError(f"no file {', '.join(WEIGHT_FILES)} in the folder {path}")
        found += inside if path.is_dir() else [path]
    return found


def _console(**options: Any) -> Console:
    console = Console(markup=False, highlight=False, **options)
    # A pipe or file has no width: rich would cut tables at 80 columns.
    return (
        console
        if console.is_terminal
        else Console(width=PIPE_WIDTH, markup=False, highlight=False, **options)
    )


def _note(text: str) -> None:
    print(f"alphareq: {one_line(text)}", file=sys.stderr)


def _tracked(paths: Sequence[Path], what: str, *, quiet: bool) -> Iterator[Path]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield from bar.track(paths)


def _device(name: str) -> torch.device:
    """The device called ``name``; ``"auto"`` is the GPU if there is one.

    Raises:
        OptionError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"no device {name!r}: {str(error).splitlines()[0]}") from error
