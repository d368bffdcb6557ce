"""Each hypothesis on a planted study where it is met, and on one where it is refuted."""

import math
from itertools import combinations

import numpy as np
import pytest

from study import hypotheses as h

from planted_study import (
    FAILING,
    LEARNT,
    LOST,
    READ,
    STEPS,
    grid_of,
    planted,
    put,
    seeds,
    turned_around,
)


def claims(rows, name):
    """Of one hypothesis."""
    layers = ("backbone", "backbone.stages.2") if name == "H13" else ("backbone",)
    own = (h.trainings_of(rows, "barlow_twins", layer) for layer in layers)
    return getattr(h, name.lower())(*own)


def claims_of(rows):
    return {part.name: part.claims for part in h.tested(rows)}


def below_the_best(rows):
    """What H3 orders by puts the second best first and the best last."""
    for name, worst in {"twins_error": 2.0, "rankme": 6.0, "selfcluster": 2.0}.items():
        put(rows, name, lambda row, n, worst=worst: worst, (4000,), (23,))


def above_the_best(rows):
    """A poor one is put first, and the best behind it."""
    for name, best in {"twins_error": 0.05, "rankme": 30.0, "selfcluster": 0.1}.items():
        put(rows, name, lambda row, n, best=best: best, (4000,), (10,))


def poor_abroad(rows):
    """The choice by E is a seventh worse there than the best, and hardly another order."""
    put(rows, "other_top1", lambda row, n: (n if n != 23 else 16.5) + 20, (4000,))


REFUTED = [
    ("H1", 0, lambda rows: turned_around(rows, "alpha", (4000,))),
    ("H1", 0, lambda rows: turned_around(rows, "alpha", (100,))),
    ("H1", 1, lambda rows: turned_around(rows, "alpha", (1000, 2000))),
    ("H2", 0, lambda rows: put(rows, "phase", lambda row, n: "warming up", (4000,))),
    ("H2", 1, lambda rows: put(rows, "phase", lambda row, n: "failing", (400,))),
    ("H2", 1, lambda rows: put(rows, "phase", lambda row, n: "warming up", (400,))),
    ("H3", 0, lambda rows: [turned_around(rows, n, (4000,), LEARNT) for n in h.ALIKE]),
    ("H3", 0, below_the_best),
    ("H3", 0, above_the_best),
    ("H4", 0, lambda rows: turned_around(rows, "twins_error", (400,))),
    ("H4", 1, lambda rows: turned_around(rows, "selfcluster", (1000,))),
    ("H4", 2, lambda rows: turned_around(rows, "rankme", (100,))),
    ("H4", 2, lambda rows: turned_around(rows, "rankme", (400,))),
    ("H4", 3, lambda rows: turned_around(rows, "twins_error", (4000,), LEARNT)),
    ("H5", 0, lambda rows: turned_around(rows, "other_top1", (4000,))),
    ("H5", 0, poor_abroad),
    ("H5", 0, lambda rows: turned_around(rows, "other_top1", (4000,), range(23))),
    ("H6", 0, lambda rows: put(rows, "top1", lambda row, n: row["top1"] + 12, (1000,), LEARNT)),
    ("H6", 0, lambda rows: put(rows, "top1", lambda row, n: 35.0, READ, LOST)),
    (
        "H7",
        0,
        lambda rows: [turned_around(rows, n, (4000,)) for n in ("alpha", "rankme", "twins_error")],
    ),
    ("H9", 0, lambda rows: put(rows, "alpha_2_50", lambda row, n: 1.5 + n / 100, (1000,))),
    ("H9", 0, lambda rows: put(rows, "alpha_2_50", lambda row, n: row["alpha"], (1000, 2000))),
    ("H10", 0, lambda rows: put(rows, "alpha", lambda row, n: 2.5, (4000,), (23,))),
    ("H10", 0, lambda rows: put(rows, "alpha", lambda row, n: 2.5, (4000,), range(16))),
    (
        "H11",
        0,
        lambda rows: put(rows, "alpha", lambda row, n: 1.3 + row["step"] / 1e4, LATE, LEARNT),
    ),
    ("H11", 1, lambda rows: put(rows, "alpha", lambda row, n: 1.0, (4000,), LOST)),
    ("H12", 0, lambda rows: put(rows, "loss", lambda row, n: -n)),
    ("H12", 0, lambda rows: put(rows, "twins_error", lambda row, n: 9 * (n % 3) - n / 23)),
    ("H13", 0, lambda rows: turned_around(rows, "alpha", (100,), layer="backbone.stages.2")),
    ("H14", 0, lambda rows: put(rows, "phase", lambda row, n: "settled", (400,), range(7))),
]
LATE = (1000, 2000, 3000, 4000)


