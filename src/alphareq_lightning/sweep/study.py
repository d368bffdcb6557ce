"""A worker of a sweep: it claims one trial after the other until every slot is done."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import SQLAlchemyError

from alphareq_lightning.errors import SweepError
from alphareq_lightning.sweep.config import IDENTITY, Sweep
from alphareq_lightning.sweep.pruner import AlphaIntervalPruner
from alphareq_lightning.sweep.results import SweepSummary, describe, summarize
from alphareq_lightning.sweep.slots import (
    ERROR,
    INTERRUPTED,
    SLOT,
    SURPLUS,
    WORKER,
    Watch,
    fill,
    is_surplus,
)
from alphareq_lightning.sweep.storage import Worker, first_line, nothing_begun, open_storage, shown
from alphareq_lightning.sweep.training import check_training
from alphareq_lightning.sweep.trial import FOLDER, run_trial

POLL_SECONDS = 1.0
STORAGE_ERRORS = (UpdateFinishedTrialError, StorageInternalError, SQLAlchemyError)
"""What is no fault of a training."""


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
    with quiet():
        storage, file = open_storage(sweep.storage, heartbeat=sweep.heartbeat)
        check_training(sweep)
        study = open_study(sweep, storage)
        try:
            with Worker(file) as worker:
                _work(sweep, study, worker, console)
            return summarize(study)
        except (StorageInternalError, SQLAlchemyError, OSError) as error:
            raise SweepError(
                f"lost the storage of the sweep: {first_line(error.__cause__ or error)}; "
                "started again, the sweep goes on where it was"
            ) from error


def sweep_status(sweep: Sweep) -> SweepSummary:
    """How far a sweep is; runs nothing.

    Raises:
        SweepError: If the storage cannot be reached, or holds no such sweep.
    """
    with quiet():
        return summarize(load_study(sweep.storage, sweep.name))


def load_study(storage: str, name: str | None = None) -> Study:
    """A study that a sweep has begun.

    Args:
        storage: As in `open_storage`.
        name: Of the study; not needed where there is only one.

    Raises:
        SweepError: If the storage is not there, cannot be reached, or holds no such study;
            nothing is created.
    """
    opened = open_storage(storage, to_read=True).storage
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
    if FOLDER not in study.user_attrs:  # of two that begin at once both may use their own
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
    return "nothing" if value is None else str(value)


def _work(sweep: Sweep, study: Study, worker: Worker, console: Console) -> None:
    plan = sweep.plan()
    watch = Watch(study, worker)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trials"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with progress:
        task = progress.add_task("sweep", total=len(plan))
        while True:
            watch.bury()
            fill(study, plan)
            trials = study.get_trials(deepcopy=False)
            states = {trial.state for trial in trials}
            progress.update(task, completed=summarize(study).num_done)
            if TrialState.WAITING in states:
                _claim_one(sweep, study, worker, console)
            elif TrialState.RUNNING in states:  # of others, who may die yet
                progress.update(task, description="waiting for other workers")
                time.sleep(POLL_SECONDS)
            else:
                return


def _claim_one(sweep: Sweep, study: Study, worker: Worker, console: Console) -> None:
    claimed: list[int] = []

    def objective(trial: Trial) -> float:
        claimed.append(trial.number)
        trial.set_user_attr(WORKER, worker.name)
        if is_surplus(study, trial.number, trial.user_attrs.get(SLOT)):
            trial.set_user_attr(SURPLUS, True)
            raise TrialFailedError
        try:
            return run_trial(sweep, trial)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        except (optuna.TrialPruned, *STORAGE_ERRORS):
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {first_line(error)}")
            raise TrialFailedError from error

    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailedError,))
    except (StorageInternalError, SQLAlchemyError, OSError):
        raise
    except Exception:  # Optuna raises several types when it is told about a trial that has ended
        if not claimed or _trial(study, claimed[-1]).state != TrialState.FAIL:
            raise
        # Taken for dead by the others, because this machine slept perhaps; they run it again.
        console.print(f"trial {claimed[-1]}: was taken over by another worker")
        return
    trial = _trial(study, claimed[-1])
    if SURPLUS not in trial.user_attrs:
        console.print(describe(trial), markup=False, highlight=False, soft_wrap=True)


def _trial(study: Study, number: int) -> FrozenTrial:
    return next(t for t in study.get_trials(deepcopy=False) if t.number == number)


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
def quiet() -> Iterator[None]:
    """No hints about hardware, log intervals and experimental features between our own lines."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
