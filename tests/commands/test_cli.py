import json
import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alphareq_lightning import records_from_checkpoints
from alphareq_lightning.commands.demo import run_demo
from alphareq_lightning.commands.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
SMALL = (
    "--model.backbone_options={width: 16, blocks: [1, 1]}",
    "--trainer.accelerator=cpu",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
)


def digits(tmp_path, *more):
    folder = f"--trainer.logger.save_dir={tmp_path}"
    return ["--config", str(CONFIGS / "barlow_twins_digits.yaml"), folder, *SMALL, *more]


def scalars(folder):
    [events] = folder.rglob("events.out.*")
    return EventAccumulator(str(events.parent)).Reload()


def test_train_logs_every_epoch_and_stock_checkpoints_carry_alpha(tmp_path):
    assert main(["train", *digits(tmp_path, "--trainer.max_epochs=2")]) == 0
    events = scalars(tmp_path)
    own = ("alpha", "alpha_distance", "alpha_r2", "alpha_drift", "rankme")
    for key in (f"val_{name}" for name in own):
        assert len(events.Scalars(key)) == 3, key  # the first is untrained
    for key in ("train_loss", "val_loss"):
        assert len(events.Scalars(key)) == 2, key
    assert len(events.Images("val_alpha_spectrum_backbone")) == 3
    logged = {event.step: event.value for event in events.Scalars("val_alpha")}
    for path in tmp_path.rglob("epoch=*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        [state] = [s for k, s in checkpoint["callbacks"].items() if k.startswith("AlphaMonitor")]
        # TensorBoard counts the step before the one that the checkpoint counts.
        alpha = state["history"][-1]["alpha"]
        assert alpha == pytest.approx(logged[checkpoint["global_step"] - 1], rel=1e-6)
        assert f"val_alpha={alpha:.3f}" in path.name
    assert len(records_from_checkpoints([tmp_path])) == 3


def test_resume_and_validate_are_those_of_lightning(tmp_path):
    main(["train", *digits(tmp_path, "--trainer.max_epochs=1")])
    [last] = tmp_path.rglob("last-*.ckpt")
    args = digits(tmp_path, "--trainer.max_epochs=2", f"--ckpt_path={last}")
    assert main(["train", "fit", *args]) == 0
    [newest] = (tmp_path / "digits" / "version_1").rglob("last-*.ckpt")
    state = torch.load(newest, weights_only=True)["callbacks"]
    [history] = [s["history"] for k, s in state.items() if k.startswith("AlphaMonitor")]
    assert [record["epoch"] for record in history] == [0, 0, 1]  # the first is untrained
    assert main(["train", "validate", *digits(tmp_path)]) == 0


def test_classes_of_the_folder_it_runs_in_are_found(tmp_path, monkeypatch, capsys):
    own = "from alphareq_lightning.recipes import BarlowTwins\nclass Own(BarlowTwins):\n    pass\n"
    (tmp_path / "own_models.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    config = str(CONFIGS / "barlow_twins_digits.yaml")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", config, "--model=own_models.Own", "--print_config"])
    assert ended.value.code in (0, None)
    assert "own_models.Own" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["barlow_twins_digits", "barlow_twins_cifar10"])
def test_configs_parse(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(CONFIGS / f"{name}.yaml"), "--print_config"])
    assert ended.value.code in (0, None)
    assert "alphareq_lightning.AlphaMonitor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model.lamda=0.1"], "lamda"),
        (["--trainer.callbacks.fit_window=5"], "fit_window"),
        (["--model.lambd=much"], "lambd"),
    ],
)
def test_unknown_config_keys(tmp_path, capsys, arguments, text):
    assert main(["train", *digits(tmp_path, *arguments)]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_our_errors_end_with_code_2_and_their_message_alone(tmp_path, capsys):
    folder = "alphareq_lightning.recipes.ImageFolderDataModule"
    missing = ["--data", folder, f"--data.folder={tmp_path / 'gone'}"]
    args = ["train", "--config", str(CONFIGS / "barlow_twins_cifar10.yaml"), *missing]
    assert main([*args, f"--trainer.logger.save_dir={tmp_path}", "--trainer.accelerator=cpu"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"^alphareq: there is no folder .*gone", error, re.MULTILINE)
    assert "Traceback" not in error


def test_the_demo_chooses_among_eight_trainings_and_says_where_things_are(tmp_path, capsys):
    console = Console(record=True, width=160)
    result = run_demo(tmp_path, epochs=1, console=console)
    text = console.export_text()
    for expected in ("val_alpha", "R²", "RankMe", "phase", "no label is read", "the best of all"):
        assert expected in text
    assert text.index("verdict: ") < text.index("The check"), "it is found before labels are read"
    assert len(re.findall(r"^ +[\d.]+ ", text, re.MULTILINE)) == 8, "a row a training"
    assert f"tensorboard --logdir {result.log_dir}" in text
    lambds = [Path(record.path).parent.name for record in result.records]
    assert lambds[0] == "lambd=0.0001"
    assert lambds[-1] == "lambd=3"
    assert len(lambds) == 8
    assert all(10 < record.accuracy <= 100 for record in result.records)
    assert result.verdict.choice is None, "nine steps are too few to tell"
    assert str(result.report) in text
    assert result.report.stat().st_size > 10_000
    assert len(scalars(result.log_dir / "lambd=0.036").Scalars("val_alpha")) >= 1

    capsys.readouterr()
    assert main(["rank", str(result.log_dir), "--json"]) == 3
    ranked = json.loads(capsys.readouterr().out)
    assert len(ranked["records"]) == 8
    assert ranked["verdict"]["advice"] == result.verdict.advice


def test_the_hard_demo_overwrites_nothing(tmp_path):
    (tmp_path / "version_0").mkdir()
    console = Console(record=True, width=160)
    result = run_demo(tmp_path, hard=True, epochs=1, console=console)
    assert result.log_dir == tmp_path / "version_1"
    assert "has not turned" in console.export_text()
    assert result.verdict.choice is None


def test_an_existing_config_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("mine")
    arguments = digits(tmp_path, "--trainer.logger=false", "--trainer.max_epochs=1")
    arguments.remove(f"--trainer.logger.save_dir={tmp_path}")
    with pytest.raises(RuntimeError, match=r"config.yaml.* to NOT exist"):
        main(["train", *arguments])
    assert Path("config.yaml").read_text() == "mine"


def test_demo_options(capsys):
    assert main(["demo", "--epochs", "0"]) == 2
    assert capsys.readouterr().err == "alphareq: expected an integer epochs >= 1, got epochs=0\n"
    assert main([]) == 2