def test_a_planted_study_meets_every_hypothesis():
    parts = h.tested(planted() + seeds())
    assert [(part.name, part.count, part.preliminary) for part in parts] == [
        ("the grid", 24, False),
        ("seeds of the grid", 12, False),
        ("projector 1,024 alone", 8, False),
        ("seeds of projector 1,024 alone", 6, False),
    ]
    names = [claim.name for claim in parts[0].claims]
    assert {*names, "H8"} == {f"H{number}" for number in range(1, 15)}
    assert {(name, place) for name, place, _ in REFUTED} == {
        (name, place) for name in names for place in range(names.count(name))
    }
    assert [claim for part in parts[:2] for claim in part.claims if claim.met is not True] == []


@pytest.mark.parametrize(("name", "place", "change"), REFUTED)
def test_a_planted_study_refutes(name, place, change):
    rows = planted()
    change(rows)
    found = claims(rows, name)[place]
    assert found.met is False
    assert found.outcome(24, 24) == "refuted"
    assert found.outcome(7, 24) == "preliminary, 7 of 24; now: refuted"


@pytest.mark.parametrize(
    ("place", "name", "factor"), [(0, "top1", 1.05), (1, "alpha", 1.1), (2, "twins_error", 1.2)]
)
def test_seeds_that_differ_refute(place, name, factor):
    others = seeds()
    for row in others:
        row[name] *= factor if row["training"].endswith("1") else 1 / factor
    found = claims_of(planted() + others)["seeds of the grid"]
    assert [claim.met for claim in found] == [i != place for i in range(3)]


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        (
            "H2",
            lambda rows: put(rows, "top1", lambda row, n: 35 + row["step"] / 200, numbers=LOST),
            "0 did not learn",
        ),
        (
            "H3",
            lambda rows: put(rows, "phase", lambda row, n: "warming up", (4000,)),
            "no training has turned",
        ),
        (
            "H5",
            lambda rows: put(rows, "other_top1", lambda row, n: math.nan),
            "no readout on other images",
        ),
        (
            "H6",
            lambda rows: put(rows, "phase", lambda row, n: "unknown", (4000,)),
            "no training has a choice",
        ),
        (
            "H1",
            lambda rows: put(rows, "alpha", lambda row, n: 1.7, (4000,)),
            "a correlation is undefined",
        ),
        (
            "H12",
            lambda rows: put(rows, "projector_dim", lambda row, n: 64.0),
            "it needs two projectors",
        ),
    ],
)
def test_what_cannot_be_tested_says_why(name, change, why):
    rows = planted()
    change(rows)
    found = claims(rows, name)
    assert {claim.met for claim in found} == {None}
    assert all(f"not tested: {why}" in claim.outcome(24, 24) for claim in found)


def test_few_trainings_are_preliminary_and_subsets_need_more():
    [part] = h.tested(planted(settings=range(8, 24, 2))[: 8 * 2 * len(STEPS)])[:1]
    assert part.count == 8
    assert part.preliminary
    [seventh] = [claim for claim in part.claims if claim.name == "H7"]
    assert seventh.outcome(8, 24).startswith("preliminary, 8 of 24; now: not tested: subsets of 16")


