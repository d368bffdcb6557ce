"""The model selection of the paper over models that are all there already."""

from __future__ import annotations

import json
import math
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
from alphareq_lightning.selection.budgeted_search import BudgetedSearch
from alphareq_lightning.selection.interval_search import AlphaIntervalSearch
from alphareq_lightning.selection.ranking import badness
from alphareq_lightning.selection.which_training import BELIEVED, OTHERS
from alphareq_lightning.text import one_line, shown

STATE, SETTINGS, RECORDS = "search.json", "settings.json", "records.jsonl"
RESERVE = "search.json.reserve"
"""Holds room on the disk for the next state while a readout is paid for."""


class Selected(NamedTuple):
    """What a search over models has found."""

    search: AlphaIntervalSearch
    """With the readouts that were paid for, and the best model."""
    records: list[AlphaRecord]
    """In the order in which the models came, with the accuracy where a readout was paid for."""
    file: Path
    """Where these are kept."""
    believed: str | None = None
    """Within a budget, the criterion that predicts the readouts best."""

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
    budget: int | None = None,
    settings: Mapping[str, Any] | None = None,
    report: Callable[[AlphaRecord, str], None] = lambda record, what: None,
) -> Selected:
    """Pay readouts for the models that a search asks for, and for no others.

    The search is the paper's, or, within a budget, `BudgetedSearch` over all criteria that the
    records have.

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
        budget: Pay this many readouts at most, best first by what the ones before speak for;
            ``top_k``, ``margin`` and ``step`` have no meaning then.
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
    kind = {"step": step}
    chooser = None
    if budget is not None:  # the interval stays open: who is asked for is read out
        kind, top_k, margin = {"budget": budget}, budget, 0
        chooser = BudgetedSearch(criteria_of(records), budget=budget, seed=seed)
    with _alone_in(folder):
        _check_settings(folder, {"seed": seed, **kind, **(settings or {})})
        search = _search(folder, top_k, margin, set(by_name))

        def pay(names: Sequence[str]) -> None:
            """Ask for models that come together, and read out those that are worth it."""
            paid = {name: search.readouts[name].score for name in names if name in search.readouts}
            asked = search.ask({name: by_name[name].alpha for name in names})
            _save(search, folder)
            for name in names:
                if name in search.skipped:
                    report(by_name[name], "skipped")
                elif name in paid:
                    report(by_name[name], f"{paid[name]:.2f} % (paid before)")
            for name in asked:
                _reserve(folder)
                try:
                    accuracy = read(by_name[name])
                    outcome = f"{accuracy:.2f} %"
                except ReadoutError as error:
                    accuracy, outcome = math.nan, f"failed: {error}"
                search.tell({name: accuracy})
                _save(search, folder)
                report(by_name[name], outcome)

        if chooser is None:
            for start in range(0, len(order), step):
                pay(order[start : start + step])
        else:
            while (name := chooser.ask()) is not None:
                pay([name])
                chooser.tell(name, search.readouts[name].score)
            left = [name for name in order if name not in search.readouts]
            search.skipped = {name: by_name[name].alpha for name in left}
            _save(search, folder)
        (folder / RESERVE).unlink(missing_ok=True)
        scores = {name: readout.score for name, readout in search.readouts.items()}
        found = [replace(by_name[name], accuracy=scores.get(name)) for name in order]
        write_records(folder / RECORDS, found)
    if search.num_readouts and search.best is None:
        raise SelectionError(f"none of the {search.num_readouts} readouts succeeded")
    return Selected(search, found, folder / RECORDS, None if chooser is None else chooser.believed)


def criteria_of(records: Sequence[AlphaRecord]) -> dict[str, dict[str, float]]:
    """What may tell good models: each criterion that some records have, and α in either direction.

    Raises:
        SelectionError: If no model has an α.
    """
    fitted = [record for record in records if math.isfinite(record.alpha)]
    if not fitted:
        raise SelectionError("none of the models has an α, so none is worth a readout")
    found = {n: {str(r.path): badness(r, n) for r in fitted} for n in (*BELIEVED, *OTHERS)}
    found["distance of α"] = found.pop("alpha")
    found["α"] = {str(r.path): r.alpha for r in fitted}
    return {n: v for n, v in found.items() if any(map(math.isfinite, v.values()))}


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
