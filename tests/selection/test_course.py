"""The phase of a training, from courses that were measured (and told in words) before the rules."""

import math
from dataclasses import replace

import pytest

from alphareq_lightning.records.checkpoints import (
    KEPT_SPECTRA,
    history_from_state,
    history_to_state,
)
from alphareq_lightning.selection.course import alarm, course_of, with_course

from plain_records import plain_record, with_values

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
    return course_of(measured(alphas, **more))


def measured(alphas, **more):
    """Records whose RankMe falls as α rises, or rises as it falls, if they do not say it."""
    return [
        record(step, alpha, **{"scores": {"rankme": 80 - 25 * alpha}, **more})
        for step, alpha in alphas.items()
    ]


@pytest.mark.parametrize(
    ("alphas", "until", "phase"),
    [
        (HEALTHY, 0, "unknown"),
        (HEALTHY, 200, "unknown"),
        (HEALTHY, 400, "warming up"),
        (HEALTHY, 1000, "settling"),
        (HEALTHY, 4000, "settling"),
        ({**HEALTHY, 3900: 1.57, 4000: 1.57, 5300: 1.56}, 5300, "settled"),
        (FAILING, 400, "warming up"),
        (FAILING, 2000, "failing"),
        (FAILING, 4000, "failing"),
        ({**FAILING, 5000: 2.1}, 5000, "failing"),  # whether it has turned or not
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


@pytest.mark.parametrize(
    ("alpha", "rankme", "phase"),
    [
        (1.821, 79.9, "failing"),
        (1.819, 79.9, "warming up"),
        (1.821, 80.1, "warming up"),
        (1.84, math.nan, "warming up"),
        (1.40, 20.0, "settling"),  # it loses rank, and falls below the untrained network
    ],
)
def test_failing_is_above_the_untrained_network_and_has_lost_rank(alpha, rankme, phase):
    records = [
        record(step, a, scores={"rankme": r})
        for step, a, r in ((0, 1.62, 45), (50, 1.6, 200), (100, 1.63, 100), (400, 1.6, 90))
    ]
    assert course_of([*records, record(4000, alpha, scores={"rankme": rankme})]).phase == phase


@pytest.mark.parametrize("ranks", [(50, math.nan, 40, 30), (math.inf, 50, math.nan, 30)])
def test_a_rank_that_is_no_number_is_passed_over(ranks):
    steps = (100, 400, 2000, 4000)
    records = [record(s, 2.0, scores={"rankme": r}) for s, r in zip(steps, ranks, strict=True)]
    assert course_of([record(0, 1.6), *records]).phase == "failing"


@pytest.mark.parametrize("window", [(4, 50), (2, 50), (11, 40), (1, 30), (4, 20)])
def test_failing_is_told_whatever_the_window(window):
    """What falls in ranks 1 to 3 rises in those behind, and the other way around."""
    ranks = {0: 40.0, 100: 60.0, 4000: 30.0}
    for bend, phase in ((-1.0, "failing"), (1.0, "warming up")):
        alphas = {0: 1.6, 100: 1.6, 4000: 1.6 + 0.3 * (phase == "failing")}
        records = [
            record(step, alpha, bend=bend * (step == 4000), scores={"rankme": ranks[step]})
            for step, alpha in alphas.items()
        ]
        own, told = course_of(records), course_of([r.refit(window) for r in records])
        assert (told.phase == "failing") == (own.phase == "failing") == (phase == "failing")


def test_the_untrained_network_is_known_after_a_resume_with_many_measurements():
    steps = range(0, 220 * KEPT_SPECTRA // 100, 2)
    history = [record(s, 1.8, run="a", layer="backbone") for s in steps]
    again, _ = history_from_state(history_to_state(history))
    _, found = with_course(record(steps[-1] + 1, 1.5, run="a", layer="backbone"), again)
    assert found.reference.refit((2, 20)).alpha == pytest.approx(1.8)  # as "failing" may have to


def test_a_layer_too_narrow_for_the_usual_ranks_has_its_own():
    narrow = [
        record(step, alpha, num_features=20, fit_range=(4, 12), scores={"rankme": rank})
        for step, alpha, rank in ((0, 1.5, 5.0), (100, 1.6, 9.0), (4000, 1.8, 6.0))
    ]
    assert course_of(narrow).phase == "failing"


def test_a_stand_in_is_said_and_no_ground_to_call_a_training_failing():
    found = course({50: 1.6, 100: 1.2, 400: 1.6, 4000: 2.2})
    assert course({0: 1.6, 100: 1.2, 400: 1.6, 4000: 2.2}).phase == "failing"
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


def as_measured(alphas, **more):
    """A history whose records were told their place one by one, as the monitor does."""
    history = []
    for new in measured(alphas, run="a", layer="backbone", **more):
        history.append(with_course(new, history)[0])
    return history


def test_each_record_knows_where_its_training_stood():
    history = as_measured(HEALTHY)
    phases = ["unknown", "unknown", "warming up", "settling", "settling", "settling"]
    assert [r.phase for r in history] == phases
    assert {r.untrained_alpha for r in history} == {1.54}
    drifts = [r.drift for r in history]
    assert drifts[:2] == [None, None]
    assert drifts[2:] == pytest.approx([0.01, -0.16, -0.12, -0.14])


def test_a_record_alone_tells_what_it_was_told():
    for alphas, phase in ((HEALTHY, "settling"), (FAILING, "failing"), (SLOW, "warming up")):
        last = as_measured(alphas)[-1]
        alone = course_of([last])
        assert alone.phase == phase
        assert alone.knows_untrained
        assert alone.drift == last.drift
        assert course_of([replace(last, phase="")]).phase == "unknown"


def test_the_newest_of_some_checkpoints_has_seen_more_than_they_show():
    """α of the last three is at its largest, but for what was before."""
    history = as_measured({**HEALTHY, 5000: 1.55, 6000: 1.56})
    assert course_of([replace(r, phase="") for r in history[-3:]]).phase == "warming up"
    assert course_of(history[-3:]).phase == course_of(history).phase == "settled"


def test_a_whole_history_is_told_by_the_rules_of_today():
    history = [replace(r, phase="failing") for r in as_measured(HEALTHY)]
    assert course_of(history).phase == "settling"


@pytest.mark.parametrize("phase", ["of a newer version", "unknown", ""])
def test_a_phase_that_is_none_is_no_phase(phase):
    assert course_of([replace(as_measured(HEALTHY)[-1], phase=phase)]).phase == "unknown"


def test_a_phase_before_the_first_steps_are_over_is_passed_over():
    assert course_of([record(50, 1.5, phase="settled")]).phase == "unknown"


def test_another_window_has_another_course():
    refitted = as_measured(HEALTHY)[-1].refit((2, 40))
    assert (refitted.phase, refitted.drift, refitted.untrained_alpha) == ("", None, None)


def test_only_records_of_one_layer_window_and_training_tell():
    history = [
        record(0, 1.54, run="another", layer="backbone"),
        record(0, 1.70, run="a", layer="head"),
        record(0, 1.80, run="a", layer="backbone", fit_range=(2, 40)),
        record(300, 1.50, run="a", layer="backbone"),
    ]
    new, found = with_course(record(200, 1.6, run="a", layer="backbone"), history)
    assert (new.untrained_alpha, new.phase, found.reference) == (None, "unknown", None)
    history.append(record(0, 1.55, layer="backbone"))  # older than the field
    assert with_course(new, history)[0].untrained_alpha == 1.55


def test_a_measurement_that_failed_is_passed_over():
    history = as_measured(HEALTHY)
    lost = replace(record(4100, 1.5, run="a", layer="backbone"), fit=None, problem="lost a batch")
    told, _ = with_course(lost, history)
    assert (told.phase, told.drift, told.untrained_alpha) == ("settling", None, 1.54)


def test_what_a_user_hears():
    history = as_measured(FAILING)
    assert alarm(course_of(history)) == (
        "α of layer 'backbone' is 2.26 at step 4,000, where that of the untrained network was "
        "1.54, and RankMe has lost more than 20% of its largest value. Of 58 Barlow Twins on "
        "CIFAR-10 in the long study the 15 of which that held at the end had not learnt; four of "
        "which it held for a while learnt, and one of six VICReg of which it held at the end: a "
        "sign, no proof. Look at the loss, its weights and the learning rate"
    )
    assert alarm(course_of(as_measured(HEALTHY))) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"r2": 0.43}, "R² = 0.43 over ranks 4–50"),
        (
            {"scores": {"rankme": 1.2}},
            "RankMe is 1.2 of 100 features (a small ViT of the long study learnt all the same)",
        ),
        ({"alpha": None, "eigenvalues": (0.0,), "problem": "no variance"}, "no variance"),
    ],
)
def test_what_a_user_hears_of_a_collapse(change, reason):
    collapsed = with_values(record(500, 1.5, layer="backbone"), **change)
    assert alarm(course_of([collapsed])) == (
        f"the features of layer 'backbone' have collapsed at step 500: {reason}. Look at the loss "
        "and what holds its views apart; α says nothing here"
    )
