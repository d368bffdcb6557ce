"""rank, score and select as typed on the command line, over a real run."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console

from alphareq_lightning import OptionError, records_from_checkpoints
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.records import append_record, read_records

from plain_records import plain_record

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
MODULE = ("--module", "alphareq_lightning.recipes.BarlowTwins")
DIGITS = ("--data", "digits", "--device", "cpu")


def alphareq(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments):
    code, out, err = alphareq(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("alphareq: ")
    assert err.count("\n") == 1
    return err


def test_rank_a_run(run, capsys):
    code, out, _ = alphareq(capsys, "rank", run)
    assert code == NO_CHOICE  # four epochs say nothing yet
    assert out.startswith("verdict: no choice")
    names = re.findall(r"^ *epoch=\d-val_alpha=(\d\.\d+)", out, re.MULTILINE)
    assert len(names) == 4
    assert names == sorted(names, key=lambda alpha: abs(float(alpha) - 1))
    for column in ("epoch", "step", "α", "R²", "ranks", "images", "RankMe", "val_loss"):
        assert column in out
    _, out, _ = alphareq(capsys, "rank", run, "--top", 1)
    assert "and 3 more" in out


def test_the_first_of_many_keep_the_folder_that_tells_them_apart(tmp_path, capsys):
    records = tmp_path / "records.jsonl"
    for run, alpha in (("tau=1", 1.1), ("tau=2", 1.9)):
        append_record(records, plain_record(path=f"runs/{run}/last.ckpt", alpha=alpha, run=run))
    _, out, _ = alphareq(capsys, "rank", records, "--top", 1)
    assert "tau=1/last.ckpt" in out


def test_rank_for_machines_and_spreadsheets(run, capsys):
    _, out, _ = alphareq(capsys, "rank", run, "--json", "--by", "val_loss")
    found = json.loads(out)
    losses = [row["val_loss"] for row in found["records"]]
    assert losses == sorted(losses)
    stored = {r.path: r.alpha for r in records_from_checkpoints([run])}
    assert {row["path"]: row["alpha"] for row in found["records"]} == stored
    _, out, _ = alphareq(capsys, "rank", run, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["distance"]) for row in rows] == sorted(abs(a - 1) for a in stored.values())


def test_rank_draws(run, capsys, tmp_path):
    assert alphareq(capsys, "rank", run, "--plot", tmp_path / "a.png")[0] == NO_CHOICE
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert "cannot write the plot" in refused(capsys, "rank", run, "--plot", tmp_path / "a.xyz")


def test_rank_on_another_window(run, capsys):
    _, out, _ = alphareq(capsys, "rank", run, "--fit-range", 3, 12, "--json")
    assert {(r["first_rank"], r["last_rank"]) for r in json.loads(out)["records"]} == {(3, 12)}
    assert "at least 3 are needed" in refused(capsys, "rank", run, "--fit-range", 3, 4)


def test_files_without_a_record_are_passed_over_in_folders_only(run, capsys, tmp_path):
    shutil.copytree(run / "kept", tmp_path / "kept")
    torch.save({"weights": 1}, tmp_path / "kept" / "other.ckpt")
    code, _, err = alphareq(capsys, "rank", tmp_path)
    assert code == NO_CHOICE
    assert "passed over 1 of 5 files" in err
    assert "no callback states" in refused(capsys, "rank", tmp_path / "kept" / "other.ckpt")


def test_what_cannot_be_ranked(run, capsys, tmp_path):
    values = {"alpha": 1.0, "r2": 1.0, "stderr": 0.0, "num_samples": 9, "num_features": 9}
    mixed = tmp_path / "mixed.jsonl"
    append_record(mixed, plain_record(**values, fit_range=(4, 51), layer="a", path="1"))
    append_record(mixed, plain_record(**values, fit_range=(11, 100), layer="a", path="2"))
    assert "windows do not compare" in refused(capsys, "rank", mixed)
    assert alphareq(capsys, "rank", mixed, "--force")[0] == 0
    append_record(mixed, plain_record(**values, fit_range=(4, 51), layer="b", path="3"))
    assert "layers do not compare: ['a', 'b']" in refused(capsys, "rank", mixed)
    assert alphareq(capsys, "rank", mixed, "--layer", "b")[0] == NO_CHOICE
    assert "no record of layer 'c'; there are: ['a', 'b']" in refused(
        capsys, "rank", mixed, "--layer", "c"
    )
    other = tmp_path / "other.jsonl"
    append_record(
        other, plain_record(**{**values, "alpha": 1.1}, fit_range=(4, 51), layer="b", path="3")
    )
    assert "two records of 3" in refused(capsys, "rank", mixed, other, "--layer", "b")
    (tmp_path / "empty").mkdir()
    assert "no *.ckpt and no *.jsonl" in refused(capsys, "rank", tmp_path / "empty")
    (tmp_path / "none.jsonl").write_text("")
    assert "holds no record" in refused(capsys, "rank", tmp_path / "none.jsonl")
    assert "a number >= 0 or an interval" in refused(capsys, "rank", run, "--target", 1, 2, 3)
    assert "number >= 0 or an interval" in refused(capsys, "rank", run, "--target", 2, 1)
    assert "has 'rankmee'; there are: alpha" in refused(capsys, "rank", run, "--by", "rankmee")
    assert "no record of layer 'x'" in refused(capsys, "rank", run, "--layer", "x")


def test_scored_afterwards_it_is_what_training_logged(run, capsys, tmp_path):
    records = tmp_path / "records.jsonl"
    for source in (MODULE, ("--config", run / "digits.yaml")):
        records.unlink(missing_ok=True)
        data = DIGITS if source is MODULE else ("--device", "cpu")
        code, out, _ = alphareq(capsys, "score", run / "kept", *source, *data, "--out", records)
        assert code == 0
        assert str(records) in out
        logged = {r.path: r for r in records_from_checkpoints([run])}
        scored = {r.path: r for r in read_records(records)}
        assert scored.keys() == logged.keys()
        for path, record in scored.items():
            assert record.alpha == pytest.approx(logged[path].alpha, rel=1e-4)
            assert record.num_samples == logged[path].num_samples
            assert record.layer == logged[path].layer
            assert record.global_step == logged[path].global_step
        assert alphareq(capsys, "rank", records)[0] == NO_CHOICE


def test_another_alpha_than_in_training_is_told_of(run, capsys, tmp_path):
    args = ("score", run / "kept", *MODULE, *DIGITS, "--out", tmp_path / "r.jsonl")
    for same in ((), ("--fit-range", 3, 12)):
        _, _, err = alphareq(capsys, *args, *same)
        assert "caution" not in err
    for shown in ((), ("--json",)):
        _, _, err = alphareq(capsys, *args, "--statistics", "none", *shown)
        told = r"caution: α of .* here and was \d\.\d{3} in training: are the images"
        assert re.search(told, err)
        assert "their normalisation (--statistics)" in err


class Headless(pl.LightningModule):
    """As many modules are written: `training_step` calls its parts, and there is no forward."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Conv2d(1, 16, 3)


