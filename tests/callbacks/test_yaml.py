"""Every kind of option through LightningCLI, as a config writes it."""

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningCLI

from alphareq_lightning import AlphaMonitor

from ranks import Data
from tiny import TinyModule

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: alphareq_lightning.AlphaMonitor
      init_args:
        layer: [backbone, backbone.1]
        fit_range: [4, 12]
        target: [0.8, 1.2]
        forward: backbone
        scores: [rankme, effective_rank]
        max_samples: 100
        every_n_epochs: 2
        prefix: first_
        figures: false
        on_collapse: stop
    - class_path: alphareq_lightning.AlphaMonitor
      init_args: {layer: backbone, fit_range: auto, target: 1, scores: rankme, pool: mean_last}
"""


def test_lightning_cli_builds_monitors_from_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + f"  default_root_dir: {tmp_path}\n")
    arguments = ["fit", "--config", str(path)]
    cli = LightningCLI(TinyModule, Data, args=arguments, save_config_callback=None)
    first, second = (c for c in cli.trainer.callbacks if isinstance(c, AlphaMonitor))
    assert [record.layer for record in first.history] == ["backbone", "backbone.1"]
    assert {record.fit_range for record in first.history} == {(4, 12)}
    assert {record.num_samples for record in first.history} == {100}
    assert (first.target, first.forward, first.on_collapse) == ((0.8, 1.2), "backbone", "stop")
    assert first.scores == ("rankme", "effective_rank")
    assert (second.scores, second.target) == (("rankme",), (1.0, 1.0))
    assert (first.pool, second.pool) == ("mean", "mean_last")
    assert second.history[0].fit_range == (4, 9)
    assert {"first_alpha", "first_alpha_backbone_1", "val_alpha"} <= set(
        cli.trainer.callback_metrics
    )


@pytest.mark.parametrize("pool", ["mean_last", "torch.flatten"])
def test_a_pool_survives_a_saved_config(tmp_path, pool):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("mean_last", pool) + f"  default_root_dir: {tmp_path}\n")
    for _ in range(2):
        cli = LightningCLI(
            TinyModule, Data, args=["--config", str(path)], run=False, save_config_callback=None
        )
        _, second = (c for c in cli.trainer.callbacks if isinstance(c, AlphaMonitor))
        assert second.pool == (torch.flatten if "." in pool else pool)
        path = tmp_path / "saved.yaml"
        cli.parser.save(cli.config, path, overwrite=True)
    assert f"pool: {pool}\n" in path.read_text()


def test_a_pool_that_does_not_exist_is_refused_where_it_is_read(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("mean_last", "meen") + f"  default_root_dir: {tmp_path}\n")
    with pytest.raises(SystemExit):
        LightningCLI(TinyModule, Data, args=["--config", str(path)], run=False)
    assert "mean_last" in capsys.readouterr().err


def test_networks_views_and_patterns_from_yaml():
    parser = ArgumentParser()
    parser.add_class_arguments(AlphaMonitor, "monitor")
    config = {
        "layer": ["backbone", "blocks.*"],
        "forward": ["student", "torch.flatten"],
        "scores": ["lidar"],
        "views": 4,
        "augment": "torch.rand_like",
    }
    monitor = parser.instantiate_classes(parser.parse_object({"monitor": config})).monitor
    assert (monitor.layer, monitor.views) == (["backbone", "blocks.*"], 4)
    assert monitor.forward[0] == "student"
    assert monitor.augment is torch.rand_like
