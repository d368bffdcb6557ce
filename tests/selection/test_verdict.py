"""What to keep, what ties with it, and when nobody can tell."""

import math
import random

import pytest
from planted_trainings import FAILING, HEALTHY, SLOW, training, trainings

from alphareq_lightning.errors import SelectionError
from alphareq_lightning.selection import trainings_of, verdict

from plain_records import with_values

# -- which checkpoint ------------------------------------------------------------------------------


def test_after_the_turn_the_nearest_to_the_target_is_kept():
    found = verdict(training("a"))
    assert found.choice.global_step == 4000
    assert found.ties == ()
    assert found.failing == ()
    assert found.advice == "keep the choice; α still moves, so training on may give a better one"


def test_checkpoints_within_the_error_are_ties():
    near = training("a", {**HEALTHY, 3000: 1.575, 3500: 1.572})
    assert [r.global_step for r in verdict(near).ties] == [3500, 3000]


def test_before_the_turn_the_last_is_kept_and_not_the_nearest():
    found = verdict(training("a", SLOW))
    assert found.choice.global_step == 4000
    assert "α has not turned, so it says nothing yet" in found.advice


def test_a_fall_within_the_error_is_no_turn_and_is_told():
    slowly = {0: 1.34, 40: 2.44, 100: 2.394, 180: 2.30, 240: 2.25, 300: 2.261}
    found = verdict(training("a", slowly, stderr=0.08))
    assert [course.phase for course in found.courses.values()] == ["warming up"]
    assert any(
        "α is 0.13 below its largest value, that of step 100: a turn is told from 0.16 on" in doubt
        for doubt in found.doubts
    )
    assert not verdict(training("a", SLOW)).doubts  # it stands at its largest value


def test_of_a_failing_training_an_early_checkpoint_is_kept():
    found = verdict(training("a", FAILING))
    assert (found.choice.global_step, found.failing[0].global_step) == (100, 4000)
    assert "stop this training" in found.advice


def test_a_window_that_would_choose_another_is_a_doubt_and_a_tie():
    bent = training("a", {5000: 1.57})[0]
    steep = tuple(n**-1.57 * (1 if n > 3 else 4 ** (n - 4)) for n in range(1, 101))
    found = verdict([*training("a"), with_values(bent, eigenvalues=steep, alpha=1.56)])
    assert found.choice.global_step == 5000
    assert 4000 in [r.global_step for r in found.ties]


@pytest.mark.parametrize("count", [1, 2])
def test_too_short_a_history_gives_no_choice(count):
    found = verdict(training("a")[:count])
    assert found.choice is None
    assert 'AlphaMonitor(at_steps="log")' in found.advice


def test_a_collapsed_training_gives_no_choice():
    last = training("a", {5000: math.nan}, fit_range=None, problem="nothing varies")
    found = verdict([*training("a"), *last])
    assert found.choice is None
    assert found.failing[0].global_step == 5000


# -- which training --------------------------------------------------------------------------------


def test_of_trainings_that_have_turned_the_best_by_what_is_believed():
    found = verdict(
        trainings(
            training("a", error=0.10, rankme=60.0),
            training("b", error=0.20, rankme=50.0),
            training("c", error=0.30, rankme=40.0),
            training("bad", FAILING, error=0.05, rankme=90.0),
        )
    )
    assert found.choice.run == "a"
    assert found.ties == ()
    assert [r.run for r in found.failing] == ["bad"]
    assert {n: c.believed for n, c in found.scores.items()} == {
        "twins_error": True,
        "rankme": True,
        "alpha": False,
    }
    assert [r.run for r in found.scores["rankme"].order] == ["a", "b", "c"]
    assert found.courses["bad"].phase == "failing"


def test_one_score_alone_is_a_doubt():
    [doubt] = [
        d
        for d in verdict(trainings(training("a", error=None), training("b", error=None))).doubts
        if "orders these trainings" in d
    ]
    assert doubt.startswith("nothing but rankme orders these trainings")
    assert "measure twins_error, selfcluster, too" in doubt
    both = verdict(trainings(training("a"), training("b")))
    assert not any("orders these trainings" in doubt for doubt in both.doubts)
    believed = verdict(trainings(training("a"), training("b")), believe=["rankme"])
    assert not any("orders these trainings" in doubt for doubt in believed.doubts)


