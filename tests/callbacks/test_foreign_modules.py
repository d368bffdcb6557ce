"""The callback, unchanged, on modules that are not ours."""

import lightning.pytorch as pl
import pytest
import timm
import torch
import torchvision
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import AlphaMonitor

from tiny import make_trainer

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def pictures(n, seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator)


class PlainClassifier(pl.LightningModule):
    """A LightningModule as in any tutorial."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self.model(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def labelled(n, seed):
    return DataLoader(TensorDataset(pictures(n, seed), torch.arange(n) % 10), batch_size=24)


@pytest.mark.parametrize(
    ("model", "layer", "width"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), "model.fc:input", 512),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10
            ),
            "model.head:input",
            192,
        ),
    ],
    ids=["torchvision-resnet18", "timm-vit"],
)
def test_supervised_models_by_the_rule(tmp_path, model, layer, width):
    monitor = AlphaMonitor()
    make_trainer(tmp_path, monitor, max_epochs=1).fit(
        PlainClassifier(model()), labelled(48, 0), labelled(72, 1)
    )
    [record] = monitor.history
    assert (record.layer, record.num_features, record.num_samples) == (layer, width, 72)
    assert record.alpha == record.alpha
    assert record.scores["rankme"] > 1


def test_vit_tokens_by_name(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10
    )
    for pool in ("cls", "mean"):
        monitor = AlphaMonitor("model.blocks.1", pool=pool)
        make_trainer(tmp_path, monitor, max_epochs=1).fit(
            PlainClassifier(model), labelled(24, 0), labelled(72, 1)
        )
        assert monitor.history[0].num_features == 192


class LightlyBarlowTwins(pl.LightningModule):
    """Barlow Twins as lightly's own example builds it: backbone, projection head, loss."""

    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = BarlowTwinsProjectionHead(512, 128, 128)
        self.criterion = BarlowTwinsLoss()

    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def training_step(self, batch, batch_idx):
        x0, x1 = batch[0]
        return self.criterion(self(x0), self(x1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.06)


def test_lightly_without_a_validation_loop(tmp_path):
    views = [([pictures(16, s), pictures(16, s + 9)], torch.zeros(16)) for s in range(3)]
    unlabeled = DataLoader(pictures(80, 99), batch_size=40)
    monitor = AlphaMonitor(dataloader=unlabeled)
    batches = DataLoader(views, batch_size=None)
    make_trainer(tmp_path, monitor).fit(LightlyBarlowTwins(), batches)
    assert [r.global_step for r in monitor.history] == [0, 3, 6]
    assert monitor.history[0].layer == "backbone"
    assert monitor.history[0].num_features == 512
    assert monitor.history[0].num_samples == 80
