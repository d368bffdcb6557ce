import sys

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import OptionError, twins_error
from alphareq_lightning.recipes import BarlowTwins, NarrowResNet, barlow_twins_loss

from tiny import make_trainer


def oracle(z_a, z_b, lambd):
    z_a, z_b = ((z - z.mean(0)) / z.std(0) for z in (z_a.numpy(), z_b.numpy()))
    c = z_a.T @ z_b / len(z_a)
    on = ((1 - np.diag(c)) ** 2).sum()
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    return on + lambd * off, on, off


@pytest.mark.parametrize("lambd", [1e-3, 0.5])
def test_loss_matches_numpy(lambd):
    z_a = torch.randn(40, 12, dtype=torch.float64) * 5 + 3
    z_b = z_a + torch.randn(40, 12, dtype=torch.float64)
    np.testing.assert_allclose(
        [t.item() for t in barlow_twins_loss(z_a, z_b, lambd)], oracle(z_a, z_b, lambd), rtol=1e-9
    )


def test_gradient():
    z = [torch.randn(6, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: barlow_twins_loss(a, b).loss, z)


def test_identical_views_have_no_invariance_term():
    z = torch.randn(64, 8)
    # float32 sums over 64 samples
    assert barlow_twins_loss(z, z * 3 + 1).invariance.item() == pytest.approx(0, abs=1e-9)


def test_constant_projections_keep_a_finite_gradient():
    z = torch.ones(8, 4, requires_grad=True)
    barlow_twins_loss(z, torch.ones(8, 4)).loss.backward()
    assert z.grad.isfinite().all()


def test_half_precision_does_not_overflow():
    z = torch.randn(512, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = barlow_twins_loss(z, z)
    assert terms.loss.dtype == torch.float32
    torch.testing.assert_close(terms.loss, barlow_twins_loss(z, z).loss)


@pytest.mark.parametrize(("a", "b"), [((4, 3), (4, 2)), ((1, 3), (1, 3)), ((4,), (4,))])
def test_bad_shapes(a, b):
    with pytest.raises(OptionError, match=rf"one shape \(n, p\).*got .*{b[-1]},?\)"):
        barlow_twins_loss(torch.ones(a), torch.ones(b))


def views(n=96, size=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, size, size, generator=generator)
    noise = 0.1 * torch.randn(2, n, 3, size, size, generator=generator)
    return DataLoader(TensorDataset(images + noise[0], images + noise[1]), batch_size=32)


def tiny(**options):
    options = {"lambd": 5e-3, "warmup_epochs": 1.0, **options}
    return BarlowTwins(
        backbone_options={"width": 16, "blocks": (1, 1)}, projector_dim=32, **options
    )


def fit(tmp_path, module, *callbacks, **options):
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, *callbacks, **options)
    trainer.fit(module, views(), views())
    return trainer


@torch.no_grad()
def projections(module):
    """Of all validation images together, which the loss takes in batches."""
    batches = [[module.projector(module.eval()(view)) for view in pair] for pair in views()]
    return [torch.cat(side) for side in zip(*batches, strict=True)]


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_training_lowers_the_loss_and_logs_every_term(tmp_path, optimizer):
    logger = CSVLogger(tmp_path)
    rate = {"adamw": 2e-3, "lars": 0.5}[optimizer]
    trainer = fit(
        tmp_path, tiny(optimizer=optimizer, learning_rate=rate), max_epochs=6, logger=logger
    )
    metrics = trainer.callback_metrics
    assert {"train_loss", "val_loss", "val_invariance", "val_redundancy"} <= set(metrics)
    torch.testing.assert_close(
        metrics["val_loss"], metrics["val_invariance"] + 5e-3 * metrics["val_redundancy"]
    )
    z_a, z_b = projections(trainer.lightning_module)
    expected = twins_error(z_a, z_b).to(metrics["val_twins_error"])
    torch.testing.assert_close(metrics["val_twins_error"], expected)
    logger.save()
    table = np.genfromtxt(logger.experiment.metrics_file_path, delimiter=",", names=True)
    losses = table["val_loss"]
    losses = losses[~np.isnan(losses)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "options", [{"max_epochs": 4}, {"max_steps": 12, "max_epochs": -1}, {"max_epochs": 1}]
)
def test_learning_rate_rises_then_falls_to_zero(tmp_path, options):
    monitor = LearningRateMonitor("step")
    logger = CSVLogger(tmp_path)
    fit(tmp_path, tiny(learning_rate=1.0, optimizer="adamw"), monitor, logger=logger, **options)
    logger.save()
    column = np.genfromtxt(logger.experiment.metrics_file_path, delimiter=",", names=True)
    rates = [rate for rate in column["lrAdamWpg1"] if not np.isnan(rate)]
    warmup = 2 if options.get("max_epochs") == 1 else 3
    assert rates[0] == pytest.approx(0.01)
    assert np.argmax(rates) == warmup
    assert max(rates) == pytest.approx(1.0)
    assert all(a > b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))


