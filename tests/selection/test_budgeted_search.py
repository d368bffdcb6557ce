"""A handful of readouts, spent on what the ones before speak for."""

import math
import random

import pytest

from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.selection.budgeted_search import BudgetedSearch


def run(criteria, accuracy, budget=12, seed=0):
    search = BudgetedSearch(criteria, budget=budget, seed=seed)
    while (name := search.ask()) is not None:
        search.tell(name, accuracy(name))
    return search


def two_criteria(n=60, seed=0):
    rng = random.Random(seed)
    names = [f"m{i:02d}" for i in range(n)]
    good, bad = (rng.sample(range(n), n) for _ in range(2))
    return {"good": dict(zip(names, good, strict=True)), "bad": dict(zip(names, bad, strict=True))}


@pytest.mark.parametrize("sign", [1, -1], ids=["as known", "upside down"])
def test_the_criterion_that_tells_is_believed_in_its_direction(sign):
    criteria = two_criteria()
    search = run(criteria, lambda name: 60 - sign * criteria["good"][name] / 3)
    assert search.believed == "good"
    assert criteria["good"][search.best] in ((0, 1) if sign == 1 else (58, 59))
    assert search.num_readouts <= 12


def test_where_nothing_tells_chance_chooses_within_the_budget():
    criteria, rng = two_criteria(), random.Random(3)
    accuracies = {name: rng.gauss(50, 5) for name in criteria["good"]}
    first, again = (run(criteria, accuracies.__getitem__, seed=1) for _ in range(2))
    assert list(first.scores) == list(again.scores)
    assert 4 < first.num_readouts <= 12


def test_a_search_that_was_killed_goes_on_the_same_way():
    criteria = two_criteria()
    whole = run(criteria, lambda name: 60 - criteria["good"][name] / 3)
    half = BudgetedSearch(criteria, budget=12)
    *before, last = whole.scores
    for name in before:
        half.tell(name, whole.scores[name])
    assert half.ask() == last


def test_failed_readouts_are_paid_and_say_nothing():
    criteria = two_criteria()
    failing = set(list(criteria["good"])[::2])
    search = run(
        criteria, lambda n: math.nan if n in failing else 60 - criteria["good"][n] / 3, budget=20
    )
    assert search.best not in failing
    assert len(search.scores) <= 20
    nothing = run(criteria, lambda name: math.nan, budget=6)
    assert (nothing.best, nothing.num_readouts) == (None, 6)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_models_are_all_read_out_or_fewer(n):
    search = run(two_criteria(n), lambda name: 50.0, budget=9)
    assert 1 <= search.num_readouts <= n
    assert search.best is not None


def test_a_model_without_a_value_comes_last_and_not_never():
    values = {"a": 0.1, "b": 0.2, "c": math.nan}
    assert run({"x": values}, lambda name: 50.0).num_readouts == 3


def test_what_is_refused():
    with pytest.raises(OptionError, match="budget >= 1, got 1, budget=0"):
        BudgetedSearch({"x": {"a": 1.0}}, budget=0)
    with pytest.raises(OptionError, match="expected models"):
        BudgetedSearch({}, budget=3)
    search = BudgetedSearch({"x": {"a": 1.0}}, budget=3)
    with pytest.raises(SelectionError, match="'b', which is not among the models"):
        search.tell("b", 1.0)
    search.tell("a", 1.0)
    with pytest.raises(SelectionError, match="'a', which has a score already"):
        search.tell("a", 1.0)
