"""Own images on several ranks: whose buffers, and how often each rank runs."""

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.distributed import fsdp
from torch.utils.data import DataLoader, DistributedSampler

from alphareq_lightning import AlphaMonitor
from alphareq_lightning.functional import eigenspectrum, fit_power_law

from ranks import Frozen, TellsHistory, ddp_trainer, reports, torchrun
from tiny import NoValidation, TinyModule, images, labelled_loader, unlabeled_loader

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def alpha_of(backbone, x):
    backbone.eval()
    with torch.no_grad():
        return fit_power_law(eigenspectrum(backbone(x)), num_samples=len(x)).alpha.item()


class Split(pl.LightningDataModule):
    """Each rank trains on images of its own, whose statistics differ."""

    def train_dataloader(self):
        loader = labelled_loader(n=160)
        sampler = DistributedSampler(loader.dataset) if self.trainer.world_size > 1 else None
        return DataLoader(loader.dataset, batch_size=40, sampler=sampler)


class KeepsWeights(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), self.folder / f"rank{trainer.global_rank}.pt")


def train(folder, monitor):
    torch.manual_seed(3)
    folder.mkdir()
    callbacks = [KeepsWeights(folder)]
    if monitor is not None:
        callbacks += [monitor, TellsHistory(folder, monitor)]
    trainer = ddp_trainer(folder, 2, *callbacks, enable_checkpointing=False, max_epochs=1)
    trainer.fit(NoValidation(), datamodule=Split())
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_ranks_measure_with_the_running_statistics_that_are_saved(tmp_path):
    measured = train(tmp_path / "with", AlphaMonitor(dataloader=unlabeled_loader(batch_size=160)))
    plain = train(tmp_path / "without", None)
    mean = "backbone.2.running_mean"
    assert not torch.equal(measured[0][mean], measured[1][mean])  # or there is nothing to test
    for rank in (0, 1):  # and every rank keeps its own
        assert all(torch.equal(v, plain[rank][n]) for n, v in measured[rank].items())
    module = TinyModule().double()
    module.load_state_dict(measured[0])
    expected = alpha_of(module.backbone, images(seed=1).double())
    for report in reports(tmp_path / "with", 2):
        _, trained = report["alphas"]
        assert trained == pytest.approx(expected, abs=1e-10)


def noisy(x):
    return x + 0.3 * torch.randn_like(x)


class TellsScores(pl.Callback):
    def __init__(self, folder, monitor):
        self.folder, self.monitor = folder, monitor

    def on_fit_end(self, trainer, pl_module):
        scores = [list(record.scores.values()) for record in self.monitor.history]
        name = f"{trainer.world_size}-{trainer.global_rank}.json"
        (self.folder / name).write_text(json.dumps(scores))


def test_views_are_the_same_on_one_rank_and_on_two(tmp_path):
    loader = unlabeled_loader(n=330, batch_size=30)  # eleven batches: one rank has one more
    for world_size in (1, 2):
        torch.manual_seed(3)
        monitor = AlphaMonitor(
            dataloader=loader,
            scores=["lidar", "alignment", "twins_error", "cvpca"],
            augment=noisy,
            views=4,
        )
        callbacks = [monitor, TellsScores(tmp_path, monitor)]
        options = {"enable_checkpointing": False, "max_epochs": 1}
        trainer = ddp_trainer(tmp_path, world_size, *callbacks, **options)
        trainer.fit(Frozen(), labelled_loader(), labelled_loader(seed=5))
    found = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*-*.json"))]
    alone, first, second = (scores[-1] for scores in found)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-9)


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="FSDP2 by that name came in torch 2.6")
@pytest.mark.parametrize(
    ("sharded", "forward", "sampler"),
    [
        ("backbone", "module", "plain"),
        ("root", "module", "sampler"),
        pytest.param("root", "name", "plain", marks=pytest.mark.slow),
        pytest.param("backbone", "callable", "sampler", marks=pytest.mark.slow),
    ],
)
def test_shards_on_two_ranks(tmp_path, sharded, forward, sampler):
    torchrun(HERE / "sharded_training.py", 2, tmp_path, sharded, forward, sampler)
    backbone = TinyModule().backbone
    backbone[2] = nn.Identity()
    backbone.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    count = 330 if sampler == "plain" else 221
    expected = alpha_of(backbone, images(count, seed=1))
    for rank in (0, 1):
        *_, [alpha, num_samples] = json.loads((tmp_path / f"{rank}.json").read_text())
        assert num_samples == count
        assert alpha == pytest.approx(expected, rel=1e-5)


class BreaksOnRankOne(NoValidation):
    """Cannot be put in eval mode on one rank, where memory has run out, say."""

    def eval(self):
        if self.global_rank == 1 and self.global_step > 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().eval()


@pytest.mark.timeout(120)
def test_no_rank_waits_for_one_that_cannot_begin_the_pass(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(batch_size=160))
    tells = TellsHistory(tmp_path, monitor)
    trainer = ddp_trainer(tmp_path, 2, monitor, tells, enable_checkpointing=False, max_epochs=2)
    trainer.fit(BreaksOnRankOne(), datamodule=Split())
    for report in reports(tmp_path, 2):
        untrained, *later = report["problems"]
        assert (untrained, len(later)) == ("", 2)
        assert all("pass over unlabeled images failed" in text for text in later)
