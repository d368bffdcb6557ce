"""Each mended rule on a planted study where it is met, and on one where it is refuted."""

import math

import pytest

from study import hypotheses as h
from study import mended

from planted_study import COUNT, LEARNT, LOST, STEPS, planted, put, turned_around

LATE = (1000, 2000, 4000)


def study(experiment="tiny_imagenet"):
    """As `planted`, and its failing trainings lose rank; α does not order the others."""
    rows = planted(experiment)
    put(rows, "alpha", lambda row, n: 1.9 + 0.1 * (row["step"] >= 1000), STEPS[2:], LOST)
    put(rows, "alpha", lambda row, n: 1.7 + n / 100, LATE, LEARNT)
    put(rows, "phase", lambda row, n: "settled" if n > 20 else "warming up", LATE)
    put(rows, "alpha_2_50", lambda row, n: (1.55 if n >= 16 else 2.0) - n / 1000, LATE)
    put(rows, "rankme", lambda row, n: 12 - n / 10 if row["step"] >= 400 else 20, STEPS, LOST)
    put(rows, "uniformity", lambda row, n: -n / 10)
    put(rows, "alpha_11_100", lambda row, n: 1.5 + n / 10)
    return rows


def claims_of(rows):
    [part] = mended.tested(rows)
    assert (part.name, part.count, part.planned) == ("tiny_imagenet", 24, 12)
    return part.claims


def collapse(rows, steps=STEPS, numbers=range(COUNT)):
    put(rows, "phase", lambda row, n: "collapsed", steps, numbers)


def around(name, numbers, layer="backbone"):
    return lambda rows, step: turned_around(rows, name, (step,), numbers, layer)


def everything(rows, step):
    for name in h.ALIKE:
        turned_around(rows, name, (step,), LEARNT)


def below_the_best(rows, step):
    """The last is put first."""
    for name, best in {"twins_error": 0.05, "rankme": 30.0, "selfcluster": 0.1}.items():
        put(rows, name, lambda row, n, best=best: best, (step,), (6,))


def two_keep_rank(rows, step):
    put(rows, "rankme", lambda row, n: 16.1, (step,), (0, 1))


def two_do_not_rise(rows, step):
    put(rows, "alpha", lambda row, n: 1.79, (step,), (0, 1))


def two_lose_rank(rows, step):
    put(rows, "rankme", lambda row, n: 12, (step,), (6, 7))
    put(rows, "alpha", lambda row, n: 1.9, (step,), (6, 7))


def hardly_better(row, number):
    """In hardly any order, which is better than the other window, whose order is wrong."""
    return 1.5 + (number * 7 % COUNT) / 100


def chosen_by_rankme(rows, step):
    """One that is not good enough, though it has turned."""
    put(rows, "rankme", lambda row, n: 99.0, (step,), (10,))
    put(rows, "phase", lambda row, n: "settled", (step,), (10,))


def chosen_by_all(rows, step):
    below_the_best(rows, step)
    put(rows, "phase", lambda row, n: "settled", (step,), (6,))


def without_a_turn(rows, step):
    put(rows, "phase", lambda row, n: "warming up", (step,), (23,))


REFUTED = [
    *[(0, change, step) for change in (two_keep_rank, two_do_not_rise) for step in (1000, 4000)],
    *[(0, two_lose_rank, step) for step in (1000, 4000)],
    (1, lambda rows, step: put(rows, "top1", lambda r, n: r["top1"] + 14, (step,), (6, 7)), 2000),
    (2, lambda rows, step: put(rows, "top1", lambda r, n: 36.1, (step,), (0, 1)), 2000),
    *[(3, change, step) for change in (everything, below_the_best) for step in LATE],
    *[(4, around(n, LEARNT), step) for n in ("rankme", "selfcluster") for step in LATE],
    *[(5, around("alpha", LEARNT), step) for step in LATE],
    *[(6, around("rankme", range(COUNT), "backbone.stages.2"), step) for step in LATE],
    *[(7, around("alpha_2_50", LEARNT), step) for step in LATE],
    (7, lambda rows, step: put(rows, "alpha_2_50", hardly_better, (step,)), 4000),
    (8, lambda rows, step: put(rows, "alpha_2_50", lambda r, n: 1.55, (step,), (0, 6, 7, 8)), 4000),
    (8, lambda rows, step: put(rows, "alpha_2_50", lambda r, n: 1.65, (step,), (20, 21)), 4000),
    *[(9, change, step) for change in (chosen_by_rankme, chosen_by_all) for step in (400, *LATE)],
    (9, without_a_turn, 4000),
    *[(10, around("uniformity", LEARNT), step) for step in LATE],
    *[(11, around("alpha_11_100", LEARNT), step) for step in LATE],
]


