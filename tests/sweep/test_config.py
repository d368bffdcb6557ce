import pytest
import yaml

from alphareq_lightning.errors import OptionError

from sweeps import write_sweep

pytest.importorskip("optuna")

from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from alphareq_lightning.sweep import read_sweep
from alphareq_lightning.sweep.config import Halving


def sweep(folder, **options):
    return read_sweep(write_sweep(folder, **options))


def test_lists_and_ranges(tmp_path):
    path = write_sweep(tmp_path, sampler="random", trials=3)
    text = yaml.safe_dump({"sampler": "random", "trials": 3, "train": "train.yaml"})
    path.write_text(
        text + "space:\n  a: [1e-4, 2, true, name]\n  b: {low: 1e-5, high: 1, log: true}\n"
        "  c: {low: 1, high: 9, step: 2}\n"
    )
    space = read_sweep(path).space
    assert space["a"] == CategoricalDistribution([1e-4, 2, True, "name"])  # YAML 1.1 says "1e-4"
    assert space["b"] == FloatDistribution(1e-5, 1, log=True)
    assert space["c"] == IntDistribution(1, 9, step=2)


def test_a_grid_is_whole_and_shuffled_and_a_longer_plan_begins_with_the_shorter(tmp_path):
    space = {"a": [1, 2, 3, 4], "b": ["x", "y", "z"]}
    whole = sweep(tmp_path, space=space).plan()
    assert sorted((p["a"], p["b"]) for p in whole) == [(a, b) for a in (1, 2, 3, 4) for b in "xyz"]
    assert [p["a"] for p in whole] != sorted(p["a"] for p in whole)
    assert sweep(tmp_path, space=space, trials=5).plan() == whole[:5]
    assert sweep(tmp_path, space=space, seed=1).plan() != whole
    options = {"space": {"a": {"low": 0.0, "high": 1.0}}, "sampler": "random"}
    drawn = sweep(tmp_path, **options, trials=9).plan()
    assert len({p["a"] for p in drawn}) == 9
    assert sweep(tmp_path, **options, trials=4).plan() == drawn[:4]
    assert sweep(tmp_path, **{**options, "sampler": "tpe"}, trials=2).plan() == [{}, {}]


def test_early_stopping(tmp_path):
    assert sweep(tmp_path).early_stopping is None
    assert sweep(tmp_path, early_stopping="halving").early_stopping == Halving()
    given = sweep(tmp_path, early_stopping={"min_epochs": 4}).early_stopping
    assert given == Halving(min_epochs=4)


def test_defaults_lie_beside_the_runs(tmp_path):
    given = sweep(tmp_path, out=None)
    assert (given.name, str(given.out)) == ("tiny_sweep", "runs/tiny_sweep")
    assert given.storage == "sqlite:///runs/tiny_sweep/study.db"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "gird"}, "expected one of grid, random, tpe, got 'gird'"),
        ({"sapce": {}}, "tiny_sweep.yaml: unknown key 'sapce'; did you mean 'space'?"),
        ({"readout": {"prob": "knn"}}, "readout: unknown key 'prob'; did you mean 'probe'?"),
        ({"readout": {"probe": "svm"}}, "expected one of logistic, adam, knn, got 'svm'"),
        ({"readout": {"labels_per_class": 0}}, "labels_per_class: expected a whole number >= 1"),
        ({"search": {"topk": 3}}, "search: unknown key 'topk'; did you mean 'top_k'?"),
        ({"search": {"top_k": -1}}, "search: top_k: expected a whole number >= 0, got -1"),
        ({"search": {"margin": -1}}, "search: margin: expected a whole number >= 0, got -1"),
        ({"search": 5}, "search: expected keys and values, got 5"),
        ({"early_stopping": {"reduction_factor": 1}}, "expected a whole number >= 2, got 1"),
        ({"space": {}}, "'space' is missing or empty"),
        ({"space": None}, "'space' is missing or empty"),
        ({"space": {"a": []}}, "space: a: expected a list of different numbers"),
        ({"space": {"a": [1, 1]}}, "space: a: expected a list of different numbers"),
        ({"space": {"a": [[1], [2]]}}, "space: a: expected a list of different numbers"),
        ({"space": {"a": 3}}, "space: a: expected a list of choices, or low: and high:, got 3"),
        ({"space": {"a": {"low": 1, "hihg": 2}}}, "expected a list of choices, or low"),
        ({"space": {"a": {"low": 1, "high": 2, "stpe": 1}}}, "'stpe'; did you mean 'step'"),
        ({"space": {"a": {"low": 2, "high": 1}}}, r"space: a: .*low <= high"),
        ({"space": {"a": {"low": "x", "high": 1}}}, "space: a: "),
        ({"space": {"a": {"low": 0, "high": 1}}}, "space: a: a grid needs a list of choices"),
        ({"sampler": "random"}, "sampler: random needs trials: the number of trials"),
        ({"trials": 1.5}, "trials: expected a whole number >= 1, got 1.5"),
        ({"seed": -1}, "seed: expected a whole number >= 0, got -1"),
        ({"train": "gone.yaml"}, r"there is no config .*gone.yaml to train by"),
        ({"out": ["a"]}, r"out: expected text, got \['a'\]"),
        ({"name": {"a": 1}}, r"name: expected text, got \{'a': 1\}"),
        ({"storage": ["a"]}, r"storage: expected text, got \['a'\]"),
        ({"train": ["a"]}, r"train: expected text, got \['a'\]"),
        ({"train": None}, "'train' is missing or empty"),
    ],
)
def test_what_cannot_be_swept(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        sweep(tmp_path, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "is not YAML: .*line 1"), ("- 1", r"expected keys and values, got \[1\]")],
)
def test_foreign_files(tmp_path, text, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_sweep(path)
    with pytest.raises(OptionError, match="cannot read the sweep .*gone.yaml"):
        read_sweep(tmp_path / "gone.yaml")