def test_nearness_to_the_target_does_not_choose_among_trainings():
    near = {step: alpha - 0.4 for step, alpha in HEALTHY.items()}
    found = verdict(trainings(training("a", error=0.1), training("near", near, error=0.9)))
    assert found.choice.run == "a"
    assert found.scores["alpha"].order[0].run == "near"
    assert found.scores["alpha"].agreement == -1


def test_differences_that_a_second_seed_makes_too_are_ties():
    found = verdict(
        trainings(
            training("a", error=0.100, rankme=60.0),
            training("b", error=0.103, rankme=59.0),
            training("c", error=0.300, rankme=40.0),
        )
    )
    assert (found.choice.run, [r.run for r in found.ties]) == ("a", ["b"])
    same = verdict(trainings(*(training(run, error=0.1) for run in "abc")))
    assert len(same.ties) == 2
    assert "nothing tells these trainings apart" in same.advice


def test_a_first_that_has_not_turned_gives_no_choice():
    slow = training("slow", SLOW, error=0.05, rankme=70.0)
    found = verdict(trainings(slow, training("a"), training("b"), training("c", error=0.3)))
    assert found.choice is None
    assert "the first by twins_error, rankme has not turned" in found.doubts[-1]
    assert "train longer until α turns" in found.advice


@pytest.mark.parametrize("names", ["ac", "ca"])
def test_others_that_have_not_turned_are_said_and_come_last_of_equals(names):
    kinds = {"a": training("a"), "c": training("c", SLOW)}
    found = verdict(trainings(*(kinds[n] for n in names), training("b", error=0.3)))
    assert found.choice.run == "a"
    assert "1 of 3 trainings that do not fail have not turned yet" in found.doubts[0]


@pytest.mark.parametrize("names", ["ab", "ba"])
@pytest.mark.parametrize("as_seeds", [False, True])
def test_of_equals_by_the_first_score_too_the_next_decides(names, as_seeds):
    scores = {"a": {"rankme": 60.0, "selfcluster": 0.3}, "b": {"rankme": 50.0, "selfcluster": 0.2}}
    own = trainings(*(training(name, scores=scores[name]) for name in names))
    of_one = {"a": "same", "b": "same"} if as_seeds else None
    assert verdict(own, configurations=of_one).choice.run == "a"


@pytest.mark.parametrize("names", ["abc", "cba", "bac"])
def test_of_equals_the_first_score_decides_and_not_their_order(names):
    kinds = {"a": (0.1, 50.0), "b": (0.2, 60.0), "c": (0.3, 40.0)}
    own = (training(n, error=kinds[n][0], rankme=kinds[n][1]) for n in names)
    assert verdict(trainings(*own)).choice.run == "a"


def test_most_may_not_have_turned():
    slow = (training(run, SLOW, error=0.3, rankme=9.0) for run in "bcd")
    assert verdict(trainings(training("a"), *slow)).choice.run == "a"


def test_all_failing_gives_no_choice():
    found = verdict(trainings(training("a", FAILING), training("b", FAILING)))
    assert found.choice is None
    assert len(found.failing) == 2
    assert found.advice.startswith("choose none of them: all trainings fail or have collapsed")


def test_scores_that_turn_the_order_around_give_no_choice():
    values = [(0.1 * i, 40.0 + i * 10) for i in range(1, 6)]
    found = verdict(trainings(*(training(f"{e:.1f}", error=e, rankme=r) for e, r in values)))
    assert found.choice is None
    assert "twins_error and rankme turn the order around (Kendall τ = -1.00)" in found.doubts[-1]


def test_checkpoints_without_a_course_give_no_choice():
    ends = [training(run, alpha)[-1] for run, alpha in (("a", HEALTHY), ("b", SLOW))]
    found = verdict(ends)
    assert found.choice is None
    assert "pay a few readouts" in found.advice


def test_shorter_trainings_are_left_out():
    short = {s: a for s, a in HEALTHY.items() if s <= 2000}
    found = verdict(
        trainings(training("a"), training("b", error=0.4, rankme=9.0), training("c", short))
    )
    assert found.choice.run == "a"
    assert found.ties == ()
    assert "are shorter than 75% of the longest, 4000 steps" in found.doubts[0]


def test_what_is_believed_can_be_given():
    records = trainings(training("a", rankme=40.0), training("b", rankme=60.0))
    assert verdict(records, believe=["rankme"]).choice.run == "b"
    with pytest.raises(SelectionError, match="not every training has 'lidar'; there are: twins_"):
        verdict(records, believe=["lidar"])


