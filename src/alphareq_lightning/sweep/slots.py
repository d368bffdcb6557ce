"""Every configuration of a plan is run to its end once, whoever is killed on the way.

The plan has numbered slots, and each slot is queued as a trial of Optuna that carries its number.
Workers queue slots and claim trials in turns, one at a time. A trial whose worker died is dead, and
its slot is queued again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from alphareq_lightning.sweep.config import Params
from alphareq_lightning.sweep.storage import Worker

SLOT, WORKER, ERROR, INTERRUPTED = "slot", "worker", "error", "interrupted"
"""User attributes of a trial."""
MAX_DEATHS = 3
"""A configuration that killed as many workers, by memory for example, is given up."""


def is_dead(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker: neither run to an end, nor failed for a reason."""
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


def occupies(trial: FrozenTrial) -> bool:
    """Whether a trial waits, runs, or has done the work of its slot."""
    return SLOT in trial.user_attrs and not is_dead(trial)


def given_up(trials: Iterable[FrozenTrial]) -> set[int]:
    """Slots that killed too many workers."""
    deaths = Counter(
        t.user_attrs[SLOT]
        for t in trials
        if SLOT in t.user_attrs and is_dead(t) and INTERRUPTED not in t.user_attrs
    )
    return {slot for slot, number in deaths.items() if number >= MAX_DEATHS}


def fill(study: Study, plan: Sequence[Params]) -> None:
    """Queue every slot that no trial occupies; in a turn, so that none is queued twice."""
    trials = study.get_trials(deepcopy=False)
    taken = {t.user_attrs[SLOT] for t in trials if occupies(t)} | given_up(trials)
    for slot, params in enumerate(plan):
        if slot not in taken:
            study.enqueue_trial(params, user_attrs={SLOT: slot})


def sign(trial: Trial, worker: Worker) -> None:
    """Put a worker's name on the trial that it has claimed, before its turn ends."""
    # Optuna's thread does so some time later; a trial whose worker is killed before would run for
    # good.
    if worker.beats:
        storage: Any = trial.storage
        storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(WORKER, worker.name)


def bury(study: Study, worker: Worker) -> None:
    """Fail the running trials of dead workers, so that their slots are queued again.

    Args:
        study: The sweep's.
        worker: This one; it has the turn, so a trial without a name lost its worker in a turn.
    """
    optuna.storages.fail_stale_trials(study)  # of a database server, by heartbeats
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        name = trial.user_attrs.get(WORKER)
        if SLOT not in trial.user_attrs or (name is not None and not worker.is_dead(name)):
            continue
        try:
            if name is None or worker.has_left(name):  # its configuration did not kill it
                study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            continue  # it came to its end just now
