"""The learning rate over whole runs, as the optimizer sees it."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning.recipes import BarlowTwins

from tiny import make_trainer

STEPS = 4


class Rates(pl.Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def run(tmp_path, *, ckpt_path=None, warmup_epochs=1.0, **options):
    module = BarlowTwins(
        backbone_options={"width": 16, "blocks": (1,)},
        projector_dim=16,
        learning_rate=1.0,
        warmup_epochs=warmup_epochs,
    )
    views = TensorDataset(*torch.randn(2, 8 * STEPS, 3, 8, 8))
    seen = Rates()
    trainer = make_trainer(tmp_path, seen, **options)
    trainer.fit(module, DataLoader(views, batch_size=8), ckpt_path=ckpt_path)
    return trainer, seen.rates


def test_warmup_is_counted_in_epochs_when_only_max_steps_is_given(tmp_path):
    _, rates = run(tmp_path, max_steps=5 * STEPS, max_epochs=-1)
    assert len(rates) == 5 * STEPS
    assert rates.index(max(rates)) == STEPS
    assert rates[-1] < 0.02


def test_a_run_resumed_with_more_epochs_decays_to_its_new_end(tmp_path):
    trainer, _ = run(tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "short.ckpt")
    _, resumed = run(tmp_path, max_epochs=6, ckpt_path=tmp_path / "short.ckpt")
    _, whole = run(tmp_path, max_epochs=6)
    # The first step still has the rate that the short run ended with.
    assert resumed[1:] == pytest.approx(whole[2 * STEPS + 1 :])


def test_warmup_longer_than_the_run_still_reaches_the_peak(tmp_path):
    _, rates = run(tmp_path, max_epochs=1, warmup_epochs=10)
    assert rates[-1] == pytest.approx(1.0)


def test_no_warmup_starts_at_the_peak(tmp_path):
    _, rates = run(tmp_path, max_epochs=1, warmup_epochs=0)
    assert rates == pytest.approx([1.0, 0.854, 0.5, 0.146], abs=1e-3)


def test_accumulated_batches_count_as_one_step(tmp_path):
    trainer, rates = run(tmp_path, max_epochs=4, accumulate_grad_batches=2)
    assert trainer.global_step == 4 * STEPS // 2
    assert rates.index(max(rates)) == STEPS  # two optimizer steps are one epoch
