"""The phase of a training, from courses that were measured (and told in words) before the rules."""

import math

import pytest

from alphareq_lightning.selection.course import course_of

from plain_records import plain_record

HEALTHY = {0: 1.54, 200: 1.98, 400: 1.99, 1000: 1.83, 2000: 1.71, 4000: 1.57}
FAILING = {0: 1.54, 100: 1.10, 400: 1.60, 2000: 2.10, 4000: 2.26}
SLOW = {0: 1.51, 100: 1.52, 1000: 1.60, 2000: 1.68, 4000: 1.74}


def record(step, alpha, *, stderr=0.01, bend=0.0, **more):
    """A spectrum with its exponent; ``bend`` is added to it in its first ranks."""
    eigenvalues = tuple(
        n ** -(alpha + bend) if n < 4 else 4**-bend * n**-alpha for n in range(1, 101)
    )
    values = {
        "alpha": alpha,
        "r2": 0.99,
        "stderr": stderr,
        "fit_range": (4, 50),
        "num_samples": 5000,
        "num_features": 100,
        "eigenvalues": eigenvalues,
        "scores": {"rankme": 40.0},
    }
    return plain_record(global_step=step, **{**values, **more})


def course(alphas, **more):
    return course_of([record(step, alpha, **more) for step, alpha in alphas.items()])


@pytest.mark.parametrize(
    ("alphas", "until", "phase"),
    [
        (HEALTHY, 0, "unknown"),
        (HEALTHY, 200, "unknown"),
        (HEALTHY, 400, "warming up"),
        (HEALTHY, 1000, "settling"),
        (HEALTHY, 4000, "settling"),
        ({**HEALTHY, 3900: 1.57, 4000: 1.57, 5300: 1.56}, 5300, "settled"),
        (FAILING, 400, "failing"),
        (FAILING, 4000, "failing"),
        (SLOW, 4000, "warming up"),
    ],
)
def test_the_phase_of(alphas, until, phase):
    assert course({s: a for s, a in alphas.items() if s <= until}).phase == phase


def test_what_a_course_tells():
    found = course(HEALTHY)
    assert found.turned
    assert found.knows_untrained
    assert (found.reference.global_step, found.peak.global_step) == (0, 400)
    assert found.drift == pytest.approx(1.57 - 1.71)
    assert found.drift_stderr == pytest.approx(math.hypot(0.01, 0.01))


def test_a_rise_without_a_turn_that_loses_rank_is_failing():
    courses = {"loses": (1.75, 87.0), "keeps": (1.75, 50.0)}
    for name, (early, rankme) in courses.items():
        records = [
            record(step, alpha, scores={"rankme": rank})
            for step, alpha, rank in (
                (0, 1.63, 45.0),
                (100, early, rankme),
                (1000, 2.43, 51.0),
                (2000, 2.52, 52.0),
            )
        ]
        phase = course_of(records).phase
        assert phase == ("failing" if name == "loses" else "warming up")


def test_a_stand_in_is_said_and_no_ground_to_call_a_training_failing():
    found = course({50: 1.6, 100: 1.2, 400: 1.6, 4000: 2.2})
    assert (found.phase, found.knows_untrained) == ("warming up", False)
    assert found.reference.global_step == 50


@pytest.mark.parametrize(
    "more", [{"r2": 0.7}, {"scores": {"rankme": 1.9}}, {"alpha": math.nan, "fit_range": None}]
)
def test_collapse_comes_before_all(more):
    records = [record(step, alpha) for step, alpha in HEALTHY.items()]
    alpha = more.pop("alpha", 1.5)
    assert course_of([*records, record(5000, alpha, **more)]).phase == "collapsed"
    assert course_of(records).phase != "collapsed"


def test_a_step_within_the_error_is_no_turn():
    alphas = {0: 1.5, 200: 1.9, 400: 2.0, 1000: 1.9}
    assert course(alphas).turned
    assert course(alphas, stderr=0.06).phase == "warming up"


def test_rest_is_told_over_more_ranks_as_well():
    before = [record(s, a) for s, a in {0: 1.5, 400: 2.0, 2000: 1.7}.items()]
    assert course_of([*before, record(4000, 1.6)]).phase == "settling"
    # As far over ranks 4 to 50, but not at all over ranks 2 to 50.
    still = record(4000, 1.6, bend=0.5)
    assert course_of([*before, still]).phase == "settled"


def test_gaps_and_order_and_repeats_of_a_resumed_history_do_not_matter():
    records = [record(step, alpha) for step, alpha in HEALTHY.items()]
    again = [*reversed(records), record(1000, 1.83), record(1500, math.nan, fit_range=None)]
    assert course_of(again).phase == course_of(records).phase == "settling"


def test_what_could_not_be_measured_is_no_collapse():
    records = [record(step, alpha) for step, alpha in HEALTHY.items()]
    lost = record(5000, math.nan, fit_range=None, eigenvalues=(), problem="a batch was lost")
    assert course_of([*records, lost]).phase == course_of(records).phase
    out_of_reach = [r.refit((4, 900)) for r in records]
    assert course_of(out_of_reach).phase == "unknown"
