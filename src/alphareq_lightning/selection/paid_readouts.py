"""The model selection of the paper over models that are all there already."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from alphareq_lightning.errors import ReadoutError, SelectionError
from alphareq_lightning.files import read_small, written_beside
from alphareq_lightning.records import AlphaRecord, write_records
from alphareq_lightning.selection.interval_search import AlphaIntervalSearch
from alphareq_lightning.text import one_line, shown

STATE, SETTINGS, RECORDS = "search.json", "settings.json", "records.jsonl"
RESERVE = "search.json.reserve"
"""Holds room on the disk for the next state while a readout is paid for."""


class Selected(NamedTuple):
    """What a search over models has found."""

    search: AlphaIntervalSearch
    records: list[AlphaRecord]
    """In the order in which the models came, with the accuracy where a readout was paid for."""

    @property
    def best(self) -> AlphaRecord | None:
        """The model with the best readout."""
        return next((r for r in self.records if r.path == self.search.best), None)


def select_by_readouts(
    records: Sequence[AlphaRecord],
    read: Callable[[AlphaRecord], float],
    folder: Path,
    *,
    top_k: int = 5,
    margin: int = 0,
    step: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    report: Callable[[AlphaRecord, str], None] = lambda record, what: None,
) -> Selected:
    """Pay readouts for the models that the interval search asks for, and for no others.

    The state is written after every readout: a run that was killed goes on where it was when it
    is started again with the same ``folder``.

    Args:
        records: Models with their α; ``path`` names each.
        read: Runs one readout and returns its accuracy in percent. A `ReadoutError` that it raises
            is a failed readout: paid, and without a say in the interval. Other errors end the
            search; it can go on later.
        folder: Where the state and, in the end, all records are kept.
        top_k: See `AlphaIntervalSearch`.
        margin: See `AlphaIntervalSearch`.
        step: Models that come at a time, ``2 * top_k`` by default.
        seed: Of the order in which they come.
        settings: Whatever else the readouts depend on, as plain JSON values; kept with the state,
            so that readouts of other settings are not mixed with these.
        report: Called with each model and what became of it.

    Raises:
        SelectionError: If names are missing or repeat, if the folder cannot be written or belongs
            to a search over other models or with other settings, if another process is at work in
            it, or if no readout succeeded.
    """
    by_name = _by_name(records)
    order = sorted(by_name)
    random.Random(seed).shuffle(order)
    step = 2 * top_k if step is None else step
    with _alone_in(folder):
        _check_settings(folder, {"seed": seed, "step": step, **(settings or {})})
        search = _search(folder, top_k, margin, set(by_name))
        accuracies = {name: readout.score for name, readout in search.readouts.items()}
        for start in range(0, len(order), step):
            names = order[start : start + step]
            asked = search.ask({name: by_name[name].alpha for name in names})
            _save(search, folder)
            for name in names:
                if name in search.skipped:
                    report(by_name[name], "skipped")
                elif name not in asked:
                    report(by_name[name], f"{accuracies[name]:.2f} % (paid before)")
            for name in asked:
                _reserve(folder)
                try:
                    accuracies[name] = read(by_name[name])
                    outcome = f"{accuracies[name]:.2f} %"
                except ReadoutError as error:
                    accuracies[name] = float("nan")
                    outcome = f"failed: {error}"
                search.tell({name: accuracies[name]})
                _save(search, folder)
                report(by_name[name], outcome)
        (folder / RESERVE).unlink(missing_ok=True)
        found = [replace(by_name[n], accuracy=accuracies.get(n)) for n in order]
        write_records(folder / RECORDS, found)
    if search.num_readouts and search.best is None:
        raise SelectionError(f"none of the {search.num_readouts} readouts succeeded")
    return Selected(search, found)


def _by_name(records: Sequence[AlphaRecord]) -> dict[str, AlphaRecord]:
    by_name: dict[str, AlphaRecord] = {}
    for record in records:
        if record.path is None:
            raise SelectionError(
                f"the record of step {record.global_step} names no checkpoint to read out"
            )
        if record.path in by_name:
            raise SelectionError(f"there are two records of {record.path}; keep one of them")
        by_name[record.path] = record
    return by_name


def _reserve(folder: Path) -> None:
    """Take room for the state that a readout will lead to, before it is paid for.

    Raises:
        SelectionError: If there is none.
    """
    size = 2 * (folder / STATE).stat().st_size + 4096  # one more score, whole blocks
    if (folder / RESERVE).is_file() and (folder / RESERVE).stat().st_size >= size:
        return
    with _told_of(folder), written_beside(folder / RESERVE) as unfinished:
        unfinished.write_bytes(os.urandom(size))  # random: zeros may take no room


def _save(search: AlphaIntervalSearch, folder: Path) -> None:
    """Write the state, on a full disk into the room that was taken for it."""
    with _told_of(folder):
        try:
            search.save(folder / STATE)
        except OSError:
            (folder / RESERVE).unlink(missing_ok=True)
            search.save(folder / STATE)


@contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SelectionError(f"cannot write to the folder {folder}: {error}") from error


def _search(folder: Path, top_k: int, margin: int, names: set[str]) -> AlphaIntervalSearch:
    if not (folder / STATE).exists():
        return AlphaIntervalSearch(top_k=top_k, margin=margin)
    search = AlphaIntervalSearch.load(folder / STATE)
    unknown = set(search.readouts) - names
    if unknown or (search.top_k, search.margin) != (top_k, margin):
        raise SelectionError(
            f"{folder} belongs to another search (top_k={search.top_k}, margin={search.margin}, "
            f"{len(unknown)} models that are not among these); choose another --out"
        )
    return search


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        with _told_of(folder), written_beside(path) as unfinished:
            unfinished.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return
    try:
        stored = dict(json.loads(read_small(path)))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = one_line(error)
        raise SelectionError(f"cannot read the settings in {path}: {reason}") from error
    other = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
    if other:
        was = ", ".join(f"{key}={shown(stored.get(key))}" for key in other)
        raise SelectionError(
            f"{folder} holds readouts of other settings ({was}); choose another --out"
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    with _told_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / f"{STATE}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SelectionError(
                f"another process is selecting in {folder}; wait for it, or choose another --out"
            ) from error
    try:
        yield
    finally:
        lock.release()