class Gray(Headless):
    def forward(self, images):
        return self.encoder(images).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Headless", "it needs a method forward(images), on whose way the layer lies"),
        ("Gray", "image files and digits have 3 channels, a DataModule of your own its own"),
    ],
)
def test_modules_that_do_not_run_on_images(capsys, tmp_path, name, told):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": globals()[name]().state_dict(), "epoch": 0, "global_step": 1}, path)
    code, _, err = alphareq(
        capsys,
        "score",
        path,
        "--module",
        f"{__name__}.{name}",
        *DIGITS,
        "--layer",
        "encoder",
        "--out",
        tmp_path / "r.jsonl",
    )
    assert code == 2
    assert told in err


def test_score_several_layers_and_few_images(run, capsys, tmp_path):
    records = tmp_path / "records.jsonl"
    layers = ("--layer", "backbone", "backbone.stem", "--max-images", 200, "--scores")
    [path, *_] = (run / "kept").iterdir()
    _, out, _ = alphareq(
        capsys, "score", path, *MODULE, *DIGITS, "--out", records, "--json", *layers
    )
    assert [row["layer"] for row in json.loads(out)] == ["backbone", "backbone.stem"]
    assert [r.num_samples for r in read_records(records)] == [200, 200]
    assert [r.scores for r in read_records(records)] == [{}, {}]


