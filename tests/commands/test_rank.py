"""What a ranking shows of its records."""

import json

import pytest
import torch
from rich.console import Console

from alphareq_lightning import append_record
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.report.ranking import ranking_rows, ranking_table

from plain_records import plain_record, with_values


def record(alpha, **values):
    settings = {"r2": 1.0, "stderr": 0.0, "fit_range": (4, 50)}
    return plain_record(alpha=alpha, **settings, **values)


def shown(records):
    console = Console(width=160)
    with console.capture() as captured:
        console.print(ranking_table(records, 1.0))
    return captured.get()


def test_corrected_alpha_is_shown_where_there_is_one():
    some = record(0.9, alpha_corrected=1.02, alpha_stderr=0.03, bias_correction="inversion")
    none = record(0.8, bias_correction="inversion")
    rows = ranking_rows([some, none, record(0.7)], 1.0)
    assert [row["alpha_corrected"] for row in rows] == [1.02, None, None]
    assert [row["alpha_stderr"] for row in rows] == [0.03, None, None]
    assert "α corr." in shown([some, none])
    assert "1.020 ± 0.030" in shown([some, none])
    assert "± –" not in shown([some, none])
    assert "alpha_corrected" not in ranking_rows([record(0.7)], 1.0)[0]
    assert "α corr." not in shown([record(0.7)])


def saved(path, step, history):
    states = {"AlphaMonitor{'prefix': 'val_'}": {"history": history, "run": "a"}}
    torch.save({"callbacks": states, "global_step": step}, path)


def measured(alpha, step, layer="backbone"):
    return record(alpha, global_step=step, layer=layer, run="a").to_dict()


def test_checkpoints_that_were_not_measured_come_last_and_say_so(tmp_path, capsys):
    history = [measured(1.4, 5), measured(1.0, 10)]
    saved(tmp_path / "at5.ckpt", 5, history[:1])
    saved(tmp_path / "at12.ckpt", 12, history)
    assert main(["rank", str(tmp_path)]) == NO_CHOICE
    out = " ".join(capsys.readouterr().out.split())
    assert out.index("at5.ckpt") < out.index("at12.ckpt 0 10 of 12")
    assert "1 of 2 checkpoints hold weights that were not measured, and come last" in out
    assert main(["rank", str(tmp_path), "--json"]) == NO_CHOICE
    rows = json.loads(capsys.readouterr().out)["records"]
    assert [(row["step"], row["weights_step"]) for row in rows] == [(5, 5), (10, 12)]


def test_rank_says_once_whose_layer_it_uses(tmp_path, capsys):
    for step in (5, 10):
        saved(tmp_path / f"{step}.ckpt", step, [measured(1.4, step), measured(2, step, "head")])
    assert main(["rank", str(tmp_path)]) == NO_CHOICE
    said = capsys.readouterr().err
    assert said.count("records of layer 'backbone' are read; others, of 'head', by --layer") == 1
    assert main(["rank", str(tmp_path), "--layer", "head"]) == NO_CHOICE
    assert "others" not in capsys.readouterr().err


def test_brackets_in_names_are_shown_as_they_are(tmp_path, capsys):
    for name in ("x [/b]/a.ckpt", "y [red]/b.ckpt"):
        append_record(tmp_path / "r.jsonl", record(1.0, path=name))
    assert main(["rank", str(tmp_path / "r.jsonl")]) == NO_CHOICE
    out = capsys.readouterr().out
    assert " x [/b]/a.ckpt " in out
    assert " y [red]/b.ckpt " in out


def course(run, length=100, **values):
    steps = {0: 1.54, 200: 1.98, 400: 1.99, 1000: 1.83, 2000: 1.71, 4000: 1.57}
    return [
        record(
            alpha,
            run=run,
            global_step=step,
            path=f"{run}/{step}.ckpt",
            eigenvalues=tuple(n**-alpha for n in range(1, length + 1)),
            **values,
        )
        for step, alpha in steps.items()
    ]


def file_of(path, records):
    for one in records:
        append_record(path, one)
    return str(path)