def test_other_experiments_repeat_four_hypotheses():
    rows = planted() + planted("rate_decay")
    found = claims_of(rows)["rate_decay"]
    assert [claim.name for claim in found] == ["H1", "H1", "H2", "H2", "H4", "H4", "H4", "H4", "H9"]
    assert all(claim.met for claim in found)


def test_missing_values_count_as_the_worst():
    rows = planted()
    put(rows, "alpha", lambda row, n: math.nan, (4000,), (23,))
    put(rows, "top1", lambda row, n: math.nan, (4000,), (23,))
    grid = grid_of(rows)
    assert h.criterion("alpha", grid, 4000)[23] == -math.inf
    assert h.accuracy(grid)[23] == 0


def test_who_learnt():
    rows = planted(settings=range(FAILING, FAILING + 5))
    put(rows, "top1", lambda row, n: 35.0)
    ends = {
        6: {4000: 40.0},
        7: {4000: 39.9},
        8: {1000: 42.1, 4000: 40.0},
        9: {3000: 50.0, 4000: 40},
    }
    for number, course in ends.items():
        for step, value in course.items():
            put(rows, "top1", lambda row, n, value=value: value, (step,), (number,))
    assert h.learnt(grid_of(rows)).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("told", "kept"),
    [("settled", 2000), ("failing", 100), ("warming up", 4000), ("collapsed", None)],
)
def test_the_checkpoint_that_is_kept(told, kept):
    rows = planted(settings=[20])
    courses = dict(zip(READ, (1.0, 1.1, 1.5, 2.2, 1.8, 1.2, 1.4, 1.6), strict=True))
    put(rows, "alpha", lambda row, n: courses.get(int(row["step"]), 1.6))
    put(rows, "phase", lambda row, n: told, (4000,))
    [training] = grid_of(rows)
    assert h.peak_step(training) == 400
    assert h.chosen_step(training, READ) == kept
    if kept is not None:
        lost, last = h.checkpoint_losses([training])
        accuracies = {step: training[step]["top1"] for step in READ}
        assert lost[0] == max(accuracies.values()) - accuracies[kept]
        assert last[0] == 0


def test_the_peak_itself_is_not_kept():
    rows = planted(settings=[20])
    put(rows, "alpha", lambda row, n: 0.95 if row["step"] == 400 else 0.5 + row["step"] / 1e5)
    assert h.chosen_step(grid_of(rows)[0], READ) == 4000


def test_the_choice_is_the_best_mean_rank_of_those_that_turned():
    rows = planted(settings=(10, 20, 21, 22, 23))
    put(rows, "phase", lambda row, n: "warming up", (4000,), (23,))
    places = {10: (0.9, 30, 0.9), 20: (0.1, 20, 0.5), 21: (0.2, 25, 0.5), 22: (0.3, 10, 0.1)}
    for name, place in zip(("twins_error", "rankme", "selfcluster"), range(3), strict=True):
        put(rows, name, lambda row, n, i=place: places[n][i], (4000,), places)
    # Places, best is 4: E 1 4 3 2, RankMe 4 2 3 1, SelfCluster 1 2.5 2.5 4. Sums 6 8.5 8.5 7.
    assert h.in_order(grid_of(rows)) == [1, 2, 3, 0]


def test_three_readouts_against_chance_counted_out():
    rows = planted()
    put(rows, "top1", lambda row, n: 2.0 * n, (4000,))  # only a subset's best is within a point
    found = h.budget(grid_of(rows))
    assert found.three == 1
    assert found.by_chance[10] == pytest.approx(10 / 16)
    assert found.by_chance[3] == pytest.approx(3 / 16)
    put(rows, "top1", lambda row, n: 50.0 if n > 12 else 0.0, (4000,))
    chances = []
    draws = np.random.default_rng(0)
    for _ in range(h.DRAWS):
        good = {i for i, n in enumerate(draws.choice(24, 16, replace=False)) if n > 12}
        pairs = [bool(good & set(pair)) for pair in combinations(range(16), 1)]
        chances.append(np.mean(pairs))
    assert h.budget(grid_of(rows)).by_chance[1] == pytest.approx(np.mean(chances))