def test_alpha_alone_chooses_no_training_unless_it_is_asked_to():
    high = {step: alpha + 0.2 for step, alpha in HEALTHY.items()}
    records = trainings(
        training("a", rankme=None, error=None), training("b", high, rankme=None, error=None)
    )
    found = verdict(records)
    assert found.choice is None
    assert found.advice.startswith("measure these scores of each training")
    asked = verdict(records, believe=["alpha"])
    assert asked.choice.run == "a"
    assert asked.ties == ()
    assert asked.scores["alpha"].believed


def test_the_first_quarter_of_those_that_do_not_fail_are_ties():
    """So many hold the best of resampled trainings, however far apart their scores are."""
    many = [training(str(n), error=0.1 * 1.5**n, rankme=90.0 / 1.5**n) for n in range(9)]
    failing = [training(f"bad {n}", FAILING) for n in range(9)]
    assert [r.run for r in verdict(trainings(*many)).ties] == ["1", "2"]
    assert [r.run for r in verdict(trainings(*many[:8], *failing)).ties] == ["1"]
    found = verdict(trainings(*many[:2], *failing))
    assert (found.ties, found.advice) == ((), "take the choice")


def test_that_failing_cannot_be_told_without_rankme_is_a_doubt():
    alone = verdict(training("a", FAILING, rankme=None))
    assert alone.doubts[-1].startswith("RankMe was not measured: whether this training fails")
    many = trainings(training("a"), training("b"), training("c", rankme=None))
    [doubt] = [d for d in verdict(many).doubts if "RankMe was" in d]
    assert doubt.startswith("RankMe was not measured in 1 of 3 trainings: whether these fail")
    assert not any("RankMe was" in doubt for doubt in verdict(many[:12]).doubts)


def test_most_of_unknown_and_too_short_ones_give_no_choice():
    unknown = [training(run, {0: 1.5, 4000: 1.6}, error=0.01) for run in "bc"]
    short = [training(run, {0: 1.5, 50: 1.6, 120: 1.7}, error=0.01) for run in "de"]
    known = training("a")
    found = verdict(trainings(known, *unknown))
    assert found.choice is None
    assert "2 of 3 trainings is not known" in found.doubts[-1]
    assert found.doubts[-1].endswith("they are left out")
    assert verdict(trainings(known, unknown[0])).choice.run == "a"
    assert verdict(trainings(*short)).advice.startswith("train longer")


def test_nan_scores_are_not_believed():
    found = verdict(trainings(training("a", error=math.nan), training("b", rankme=60.0)))
    assert [n for n, c in found.scores.items() if c.believed] == ["rankme"]


# -- bad input -------------------------------------------------------------------------------------


def test_what_differs_is_refused():
    with pytest.raises(SelectionError, match="there is no record to choose from"):
        verdict([])
    with pytest.raises(SelectionError, match="α of different layers do not compare"):
        verdict(trainings(training("a", layer="x"), training("b", layer="y")))
    with pytest.raises(SelectionError, match=r"numbers of images do not compare: \[500, 5000\]"):
        verdict(trainings(training("a"), training("b", num_samples=500)))


def test_checkpoints_of_other_weights_are_left_out():
    stale = [with_values(r, path_step=9) for r in training("a")]
    found = verdict(stale)
    assert found.choice is None
    assert found.advice.endswith("alphareq score")
    assert "6 of 6 checkpoints hold weights that were not measured" in found.doubts[0]


def test_older_records_belong_to_the_folder_of_their_checkpoint():
    records = [with_values(r, run="") for run in "ab" for r in training(run)]
    assert {name: len(found) for name, found in trainings_of(records).items()} == {"a": 6, "b": 6}
    assert len(verdict(records).courses) == 2


def test_nothing_that_a_file_may_hold_ends_in_another_error():
    rng = random.Random(0)
    numbers = [math.nan, -1.0, 0.0, 1e-300, 1e300, 1.0, 1.5, 2.0]
    for _ in range(300):
        records = [
            record
            for run in range(rng.randint(1, 6))
            for record in training(
                str(run),
                {rng.choice([0, 50, 100, 400, 4000]): rng.choice(numbers) for _ in range(4)},
                rankme=rng.choice([None, *numbers]),
                error=rng.choice([None, *numbers]),
                r2=rng.choice(numbers),
                stderr=rng.choice(numbers),
                eigenvalues=tuple(rng.choice(numbers) for _ in range(rng.choice([0, 5, 100]))),
            )
        ]
        found = verdict(records)
        assert found.choice is None or found.choice in records
        assert found.advice


# -- what a user may bring -------------------------------------------------------------------------