def test_what_cannot_be_scored(run, capsys, tmp_path):
    path = next((run / "kept").iterdir())
    args = ("score", path, *DIGITS, "--out", tmp_path / "r.jsonl")
    assert "say what the weights belong to, by one of: --config" in refused(capsys, *args)
    assert "cannot import 'a.b'" in refused(capsys, *args, "--module", "a.b")
    assert "is no LightningModule" in refused(capsys, *args, "--module", "json.JSONDecoder")
    assert "did you mean resnet18" in refused(capsys, *args, "--model", "resnet19")
    assert "does not fit the model" in refused(capsys, *args, "--model", "resnet18")
    assert "no layer 'backbon'; did you" in refused(capsys, *args, *MODULE, "--layer", "backbon")
    assert "no device 'warp'" in refused(
        capsys, *args[:-4], *args[-2:], *MODULE, "--device", "warp"
    )
    assert "say which images" in refused(capsys, "score", path, *MODULE)
    assert "there is no folder" in refused(capsys, "score", path, *MODULE, "--data", "gone")
    assert "cannot read the config" in refused(capsys, *args, "--config", tmp_path / "gone.yaml")
    (tmp_path / "odd.yaml").write_text("model: {class_path: no.Such}")
    assert "odd.yaml" in refused(capsys, *args, "--config", tmp_path / "odd.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    assert "no mapping" in refused(capsys, *args, "--config", tmp_path / "list.yaml")
    assert not (tmp_path / "r.jsonl").exists()


SELECT = (*MODULE, *DIGITS, "--labels-per-class", 10, "--top-k", 1)


def test_select_pays_and_caches(run, capsys, tmp_path):
    arguments = ("select", run, *SELECT, "--out", tmp_path, "--json")
    code, out, err = alphareq(capsys, *arguments)
    found = json.loads(out)
    assert code == 0
    assert found["readouts_paid"] + found["readouts_saved"] == 4
    assert found["readouts_paid"] >= 2
    assert err.count(" % ") == found["readouts_paid"]
    assert "these are checkpoints of one training: alphareq rank chooses among them" in err
    accuracies = {r.path: r.accuracy for r in read_records(tmp_path / "records.jsonl")}
    assert found["accuracy"] == max(a for a in accuracies.values() if a is not None)
    assert accuracies[found["best"]] == found["accuracy"] > 30
    features = list((tmp_path / "features").iterdir())
    assert len(features) == 2 * found["readouts_paid"]
    _, again, err = alphareq(capsys, *arguments)
    assert json.loads(again) == found
    assert err.count("paid before") == found["readouts_paid"]
    code, out, _ = alphareq(capsys, "rank", tmp_path / "records.jsonl")
    assert "readout" in out
    _, out, _ = alphareq(capsys, *arguments[:-1])
    assert f"{found['readouts_paid']} paid, {found['readouts_saved']} saved" in out


def test_select_one_at_a_time(run, capsys, tmp_path):
    arguments = ("select", run, *SELECT, "--out", tmp_path, "--careful", "--probe", "knn")
    code, out, _ = alphareq(capsys, *arguments)
    assert code == 0
    assert "best: " in out


def test_what_cannot_be_selected(run, capsys, tmp_path):
    path = next((run / "kept").iterdir())
    gone = shutil.copy(path, tmp_path / "gone.ckpt")
    records = tmp_path / "records.jsonl"
    alphareq(capsys, "score", gone, *MODULE, *DIGITS, "--out", records)
    (tmp_path / "gone.ckpt").unlink()
    out = ("--out", tmp_path / "out")
    assert "1 of 1 checkpoints are not where" in refused(capsys, "select", records, *SELECT, *out)
    args = ("select", run, *MODULE, "--device", "cpu", *out)
    folder = tmp_path / "images"
    folder.mkdir()
    assert "no image in" in refused(capsys, *args, "--data", folder)
    from PIL import Image

    for name in range(8):
        Image.new("RGB", (16, 16), (name * 20, 0, 0)).save(folder / f"{name}.png")
    assert "have no labels" in refused(capsys, *args, "--data", folder)
    one, two = tmp_path / "classes" / "train" / "a", tmp_path / "classes" / "test" / "b"
    for place in (one, two):
        place.mkdir(parents=True)
        shutil.copy(folder / "1.png", place / "1.png")
        shutil.copy(folder / "2.png", place / "2.png")
    classes = tmp_path / "classes"
    assert "at least two classes, got 2 of 1" in refused(capsys, *args, "--data", classes)
    shutil.copytree(one, classes / "train" / "c")
    assert "no class in common" in refused(capsys, *args, "--data", classes)
    assert "the folder" in refused(
        capsys, "select", run, *SELECT, "--out", folder / "1.png"
    )  # a file
    assert not (tmp_path / "out").exists()


def test_models_are_listed_once_and_scoring_again_replaces(run, capsys, tmp_path):
    records = tmp_path / "records.jsonl"
    for images in (300, 400):
        arguments = ("--max-images", images, "--out", records)
        alphareq(capsys, "score", run / "kept", *MODULE, *DIGITS, *arguments)
    _, out, _ = alphareq(capsys, "rank", records, "--json")
    assert [row["samples"] for row in json.loads(out)["records"]] == [400] * 4
    _, out, _ = alphareq(capsys, "rank", run, run, "--json")  # named twice, ranked once
    assert len(json.loads(out)["records"]) == 4


def test_a_damaged_file_does_not_stop_the_others(run, capsys, tmp_path):
    shutil.copytree(run / "kept", tmp_path / "kept")
    cut = min((tmp_path / "kept").iterdir())
    cut.write_bytes(cut.read_bytes()[:1000])
    code, _, err = alphareq(
        capsys, "score", tmp_path / "kept", *MODULE, *DIGITS, "--out", tmp_path / "r.jsonl"
    )
    assert code == 2
    assert f"alphareq: {cut} cannot be read safely" in err
    assert len(read_records(tmp_path / "r.jsonl")) == 3
    victim = max((tmp_path / "kept").iterdir())
    before = victim.read_bytes()
    assert "line 1, is not a record of α" in refused(
        capsys, "score", run / "kept", *MODULE, *DIGITS, "--out", victim
    )
    assert victim.read_bytes() == before


def test_brackets_in_names(run, capsys, tmp_path):
    shutil.copytree(run / "kept", tmp_path / "[exp]" / "w [/b]")
    code, out, _ = alphareq(capsys, "rank", tmp_path / "[exp]", run)
    assert code == NO_CHOICE
    assert "w [/b]" in out


def test_a_module_in_the_working_directory(run, capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from alphareq_lightning.recipes import BarlowTwins\nclass Mine(BarlowTwins): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p not in ("", str(tmp_path))])
    path = next((run / "kept").iterdir())
    assert alphareq(capsys, "score", path, "--module", "mine.Mine", *DIGITS)[0] == 0


