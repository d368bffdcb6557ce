"""Trains a module in shards (FSDP2) on some processes; run by torchrun, not by pytest."""

import json
import os
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from alphareq_lightning import AlphaMonitor

from tiny import TinyModule, labelled_loader, unlabeled_loader


class Sharded(TinyModule):
    def __init__(self, sharded, sampler):
        super().__init__()
        self.sharded, self.sampler = sharded, sampler
        self.backbone[2] = nn.Identity()  # BatchNorm would see half a batch on each rank

    def configure_model(self):
        from torch.distributed.fsdp import fully_shard  # since torch 2.6

        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.backbone, mesh=mesh, reshard_after_forward=True)  # gathers every time
        if self.sharded == "root":
            fully_shard(self, mesh=mesh)

    def configure_optimizers(self):
        # On a GPU all parameters are updated at once, and those in shards do not mix with the rest.
        return torch.optim.Adam(self.parameters(), lr=1e-3, foreach=False)

    def alpha_dataloader(self):
        if self.sampler == "plain":
            return unlabeled_loader(n=330, batch_size=110)  # three batches for two ranks
        pictures = unlabeled_loader(n=221).dataset  # 111 and 110: a batch more for the first
        shares = DistributedSampler(pictures, shuffle=False)
        return DataLoader(pictures, batch_size=110, sampler=shares)


def main(folder, sharded, forward, sampler, accelerator="cpu", processes="2"):
    warnings.simplefilter("ignore")
    torch.manual_seed(3)
    module = Sharded(sharded, sampler)
    forwards = {
        "module": None,
        "name": "backbone",
        "callable": lambda batch: module.backbone(batch),
    }
    monitor = AlphaMonitor("backbone", forward=forwards[forward])
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=int(processes),
        strategy=ModelParallelStrategy(data_parallel_size=int(processes), tensor_parallel_size=1),
        callbacks=[monitor],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, labelled_loader(batch_size=40))
    weights = {name: value.full_tensor() for name, value in module.backbone.state_dict().items()}
    if trainer.is_global_zero:
        torch.save(weights, Path(folder) / "weights.pt")
    records = [(r.alpha, r.num_samples) for r in monitor.history]
    Path(folder, f"{trainer.global_rank}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may still be there, and ending then is "terminate called"