def test_ranks_that_no_record_keeps_are_refused_and_no_collapse(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", course("a"))
    assert main(["rank", path, "--fit-range", "4", "500"]) == 2
    assert "no record has α on these ranks" in capsys.readouterr().err


def test_a_record_that_loses_its_fit_to_another_window_is_no_collapse(tmp_path, capsys):
    short = course("a", 50)[-1:]
    path = file_of(tmp_path / "a.jsonl", [*course("a")[:-1], *short])
    assert main(["rank", path, "--fit-range", "4", "80"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "verdict: a/2000.ckpt" in out
    assert "1 measurements have no α on these ranks and no part in the verdict" in out


def test_records_that_cannot_be_chosen_from_are_no_choice(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", [*course("a"), *course("b", num_features=128)])
    assert main(["rank", path, "--json"]) == NO_CHOICE
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["choice"] is None
    assert "numbers of features do not compare" in found["verdict"]["advice"]
    assert {row["run"] for row in found["records"]} == {"a", "b"}


def test_a_logged_error_is_better_when_it_is_low(tmp_path, capsys):
    few = course("a", metrics={"val_twins_error": 0.1})
    many = course("b", metrics={"val_twins_error": 0.3})
    path = file_of(tmp_path / "a.jsonl", [*few, *many])
    assert main(["rank", path, "--json", "--by", "val_twins_error"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"][0]["run"] == "a"
    assert found["verdict"]["choice"] == "a/4000.ckpt"


def test_the_table_says_that_its_order_is_not_the_verdict(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", course("a"))
    assert main(["rank", path]) == 0
    verdict, table = capsys.readouterr().out.split("all records, in the order of the distance of α")
    assert "a/4000.ckpt" in verdict
    assert table.index("0.ckpt") < table.index("4000.ckpt")
    main(["rank", path, "--force"])
    assert "in the order of" not in capsys.readouterr().out


@pytest.mark.parametrize("by", ["twins_error", "loss", "accuracy"])
def test_criteria_of_the_verdict_order_the_table(by, tmp_path, capsys):
    values = {"val_twins_error": (0.1, 0.3), "val_loss": (1.0, 2.0)}
    records = [
        with_values(r, accuracy=60.0 - 9 * i, metrics={n: v[i] for n, v in values.items()})
        for i, run in enumerate("ba")
        for r in course(run)[-3:]
    ]
    path = file_of(tmp_path / "a.jsonl", records)
    assert main(["rank", path, "--json", "--by", by]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in found["records"]] == [*"bbb", *"aaa"]
    assert found["records"][0]["accuracy"] == 60.0
    assert main(["rank", path, "--csv", "--by", by]) == 0
    header, first = capsys.readouterr().out.splitlines()[:2]
    assert dict(zip(header.split(","), first.split(","), strict=True))["accuracy"] == "60.0"


def test_a_near_name_is_told(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", course("a", scores={"rankme": 9.0}))
    assert main(["rank", path, "--by", "rank_me"]) == 2
    told = capsys.readouterr().err
    assert "no record has 'rank_me'; there are: alpha, rankme; did you mean 'rankme'?" in told


def test_the_scores_to_order_by_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["rank", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "alpha, loss, twins_error, accuracy, rankme" in told


def test_a_line_that_is_not_believed_is_not_chosen(tmp_path, capsys):
    records = course("a")
    records[-1] = with_values(records[-1], r2=0.9)
    path = file_of(tmp_path / "a.jsonl", records)
    assert main(["rank", path, "--min-r2", "0.95", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["verdict"]
    assert found["choice"] == "a/2000.ckpt"
    assert "1 of 6 records have R² below 0.95, and are left out" in found["doubts"]
    assert main(["rank", path, "--min-r2", "1.5", "--json"]) == NO_CHOICE
    assert "lower min_r2" in json.loads(capsys.readouterr().out)["verdict"]["advice"]


def test_rankme_is_compared_among_what_can_be_chosen(tmp_path, capsys):
    # Over all checkpoints RankMe rises where α comes near; among the newest it does not.
    records = [
        with_values(r, scores={"rankme": 90.0 - r.global_step / 100 - 5 * run})
        for run in range(5)
        for r in course(f"r{run}")
    ]
    shifted = [with_values(r, alpha=r.alpha + 0.05 * int(r.run[1])) for r in records]
    path = file_of(tmp_path / "a.jsonl", shifted)
    main(["rank", path, "--json"])
    cautions = json.loads(capsys.readouterr().out)["cautions"]
    assert not any("α and RankMe disagree" in caution for caution in cautions)


def test_one_model_measured_twice_is_one(tmp_path, capsys):
    records = course("a")
    again = [with_values(r, alpha=r.alpha * 1.0001) for r in records]
    files = [file_of(tmp_path / f"{len(rs)}{rs[0].alpha}.jsonl", rs) for rs in (records, again)]
    assert main(["rank", *files, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["records"]) == len(records)


def test_two_ranks_the_wrong_way_round_are_told_so(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", course("a"))
    assert main(["rank", path, "--fit-range", "50", "4"]) == 2
    assert "did you mean (4, 50)?" in capsys.readouterr().err


def test_seeds_are_told_by_folders_or_by_a_pattern(tmp_path, capsys):
    folders = ("l1-s0", "l1-s1", "l2-s0", "l2-s1")
    records = [with_values(r, scores={"rankme": 50.0}) for f in folders for r in course(f)]
    path = file_of(tmp_path / "a.jsonl", records)
    main(["rank", path, "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"]["spread"] == {}
    main(["rank", path, "--json", r"--seeds=-s\d"])
    assert json.loads(capsys.readouterr().out)["verdict"]["spread"] == {
        "rankme": 0.0,
        "alpha": 0.0,
    }
    assert main(["rank", path, "--seeds", "("]) == 2
    assert "expected a regular expression, got '('" in capsys.readouterr().err


def test_a_report_refuses_what_rank_refuses(tmp_path, capsys):
    mixed = [r.refit((4, 40)) if r.global_step else r for r in course("a")]
    path, page = file_of(tmp_path / "a.jsonl", mixed), tmp_path / "report.html"
    assert main(["rank", path]) == main(["report", path, "--out", str(page)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert all("windows do not compare: ranks 4–40, 4–50; refit on one" in line for line in told)
    assert main(["report", path, "--out", str(page), "--fit-range", "4", "40"]) == 0
    assert page.exists()


def test_a_near_layer_is_told(tmp_path, capsys):
    path = file_of(tmp_path / "a.jsonl", course("a", layer="backbone"))
    assert main(["rank", path, "--layer", "bakcbone"]) == 2
    assert "there are: ['backbone']; did you mean 'backbone'?" in capsys.readouterr().err
