"""Records from wherever they lie: checkpoints, run folders, record files, sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from alphareq_lightning.callbacks import records_from_checkpoints
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.selection import AlphaRecord, read_records

SAME_ALPHA = 1e-3
"""Measured in training and scored afterwards, one model gives α that differ by rounding."""
RECORD_FILE = ".jsonl"
JOURNALS = (".journal", ".log")


def gather_records(
    sources: Iterable[str],
    *,
    layer: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[AlphaRecord]:
    """All records in files and folders.

    Folders are searched for ``*.jsonl`` record files and ``*.ckpt`` checkpoints. What a search
    finds without a record in it is passed over; a file that was named must have one.

    Args:
        sources: Checkpoints, record files, folders, storages of sweeps with one study.
        layer: Keep this layer's records only.
        note: Told what was passed over.

    Raises:
        SelectionError: If a named file has no record, or nothing has.
    """
    records: list[AlphaRecord] = []
    for source in sources:
        path = Path(source)
        if "://" in source or path.suffix in JOURNALS:
            records += _from_study(source, layer)
        elif path.is_dir():
            records += _from_folder(path, layer, note)
        else:
            records += _from_file(path, layer)
    if not records:
        raise SelectionError("no record was found; name checkpoints, run folders or record files")
    return _each_once(records)


def _each_once(records: list[AlphaRecord]) -> list[AlphaRecord]:
    """One record of each model: a file may list it again, with its readout or from a checkpoint.

    Two that disagree in α both stay, and `rank_checkpoints` refuses them.
    """
    kept: dict[tuple[object, ...], AlphaRecord] = {}
    for place, record in enumerate(records):
        name: tuple[object, ...] = (record.path, record.layer, record.global_step)
        if record.path is None:
            name = (place,)
        known = kept.get(name)
        if known is None:
            kept[name] = record
        elif not math.isclose(known.alpha, record.alpha, rel_tol=SAME_ALPHA):
            kept[(name, place)] = record
        elif record.accuracy is not None:
            kept[name] = record
    return list(kept.values())


def _newest(records: list[AlphaRecord]) -> list[AlphaRecord]:
    """Of a file that is written to again and again, what it says last of each model."""
    last = {(r.path or place, r.layer, r.global_step): r for place, r in enumerate(records)}
    return list(last.values())


def _from_study(storage: str, layer: str | None) -> list[AlphaRecord]:
    try:
        from alphareq_lightning.sweep import load_study, study_records
    except ModuleNotFoundError as error:
        raise SelectionError(
            f"{storage} is a study of Optuna: pip install 'alphareq-lightning[sweep]'"
        ) from error
    return [r for r in study_records(load_study(storage)) if layer in (None, r.layer)]


def _from_file(path: Path, layer: str | None) -> list[AlphaRecord]:
    if path.suffix != RECORD_FILE:
        return records_from_checkpoints([path], layer=layer)
    records = _newest(read_records(path))
    kept = [record for record in records if layer in (None, record.layer)]
    if not kept:
        layers = sorted({record.layer for record in records})
        of_layer = "" if layer is None else f" of layer {layer!r}; there are: {layers}"
        raise SelectionError(f"{path} holds no record{of_layer}")
    return kept


def _from_folder(folder: Path, layer: str | None, note: Callable[[str], None]) -> list[AlphaRecord]:
    files = sorted(p for p in folder.rglob("*") if p.suffix in (RECORD_FILE, ".ckpt"))
    if not files:
        raise SelectionError(f"no *.ckpt and no *{RECORD_FILE} file in the folder {folder}")
    records: list[AlphaRecord] = []
    refused: list[SelectionError] = []
    for path in files:
        try:
            records += _from_file(path, layer)
        except SelectionError as error:
            refused.append(error)
    if refused and not records:
        raise refused[0]
    if refused:
        note(f"passed over {len(refused)} of {len(files)} files in {folder}: {refused[0]}")
    return records
