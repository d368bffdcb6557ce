"""Every configuration of a plan is run to its end once, whoever is killed on the way.

The plan has numbered slots, and each slot is queued as a trial of Optuna that carries its number.
A slot may be queued twice, by workers that start at the same moment; that is settled when a trial
is claimed: the lowest trial of a slot runs, the others are closed. A trial whose worker died is
dead, and its slot is queued again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from alphareq_lightning.sweep.config import Params
from alphareq_lightning.sweep.storage import Worker

SLOT, WORKER, ERROR, SURPLUS, INTERRUPTED = "slot", "worker", "error", "surplus", "interrupted"
"""User attributes of a trial."""
MAX_DEATHS = 3
"""A configuration that killed as many workers, by memory for example, is given up."""
UNSIGNED_SECONDS = 60.0
"""A claimed trial is signed by its worker at once; one without a name so long is dead."""


def is_dead(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker: neither run to an end, nor failed for a reason."""
    return (
        trial.state == TrialState.FAIL
        and ERROR not in trial.user_attrs
        and SURPLUS not in trial.user_attrs
    )


def occupies(trial: FrozenTrial) -> bool:
    """Whether a trial waits, runs, or has done the work of its slot."""
    return SLOT in trial.user_attrs and (
        trial.state != TrialState.FAIL or ERROR in trial.user_attrs
    )


def given_up(trials: Iterable[FrozenTrial]) -> set[int]:
    """Slots that killed too many workers."""
    deaths = Counter(
        t.user_attrs[SLOT]
        for t in trials
        if SLOT in t.user_attrs and is_dead(t) and INTERRUPTED not in t.user_attrs
    )
    return {slot for slot, number in deaths.items() if number >= MAX_DEATHS}


def fill(study: Study, plan: Sequence[Params]) -> None:
    """Queue every slot that no trial occupies."""
    trials = study.get_trials(deepcopy=False)
    taken = {t.user_attrs[SLOT] for t in trials if occupies(t)} | given_up(trials)
    for slot, params in enumerate(plan):
        if slot not in taken:
            study.enqueue_trial(params, user_attrs={SLOT: slot})


def is_surplus(study: Study, number: int, slot: int | None) -> bool:
    """Whether another trial does the work of this one."""
    return slot is None or any(
        t.number < number and t.user_attrs.get(SLOT) == slot and occupies(t)
        for t in study.get_trials(deepcopy=False)
    )


class Watch:
    """Finds the trials of dead workers and fails them, so that their slots are queued again."""

    def __init__(self, study: Study, worker: Worker) -> None:
        self.study = study
        self.worker = worker
        self._unsigned: dict[int, float] = {}

    def bury(self) -> None:
        """Fail the running trials of dead workers."""
        optuna.storages.fail_stale_trials(self.study)  # of a database server, by heartbeats
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            if self._is_lost(trial):
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, UpdateFinishedTrialError):
                    continue  # another worker was faster

    def _is_lost(self, trial: FrozenTrial) -> bool:
        name = trial.user_attrs.get(WORKER)
        if name is not None:
            return self.worker.is_dead(name)
        seen = self._unsigned.setdefault(trial.number, time.monotonic())
        return time.monotonic() - seen > UNSIGNED_SECONDS
