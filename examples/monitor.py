"""The callback on a Trainer that is there already: ``python examples/monitor.py``.

The module, its data and its Trainer stand for yours; the two marked lines are what is added.
"""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import AlphaMonitor, records_from_checkpoints, verdict


class Denoiser(pl.LightningModule):
    """An autoencoder of noisy digits."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 128)
        )
        self.decoder = nn.Sequential(nn.GELU(), nn.Linear(128, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Digits without noise, flat."""
        return self.decoder(self.encoder(images))

    def _loss(self, images: torch.Tensor) -> torch.Tensor:
        noisy = images + 0.3 * torch.randn_like(images)
        return nn.functional.mse_loss(self(noisy), images.flatten(1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self._loss(batch[0])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main() -> None:
    pl.seed_everything(0)
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
    train = DataLoader(TensorDataset(images[:1200]), 100, shuffle=True)
    held_out = DataLoader(TensorDataset(images[1200:]), 100)

    monitor = AlphaMonitor("encoder", dataloader=held_out, at_steps="log")  # added
    last = ModelCheckpoint("runs/monitor", "last-{epoch}")
    near = ModelCheckpoint("runs/monitor", monitor="val_alpha_distance", save_top_k=3)  # added
    trainer = pl.Trainer(max_epochs=30, accelerator="cpu", callbacks=[monitor, last, near])
    trainer.fit(Denoiser(), train, held_out)

    found = verdict(records_from_checkpoints(["runs/monitor"]), course=monitor.history)
    print("keep", found.choice.path if found.choice else "nothing for its α")
    print(*found.doubts, found.advice, sep="\n")


if __name__ == "__main__":
    main()
