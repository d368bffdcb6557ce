"""A worker of a sweep: it claims one trial after the other until every slot is done."""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from sqlalchemy.exc import SQLAlchemyError

from alphareq_lightning._lightning import quiet
from alphareq_lightning.errors import AlphaReQError, SweepError
from alphareq_lightning.sweep.config import IDENTITY, Sweep
from alphareq_lightning.sweep.pruner import AlphaIntervalPruner
from alphareq_lightning.sweep.results import SweepSummary, describe, summarize
from alphareq_lightning.sweep.slots import ERROR, INTERRUPTED, bury, fill, sign
from alphareq_lightning.sweep.storage import (
    Worker,
    file_of,
    nothing_begun,
    open_storage,
    reading,
    reason,
    shown,
    turn,
)
from alphareq_lightning.sweep.training import check_training
from alphareq_lightning.sweep.trial import FOLDER, run_trial
from alphareq_lightning.text import one_line

POLL_SECONDS = 1.0
STORAGE_ERRORS = (UpdateFinishedTrialError, StorageInternalError, SQLAlchemyError)
"""What is no fault of a training."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""What a file system says when it, and not the training, is at fault."""


class TrialFailedError(Exception):
    """A trial ended without a value; the reason is in its user attributes."""


def run_sweep(sweep: Sweep, *, console: Console | None = None) -> SweepSummary:
    """Work on a sweep until all of its trials are done, whoever does them.

    Any number of processes, on any number of machines that reach the storage, may run this at
    the same time. One that was killed is replaced by the others, or goes on when it is started
    again: no trial is lost, and none that has ended is run again.

    Args:
        sweep: What `read_sweep` gives.
        console: A rich console; the terminal by default.

    Raises:
        OptionError: If the sweep cannot be run as it is; found out before the first trial.
        SweepError: If the storage cannot be reached, or holds another sweep of this name.
        DataError: If there are no labels to read out with.
    """
    console = console or Console(markup=False)
    with _quiet():
        check_training(sweep)
        try:
            # All in one turn: whoever looks in between finds the study, and not an empty file.
            with turn(sweep.storage), reading(sweep.storage):
                storage = open_storage(sweep.storage, heartbeat=sweep.heartbeat)
                study = open_study(sweep, storage)
                fill(study, sweep.plan())
            with Worker(file_of(sweep.storage)) as worker:
                _work(sweep, study, worker, console)
            return summarize(study)
        except Exception as error:
            lost = storage_fault(error)
            if lost is None:
                raise
            raise SweepError(
                f"lost the storage of the sweep: {reason(lost.__cause__ or lost)}; "
                "started again, the sweep goes on where it was"
            ) from error


def sweep_status(sweep: Sweep) -> SweepSummary:
    """How far a sweep is; runs nothing.

    Raises:
        SweepError: If the storage cannot be reached, or holds no such sweep.
    """
    with _quiet():
        study = load_study(sweep.storage, sweep.name)
        with reading(sweep.storage):
            return summarize(study)


def load_study(storage: str, name: str | None = None) -> Study:
    """A study that a sweep has begun.

    Args:
        storage: As in `open_storage`.
        name: Of the study; not needed where there is only one.

    Raises:
        SweepError: If the storage is not there, cannot be reached, or holds no such study;
            nothing is created.
    """
    with turn(storage, to_read=True), reading(storage):
        opened = open_storage(storage, to_read=True)
        names = optuna.get_all_study_names(opened)
    if not names:
        raise nothing_begun(storage)
    there = ", ".join(sorted(names))
    if name is None and len(names) > 1:
        raise SweepError(
            f"there are {len(names)} studies in {shown(storage)}; name one of {there} (--study)"
        )
    name = names[0] if name is None else name
    if name not in names:
        raise SweepError(f"there is no study {name!r} in {shown(storage)}; it holds: {there}")
    with reading(storage):
        return optuna.load_study(study_name=name, storage=opened)


def open_study(sweep: Sweep, storage: BaseStorage) -> Study:
    """The study of a sweep, begun if need be.

    Raises:
        SweepError: If a study of this name was begun with something else.
    """
    study = optuna.create_study(
        study_name=sweep.name,
        storage=storage,
        sampler=_sampler(sweep),
        pruner=_pruner(sweep),
        direction="maximize",
        load_if_exists=True,
    )
    wanted = json.loads(json.dumps(sweep.identity, default=str))
    found = study.user_attrs.get(IDENTITY)
    is_empty = len(study.get_trials(deepcopy=False)) == 0
    if found is None and not is_empty:
        raise SweepError(
            f"the study {sweep.name!r} in this storage is none of alphareq sweep; "
            "choose another name: in the sweep file"
        )
    if is_empty and found != wanted:
        study.set_user_attr(IDENTITY, wanted)
        found = study.user_attrs[IDENTITY]
    if found != wanted:
        raise SweepError(
            f"a study {sweep.name!r} was begun with {_difference(found, wanted)}; "
            "choose another name: or storage: to begin anew"
        )
    if FOLDER not in study.user_attrs:
        study.set_user_attr(FOLDER, token_hex(4))
    return study


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first thing that differs, as a dotted key with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys((*found, *wanted)):
            if found.get(key) != wanted.get(key):
                inner = f"{where}: {key}" if where else str(key)
                return _difference(found.get(key), wanted.get(key), inner)
    return f"another {where} ({_short(found)}, now {_short(wanted)})"


