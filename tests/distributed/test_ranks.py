"""One α however many ranks: real processes, gloo on the CPU."""

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from alphareq_lightning import AlphaMonitor, AlphaReQ, SpectrumError, StreamingMoments
from alphareq_lightning.functional import alignment as alignment_of
from alphareq_lightning.functional import (
    eigenspectrum,
    feature_moments,
    fit_power_law,
    twins_error,
    uniformity,
)
from alphareq_lightning.functional import lidar as lidar_of
from alphareq_lightning.metrics import Alignment, FeatureSample, LiDAR, TwinsError, Uniformity

from oracles import planted_features
from ranks import Data, Frozen, TellsHistory, ddp_trainer, reports, spawn
from tiny import unlabeled_loader

X = torch.tensor(planted_features(1.0, 301, 40, mean=20.0))
SHARES = {
    1: [slice(0, 301)],
    2: [slice(0, 17), slice(17, 301)],
    4: [slice(0, 100), slice(100, 100), slice(100, 103), slice(103, 301)],  # one has nothing
}


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
@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_sharding_gives_the_same_alpha(world_size):
    spawn(reduces_like_one_process, world_size)


def differs_in_width(rank, world_size):
    metric = StreamingMoments()
    metric.update(torch.randn(5, 3 + rank))
    with pytest.raises(SpectrumError, match="different numbers of features: between 3 and 4"):
        metric.reduced()
    error = TwinsError()
    error.update(torch.randn(5, 3 + rank), torch.randn(5, 3 + rank))
    with pytest.raises(SpectrumError, match="different numbers of projections: between 3 and 4"):
        error.compute()


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
    assert sent == [2, 1, 35, 1, 32 * 32]  # two of them ask whether all ranks can go on


def test_sums_travel_by_all_reduce_and_never_world_times_d_squared():
    spawn(counts_what_it_sends, 2)


def fit(folder, world_size, own):
    torch.manual_seed(3)
    # 330 images in batches of 110: three batches, so that one of four ranks has none.
    loader = unlabeled_loader(n=330, batch_size=110, shuffle=True) if own else None
    monitor = AlphaMonitor(dataloader=loader)
    keep = ModelCheckpoint(folder / f"kept{world_size}", monitor="val_alpha_distance", mode="min")
    trainer = ddp_trainer(folder, world_size, monitor, keep, TellsHistory(folder, monitor))
    trainer.fit(Frozen(), datamodule=Data())
    assert len(list((folder / f"kept{world_size}").glob("*.ckpt"))) == 1
    return reports(folder, world_size)


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_trainer_reads_one_alpha_on_one_two_and_four_ranks(tmp_path, own):
    [alone] = fit(tmp_path, 1, own)
    assert alone["samples"] == ([330] * 3 if own else [200, 200])
    for world_size in (2, 4):
        ranks = fit(tmp_path, world_size, own)
        assert len(ranks) == world_size
        for report in ranks:
            assert report["keys"] == alone["keys"]
            assert report["samples"] == alone["samples"]
            assert report["alphas"] == pytest.approx(alone["alphas"], abs=1e-10)


class PaddedData(Data):
    """101 images on 2 ranks: the sampler repeats one, so that both have 51."""

    def alpha_dataloader(self):
        pictures = unlabeled_loader(n=101).dataset
        if not dist.is_initialized():
            return DataLoader(pictures, batch_size=20)
        return DataLoader(pictures, batch_size=20, sampler=DistributedSampler(pictures))


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_an_image_repeated_by_the_distributed_sampler_counts_once(tmp_path):
    for world_size in (1, 2):
        torch.manual_seed(3)
        monitor = AlphaMonitor()
        tells = TellsHistory(tmp_path, monitor)
        trainer = ddp_trainer(tmp_path, world_size, monitor, tells, max_epochs=1)
        trainer.fit(Frozen(), datamodule=PaddedData())
    [alone] = reports(tmp_path, 1)
    assert alone["samples"] == [101, 101]
    for report in reports(tmp_path, 2):
        assert report["samples"] == [101, 101]
        assert report["alphas"] == pytest.approx(alone["alphas"], abs=1e-10)


def stored(checkpoint):
    states = torch.load(checkpoint, weights_only=True)["callbacks"]
    return sorted(len(state["history"]) for key, state in states.items() if "Alpha" in key)


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_several_monitors_and_a_resumed_run(tmp_path):
    def run(max_epochs, resume=None):
        torch.manual_seed(3)
        first = AlphaMonitor(["backbone", "backbone.1"], scores=["rankme", "effective_rank"])
        second = AlphaMonitor("backbone", dataloader=unlabeled_loader(n=330), prefix="own_")
        keep = ModelCheckpoint(
            tmp_path / "kept", monitor="own_alpha_distance", save_last=True, save_top_k=2
        )
        tells = TellsHistory(tmp_path, second)
        trainer = ddp_trainer(tmp_path, 2, second, keep, first, tells, max_epochs=max_epochs)
        trainer.fit(Frozen(), datamodule=Data(), ckpt_path=resume)

    run(2)
    last = tmp_path / "kept" / "last.ckpt"
    assert stored(last) == [3, 4]
    run(3, resume=last)
    assert stored(last) == [4, 6]
    keys = ["own_alpha", "own_alpha_distance", "own_alpha_r2", "own_alpha_samples"]
    for report in reports(tmp_path, 2):
        assert len(report["alphas"]) == 4
        assert {*keys, "val_alpha", "val_alpha_backbone_1"} < set(report["keys"])


def samples_and_views_like_one_process(rank, world_size):
    mine = X[SHARES[world_size][rank]].float()
    sample, uniform = FeatureSample(max_samples=60), Uniformity()
    lidar, alignment, error = LiDAR(), Alignment(), TwinsError()
    for batch in mine.split(50) if len(mine) else []:
        sample.update(batch)
        uniform.update(batch)
        views = torch.stack([batch, batch.roll(1, 1)], dim=1)
        lidar.update(views)
        alignment.update(*views.unbind(1))
        error.update(*views.unbind(1))
    rows = sample.reduced()
    assert len(rows) == min(60, len(X))
    # Each rank gives its share: no rank is left out for the sake of another.
    num_mine = (rows[:, None] == mine).all(dim=2).any(dim=1).sum()
    assert abs(num_mine - 60 * len(mine) / len(X)) <= 4
    assert len(sample.kept) == min(60, len(mine))
    everything = X.float()
    assert abs(uniform.compute() - uniformity(everything)) < 1e-6
    both = torch.stack([everything, everything.roll(1, 1)], dim=1)
    assert abs(lidar.compute() / lidar_of(both) - 1) < 1e-8
    assert abs(alignment.compute() - alignment_of(*both.unbind(1))) < 1e-6
    assert abs(error.compute() / twins_error(*both.unbind(1)) - 1) < 1e-10
    # Computing leaves the rank's own state alone.
    assert uniform.seen == len(mine)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_sharding_gives_the_same_scores(world_size):
    spawn(samples_and_views_like_one_process, world_size)
