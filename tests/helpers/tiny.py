"""Small modules and data that train in no time; nothing here comes from the recipes."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from oracles import planted_features

WIDTH = 48


class TinyEncoder(nn.Sequential):
    def __init__(self, width=WIDTH):
        super().__init__(
            nn.Flatten(),
            nn.Linear(36, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(64, width),
        )


class TinyModule(pl.LightningModule):
    """A classifier somebody wrote, with a backbone and a head."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.backbone = TinyEncoder(width)
        self.head = nn.Linear(width, 5)

    def forward(self, images):
        return self.head(self.backbone(images))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("val_loss", loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Planted(TinyModule):
    """Hands known features through, in whatever precision the Trainer uses."""

    def __init__(self):
        super().__init__(width=36)
        self.backbone = nn.Flatten()
        self.head = nn.Linear(36, 5)


class Mixed(TinyModule):
    """Autocast computes this backbone in half precision, unlike the one above."""

    def __init__(self, *tail, rank=36):
        super().__init__()
        torch.manual_seed(2)
        layers = [nn.Linear(36, rank), nn.Linear(rank, 48)]
        self.backbone = nn.Sequential(nn.Flatten(), *layers, *tail)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class NoValidation(TinyModule):
    validation_step = None


def images(n=320, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, 37) ** -0.5
    return (torch.randn(n, 36, generator=generator) * scale).view(n, 1, 6, 6)


def labelled_loader(n=320, seed=0, batch_size=64, **options):
    labels = torch.arange(n) % 5
    return DataLoader(TensorDataset(images(n, seed), labels), batch_size=batch_size, **options)


def unlabeled_loader(n=320, seed=1, batch_size=50, **options):
    return DataLoader(images(n, seed), batch_size=batch_size, **options)


def planted_loader():
    x = torch.tensor(planted_features(1.0, 1000, 36)).float()
    return DataLoader(x.view(-1, 1, 6, 6), batch_size=128)


def make_trainer(tmp_path, *callbacks, **options):
    options = {"accelerator": "cpu", "max_epochs": 2, "logger": False, **options}
    options = {"enable_checkpointing": False, **options}
    return pl.Trainer(
        devices=1,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