def test_a_planted_study_meets_every_mended_rule():
    found = claims_of(study())
    assert [claim.name for claim in found] == [
        "M1",
        "M2",
        "M2",
        "M3",
        "M4",
        "M5",
        "M6",
        "M7",
        "M8",
        "M9",
        "N4",
        "N5",
    ]
    assert [claim for claim in found if claim.met is not True] == []
    assert found[0].figure == "6 of 6, 0 of 18; 6 of 6, 0 of 18"
    assert [claim.figure for claim in found[1:3]] == ["18 of 18", "6 of 6"]


@pytest.mark.parametrize(("place", "change", "step"), REFUTED)
def test_a_planted_study_refutes(place, change, step):
    rows = study()
    change(rows, step)
    assert claims_of(rows)[place].met is False


@pytest.mark.parametrize("step", [200, 400, 1000, 2000])
def test_a_first_that_has_not_turned_is_no_choice(step):
    rows = study()
    below_the_best(rows, step)  # it would lose much
    without_a_turn(rows, step)
    put(rows, "phase", lambda row, n: "warming up", (step,), (6,))
    assert claims_of(rows)[9].met is True


@pytest.mark.parametrize(
    ("place", "change", "why"),
    [
        (
            0,
            lambda rows: put(rows, "top1", lambda row, n: 35 + row["step"] / 200, numbers=range(4)),
            "2 did not learn, 22 did",
        ),
        (0, lambda rows: put(rows, "top1", lambda row, n: 30), "24 did not learn, 0 did"),
        (2, lambda rows: put(rows, "rankme", lambda row, n: 20), "there is no such training"),
        (1, lambda rows: collapse(rows), "there is no such training"),
        *(
            (place, lambda rows: collapse(rows, (2000,), range(20)), "only 4 trainings")
            for place in (3, 10, 11)
        ),
    ],
)
def test_what_cannot_be_tested_is_not(place, change, why):
    rows = study()
    change(rows)
    found = claims_of(rows)[place]
    assert found.met is None
    assert why in found.why


def test_the_trainings_that_the_rules_were_found_on_do_not_test_them():
    grid = mended.fresh(h.trainings_of(planted(), "barlow_twins"))
    kept = {(t[0]["lambd"], t[0]["projector_dim"]) for t in grid}
    assert len(grid) == 21  # of eight λ at three widths, λ = 2 was in view
    assert not kept & mended.FOUND_ON
    assert len(mended.FOUND_ON) == 15
    [part] = mended.tested(study("barlow_twins"))
    assert (part.name, part.count, part.planned) == ("nine of the grid", 21, 9)


def test_what_was_not_measured_fails_nobody():
    rows = study()
    [training, *_] = h.trainings_of(rows, "tiny_imagenet")
    assert mended.failing(training)
    for step, name in ((4000, "alpha"), (0, "alpha"), (4000, "rankme")):
        gone = {**training, step: {**training[step], name: math.nan}}
        assert not mended.failing(gone)
    assert not mended.failing(training, 100)  # one record alone has no course


def kinds(change=lambda rows: None, **changes):
    """Claims of three kinds; `changes` are of one of them."""
    rows = []
    for name in mended.KINDS:
        own = study(name)
        put(own, "alpha", lambda row, n: 1.0, (4000,), (COUNT - 1,))
        changes.get(name, change)(own)
        rows += own
    [part] = mended.tested(rows)
    assert (part.name, part.count, part.planned) == ("other kinds", 72, 18)
    return part.claims


def test_where_nobody_learnt_nothing_is_said_in_points():
    rows = study()
    put(rows, "top1", lambda row, n: 4 + n / 7, STEPS)
    for step in LATE:
        put(rows, "rankme", lambda row, n: 99.0, (step,), (6,))  # whose choice loses 2.4 points
        put(rows, "twins_error", lambda row, n: 0.05, (step,), (6,))
        put(rows, "selfcluster", lambda row, n: 0.1, (step,), (6,))
    found = claims_of(rows)
    untested = [claim.name for claim in found if claim.met is None]
    assert untested == ["M1", "M2", "M2", "M8", "M9"]
    assert found[1].outcome(12, 12) == "not tested: by this readout nobody learnt"


def test_other_kinds_meet_what_is_said_of_them():
    found = kinds()
    names = [claim.name for claim in found]
    assert names == ["N1", "N1", *["N2"] * 3, "N3", "N6", *["N7"] * 3, *["N8"] * 4]
    assert [claim for claim in found if claim.met is not True] == []
    assert [claim.figure for claim in found[:2]] == ["0 of 54", "18 of 18"]
    assert found[3].says.startswith("vicreg")


