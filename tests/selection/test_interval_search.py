"""The interval search against a plain transcription of the published algorithm."""

import json
import math

import numpy as np
import pytest

from alphareq_lightning import OptionError, SelectionError
from alphareq_lightning.selection import AlphaIntervalSearch, Readout, closing_interval


def landscape(n, noise, rng):
    alpha = rng.uniform(0.4, 2.2, n)
    return alpha, 90 - 25 * (alpha - 1) ** 2 + rng.normal(0, noise, n)


def published(alpha, accuracy, order, per_step=10):
    """The loop of the authors' code: which models are read out, and the interval at the end."""
    k, interval, evaluated = per_step // 2, [0, 10000], []
    for start in range(0, len(order), per_step):
        for i in order[start : start + per_step]:
            if interval[0] <= alpha[i] <= interval[1]:
                evaluated.append(i)
        top = sorted(evaluated, key=lambda i: -accuracy[i])[:k]
        low, high = min(alpha[i] for i in top), max(alpha[i] for i in top)
        if low > min(alpha[i] for i in evaluated):
            interval[0] = low
        if high < max(alpha[i] for i in evaluated):
            interval[1] = high
    return evaluated, interval


def search_in_steps(search, alpha, accuracy, order, per_step=10):
    for start in range(0, len(order), per_step):
        step = order[start : start + per_step]
        asked = search.ask({str(i): alpha[i] for i in step})
        search.tell({name: accuracy[int(name)] for name in asked})
    return search


@pytest.mark.parametrize("noise", [0, 1, 4])
@pytest.mark.parametrize("n", [20, 80, 300])
def test_in_steps_it_is_the_published_algorithm(n, noise):
    rng = np.random.default_rng(n)
    for _ in range(5):
        alpha, accuracy = landscape(n, noise, rng)
        order = rng.permutation(n)
        search = search_in_steps(AlphaIntervalSearch(), alpha, accuracy, order)
        evaluated, (low, high) = published(alpha, accuracy, order)
        assert [int(name) for name in search.readouts] == evaluated
        assert (max(search.interval[0], 0), min(search.interval[1], 10000)) == (low, high)
        assert search.num_readouts + search.num_saved == n


def test_a_margin_keeps_the_next_model_on_each_side():
    points = [Readout(a, 90 - abs(a - 1)) for a in (0.2, 0.6, 0.9, 1.0, 1.1, 1.4, 1.8)]
    assert closing_interval(points, top_k=3) == (0.9, 1.1)
    assert closing_interval(points, top_k=3, margin=1) == (0.6, 1.4)
    assert closing_interval(points, top_k=3, margin=2) == (0.2, 1.8)
    assert closing_interval(points, top_k=3, margin=3) == (-math.inf, math.inf)


def test_a_careful_search_misses_less():
    rng = np.random.default_rng(0)
    found = {0: 0, 1: 0}
    for _ in range(60):
        alpha, accuracy = landscape(80, 1.0, rng)
        order = rng.permutation(80)
        for margin in found:
            search = AlphaIntervalSearch(margin=margin)
            search_in_steps(search, alpha, accuracy, order, per_step=1 if margin else 10)
            found[margin] += accuracy[int(search.best)] >= accuracy.max() - 1
    assert found[1] > found[0] >= 45


def test_fewer_models_than_a_step_are_all_read_out():
    search = AlphaIntervalSearch()
    assert search.ask({"a": 0.1, "b": 5.0}) == ["a", "b"]
    search.tell({"a": 50, "b": 60})
    assert search.interval == (-math.inf, math.inf)
    assert search.best == "b"


def test_ties_do_not_widen_the_interval():
    search = AlphaIntervalSearch(top_k=2)
    search.ask({str(a): a for a in (0.5, 1.0, 1.5, 2.0)})
    search.tell({str(a): 70.0 for a in (0.5, 1.0, 1.5, 2.0)})
    assert search.interval == (-math.inf, 1.0)  # the two told first; 0.5 is outermost
    assert search.best == "0.5"


def test_everything_outside_is_skipped_and_the_search_goes_on():
    search = AlphaIntervalSearch(top_k=1)
    search.ask({"a": 0.9, "b": 1.0, "c": 1.1})
    search.tell({"a": 1, "b": 2, "c": 1})
    assert search.interval == (1.0, 1.0)
    assert search.ask({"d": 3.0, "e": 0.1}) == []
    assert search.ask({"f": 1.0}) == ["f"]
    assert search.num_saved == 2


def test_failed_readouts_and_collapsed_models():
    search = AlphaIntervalSearch(top_k=1)
    assert search.ask({"a": 0.9, "b": math.nan, "c": 1.1, "d": 1.3}) == ["a", "c", "d"]
    search.tell({"a": math.nan, "c": 50, "d": 60})
    assert search.num_readouts == 3
    assert search.best == "d"
    assert search.interval == (1.3, math.inf)
    assert AlphaIntervalSearch().best is None


def test_scores_in_any_order_and_asking_again():
    search = AlphaIntervalSearch()
    assert search.ask({"a": 1.0, "b": 2.0}) == ["a", "b"]
    search.tell({"b": 3})
    assert search.ask({"a": 1.0, "b": 2.0}) == ["a"]


def test_what_cannot_be_told_or_asked():
    search = AlphaIntervalSearch()
    search.ask({"a": 1.0})
    with pytest.raises(SelectionError, match="two models are called 'a'.*1.0.*2.0"):
        search.ask({"a": 2.0})
    with pytest.raises(SelectionError, match="'x', which was not asked for"):
        search.tell({"x": 1})
    search.tell({"a": 1})
    with pytest.raises(SelectionError, match="'a', which has a score already"):
        search.tell({"a": 1})
    for wrong in ({"top_k": 0}, {"margin": -1}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            AlphaIntervalSearch(**wrong)


def test_state_survives_a_restart(tmp_path):
    rng = np.random.default_rng(3)
    alpha, accuracy = landscape(60, 1, rng)
    alpha[7] = math.nan
    order = rng.permutation(60)
    straight = search_in_steps(AlphaIntervalSearch(margin=1), alpha, accuracy, order)
    half = search_in_steps(AlphaIntervalSearch(margin=1), alpha, accuracy, order[:30])
    half.ask({str(order[30]): alpha[order[30]]})  # asked for, and killed before the score
    half.save(tmp_path / "deep" / "search.json")
    again = AlphaIntervalSearch.load(tmp_path / "deep" / "search.json")
    search_in_steps(again, alpha, accuracy, order[30:])
    assert again.readouts == straight.readouts
    assert again.skipped.keys() == straight.skipped.keys()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["search.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"top_k": 5, "margin": 0})])
def test_files_that_are_no_state(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SelectionError, match=r"a.json is not a saved interval search"):
        AlphaIntervalSearch.load(tmp_path / "a.json")
    with pytest.raises(SelectionError, match=r"cannot read the search in .*gone"):
        AlphaIntervalSearch.load(tmp_path / "gone.json")