def test_learning_rate_stays_at_its_peak_until_the_cosine(tmp_path):
    monitor = LearningRateMonitor("step")
    logger = CSVLogger(tmp_path)
    fit(
        tmp_path,
        tiny(learning_rate=1.0, warmup_epochs=0.0, decay_share=0.5),
        monitor,
        logger=logger,
        max_epochs=4,
    )
    logger.save()
    column = np.genfromtxt(logger.experiment.metrics_file_path, delimiter=",", names=True)
    rates = [rate for rate in column["lrAdamWpg1"] if not np.isnan(rate)]
    cosine = [(1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)]
    np.testing.assert_allclose(rates, [1.0] * 6 + cosine, atol=1e-6)


def test_checkpoint_rebuilds_the_module(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    module = tiny(lambd=0.02)
    fit(tmp_path, module, keep, enable_checkpointing=True)
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = BarlowTwins.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.lambd == 0.02
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again.eval()(x), module.eval()(x))


def test_resumed_schedule_goes_on(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    whole = tiny()
    fit(tmp_path, whole, keep, max_epochs=4, enable_checkpointing=True)
    resumed = tiny()
    trainer = make_trainer(tmp_path, max_epochs=4)
    trainer.fit(resumed, views(), views(), ckpt_path=tmp_path / "epoch=1.ckpt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_module_as_backbone():
    module = BarlowTwins(NarrowResNet(16, (1,)))
    assert module(torch.ones(2, 3, 8, 8)).shape == (2, 16)
    with pytest.raises(OptionError, match="num_features; Flatten does not"):
        BarlowTwins(nn.Flatten())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": "sgd"}, "got 'sgd'"),
        ({"projector_dim": 0}, "projector_dim=0"),
        ({"decay_share": 0.0}, r"0 < decay_share <= 1, got decay_share=0\.0"),
        ({"backbone_options": {"width": [16, 32]}}, r"width=\[16, 32\] and blocks=\(1, 1, 1, 1\)"),
        ({"backbone": "resnet1"}, "no model 'resnet1'; did you mean resnet1"),
        ({"backbone": "squeezenet1_0"}, "'squeezenet1_0' has no nn.Linear"),
        ({"backbone_options": {"width": 12}}, "width=12"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(OptionError, match=text):
        BarlowTwins(**options)


def test_lars_without_timm(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim.lars", None)
    with pytest.raises(OptionError, match=r"alphareq-lightning\[timm\]"):
        fit(tmp_path, tiny(optimizer="lars"))


def test_endless_training_has_no_schedule(tmp_path):
    with pytest.raises(OptionError, match="set max_epochs or max_steps"):
        fit(tmp_path, tiny(), max_epochs=-1)


@pytest.mark.parametrize("value", [0.0, 1.0, 33.3, 1e6 + 0.3])
def test_a_collapsed_dimension_is_not_taken_for_agreement(value):
    z = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    z[:, 0] = value
    # C_00 is 0, so the invariance term is 1; the rest agree up to float32 rounding.
    assert barlow_twins_loss(z, z).invariance.item() == pytest.approx(1, abs=1e-5)