def below_the_best_at_the_end(rows):
    below_the_best(rows, 4000)


def auto_alone(rows):
    """It orders all, and the other window nearly all."""
    put(rows, "alpha", lambda row, n: 1.3 - n / 99, (4000,))
    turned_around(rows, "alpha_2_50", (4000,), (20, 23))


def above_the_level(wrong):
    """Some of the 16 that are not near the best have the α of these."""
    return lambda rows: put(rows, "alpha_2_50", lambda r, n: 1.85, (4000,), range(16 - wrong, 16))


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, lambda rows: two_lose_rank(rows, 4000)),
        (1, lambda rows: two_keep_rank(rows, 4000)),
        (5, lambda rows: turned_around(rows, "alpha_2_50", (4000,))),
        (6, lambda rows: turned_around(rows, "alpha_2_50", (4000,))),
        (6, lambda rows: put(rows, "alpha_2_50", lambda row, n: 1.86, (4000,))),
        (6, lambda rows: put(rows, "alpha_2_50", lambda row, n: 1.85, (4000,))),
        (6, collapse),
        (7, lambda rows: put(rows, "alpha_2_50", lambda row, n: 1 + n / 9, (4000,))),
        (8, auto_alone),
        (10, below_the_best_at_the_end),
        (11, lambda rows: put(rows, "alpha", lambda row, n: 1.0, (4000,), (6,))),
    ],
)
def test_other_kinds_refute(place, change):
    assert kinds(change)[place].met is False


@pytest.mark.parametrize(("wrong", "of_rates", "of_kinds"), [(1, True, True), (4, False, True)])
def test_a_level_has_a_higher_bar_where_only_rates_differ(wrong, of_rates, of_kinds):
    rows = study("rate_decay")
    above_the_level(wrong)(rows)
    [part] = mended.tested(rows)
    assert (part.claims[-1].name, part.claims[-1].met) == ("N6", of_rates)
    assert kinds(above_the_level(wrong))[6].met is of_kinds


def test_one_kind_alone_may_be_chosen_badly():
    found = kinds(vicreg=lambda rows: below_the_best(rows, 4000))
    assert [claim.met for claim in found[2:5]] == [True, False, True]


def test_each_kind_has_a_best_of_its_own():
    """One kind that is worse by 20 points has as many near its best."""
    found = kinds(vit=lambda rows: put(rows, "top1", lambda row, n: row["top1"] - 20, STEPS))
    assert found[5].figure == kinds()[5].figure


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, lambda rows: put(rows, "top1", lambda row, n: 30)),
        (1, lambda rows: put(rows, "top1", lambda row, n: 30 + row["step"] / 200)),
        (2, collapse),
        (10, collapse),
        (11, collapse),
        (5, lambda rows: put(rows, "top1", lambda row, n: 30)),
        (6, lambda rows: put(rows, "top1", lambda row, n: 30)),
        (9, lambda rows: put(rows, "top1", lambda row, n: 30)),
    ],
)
def test_of_other_kinds_what_cannot_be_tested_is_not(place, change):
    assert kinds(change)[place].met is None


@pytest.mark.parametrize(("lost", "met"), [(None, None), (2.0, True), (2.01, False)])
def test_the_verdict_of_the_package_is_judged_where_it_chooses(lost, met):
    assert mended.n9("vit", lost).met is met


def test_a_kind_of_one_training_says_nothing():
    assert mended.other_kinds(planted("vit", settings=range(1))) == []


@pytest.mark.parametrize(
    ("name", "change", "met"),
    [
        ("alpha", 0.0999, True),
        ("alpha", -0.1001, False),
        ("top1", 1.999, True),
        ("top1", -2.001, False),
        ("twins_error", 0.01599, True),
        ("twins_error", -0.01601, False),
    ],
)
def test_another_machine_gives_nearly_the_same(name, change, met):
    rows = planted("rate_decay", settings=range(3)) + planted("on_cpu", settings=range(1, 3))
    rows += planted("on_cpu", settings=range(7, 8))  # without its like
    for row in rows:  # the settings of these differ in rate and decay
        row["learning_rate"], row["weight_decay"] = row["lambd"], float(row["projector_dim"])
        row["twins_error"] = 0.2
    put(
        rows,
        name,
        lambda row, n: row[name] + change * (row["experiment"] == "on_cpu"),
        (4000,),
        (2,),
    )
    [part] = mended.repeated(rows)
    assert (part.count, part.planned) == (2, 2)
    assert [c.met for c in part.claims] == [met, None, None]
