"""Read α back from the checkpoints that carry it: no data, no model class, no labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from alphareq_lightning.errors import LayerWarning, SelectionError
from alphareq_lightning.files import num_values
from alphareq_lightning.load.plain_pickle import check_pickle, read_plain
from alphareq_lightning.records.record import AlphaRecord, hyperparameters
from alphareq_lightning.text import first_line, nearest, shown

STATE_KEY_PREFIX = "AlphaMonitor"
KEPT_SPECTRA = 100
"""A checkpoint carries the eigenvalues of so many newest records: 0.5 MB however long the run. Of
older records it carries all else; their eigenvalues are in the checkpoints of their time."""
MOST_VALUES = 20_000_000
"""Of all records in a checkpoint: those of 100,000 validations with fifty logged metrics."""


def records_from_checkpoints(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]], *, layer: str | None = None
) -> list[AlphaRecord]:
    """The record of the weights in each Lightning checkpoint, with its ``path`` set.

    A checkpoint that was saved between two measurements has the newest one, of other weights: its
    ``path_step`` says so.

    Tensors are memory-mapped and not read, and nothing is unpickled but plain data.

    Args:
        paths: Checkpoint files, or folders that are searched for ``*.ckpt``.
        layer: Which layer's record, by the name it has there; the first monitor's first layer by
            default, with a warning where there are others.

    Raises:
        SelectionError: If a file is missing, is not a checkpoint, or holds no record.
    """
    found = [record_of_checkpoint(path, layer) for path in _files(paths)]
    others = dict.fromkeys(other for _, others in found for other in others)
    if layer is None and others:
        warnings.warn(
            f"records of layer {found[0][0].layer!r} are read; there are others, of "
            f"{', '.join(map(repr, others))}: name one with layer=",
            LayerWarning,
            stacklevel=2,
        )
    return [record for record, _ in found]


def history_to_state(history: Sequence[AlphaRecord], run: str = "") -> dict[str, Any]:
    """What a checkpoint carries of a monitor, as plain Python numbers.

    Args:
        history: Records, oldest first; of several trainings if the monitor has seen several.
        run: The training that is being saved.
    """
    old = max(len(history) - KEPT_SPECTRA, 0)
    short = [  # that of the untrained network is compared with to the end
        record if record.global_step == 0 else replace(record, eigenvalues=())
        for record in history[:old]
    ]
    return {"history": [record.to_dict() for record in (*short, *history[old:])], "run": run}


def history_from_state(state: Any) -> tuple[list[AlphaRecord], str]:
    """The records in what a checkpoint carries of a monitor, oldest first, and its training.

    Raises:
        SelectionError: If it is not what `history_to_state` makes.
    """
    history = state.get("history") if isinstance(state, Mapping) else None
    if not isinstance(history, list):
        raise SelectionError(f"expected a state with a list 'history', got {shown(state)}")
    try:  # a file may name one list again and again, and be small
        size = num_values(history)
    except RecursionError as error:
        raise SelectionError("expected a history of records, got one nested too deep") from error
    if size > MOST_VALUES:
        raise SelectionError(f"expected at most {MOST_VALUES} numbers in a history, got more")
    return [AlphaRecord.from_dict(values) for values in history], run_of_state(state)


def run_of_state(state: Any) -> str:
    """The training of what a checkpoint carries of a monitor; empty where that is not known."""
    run = state.get("run") if isinstance(state, Mapping) else None
    return run if type(run) is str else ""


def _files(paths: str | PathLike[str] | Iterable[str | PathLike[str]]) -> list[Path]:
    files: list[Path] = []
    if isinstance(paths, str | PathLike):  # or each of its letters would be a path
        paths = [paths]
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*.ckpt"))
            sharded = [inner for inner in (path, *found) if any(inner.glob("*.distcp"))]
            if sharded:
                raise SelectionError(
                    f"{sharded[0]} is a distributed checkpoint, a folder of shards, which cannot "
                    "be read here; save with FSDPStrategy(state_dict_type='full')"
                )
            if not found:
                raise SelectionError(f"no *.ckpt file in the folder {path}")
            files += found
        else:
            files.append(path)
    return files


def record_of_checkpoint(path: Path, layer: str | None) -> tuple[AlphaRecord, list[str]]:
    """The record of a checkpoint, and the other layers of which it has some.

    Raises:
        SelectionError: As `records_from_checkpoints`.
    """
    step, records, others = _read(path, layer)
    of_these_weights = [r for r in records if r.global_step == step]
    if of_these_weights or not isinstance(step, int):
        return replace((of_these_weights or records)[-1], path=str(path)), others
    return replace(records[-1], path=str(path), path_step=step), others


def course_in_checkpoint(path: str | PathLike[str], *, layer: str) -> list[AlphaRecord]:
    """All measurements of a layer that a checkpoint carries of its training, oldest first.

    Raises:
        SelectionError: As `records_from_checkpoints`.
    """
    return _read(Path(path), layer)[1]


def _read(path: Path, layer: str | None) -> tuple[Any, list[AlphaRecord], list[str]]:
    """The step of the weights, the records of one layer, and the names of the others."""
    checkpoint = read_checkpoint(path)
    states = checkpoint.get("callbacks") if isinstance(checkpoint, dict) else None
    if not isinstance(states, dict):
        raise SelectionError(
            f"{path} has no callback states: it is not a checkpoint of Lightning, "
            "or was saved with save_weights_only=True"
        )
    try:
        histories = [
            _of_this_training(*history_from_state(state))
            for key, state in states.items()
            if str(key).startswith(STATE_KEY_PREFIX)
        ]
    except SelectionError as error:
        raise SelectionError(f"{path}: {error}") from error
    newest = [_newest_of_each_layer(history) for history in histories if history]
    if not newest:
        raise SelectionError(
            f"{path} carries no record of α; was AlphaMonitor in the Trainer that saved it?"
        )
    layers = list(dict.fromkeys(record.layer for records in newest for record in records))
    chosen = layers[0] if layer is None else layer
    if chosen not in layers:
        there = f"there are: {layers}{nearest(chosen, layers)}"
        raise SelectionError(f"{path} has no record of layer {layer!r}; {there}")
    params = hyperparameters(checkpoint.get("hyper_parameters"))
    records = [
        replace(r, params={**params, **r.params})
        for history in histories
        for r in history
        if r.layer == chosen
    ]
    others = [other for other in layers if other != chosen]
    return checkpoint.get("global_step"), records, others


def _newest_of_each_layer(history: list[AlphaRecord]) -> list[AlphaRecord]:
    """The records of the last measurement, in the monitor's order of layers."""
    return [record for record in history if record.global_step == history[-1].global_step]


def _of_this_training(history: list[AlphaRecord], run: str) -> list[AlphaRecord]:
    """Without what the same monitor has measured in other trainings before."""
    return [record for record in history if record.run in (run, "")]


def _load(path: Path) -> Any:
    try:
        return read_plain(path)
    except Exception:  # torch knows older formats and more types, and explains what it refuses
        check_pickle(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_checkpoint(path: Path) -> Any:
    """What a file holds, its tensors unread.

    Raises:
        SelectionError: If it is missing or cannot be read safely.
    """
    if not path.is_file():
        raise SelectionError(f"there is no checkpoint {path}")
    try:
        return _load(path)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        reason = first_line(error)
        raise SelectionError(f"{path} cannot be read safely as a checkpoint: {reason}") from error
