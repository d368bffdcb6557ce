"""Trainers on several processes, and what each rank has seen."""

import atexit
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, DistributedSampler

from tiny import TinyModule, labelled_loader

LETTING_GO_SECONDS = 0.2
"""gloo's thread may still hold tensors of the last reduction, and needs the GIL to let them go."""


class LetsGo(pl.Callback):
    """Waits before the process ends: a thread that finds the interpreter gone aborts it."""

    def teardown(self, trainer, pl_module, stage):
        atexit.register(time.sleep, LETTING_GO_SECONDS)


class TellsHistory(pl.Callback):
    """Writes what each rank has measured and logged."""

    def __init__(self, folder, monitor):
        self.folder, self.monitor = folder, monitor

    def on_fit_end(self, trainer, pl_module):
        report = {
            "alphas": [record.alpha for record in self.monitor.history],
            "samples": [record.num_samples for record in self.monitor.history],
            "problems": [record.problem or "" for record in self.monitor.history],
            "stopped": trainer.should_stop,
            "keys": sorted(key for key in trainer.callback_metrics if "alpha" in key),
        }
        (self.folder / f"{trainer.world_size}-{trainer.global_rank}.json").write_text(
            json.dumps(report)
        )


class Frozen(TinyModule):
    """Nothing moves, BatchNorm statistics included: then all world sizes must read one α."""

    def __init__(self):
        super().__init__()
        self.backbone[2].momentum = 0.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return labelled_loader(batch_size=40)

    def val_dataloader(self):
        loader = labelled_loader(n=200, seed=5, batch_size=50)
        if not dist.is_initialized():
            return loader
        # Divides evenly by 1, 2 and 4, so the sampler adds no padding.
        sampler = DistributedSampler(loader.dataset, shuffle=False)
        return DataLoader(loader.dataset, batch_size=25, sampler=sampler)


def ddp_trainer(folder, world_size, *callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp_spawn" if world_size > 1 else "auto",
        logger=False,
        callbacks=[*callbacks, LetsGo()] if world_size > 1 else list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        precision="64-true",
        default_root_dir=folder,
        **{"max_epochs": 2, **options},
    )


def reports(folder, world_size):
    """What `TellsHistory` has written, rank by rank."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{world_size}-*.json"))]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(script, world_size, *arguments):
    """Run a script on some processes, with the helpers of the tests as pytest finds them."""
    launch = ["torch.distributed.run", "--nproc_per_node", world_size, "--master_port", free_port()]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", *map(str, [*launch, script, *arguments])],
        check=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": paths},
    )


def spawn(function, world_size, *arguments):
    port = free_port()
    mp.start_processes(
        _run, (function, world_size, port, arguments), world_size, start_method="spawn"
    )


def _run(rank, function, world_size, port, arguments):
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    try:
        function(rank, world_size, *arguments)
    finally:
        # In torch 2.4 destroying the group holds the GIL and waits for that thread.
        time.sleep(LETTING_GO_SECONDS)
        dist.destroy_process_group()
