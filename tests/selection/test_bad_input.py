"""What people bring, and the sentence that each of them reads."""

import math

import pytest
from planted_trainings import FAILING, HEALTHY, SLOW, training, trainings

from alphareq_lightning.selection import verdict

from plain_records import with_values


def course(*steps):
    return training("a", {step: HEALTHY[step] for step in steps})


def conflict(count=5):
    values = ((0.1 * i, 40.0 + 10 * i) for i in range(1, count + 1))
    return trainings(*(training(f"{e:.1f}", error=e, rankme=r) for e, r in values))


def of_old_checkpoints():
    ends = [training("a")[-1], training("b", {4000: 1.7})[0]]
    return [with_values(r, run="", path=f"kept/{r.run}.ckpt") for r in ends]


def resumed():
    """Went on from step 1000 with another result: both ends are in the folder."""
    return [*training("a"), with_values(course(2000)[0], alpha=1.6, path="a/again.ckpt")]


def merged():
    """The histories of two checkpoints, one after the other."""
    return [*course(0, 200, 400, 1000), *training("a")]


CASES = {
    "one record": (course(4000), "advice: measure more of the course: α before the first step"),
    "two records": (course(0, 4000), "advice: measure more of the course: α before the first step"),
    "all tied": (
        trainings(*map(training, "abc")),
        "advice: nothing tells these trainings apart: take any, or pay a few readouts",
    ),
    "all failing": (
        trainings(training("a", FAILING), training("b", FAILING)),
        "advice: choose none of them: all trainings fail or have collapsed",
    ),
    "all waiting": (
        trainings(training("a", SLOW), training("b", SLOW)),
        "advice: train longer until α turns, or pay a few readouts: alphareq select",
    ),
    "no history": (
        of_old_checkpoints(),
        "doubt: the course of 2 of 2 trainings is not known: too few measurements of it are there",
    ),
    "NaN scores": (
        trainings(training("a", error=math.nan), training("b", error=0.1)),
        "doubt: twins_error is missing or no number in 1 of 2 trainings: it is passed over",
    ),
    "no scores": (
        trainings(training("a", error=math.nan, rankme=None), training("b")),
        "doubt: not every training has twins_error, rankme or selfcluster, and the nearness of α "
        "alone does not order trainings that learn",
    ),
    "one short training": (
        training("a", {0: 1.54, 20: 1.6, 54: 1.7}),
        "advice: train longer: the records end at step 54, and no course is told before step 134",
    ),
    "short trainings": (
        trainings(*(training(run, {0: 1.54, 20: 1.6, 120: 1.7}) for run in "abc")),
        "doubt: 3 of 3 trainings end before step 134, too early for a turn of α to be seen",
    ),
    "short trainings, what to do": (
        trainings(*(training(run, {0: 1.54, 20: 1.6, 54: 1.7}) for run in "abc")),
        "advice: train longer until α turns, or pay a few readouts: alphareq select",
    ),
    "ends of long trainings": (
        trainings(*(training(run, {4000: 1.7}) for run in "abc")),
        "advice: pay a few readouts (alphareq select), or measure the course of each training: "
        "α before the first step and at three steps or more",
    ),
    "weights of no training": (
        trainings(*(training(run, {0: 1.7}) for run in "abc")),
        "doubt: the course of 3 of 3 trainings is not known: too few measurements of it are there",
    ),
    "a score that would tell is not of all": (
        trainings(
            training("a", error=math.nan),
            training("b", error=0.1),
            training("c", error=0.3),
        ),
        "advice: what all of these trainings have tells none apart: measure twins_error of all, or "
        "pay a few readouts",
    ),
    "a finished training": (
        course(4000),
        "of a finished training by alphareq score on its other checkpoints",
    ),
    "all failing, what to do": (
        trainings(training("a", FAILING), training("b", FAILING)),
        "; look at the loss, its weights and the learning rate",
    ),
    "a gap before the end": (
        training("a", {0: 1.54, 3900: 1.6, 4000: 1.57}),
        "advice: measure more of the course: α before the first step and at three steps or more",
    ),
    "a gap at the beginning": (
        course(400, 1000, 2000, 4000),
        "doubt: α of the untrained network was not measured; that of step 400 stands in for it",
    ),
    "resumed": (resumed(), "doubt: 1 step of one training has different values of α: was it"),
    "merged": (merged(), "verdict: a/step=4000.ckpt, α = 1.570"),
    "seeds unknown": (
        trainings(training("a"), training("b", error=0.3)),
        "doubt: no configuration was trained with several seeds, as far as is known: 5%",
    ),
    "scores in conflict": (conflict(), "turn the order around (Kendall τ = -1.00), and"),
    "scores of two in conflict": (
        conflict(2),
        "order these 2 the other way around (Kendall τ = -1.00), which of so few may be chance",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_people_bring_is_answered_in_a_sentence(name):
    records, sentence = CASES[name]
    found = verdict(records)
    assert any(sentence in line for line in found.lines())
    assert found.choice is None or found.choice in records