def longer(alphas, times):
    return {step * times: alpha for step, alpha in alphas.items()}


@pytest.mark.parametrize("phase", ["failing", "collapsed"])
def test_a_training_that_is_no_choice_does_not_make_the_others_short(phase):
    end = {} if phase == "failing" else {25000: math.nan}
    bad = training("bad", {**longer(FAILING, 5), **end})
    bad = [with_values(r, fit_range=None) if math.isnan(r.alpha) else r for r in bad]
    found = verdict(trainings(training("a"), training("b", error=0.3, rankme=9.0), bad))
    assert found.courses["bad"].phase == phase
    assert found.choice.run == "a"


def test_a_training_is_as_long_as_its_newest_checkpoint_is_late():
    kept = [r for r in training("a", error=0.01, rankme=90.0) if r.global_step <= 1000]
    found = verdict(
        trainings(kept, training("b"), training("c", error=0.3, rankme=9.0)), course=training("a")
    )
    assert found.choice.run == "b"
    assert "1 of 3 trainings" in found.doubts[0]


def test_a_course_over_another_window_is_refused():
    refit = [r.refit((2, 40)) for r in training("a")]
    with pytest.raises(SelectionError, match="α of different fit windows do not compare"):
        verdict(refit, course=training("a"))


def test_other_layers_of_a_history_are_passed_over():
    records = training("a", layer="backbone")
    other = training("a", {s: 2 * a for s, a in SLOW.items()}, layer="projector", num_features=99)
    found = verdict(records[-1:], course=[*records, *other])
    assert found.courses["a"].phase == "settling"


@pytest.mark.parametrize("believe", [[], "rankme"])
def test_what_is_believed_is_a_list_of_names(believe):
    with pytest.raises(SelectionError, match="expected a list of names of scores"):
        verdict(trainings(training("a"), training("b")), believe=believe)


def test_that_one_training_is_chosen_from_by_alpha_is_said():
    found = verdict(training("a"), believe=["rankme"])
    assert found.choice.global_step == 4000
    assert found.doubts == ("checkpoints of one training are chosen by α, not by rankme",)
    assert verdict(training("a"), believe=["alpha"]).doubts == ()


@pytest.mark.parametrize("path", [None, "a/last.ckpt"])
def test_one_model_does_not_tie_with_itself(path):
    records = [with_values(r, path=path and r.path) for r in training("a")]
    assert verdict([*records, with_values(records[-1], path=path)]).ties == ()


def test_a_step_that_was_measured_twice_with_two_results_is_a_doubt():
    records = training("a")
    again = with_values(records[2], alpha=1.2, path="a/step=400-v1.ckpt")
    doubts = verdict([*records, again]).doubts
    assert "1 step of one training has different values of α" in doubts[0]
    rounded = with_values(records[2], alpha=1.9901, path="a/step=400-v1.ckpt")
    assert verdict([*records, rounded]).doubts == ()


def test_older_records_of_two_trainings_in_one_folder_are_not_one():
    records = [
        with_values(r, run="", path=f"kept/{run}-{r.global_step}.ckpt")
        for run in "ab"
        for r in training(run, {s: a + 0.3 * (run == "b") for s, a in HEALTHY.items()})
    ]
    assert len(trainings_of(records)) == len(records)
    found = verdict(records)
    assert found.choice is None
    assert "the course of 2 of 2 trainings is not known" in found.doubts[-1]


def test_what_is_not_known_is_not_called_unturned():
    ends = [training(run)[-1] for run in "abc"]
    assert "the course of 3 of 3 trainings is not known" in verdict(ends).doubts[-1]


def test_scores_that_speak_against_the_ties_are_not_nothing():
    found = verdict(trainings(training("a", error=0.1), training("b", error=0.3)))
    assert [r.run for r in found.ties] == ["b"]
    assert "nothing tells" not in found.advice
    assert "they do not agree" in found.advice


def test_a_failing_training_whose_nearest_checkpoint_is_its_last():
    found = verdict(training("a", {0: 1.5, 100: 0.3, 1000: 0.6, 2000: 0.8, 4000: 1.0}))
    assert found.choice.global_step == 4000
    assert "earliest" not in found.advice
    assert "gets worse" not in found.advice


def test_several_layers_are_refused_without_a_way_that_is_none():
    two = [*training("a"), *(with_values(r, layer="teacher") for r in training("a"))]
    with pytest.raises(SelectionError, match=r"different layers do not compare.*choose one layer$"):
        verdict(two)  # which has no force=
