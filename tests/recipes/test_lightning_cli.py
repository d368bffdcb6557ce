"""The recipe from strings and numbers, as LightningCLI builds it from YAML."""

import torch
from lightning.pytorch.cli import LightningCLI

from alphareq_lightning.recipes import BarlowTwins

CONFIG = """
seed_everything: 0
model:
  class_path: alphareq_lightning.recipes.BarlowTwins
  init_args:
    backbone: narrow_resnet
    backbone_options: {width: 16, blocks: [1, 1]}
    projector_dim: 16
    lambd: 0.02
data:
  class_path: alphareq_lightning.recipes.DigitsDataModule
  init_args: {image_size: 8, batch_size: 64}
trainer:
  accelerator: cpu
  max_epochs: 1
  limit_train_batches: 2
  limit_val_batches: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
"""


def test_a_checkpoint_of_the_command_line_is_plain_and_loads(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG + f"  default_root_dir: {tmp_path}\n")
    LightningCLI(args=["fit", "--config", str(config)], save_config_callback=None)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    torch.load(checkpoint, weights_only=True)
    module = BarlowTwins.load_from_checkpoint(checkpoint, weights_only=True)
    assert (module.lambd, module.projector[-1].out_features) == (0.02, 16)