HOSTILE = "\x1b[2J\x9b31m\u202e"


def test_names_are_printed_as_text(tmp_path, capsys):
    values = {"alpha": 1.0, "r2": 1.0, "stderr": 0.0, "fit_range": (4, 51), "num_samples": 9}
    values |= {"num_features": 4, "metrics": {f"={HOSTILE}": 1.0}}
    records = tmp_path / f"{HOSTILE}.jsonl"
    for name in (f"=1+1{HOSTILE}.ckpt", f"@SUM(1){HOSTILE}.ckpt", "\udcff.ckpt"):
        append_record(records, plain_record(**values, layer=HOSTILE, path=name))
    for arguments in (
        ("rank", records),
        ("rank", records, "--json"),
        ("rank", records, "--csv"),
        ("rank", records, "--by", "nothing"),
        ("rank", tmp_path / f"{HOSTILE}.ckpt"),
        ("report", records, "--out", tmp_path / f"{HOSTILE}.html"),
        ("report", records, "--out", tmp_path),
    ):
        _, out, err = alphareq(capsys, *arguments)
        assert (out + err).replace("\n", "").isprintable()
    _, out, _ = alphareq(capsys, "rank", records, "--json")
    assert json.loads(out)["records"][0]["path"] == f"=1+1{HOSTILE}.ckpt"
    _, out, _ = alphareq(capsys, "rank", records, "--csv")
    header, *rows = csv.reader(io.StringIO(out))
    assert "'=\\x1b[2J\\x9b31m\\u202e" in header
    assert [row[0][:6] for row in rows] == ["'=1+1\\", "'@SUM(", "\\udcff"]


