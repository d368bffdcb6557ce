"""A small run of LightningCLI on digits, trained once: four checkpoints and a config."""

from pathlib import Path

import pytest
import yaml

from alphareq_lightning.commands.main import main

CONFIG = Path(__file__).parents[2] / "configs" / "barlow_twins_digits.yaml"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = yaml.safe_load(CONFIG.read_text())
    config["model"]["init_args"] = {"backbone_options": {"width": 16, "blocks": [1, 1]}}
    trainer = config["trainer"]
    trainer |= {"max_epochs": 4, "limit_val_batches": 1, "accelerator": "cpu"}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer["logger"]["init_args"]["save_dir"] = str(folder)
    monitor, keep, _ = trainer["callbacks"]
    keep["init_args"] |= {"save_top_k": -1, "dirpath": str(folder / "kept")}
    trainer["callbacks"] = [monitor, keep]
    (folder / "digits.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(folder / "digits.yaml")]) == 0
    return folder
