"""Every kind of option through LightningCLI, as a config writes it."""

import pytest
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
      init_args: {layer: backbone, fit_range: auto, target: 1, scores: rankme}
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
    assert second.history[0].fit_range == (4, 9)
    assert {"first_alpha", "first_alpha_backbone_1", "val_alpha"} <= set(
        cli.trainer.callback_metrics
    )
