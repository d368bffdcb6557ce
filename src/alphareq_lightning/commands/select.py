"""``alphareq select``."""

from __future__ import annotations

import math
from functools import lru_cache
from os.path import isfile
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from alphareq_lightning._checks import check_count
from alphareq_lightning.commands._gather import Sources, gather_courses, gather_records
from alphareq_lightning.commands._sources import ImageOptions, device_of
from alphareq_lightning.commands._terminal import note, terminal
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.load.models import ModelSource
from alphareq_lightning.load.sources import fingerprint
from alphareq_lightning.measure.layer_features import LayerFeatures
from alphareq_lightning.measure.pooling import PoolName
from alphareq_lightning.readout import (
    Probe,
    cached_features,
    extract_features,
    features_key,
    read_out,
)
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.selection import Selected, course_of, rank_checkpoints, select_by_readouts
from alphareq_lightning.selection.trainings import trainings_of
from alphareq_lightning.text import json_text, printable

ONE_TRAINING = (
    "these are checkpoints of one training: alphareq rank chooses among them by α, without labels; "
    "readouts tell trainings apart, and neighbours of one training hardly differ"
)


def select_checkpoints(
    records: Sources,
    model: ModelSource,
    images: ImageOptions,
    *,
    study: str | None = None,
    layer: str | None = None,
    pool: PoolName = "mean",
    probe: Probe = "logistic",
    labels_per_class: int | None = None,
    top_k: int = 5,
    careful: bool = False,
    budget: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path = Path("runs/select"),
    console: Console | None = None,
) -> Selected:
    """Find the best model with few labelled readouts: the paper's algorithm.

    Killed, it goes on where it was when it is started again.

    Args:
        records: Checkpoints, run folders, record files, or the storage of a sweep.
        model: What the weights belong to.
        images: Which images.
        study: Which one, where the storage of a sweep holds several.
        layer: Use this layer's records.
        pool: How a layer becomes one vector an image.
        probe: What reads the features out.
        labels_per_class: Train readouts on this few.
        top_k: How many of the best models span the interval of α.
        careful: One model at a time, and one more on each side of the interval: some more
            readouts, far fewer misses.
        budget: Pay this many readouts at most: the first are spread, and decide which score to
            believe and in which direction; then best first. Instead of the paper's algorithm.
        seed: Of the order.
        device: Where to run; auto is a GPU if there is one.
        out: Folder of the state, the features and the records with their accuracies.
        console: Told of every model; the terminal by default.

    Example:
        alphareq select runs/ --config runs/config.yaml --budget 8

    Raises:
        AlphaReQError: If the models do not compare, their weights are gone, or an option cannot
            work; found out before the first readout.
    """
    out = Path(out)  # from Python a name is good, too
    check_count("top_k", top_k)
    if labels_per_class is not None:
        check_count("labels_per_class", labels_per_class)
    told = console or terminal()
    found = gather_records(records, layer=layer, study=study)
    rank_checkpoints(found)  # refuses what does not compare
    if budget is not None:
        check_count("budget", budget)
        found = _healthy(found, told)
    missing = [r.path for r in found if r.path is None or not isfile(r.path)]
    if missing:
        raise SelectionError(
            f"{len(missing)} of {len(found)} checkpoints are not where their records say, "
            f"{missing[0]} among them; a readout needs the weights"
        )
    loaders = images.source(model).labelled(labels_per_class)
    settings = {
        "probe": probe,
        "pool": pool,
        "data": features_key(*(fingerprint(loader.dataset) for loader in loaders)),
        "model": features_key(model.config, model.module, model.model),
    }
    where = device_of(device)
    say = lru_cache(maxsize=None)(note)  # once, and before the first readout
    of_one = len(found) > 1 and len(trainings_of(found)) == 1

    def read(record: AlphaRecord) -> float:
        if of_one:
            say(ONE_TRAINING)
        path = Path(str(record.path))
        key = features_key(path, settings["data"], settings["model"], record.layer, pool)
        sides = []
        for side, loader in zip(("train", "test"), loaders, strict=True):

            def make(loader: Any = loader) -> tuple[Tensor, Tensor]:
                backbone = LayerFeatures(model.load(path).module, record.layer, pool)
                return extract_features(backbone, loader, where)

            sides.append(cached_features(out / "features", f"{key}-{side}", make))
        (train, train_labels), (test, test_labels) = sides
        return read_out(train, train_labels, test, test_labels, probe=probe, seed=seed).top1

    def tell(record: AlphaRecord, what: str) -> None:
        line = f"α = {record.alpha:.3f}  {what:>8}  {record.path}"
        told.print(printable(line), soft_wrap=True)

    return select_by_readouts(
        found,
        read,
        out,
        top_k=top_k,
        margin=1 if careful else 0,
        step=1 if careful else None,
        seed=seed,
        budget=budget,
        settings=settings,
        report=tell,
    )


def _healthy(records: list[AlphaRecord], told: Console) -> list[AlphaRecord]:
    """Without what fails or has collapsed; all of them where nothing else is left."""
    known = trainings_of([*records, *gather_courses(records)])
    failing = {n for n, c in known.items() if course_of(c).phase in ("failing", "collapsed")}
    kept = [r for n, rs in trainings_of(records).items() if n not in failing for r in rs]
    if kept and len(kept) < len(records):
        told.print(f"{len(records) - len(kept)} of {len(records)} fail or have collapsed: left out")
    return kept or records


def show(selected: Selected, console: Console) -> None:
    """The best model, and what it cost to find."""
    search, best = selected.search, selected.best
    if best is None:
        console.print("no readout succeeded, so there is no best model", style="yellow")
    else:
        line = f"best: {best.path}, {best.accuracy:.2f} %, α = {best.alpha:.3f}"
        console.print(printable(line))
    if selected.believed is not None:
        console.print(f"what the readouts speak for: {selected.believed}")
    ends = zip(("above", "below"), search.interval, strict=True)
    learnt = " and ".join(f"{side} {end:.3f}" for side, end in ends if math.isfinite(end))
    console.print(f"interval learnt: α {learnt or 'of any size, it never closed'}")
    console.print(f"readouts: {search.num_readouts} paid, {search.num_saved} saved")
    line = f"records, with accuracies: {selected.file}"
    console.print(printable(line), soft_wrap=True)


def as_json(selected: Selected) -> str:
    """An object; `null` where there is no best model, and where the interval is open."""
    search, best = selected.search, selected.best
    found = {
        "best": best and best.path,
        "accuracy": best and best.accuracy,
        "alpha": best and best.alpha,
        "believed": selected.believed,
        "interval": list(search.interval),
        "readouts_paid": search.num_readouts,
        "readouts_saved": search.num_saved,
        "records": str(selected.file),
    }
    return json_text(found)
