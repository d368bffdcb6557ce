"""One α however many ranks: real processes, gloo on the CPU."""

import json
import socket

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from alphareq_lightning import AlphaMonitor, AlphaReQ, SpectrumError, StreamingMoments
from alphareq_lightning.functional import eigenspectrum, feature_moments, fit_power_law

from oracles import planted_features
from tiny import TinyModule, labelled_loader, unlabeled_loader

X = torch.tensor(planted_features(1.0, 301, 40, mean=20.0))
SHARES = {
    1: [slice(0, 301)],
    2: [slice(0, 17), slice(17, 301)],
    4: [slice(0, 100), slice(100, 100), slice(100, 103), slice(103, 301)],  # one has nothing
}


def spawn(function, world_size, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        dist.destroy_process_group()


def reduces_like_one_process(rank, world_size):
    mine = X[SHARES[world_size][rank]]
    moments, alpha = StreamingMoments(), AlphaReQ()
    for batch in mine.split(50) if len(mine) else []:
        moments.update(batch)
        alpha.update(batch)
    for got, expected in zip(moments.reduced(), feature_moments(X), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-9)
    truth = fit_power_law(eigenspectrum(X), num_samples=len(X)).alpha.item()
    assert abs(alpha.compute().item() - truth) < 1e-10
    # Reducing leaves the rank's own state alone, so it can go on.
    assert moments.num_features == (40 if len(mine) else 0)
    moments.update(mine)
    assert moments.reduced().num_samples == 2 * len(X)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_sharding_gives_the_same_alpha(world_size):
    spawn(reduces_like_one_process, world_size)


def differs_in_width(rank, world_size):
    metric = StreamingMoments()
    metric.update(torch.randn(5, 3 + rank))
    with pytest.raises(SpectrumError, match="different numbers of features: between 3 and 4"):
        metric.reduced()


def test_ranks_of_different_width_all_raise_instead_of_hanging():
    spawn(differs_in_width, 2)


def counts_what_it_sends(rank, world_size):
    sent, send = [], dist.all_reduce

    def counting(tensor, **options):
        sent.append(tensor.numel())
        return send(tensor, **options)

    metric = StreamingMoments()
    metric.update(torch.randn(9, 32))
    dist.all_reduce = counting
    metric.reduced()
    dist.all_reduce = send
    assert sent == [2, 35, 32 * 32]


def test_sums_travel_by_all_reduce_and_never_world_times_d_squared():
    spawn(counts_what_it_sends, 2)


class TellsHistory(pl.Callback):
    """Writes what each rank has measured and logged."""

    def __init__(self, folder, monitor):
        self.folder, self.monitor = folder, monitor

    def on_fit_end(self, trainer, pl_module):
        report = {
            "alphas": [record.alpha for record in self.monitor.history],
            "samples": [record.num_samples for record in self.monitor.history],
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


def fit(folder, world_size, own):
    torch.manual_seed(3)
    # 330 images in batches of 110: three batches, so that one of four ranks has none.
    loader = unlabeled_loader(n=330, batch_size=110, shuffle=True) if own else None
    monitor = AlphaMonitor(dataloader=loader)
    keep = ModelCheckpoint(folder / f"kept{world_size}", monitor="val_alpha_distance", mode="min")
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp_spawn" if world_size > 1 else "auto",
        max_epochs=2,
        logger=False,
        callbacks=[monitor, keep, TellsHistory(folder, monitor)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        precision="64-true",
        default_root_dir=folder,
    )
    trainer.fit(Frozen(), datamodule=Data())
    assert len(list((folder / f"kept{world_size}").glob("*.ckpt"))) == 1
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{world_size}-*.json"))]


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
@pytest.mark.parametrize("own", [False, True])
def test_trainer_reads_one_alpha_on_one_two_and_four_ranks(tmp_path, own):
    [alone] = fit(tmp_path, 1, own)
    assert alone["samples"] == ([330, 330] if own else [200, 200])
    for world_size in (2, 4):
        reports = fit(tmp_path, world_size, own)
        assert len(reports) == world_size
        for report in reports:
            assert report["keys"] == alone["keys"]
            assert report["samples"] == alone["samples"]
            assert report["alphas"] == pytest.approx(alone["alphas"], abs=1e-10)
