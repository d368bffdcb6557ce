"""Ranks that see different things, and still agree."""

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset

from alphareq_lightning import AlphaMonitor, StreamingMoments

from ranks import Data, Frozen, TellsHistory, ddp_trainer, reports, spawn
from tiny import TinyModule, images, labelled_loader, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


class Quiet(Frozen):
    """Logs nothing that would need a batch on every rank."""

    def __init__(self):
        super().__init__()
        self.backbone[2] = nn.Identity()  # DDP would broadcast its buffers in validation

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class OnlyRankZero(IterableDataset):
    def __iter__(self):
        if not dist.is_initialized() or dist.get_rank() == 0:
            yield from ((image, 0) for image in images(200, 5))


class OneRankIsEmpty(pl.LightningDataModule):
    def train_dataloader(self):
        return labelled_loader(batch_size=40)

    def val_dataloader(self):
        return DataLoader(OnlyRankZero(), batch_size=20)


def batched():
    """What a user's own batch sampler around a DistributedSampler looks like."""
    pictures = images(320, 1)
    if not dist.is_initialized():
        return DataLoader(pictures, batch_size=40)
    sampler = DistributedSampler(pictures, shuffle=False)
    return DataLoader(pictures, batch_sampler=BatchSampler(sampler, 40, False))


def fit(folder, module, data, world_size, monitors, max_epochs=2):
    """What each rank has seen of each of several monitors in one run."""
    torch.manual_seed(3)
    callbacks = []
    for name, options in monitors.items():
        monitor = AlphaMonitor(prefix=f"{name}_", **options)
        (folder / name).mkdir(exist_ok=True)
        callbacks += [monitor, TellsHistory(folder / name, monitor)]
    trainer = ddp_trainer(
        folder, world_size, *callbacks, max_epochs=max_epochs, enable_checkpointing=False
    )
    trainer.fit(module(), datamodule=data())
    return {name: reports(folder / name, world_size) for name in monitors}


class QuietBatched(Quiet):
    def alpha_dataloader(self):
        return batched()


def test_a_rank_without_validation_batches_takes_its_share(tmp_path):
    # The first of two batches alone holds 220 of 330 images.
    batches = [images(220, 1), images(110, 2)]
    monitors = {
        "own": {"dataloader": batches},
        "some": {"dataloader": batches, "max_samples": 201},
        "one": {"dataloader": batches, "max_samples": 1},
        "batched": {},  # by alpha_dataloader()
        "limited": {"max_samples": 101},
    }
    samples = {"own": 330, "some": 201, "one": 1, "batched": 320, "limited": 101}
    alone, both = (fit(tmp_path, QuietBatched, OneRankIsEmpty, n, monitors) for n in (1, 2))
    for name, expected in samples.items():
        assert len(both[name]) == 2
        for report in (*alone[name], *both[name]):
            assert report["samples"] == [expected] * 3  # the first is untrained
            assert report["alphas"] == pytest.approx(
                alone[name][0]["alphas"], abs=1e-10, nan_ok=True
            )


def test_a_rank_without_validation_batches_passes_the_sanity_check(tmp_path):
    alone, both = (
        fit(tmp_path, Quiet, OneRankIsEmpty, n, {"val": {}, "few": {"max_samples": 201}})
        for n in (1, 2)
    )
    for report in both["val"]:
        assert report["samples"] == [200] * 2
        assert report["alphas"] == pytest.approx(alone["val"][0]["alphas"], abs=1e-10)
    assert [report["samples"] for report in both["few"]] == [[101] * 2] * 2  # at most


class WidensOnRankOne(Quiet):
    """Ranks see features of different widths after the first epoch."""

    def __init__(self):
        super().__init__()
        self.late = nn.Flatten()

    def validation_step(self, batch, batch_idx):
        pictures = batch[0]
        if self.current_epoch >= 1 and self.global_rank == 1:
            pictures = pictures[..., :5]
        self.late(pictures)


class BreaksOnRankOne:
    """Whole in the trial and the first pass; then rank 1 loses its files."""

    def __init__(self):
        self.passes = 0

    def __len__(self):
        return 6

    def __iter__(self):
        self.passes += 1
        for index in range(6):
            if self.passes > 2 and index == 1 and dist.get_rank() == 1:
                raise OSError("gone")
            yield images(50, index)


def test_what_goes_wrong_on_one_rank_is_said_on_all(tmp_path):
    monitors = {"width": {"layer": "late"}, "own": {"dataloader": BreaksOnRankOne()}}
    found = fit(tmp_path, WidensOnRankOne, Data, 2, monitors, max_epochs=3)
    for name, text, whole in (("width", "between 30 and 36", 1), ("own", "failed: gone", 2)):
        for report in found[name]:
            told = [alpha == alpha for alpha in report["alphas"]]
            assert told == [True] * whole + [False] * 2
            assert all(text in problem for problem in report["problems"][whole:])


def test_all_ranks_stop_together(tmp_path):
    monitors = {
        "own": {"dataloader": BreaksOnRankOne(), "on_collapse": "stop"},
        "few": {"max_samples": 101},
    }
    found = fit(tmp_path, Quiet, Data, 2, monitors, max_epochs=9)
    assert [report["samples"] for report in found["few"]] == [[101] * 2] * 2
    for report in found["own"]:
        assert [alpha == alpha for alpha in report["alphas"]] == [True, True, False]
        assert report["stopped"]


def validates_alone(rank, world_size, folder):
    if rank == 0:
        monitor = AlphaMonitor()
        trainer = make_trainer(folder, monitor)
        trainer.validate(TinyModule(), labelled_loader(seed=5), verbose=False)
        assert monitor.history[0].num_samples == 320
    dist.barrier()


def counts_bytes(rank, world_size, num_features, folder):
    validates_alone(rank, world_size, folder)
    sent, send = [], dist.all_reduce

    def counting(tensor, **options):
        sent.append(tensor.numel() * tensor.element_size())
        return send(tensor, **options)

    metric = StreamingMoments()
    metric.update(torch.randn(9, num_features))
    dist.all_reduce = counting
    metric.reduced()
    dist.all_reduce = send
    assert sum(sent) == 32 + 8 * (num_features + 3) + 8 * num_features**2


@pytest.mark.timeout(120)
def test_bytes_of_a_sync_and_one_rank_that_works_alone(tmp_path):
    spawn(counts_bytes, 2, 2048, tmp_path)
    # As docs/held.md says.
    assert 32 + 8 * (2048 + 3) + 8 * 2048**2 == 33_570_872
    assert 32 + 8 * (8192 + 3) + 8 * 8192**2 == 536_936_504
