"""The queue, with trials that cost nothing: what the processes of `test_workers` cannot time."""

import pytest

optuna = pytest.importorskip("optuna")
from optuna.trial import TrialState  # noqa: E402

from alphareq_lightning.sweep import slots  # noqa: E402
from alphareq_lightning.sweep.slots import (  # noqa: E402
    ERROR,
    MAX_DEATHS,
    SLOT,
    SURPLUS,
    WORKER,
    Watch,
    fill,
    is_surplus,
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


def test_of_two_trials_of_a_slot_the_lower_one_runs(study):
    fill(study, PLAN)
    for slot, params in enumerate(PLAN):  # by a worker that looked before the first had filled it
        study.enqueue_trial(params, user_attrs={SLOT: slot})
    assert [is_surplus(study, t.number, t.user_attrs[SLOT]) for t in study.trials] == [
        False,
        False,
        True,
        True,
    ]
    assert is_surplus(study, 9, None)  # asked for when the queue had just been emptied


def test_the_second_trial_of_a_slot_steps_in_for_a_dead_first(study):
    fill(study, PLAN[:1])
    study.enqueue_trial(PLAN[0], user_attrs={SLOT: 0})
    end(study, TrialState.FAIL)
    fill(study, PLAN[:1])
    assert slot_numbers(study) == [0, 0]  # no third one
    assert not is_surplus(study, 1, 0)


def test_a_closed_duplicate_leaves_its_slot_alone(study):
    fill(study, PLAN[:1])
    study.enqueue_trial(PLAN[0], user_attrs={SLOT: 0})
    running = study.ask()
    end(study, TrialState.FAIL, **{SURPLUS: True})
    fill(study, PLAN[:1])
    assert len(study.trials) == 2
    study.tell(running, state=TrialState.FAIL)
    fill(study, PLAN[:1])
    assert slot_numbers(study, TrialState.WAITING) == [0]


def test_a_slot_that_kills_its_workers_is_given_up(study):
    for _ in range(MAX_DEATHS + 2):
        fill(study, PLAN[:1])
        if slot_numbers(study, TrialState.WAITING):
            end(study, TrialState.FAIL)
    assert len(study.trials) == MAX_DEATHS
    assert slots.given_up(study.trials) == {0}


def test_closed_duplicates_do_not_count_as_deaths(study):
    for _ in range(MAX_DEATHS):
        study.enqueue_trial(PLAN[0], user_attrs={SLOT: 0})
        end(study, TrialState.FAIL, **{SURPLUS: True})
    assert not slots.given_up(study.trials)


def test_interruptions_by_hand_do_not_count_as_deaths(study):
    for _ in range(MAX_DEATHS + 2):
        fill(study, PLAN[:1])
        end(study, TrialState.FAIL, **{slots.INTERRUPTED: True})
    assert len(study.trials) == MAX_DEATHS + 2
    assert not slots.given_up(study.trials)


def test_only_trials_of_dead_workers_are_buried(study, tmp_path):
    fill(study, [{"x": i} for i in range(3)])
    file = tmp_path / "study.db"
    with Worker(file) as me, Worker(file) as other:
        mine, others, lost = study.ask(), study.ask(), study.ask()
        mine.set_user_attr(WORKER, me.name)
        others.set_user_attr(WORKER, other.name)
        lost.set_user_attr(WORKER, "a-machine-1-abc")
        Watch(study, me).bury()
        assert [t.state.name for t in study.trials] == ["RUNNING", "RUNNING", "FAIL"]
    with Worker(file) as third:
        Watch(study, third).bury()
    assert {t.state.name for t in study.trials} == {"FAIL"}
    assert not list(tmp_path.glob("*.workers/*"))


def test_a_claim_that_nobody_signs_is_dead_after_a_while(study, tmp_path, monkeypatch):
    fill(study, PLAN[:1])
    study.ask()
    with Worker(tmp_path / "study.db") as worker:
        watch = Watch(study, worker)
        watch.bury()
        assert study.trials[0].state == TrialState.RUNNING
        monkeypatch.setattr(slots, "UNSIGNED_SECONDS", -1.0)
        watch.bury()
    assert study.trials[0].state == TrialState.FAIL
