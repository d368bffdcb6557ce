"""A measurement that goes wrong says so in every key, and never ends the training."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from alphareq_lightning import AlphaMonitor, OptionError, SpectrumError
from alphareq_lightning.errors import (
    EigensolverWarning,
    FeatureTapError,
    HistoryWarning,
    NoFitWarning,
)
from alphareq_lightning.functional import covariance_eigenvalues
from alphareq_lightning.metrics import scores

from tiny import NoValidation, TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.PoorFitWarning")


def fit(tmp_path, monitor, module=None, *callbacks, loaders=None, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = module or TinyModule()
    trainer = make_trainer(tmp_path, monitor, *callbacks, **options)
    loaders = loaders or (labelled_loader(), labelled_loader(seed=5))
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return trainer, module


def never_converges(_):
    raise torch.linalg.LinAlgError("did not converge")


def out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_solver_falls_back_once_and_says_so(monkeypatch):
    solve, calls = torch.linalg.eigvalsh, []

    def fails_first(matrix):
        calls.append(1)
        return never_converges(matrix) if len(calls) == 1 else solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails_first)
    with pytest.warns(EigensolverWarning, match="eigensolver failed on cpu .*did not converge"):
        eigenvalues = covariance_eigenvalues(torch.diag(torch.tensor([1.0, 3.0])))
    assert eigenvalues.tolist() == [3.0, 1.0]


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.EigensolverWarning")
@pytest.mark.parametrize(
    ("owner", "name", "fails", "text"),
    [
        (torch.linalg, "eigvalsh", never_converges, "did not converge"),
        (scores, "moments_eigenvalues", out_of_memory, "CUDA out of memory"),
    ],
)
def test_errors_that_are_not_ours_do_not_end_the_run(
    tmp_path, monkeypatch, owner, name, fails, text
):
    monkeypatch.setattr(owner, name, fails)
    monitor = AlphaMonitor()
    with pytest.warns(NoFitWarning, match=f"layer 'backbone': {text}"):
        trainer, _ = fit(tmp_path, monitor)
    assert trainer.current_epoch == 2
    assert text in monitor.history[-1].problem
    assert trainer.callback_metrics["val_alpha_distance"] == 10.0


class BreaksLater:
    """Whole in the trial and the first pass, then one batch and an error."""

    def __init__(self, error):
        self.error, self.passes = error, 0

    def __len__(self):
        return 6

    def __iter__(self):
        self.passes += 1
        for index in range(6):
            if self.passes > 2 and index == 1:
                raise self.error
            yield images(50, index)


def test_a_pass_that_breaks_half_way_is_no_measurement(tmp_path):
    monitor = AlphaMonitor(dataloader=BreaksLater(OSError("gone")))
    with pytest.warns(NoFitWarning, match="pass over unlabeled images failed: gone"):
        trainer, _ = fit(tmp_path, monitor)
    _, whole, half = monitor.history
    assert (whole.num_samples, whole.problem) == (300, None)
    assert half.num_samples == 50
    assert math.isnan(half.alpha)
    assert math.isnan(half.scores["rankme"])
    assert half.fit_range is None
    assert trainer.callback_metrics["val_alpha_distance"] == 10.0


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.NoFitWarning")
def test_a_broken_pass_obeys_on_collapse(tmp_path):
    broken = BreaksLater(OSError("gone"))
    with pytest.raises(SpectrumError, match="unlabeled images failed: gone"):
        fit(tmp_path, AlphaMonitor(dataloader=broken, on_collapse="raise"))


@pytest.mark.parametrize("make", [TinyModule, NoValidation])
def test_keyboard_interrupt_in_the_own_pass_and_a_second_fit(tmp_path, make):
    module, loader = make(), BreaksLater(KeyboardInterrupt())
    monitor = AlphaMonitor(dataloader=loader)
    loaders = (labelled_loader(), labelled_loader(seed=5))[: 1 if make is NoValidation else 2]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, monitor, module, loaders=loaders)
    assert not module.backbone._forward_hooks
    assert len(monitor.history) == 2
    monitor.dataloader = unlabeled_loader()
    fit(tmp_path, monitor, module, loaders=loaders)
    assert [record.num_samples for record in monitor.history] == [300, 300, 320, 320, 320]


class Silent(IterableDataset):
    def __iter__(self):
        return iter(())


def test_own_images_are_measured_though_no_validation_batch_comes(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    fit(tmp_path, monitor, loaders=(labelled_loader(), DataLoader(Silent(), batch_size=4)))
    assert [record.num_samples for record in monitor.history] == [320, 320, 320]


def test_forwards_outside_of_the_validation_step_do_not_count(tmp_path):
    class Looks(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *_):
            pl_module.backbone(batch[0])

    monitor = AlphaMonitor()
    fit(tmp_path, monitor, None, Looks())
    assert [record.num_samples for record in monitor.history] == [320, 320]


def test_trainer_validate_measures_whether_due_or_not(tmp_path):
    monitor = AlphaMonitor(every_n_epochs=3)
    trainer, module = fit(tmp_path, monitor)
    [logged] = trainer.validate(module, labelled_loader(seed=5), verbose=False)
    assert logged["val_alpha"] == pytest.approx(monitor.history[-1].alpha, rel=1e-6)
    assert len(monitor.history) == 2


def test_validating_a_checkpoint_labels_the_record_with_its_step(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, AlphaMonitor(), None, keep, enable_checkpointing=True)
    monitor = AlphaMonitor()
    make_trainer(tmp_path, monitor).validate(
        TinyModule(), labelled_loader(seed=5), ckpt_path=tmp_path / "last.ckpt", verbose=False
    )
    assert [(r.epoch, r.global_step) for r in monitor.history] == [(0, 5), (1, 10), (1, 10)]


def test_trainer_test_and_predict_are_left_alone(tmp_path):
    class Tested(TinyModule):
        test_step = TinyModule.validation_step

        def predict_step(self, batch, batch_idx):
            return self(batch[0])

    monitor = AlphaMonitor()
    trainer, module = make_trainer(tmp_path, monitor), Tested()
    [logged] = trainer.test(module, labelled_loader(), verbose=False)
    trainer.predict(module, labelled_loader())
    assert sorted(logged) == ["val_loss"]
    assert not monitor.history
    assert not module.backbone._forward_hooks


@pytest.mark.parametrize("state", [{}, {"history": 5}, {"history": [{"x": 1}]}, [1]])
def test_a_foreign_history_is_dropped_with_a_warning(tmp_path, state):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, AlphaMonitor(), None, keep, enable_checkpointing=True, max_epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    [key] = [key for key in checkpoint["callbacks"] if "Alpha" in key]
    checkpoint["callbacks"][key] = state
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    monitor = AlphaMonitor()
    if not state:  # Lightning does not hand an empty state on
        fit(tmp_path, monitor, ckpt_path=tmp_path / "odd.ckpt")
    else:
        with pytest.warns(HistoryWarning, match="history of α in the checkpoint is lost: "):
            fit(tmp_path, monitor, ckpt_path=tmp_path / "odd.ckpt")
    assert [record.epoch for record in monitor.history] == [1]


def test_a_full_disk_at_a_checkpoint_leaves_history_and_module_whole(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monitor, module = AlphaMonitor(), TinyModule()
    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", full)
    keep = ModelCheckpoint(tmp_path, monitor="val_alpha_distance")
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, monitor, module, keep, enable_checkpointing=True)
    assert not module.backbone._forward_hooks
    assert [record.epoch for record in monitor.history] == [0]


def test_hooks_that_transfer_batches_run_on_own_images(tmp_path):
    class Scales(TinyModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            pictures, labels = batch
            return pictures.float() / 255, labels

    raw = (images(320, 5).sigmoid() * 255).to(torch.uint8)
    loader = DataLoader(TensorDataset(raw, torch.arange(320) % 5), batch_size=64)
    alphas = []
    for own in (None, loader):
        torch.manual_seed(0)
        monitor = AlphaMonitor(dataloader=own)
        fit(tmp_path, monitor, Scales(), loaders=(loader, loader))
        alphas.append(monitor.history[-1].alpha)
    assert alphas[0] == pytest.approx(alphas[1], rel=1e-6)


def test_a_combined_loader_is_refused_by_its_name(tmp_path):
    both = CombinedLoader([unlabeled_loader()], "sequential")
    with pytest.raises(OptionError, match="a CombinedLoader has one place for all its readers"):
        fit(tmp_path, AlphaMonitor(dataloader=both))


def test_a_script_module_is_refused_by_its_name(tmp_path):
    module = TinyModule()
    module.backbone = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(36, 48)))
    with pytest.raises(FeatureTapError, match="layer 'backbone', a .*Script.*, takes no hook"):
        fit(tmp_path, AlphaMonitor(), module)
