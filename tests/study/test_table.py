"""The table of the long study: phases by hand, what it is derived from, and back from the file."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from study import run, table
from study.hypotheses import learnt, trainings_of
from study.mended import failing

COMMITTED = sorted((table.RESULTS / "barlow_twins").glob("*.json"))
STEPS = (0, 50, 100, 200, 400, 1000, 3000, 4000)


def course(alphas, **last):
    """Rows at the first of `STEPS`."""
    rows = [
        {
            "step": step,
            "alpha": alpha,
            "alpha_2_50": alpha,
            "r2": 0.99,
            "stderr": 0.01,
            "rankme": 50.0,
            "num_features": 256,
        }
        for step, alpha in zip(STEPS, alphas, strict=False)
    ]
    rows[-1] |= last
    return rows


RISEN = (1.6, 1.5, 1.8, 2.0, 2.2, 2.1, 1.9)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (course((1.6, 1.5, 1.8, 2.0), alpha=math.nan, r2=math.nan), "collapsed"),
        (course((*RISEN, 1.7), r2=0.79), "collapsed"),
        (course((*RISEN, 1.7), rankme=5.1), "collapsed"),
        (course((*RISEN, 1.7), rankme=5.2), "settling"),
        (course((1.6,)), "unknown"),
        (course((1.6, 1.5, 1.8)), "unknown"),  # one record from step 100 on
        (course(RISEN)[1:], "unknown"),  # no untrained network
        (course((math.nan, *RISEN[1:])), "unknown"),
        (course((1.6, 1.5, 1.8, 2.0), step=130), "unknown"),  # nothing from 100 to 97
        (course((1.6, 1.5, 1.49, 1.9)), "failing"),
        (course((1.6, 1.4, 1.51, 1.9)), "warming up"),  # step 50 is passed over
        (course((1.6, 1.5, 1.49, 1.9, 2.2, 1.9, 1.9, 1.9)), "settled"),  # began low, but turned
        (course((*RISEN, 2.151)), "warming up"),
        (course((*RISEN, 2.149)), "settling"),
        (course((*RISEN, 2.0), stderr=0.11), "warming up"),  # .2 are two of its errors
        (course((*RISEN, 1.7)), "settling"),
        (course((*RISEN, 1.86)), "settled"),
        (course((*RISEN, 1.7), alpha_2_50=1.89), "settled"),  # the other window rests
        (course((*RISEN, 1.7), alpha_2_50=math.nan), "settling"),
        (course((*RISEN, 1.83), stderr=0.04), "settled"),  # .07 are less than 2 √(.04² + .01²)
    ],
)
def test_phases(rows, expected):
    assert table.phase(rows) == expected


def test_u_is_the_last_measurement_before_three_quarters():
    still = course((1.6, 1.5, 1.8, 2.0, 2.2, 2.1, 1.7, 1.7))
    moved = course((1.6, 1.5, 1.8, 2.0, 2.2, 1.7, 1.9, 1.7))
    assert (table.phase(still), table.phase(moved)) == ("settled", "settling")


@pytest.fixture(scope="module")
def rows():
    return table.table()


def same(first, second):
    keys = [list(row) for row in first] == [list(row) for row in second]
    return keys and all(
        a[key] == b[key] or (a[key] != a[key] and b[key] != b[key])
        for a, b in zip(first, second, strict=True)
        for key in a
    )


def test_rows_read_back_are_the_rows_that_were_written(rows, tmp_path):
    from study.hypotheses import tested

    table.write_table(rows, tmp_path / "table.csv")
    back = table.read_table(tmp_path / "table.csv")
    assert same(rows, back)
    assert str(tested(back)) == str(tested(rows))


def test_the_committed_table_is_made_of_the_committed_results(rows, tmp_path):
    table.write_table(rows, tmp_path / "table.csv")
    written = (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert table.CSV.read_text(encoding="utf-8") == written, "run make study-report"
    assert {row["experiment"] for row in rows} <= set(table.PLANNED)


def last_row(rows, path, layer):
    of_end = (path.parent.name, path.stem, layer, 4000)
    found = [r for r in rows if (r["experiment"], r["training"], r["layer"], r["step"]) == of_end]
    assert len(found) == 1
    return found[0]


def test_a_row_holds_what_the_file_holds(rows):
    path = COMMITTED[0]
    values = json.loads(path.read_text())
    row = last_row(rows, path, "backbone.stages.2")
    measured = values["steps"][-1]
    layer = measured["layers"]["backbone.stages.2"]
    expected = layer["scores"] | {
        "alpha": layer["alpha"],
        "stderr": layer["stderr"],
        "lambd": values["params"]["model.lambd"],
        "twins_error": measured["twins_error"],
        "loss": measured["losses"]["loss"],
        "loss_redundancy": measured["losses"]["redundancy"],
        "redundancy": measured["redundancy"],
        "top1": measured["readout"]["top1"],
        "other_top5": measured["other_readout"]["top5"],
        "seconds": values["seconds"],
    }
    assert {key: row[key] for key in expected} == expected
    assert math.isnan(row["temperature"])
    assert math.isnan(row["alpha_11_100"])  # of 64 features


def test_other_windows_are_fitted_to_the_stored_eigenvalues(rows):
    path = COMMITTED[0]
    spectrum = json.loads(path.read_text())["steps"][-1]["layers"]["backbone"]["eigenvalues"]
    row = last_row(rows, path, "backbone")
    for name, (first, last) in {"alpha_2_50": (2, 50), "alpha_11_100": (11, 100)}.items():
        ranks = np.arange(first, last + 1)
        slope, _ = np.polyfit(
            np.log(ranks), np.log(spectrum[first - 1 : last]), 1, w=1 / np.sqrt(ranks)
        )
        assert row[name] == pytest.approx(-slope, rel=1e-4)  # five digits are kept
        assert len(f"{row[name]:.10f}".rstrip("0").replace(".", "").lstrip("0")) <= 5


def test_what_could_not_be_measured_is_empty(tmp_path):
    """A training whose features and losses are no numbers at its end."""
    values = json.loads(COMMITTED[0].read_text())
    last = values["steps"][-1]
    last |= {"twins_error": None, "losses": dict.fromkeys(last["losses"]), "alignment": None}
    last["readout"] = {"top1": None, "top5": None, "problem": "not finite"}
    for layer in last["layers"].values():
        layer |= {"alpha": None, "r2": None, "stderr": None, "fit_range": None}
        layer |= {"scores": dict.fromkeys(layer["scores"]), "eigenvalues": []}
    (tmp_path / "barlow_twins").mkdir()
    (tmp_path / "barlow_twins" / "lost.json").write_text(json.dumps(values))
    table.write_table(table.table(tmp_path), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r["step"] == "4000")
    assert (row["phase"], row["num_features"]) == ("collapsed", "256")
    assert [row[n] for n in ("alpha", "alpha_2_50", "loss", "twins_error", "top1", "rankme")] == [
        ""
    ] * 6


def test_the_data_card_names_every_column_and_no_other(rows):
    card = (table.RESULTS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", card, flags=re.MULTILINE) == list(rows[0])


def test_every_hyperparameter_that_differs_is_a_column():
    assert tuple(table.PLANNED) == run.ORDER
    plans = [run.read_experiment(run.CONFIGS / f"{name}.yaml") for name in run.ORDER]
    varied = {key for plan in plans for block in plan["runs"] for key in block}
    columns = {*table.HYPERPARAMETERS, "seed"}
    assert {key.rpartition(".")[2].replace("seed_everything", "seed") for key in varied} <= columns


def test_another_loss_has_no_lambda(tmp_path):
    (tmp_path / "simclr").mkdir()
    values = json.loads(COMMITTED[0].read_text())
    values |= {"experiment": "simclr"}
    values["hyperparameters"] |= {"temperature": 0.5}
    values["steps"] = values["steps"][:1]
    values["steps"][0]["losses"] = {"loss": 2.0}
    (tmp_path / "simclr" / "temperature=0.5.json").write_text(json.dumps(values))
    shutil.copytree(table.RESULTS / "turned", tmp_path / "turned")
    row = table.table(tmp_path)[0]
    assert (row["temperature"], row["loss"]) == (0.5, 2.0)
    assert math.isnan(row["lambd"])
    assert math.isnan(row["loss_redundancy"])
    assert {Path(r["training"]).name for r in table.table(tmp_path)} == {"temperature=0.5"}


def test_what_the_warning_counts_is_what_was_measured(rows):
    """`alarm` of the package says how often it was right."""
    names = ("barlow_twins", "seeds", "rate_decay", "vit", "wide", "on_cpu")
    groups = {name: trainings_of(rows, name) for name in (*names, "vicreg")}
    twins = [training for name in names for training in groups[name]]
    fate = dict(zip(map(id, twins), learnt(twins), strict=True))
    at_the_end = [fate[id(training)] for training in twins if failing(training)]
    for_a_while = [t for t in twins if fate[id(t)] and any(failing(t, step) for step in t)]
    assert (len(twins), at_the_end, len(for_a_while)) == (58, [False] * 15, 4)
    vicreg = groups["vicreg"]
    named = [ok for training, ok in zip(vicreg, learnt(vicreg), strict=True) if failing(training)]
    assert (len(vicreg), named) == (6, [True])
