"""Records from wherever they lie: checkpoints, run folders, record files, sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from alphareq_lightning.commands._terminal import note
from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.records import AlphaRecord, read_records
from alphareq_lightning.records.checkpoints import course_in_checkpoint, record_of_checkpoint
from alphareq_lightning.selection import AlphaIntervalSearch, configurations_of, trainings_of
from alphareq_lightning.selection.paid_readouts import RECORDS, STATE
from alphareq_lightning.selection.trainings import same_alpha
from alphareq_lightning.text import nearest

RECORD_FILE = ".jsonl"
JOURNAL = ".journal"
Sources = str | Path | Sequence[str | Path]


def gather_records(
    sources: Sources, *, layer: str | None = None, study: str | None = None
) -> list[AlphaRecord]:
    """All records in files and folders.

    Folders are searched for ``*.jsonl`` record files and ``*.ckpt`` checkpoints. What a search
    finds without a record in it is passed over, and told of; a file that was named must have one.

    Args:
        sources: Checkpoints, record files, folders, storages of sweeps.
        layer: Keep this layer's records only.
        study: Which study of those storages; not needed where they hold one.

    Raises:
        SelectionError: If a named file has no record, or nothing has.
        SweepError: If a storage is not there, or it is not clear which of its studies is meant.
        OptionError: If a study is named and no source is a storage.
    """
    sources = several(sources)
    if study is not None and not any(map(_is_storage, sources)):
        raise OptionError(f"--study {study}: none of the sources is the storage of a sweep")
    say = lru_cache(maxsize=None)(note)  # once, also where a hundred checkpoints are alike
    records: list[AlphaRecord] = []
    for source in sources:
        path = Path(source)
        if _is_storage(source):
            found = _from_study(source, study, "study_records")
            records += [record for record in found if layer in (None, record.layer)]
        elif path.is_dir():
            records += _from_folder(path, layer, say)
        else:
            records += _from_file(path, layer, say)
    if not records:
        raise SelectionError("no record was found; name checkpoints, run folders or record files")
    return _each_once(records)


def gather_courses(records: Sequence[AlphaRecord]) -> list[AlphaRecord]:
    """What was measured of each training beside these records: its newest checkpoint has it."""
    newest: dict[str, AlphaRecord] = {}
    for record in records:
        known = newest.get(record.run)
        is_newer = known is None or record.global_step > known.global_step
        if record.run and record.path and is_newer and Path(record.path).is_file():
            newest[record.run] = record
    courses: list[AlphaRecord] = []
    for record in newest.values():
        with suppress(SelectionError):  # measured afterwards, of a file without a monitor in it
            courses += course_in_checkpoint(str(record.path), layer=record.layer)
    return courses


def gather_configurations(
    sources: Sources, records: Sequence[AlphaRecord], *, pattern: str, study: str | None = None
) -> dict[str, str]:
    """What each training was trained with but for its seed: as folders tell, or a sweep's trials.

    Raises:
        OptionError: If the pattern is no regular expression.
    """
    trainings = trainings_of(r for r in records if r.path_step is None)
    found = configurations_of(trainings, pattern)
    for storage in filter(_is_storage, several(sources)):
        of_study = _from_study(storage, study, "study_configurations")
        found |= {run: told for run, told in of_study.items() if run in trainings}
    return found


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
        elif not same_alpha(known.alpha, record.alpha):
            kept[(name, place)] = record
        elif record.accuracy is not None:
            kept[name] = record
    return list(kept.values())


def _newest(records: list[AlphaRecord]) -> list[AlphaRecord]:
    """Of a file that is written to again and again, what it says last of each model."""
    last = {(r.path or place, r.layer, r.global_step): r for place, r in enumerate(records)}
    return list(last.values())


def search_settings(sources: Sources, *, study: str | None = None) -> dict[str, int]:
    """``top_k`` and ``margin`` of the search that paid the readouts in these sources.

    A study keeps them, and so does the folder of ``alphareq select``. Nothing is returned where
    they are not known, or differ.

    Args:
        sources: As in `gather_records`.
        study: As in `gather_records`.

    Raises:
        SelectionError: If the state of a search cannot be read.
    """
    found: list[dict[str, int]] = []
    for source in several(sources):
        path = Path(source)
        if _is_storage(source):
            found.append(_from_study(source, study, "search_options"))
        elif path.is_dir():
            found += [_kept_beside(file) for file in sorted(path.rglob(RECORDS))]
        elif path.name == RECORDS:
            found.append(_kept_beside(path))
    found = [settings for settings in found if settings]
    if any(settings != found[0] for settings in found):
        note("the sources come from searches of different settings; give --top-k, --margin")
        return {}
    return found[0] if found else {}


def _kept_beside(records: Path) -> dict[str, int]:
    state = records.with_name(STATE)
    if not state.is_file():
        return {}
    search = AlphaIntervalSearch.load(state)
    return {"top_k": search.top_k, "margin": search.margin}


def _is_storage(source: str) -> bool:
    return "://" in source or Path(source).suffix == JOURNAL


def several(sources: Sources) -> list[str]:
    """One name is as good as a list of one."""
    return [str(s) for s in ([sources] if isinstance(sources, str | Path) else sources)]


def _from_study(storage: str, name: str | None, what: str) -> Any:
    import alphareq_lightning.sweep as sweeps  # only who has a study needs Optuna

    study = sweeps.load_study(storage, name)
    with sweeps.reading(storage):
        return getattr(sweeps, what)(study)


def _from_file(path: Path, layer: str | None, say: Callable[[str], None]) -> list[AlphaRecord]:
    if path.suffix != RECORD_FILE:
        record, others = record_of_checkpoint(path, layer)
        if others and layer is None:
            named = ", ".join(map(repr, others))
            say(f"records of layer {record.layer!r} are read; others, of {named}, by --layer")
        return [record]
    records = _newest(read_records(path))
    kept = [record for record in records if layer in (None, record.layer)]
    if not kept:
        layers = sorted({record.layer for record in records})
        there = f"there are: {layers}{nearest(layer or '', layers)}"
        of_layer = "" if layer is None else f" of layer {layer!r}; {there}"
        raise SelectionError(f"{path} holds no record{of_layer}")
    return kept


def _from_folder(folder: Path, layer: str | None, say: Callable[[str], None]) -> list[AlphaRecord]:
    files = sorted(p for p in folder.rglob("*") if p.suffix in (RECORD_FILE, ".ckpt"))
    if not files:
        raise SelectionError(f"no *.ckpt and no *{RECORD_FILE} file in the folder {folder}")
    records: list[AlphaRecord] = []
    refused: list[SelectionError] = []
    for path in files:
        try:
            records += _from_file(path, layer, say)
        except SelectionError as error:
            refused.append(error)
    if refused and not records:
        raise refused[0]
    if refused:
        say(f"passed over {len(refused)} of {len(files)} files in {folder}: {refused[0]}")
    return records
