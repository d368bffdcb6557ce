"""What a ranking shows of its records."""

import json

import torch
from rich.console import Console

from alphareq_lightning import append_record
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.report.ranking import ranking_rows, ranking_table

from plain_records import plain_record


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
