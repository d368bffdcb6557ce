"""The queue, with trials that cost nothing: what the processes of `test_workers` cannot time."""

import sqlite3

import pytest

optuna = pytest.importorskip("optuna")
from optuna.trial import TrialState  # noqa: E402

from alphareq_lightning.sweep import slots  # noqa: E402
from alphareq_lightning.sweep.slots import (  # noqa: E402
    ERROR,
    INTERRUPTED,
    MAX_DEATHS,
    SLOT,
    WORKER,
    bury,
    fill,
    sign,
)
from alphareq_lightning.sweep.storage import Worker  # noqa: E402

PLAN = [{"x": 1}, {"x": 2}]


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study()


def slot_numbers(study, *states):
    return [t.user_attrs[SLOT] for t in study.get_trials(states=states or None)]


def end(study, state, value=None, **attributes):
    trial = study.ask()
    for key, item in attributes.items():
        trial.set_user_attr(key, item)
    study.tell(trial, value, state)
    return trial.number


def test_filling_again_adds_nothing_and_a_half_filled_queue_is_completed(study):
    study.enqueue_trial({"x": 2}, user_attrs={SLOT: 1})  # the one that filled it was killed here
    fill(study, PLAN)
    fill(study, PLAN)
    assert slot_numbers(study) == [1, 0]
    assert [t.system_attrs["fixed_params"] for t in study.trials] == [{"x": 2}, {"x": 1}]


def test_what_ended_is_not_queued_again(study):
    plan = [*PLAN, {"x": 3}]
    fill(study, plan)
    end(study, TrialState.COMPLETE, 1.0)
    end(study, TrialState.PRUNED)
    end(study, TrialState.FAIL, **{ERROR: "out of memory"})
    fill(study, plan)
    assert slot_numbers(study) == [0, 1, 2]


def test_a_slot_that_kills_its_workers_is_given_up(study):
    for _ in range(MAX_DEATHS + 2):
        fill(study, PLAN[:1])
        if slot_numbers(study, TrialState.WAITING):
            end(study, TrialState.FAIL)
    assert len(study.trials) == MAX_DEATHS
    assert slots.given_up(study.trials) == {0}


def test_interruptions_by_hand_do_not_count_as_deaths(study):
    for _ in range(MAX_DEATHS + 2):
        fill(study, PLAN[:1])
        end(study, TrialState.FAIL, **{INTERRUPTED: True})
    assert len(study.trials) == MAX_DEATHS + 2
    assert not slots.given_up(study.trials)


def test_only_trials_of_dead_workers_are_buried(study, tmp_path):
    fill(study, [{"x": i} for i in range(4)])
    file = tmp_path / "study.db"
    killed = Worker(file)
    with Worker(file) as me, Worker(file) as other:
        mine, others, left, lost = (study.ask() for _ in range(4))
        mine.set_user_attr(WORKER, me.name)
        others.set_user_attr(WORKER, other.name)
        left.set_user_attr(WORKER, "a-machine-1-abc")
        lost.set_user_attr(WORKER, killed.name)
        (tmp_path / "study.db.workers" / killed.name).touch()  # nobody holds this lock
        bury(study, me)
        assert [t.state.name for t in study.trials] == ["RUNNING", "RUNNING", "FAIL", "FAIL"]
        # One that has left by itself was not killed by its configuration.
        assert [INTERRUPTED in t.user_attrs for t in study.trials[2:]] == [True, False]
    with Worker(file) as third:
        bury(study, third)
    assert {t.state.name for t in study.trials} == {"FAIL"}
    assert [p.name for p in tmp_path.glob("*.workers/*")] == [killed.name]


def test_a_claim_that_nobody_has_signed_is_dead(study, tmp_path):
    """Whoever buries has the turn; a worker that was killed in its own left no name."""
    fill(study, PLAN[:1])
    study.ask()
    with Worker(tmp_path / "study.db") as worker:
        bury(study, worker)
        fill(study, PLAN[:1])
    assert [t.state.name for t in study.trials] == ["FAIL", "WAITING"]
    assert INTERRUPTED in study.trials[0].user_attrs


def test_a_claim_is_signed_with_the_first_sign_of_life(tmp_path):
    """Optuna's thread gives it later; killed in between, the trial would run for good."""
    url = f"sqlite:///{tmp_path}/study.db"
    storage = optuna.storages.RDBStorage(url, heartbeat_interval=60, grace_period=180)
    study = optuna.create_study(storage=storage)
    fill(study, PLAN[:1])
    with Worker(None) as worker:
        trial = study.ask()
        sign(trial, worker)
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("select count(*) from trial_heartbeats").fetchone() == (1,)
    assert study.trials[0].user_attrs[WORKER] == worker.name