@pytest.mark.parametrize("name", ["..", ".", "", "a..b", "os.", ".os", "sys.modules"])
def test_names_that_are_no_class(tmp_path, capsys, name):
    torch.save({"state_dict": {}}, tmp_path / "w.ckpt")
    args = ("score", tmp_path / "w.ckpt", *DIGITS, "--out", tmp_path / "r.jsonl")
    text = "is no LightningModule" if name == "sys.modules" else "expected package.module.Class"
    assert text in refused(capsys, *args, "--module", name)


@pytest.mark.parametrize("stored", [{1: 2}, {None: 1}, {"width": -1}, {"width": 10**30}], ids=str)
def test_hyperparameters_that_are_none(tmp_path, capsys, stored):
    torch.save({"hyper_parameters": stored, "state_dict": {}}, tmp_path / "w.ckpt")
    args = ("score", tmp_path / "w.ckpt", *DIGITS, "--out", tmp_path / "r.jsonl")
    error = refused(capsys, *args, "--module", "tiny.TinyModule")
    assert "w.ckpt" in error or "TinyModule cannot be built from the hyperparameters" in error
    for weights in ({1: torch.ones(1)}, [1]):
        torch.save({"state_dict": weights}, tmp_path / "w.ckpt")
        assert "does not fit the model" in refused(capsys, *args, "--module", "tiny.TinyModule")


def test_a_reader_who_has_seen_enough(tmp_path):
    values = {"alpha": 1.0, "r2": 1.0, "stderr": 0.0, "fit_range": (4, 51), "num_samples": 9}
    record = plain_record(**values, num_features=4, metrics={str(k): 1.0 for k in range(9000)})
    append_record(tmp_path / "r.jsonl", record)
    command = [sys.executable, "-m", "alphareq_lightning", "rank", "--json", "r.jsonl"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as rank:
        rank.stdout.read(1)
        rank.stdout.close()
        assert rank.stderr.read() == b""
    assert rank.returncode == 141


def test_from_python(run, tmp_path):
    """The same without a command line: names as strings or paths, one or several."""
    from alphareq_lightning import (
        ImageOptions,
        ModelSource,
        rank_checkpoints,
        score_checkpoints,
        select_checkpoints,
    )

    model = ModelSource(module="alphareq_lightning.recipes.BarlowTwins")
    images = ImageOptions(data="digits", max_images=300)
    scored = score_checkpoints(run / "kept", model, images, device="cpu", out=tmp_path / "r.jsonl")
    assert len(scored.records) == 4
    assert scored.refused == []
    assert read_records(scored.out) == scored.records
    options = {"labels_per_class": 10, "top_k": 1, "device": "cpu", "out": tmp_path / "select"}
    console = Console(quiet=True)
    selected = select_checkpoints([scored.out], model, images, **options, console=console)
    assert selected.search.num_readouts + selected.search.num_saved == 4
    assert read_records(selected.file) == selected.records
    assert rank_checkpoints(selected.records)[0].path == rank_checkpoints(scored.records)[0].path
    for wrong in ({"max_images": 0}, {"num_workers": -1}, {"image_size": 1.5}, {"batch_size": 0}):
        [name] = wrong
        with pytest.raises(OptionError, match=f"expected an integer {name} >= "):
            score_checkpoints(run / "kept", model, ImageOptions(data="digits", **wrong))
    with pytest.raises(OptionError, match="expected an integer top_k >= 1, got top_k=0"):
        select_checkpoints(run, model, images, top_k=0)