def _short(value: Any) -> str:
    try:
        attributes = json.loads(value)["attributes"]
        value = attributes.get("choices", attributes)
    except (TypeError, ValueError, KeyError):
        pass
    return "nothing" if value is None else one_line(value)


def _work(sweep: Sweep, study: Study, worker: Worker, console: Console) -> None:
    plan = sweep.plan()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task("sweep", total=len(plan))
        while True:
            with turn(sweep.storage) as held:
                bury(study, worker)
                fill(study, plan)
                states = {trial.state for trial in study.get_trials(deepcopy=False)}
                progress.update(task, completed=summarize(study).num_done)
                if TrialState.WAITING in states:
                    _run_one(sweep, study, worker, console, held.close)
                    continue
            if TrialState.RUNNING not in states:
                return
            # Those of others, who may die yet.
            progress.update(task, description="waiting for other workers")
            time.sleep(POLL_SECONDS)


def _run_one(
    sweep: Sweep, study: Study, worker: Worker, console: Console, end_turn: Callable[[], None]
) -> None:
    claimed: list[int] = []

    def objective(trial: Trial) -> float:
        claimed.append(trial.number)
        sign(trial, worker)
        end_turn()
        try:
            return run_trial(sweep, trial)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        except (optuna.TrialPruned, *STORAGE_ERRORS):
            raise
        except Exception as error:
            fault = machine_fault(error)
            if fault is None:
                trial.set_user_attr(ERROR, f"{type(error).__name__}: {reason(error)}")
                raise TrialFailedError from error
            if not isinstance(fault, MemoryError):  # too large a model takes all memory, too
                trial.set_user_attr(INTERRUPTED, True)
            raise SweepError(
                f"trial {trial.number} stopped by a fault of this machine: "
                f"{type(fault).__name__}: {reason(fault)}; started again, the sweep runs it again"
            ) from error

    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
    except Exception as error:  # of several types where Optuna is told of a trial that has ended
        if isinstance(error, AlphaReQError) or storage_fault(error) is not None:
            raise
        if not claimed or study.get_trials(deepcopy=False)[claimed[-1]].state != TrialState.FAIL:
            raise
        # Taken for dead by the others, because this machine slept perhaps; they run it again.
        console.print(f"trial {claimed[-1]}: was taken over by another worker")
        return
    ended = describe(study.get_trials(deepcopy=False)[claimed[-1]])
    console.print(ended, markup=False, highlight=False, soft_wrap=True)


def storage_fault(error: BaseException) -> BaseException | None:
    """What went wrong with the storage behind an error, if it was the storage.

    Optuna runs into an assertion of its own when it cannot tell the end of a trial.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(
        seen, StorageInternalError | SQLAlchemyError | OSError
    ):
        seen = seen.__cause__ or (seen.__context__ if isinstance(seen, AssertionError) else None)
    return None if isinstance(error, AlphaReQError) else seen


def machine_fault(error: BaseException) -> BaseException | None:
    """What went wrong with the machine behind an error of a training, if it was the machine.

    A full disk, say: the next trainings would fail as well, and none of them is to blame.
    """
    seen: BaseException | None = error
    while seen is not None:
        said = str(seen) if isinstance(seen, RuntimeError) else ""  # torch tells no number
        if isinstance(seen, MemoryError) or os.strerror(errno.ENOMEM) in said:
            return MemoryError(str(seen) or "no memory is left")
        if isinstance(seen, OSError) and seen.errno in FULL:
            return seen
        if any(os.strerror(number) in said for number in FULL):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _sampler(sweep: Sweep) -> BaseSampler:
    if sweep.sampler != "tpe":  # the plan says it all
        return RandomSampler(seed=sweep.seed)
    # Unseeded: workers of one seed would all try the same. A constant liar keeps them apart.
    return TPESampler(constant_liar=True)


def _pruner(sweep: Sweep) -> AlphaIntervalPruner:
    halving = sweep.early_stopping and optuna.pruners.SuccessiveHalvingPruner(
        min_resource=sweep.early_stopping.min_epochs,
        reduction_factor=sweep.early_stopping.reduction_factor,
    )
    return AlphaIntervalPruner(
        top_k=sweep.search.top_k, margin=sweep.search.margin, inner=halving or None
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of Lightning's or Optuna's between our own lines."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
