"""The runner of the study, cut down to what trains in seconds."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from study import losses, run  # noqa: F401  # the configs name the losses
from study.table import PLANNED

# A few images of noise have poor spectra.
pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
CALLBACK = {
    "class_path": "alphareq_lightning.AlphaMonitor",
    "init_args": {"layer": ["backbone"], "figures": False, "fit_range": [2, 12]},
}


@pytest.fixture
def images(tmp_path):
    """Two classes that differ in brightness, and a second folder of the same kind."""
    pixels = np.random.default_rng(0)
    for folder, count in {"own/train": 40, "own/test": 60, "other": 40}.items():
        for i in range(count):
            path = tmp_path / "images" / folder / f"class{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            low = 120 * (i % 2)
            values = pixels.integers(low, low + 130, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(values).save(path)
    return tmp_path / "images"


@pytest.fixture
def configs(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    training = yaml.safe_load((run.CONFIGS / "training.yaml").read_text())
    training["model"]["init_args"] |= {"backbone_options": {"width": [16, 32], "blocks": [1, 1]}}
    training["data"]["init_args"] |= {"image_size": 8, "batch_size": 10, "max_heldout": 40}
    training["trainer"] |= {"max_steps": 6, "callbacks": [CALLBACK], "enable_model_summary": False}
    (folder / "training.yaml").write_text(yaml.safe_dump(training))
    experiment = {
        "train": "training.yaml",
        "images": "own",
        "other_images": "other",
        "measurements": {
            "at_steps": [0, 1, 3, 6],
            "readout_at_steps": [0, 6],
            "num_pairs": 20,
            "labels_per_class": 15,
        },
        "runs": [{"model.lambd": [0.01, 0.1], "model.projector_dim": [16]}],
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(experiment))
    return folder


def run_small(images, configs, out):
    run.main(["small", "--data", str(images), "--configs", str(configs), "--out", str(out)])
    return sorted(out.rglob("*"))


def test_a_result_holds_every_measured_step(images, configs, tmp_path):
    files = [p for p in run_small(images, configs, tmp_path / "out") if p.is_file()]
    assert [p.name for p in files] == [
        "lambd=0.01,projector_dim=16.json",
        "lambd=0.1,projector_dim=16.json",
    ]
    result = json.loads(files[1].read_text())
    assert result["params"] == {"model.lambd": 0.1, "model.projector_dim": 16}
    assert result["hyperparameters"]["lambd"] == 0.1
    assert str(tmp_path) not in files[1].read_text()
    rows = result["steps"]
    assert [row["step"] for row in rows] == [0, 1, 3, 6]
    assert [row["step"] for row in rows if "readout" in row] == [0, 6]
    assert [row["step"] for row in rows if "other_readout" in row] == [6]
    for row in rows:
        layer = row["layers"]["backbone"]
        assert layer["num_samples"] == 40
        assert layer["fit_range"] == [2, 12]
        assert len(layer["eigenvalues"]) == 32
        # E is the two terms per entry; numbers are kept to five digits.
        error = row["invariance"] / 16 + row["redundancy"] / (16 * 15)
        assert row["twins_error"] == pytest.approx(error, rel=1e-4)
        terms = row["losses"]
        loss = terms["invariance"] + 0.1 * terms["redundancy"]
        assert terms["loss"] == pytest.approx(loss, rel=1e-4)
    assert len({row["layers"]["backbone"]["alpha"] for row in rows}) == 4
    assert 0 <= rows[-1]["readout"]["top1"] <= 100


def test_what_is_there_is_not_trained_again_and_the_rest_is(images, configs, tmp_path):
    out = tmp_path / "out"
    kept, missing = (p for p in run_small(images, configs, out) if p.is_file())
    first = json.loads(missing.read_text())["steps"]
    kept.write_text("kept")
    missing.unlink()
    missing.with_suffix(".999.part").write_text("left by a killed run")
    run_small(images, configs, out)
    assert kept.read_text() == "kept"
    again = json.loads(missing.read_text())["steps"]
    for row in (*first, *again):
        row.pop("seconds")
        row["layers"]["backbone"].pop("seconds")
    assert again == first


def test_one_training_that_fails_does_not_end_the_others(images, configs, tmp_path, capsys):
    experiment = yaml.safe_load((configs / "small.yaml").read_text())
    experiment["runs"] = [{"model.projector_dim": [0, 16]}]
    (configs / "small.yaml").write_text(yaml.safe_dump(experiment))
    files = [p.name for p in run_small(images, configs, tmp_path / "out") if p.is_file()]
    assert files == ["projector_dim=16.json"]
    assert "expected a projector of positive size" in capsys.readouterr().err


def test_another_accelerator_than_the_experiment_says(images, configs, tmp_path, capsys):
    options = ["small", "--data", str(images), "--out", str(tmp_path), "--configs", str(configs)]
    run.main([*options, "--accelerator", "abacus"])
    assert "`accelerator='abacus'`" in capsys.readouterr().err
    assert not list(tmp_path.glob("small/*"))


@pytest.mark.parametrize("name", run.ORDER)
def test_every_experiment_can_be_built(name, tmp_path):
    config = run.read_experiment(run.CONFIGS / f"{name}.yaml")
    plan = list(run.planned(config))
    for params in (plan[0], plan[-1]):
        cli = run.built(config, params, tmp_path, tmp_path)
        assert cli.trainer.max_steps == max(config["measurements"]["at_steps"])
        for key, value in params.items():
            if key.startswith("model."):
                assert cli.model.hparams[key.removeprefix("model.")] == value
    assert len(plan) == PLANNED[name]
