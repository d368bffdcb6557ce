import csv
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import AlphaMonitor, OptionError
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional import eigenspectrum, fit_power_law
from alphareq_lightning.measure.batches import batch_size, first_rows, images_of
from alphareq_lightning.measure.evaluating import evaluating

from tiny import NoValidation, TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.PoorFitWarning")


def test_modes_are_restored_one_by_one():
    module = TinyModule().train()
    module.backbone[2].eval()  # a frozen BatchNorm
    seen = []

    def look_and_leave():
        with evaluating(module):
            seen.extend(m.training for m in module.modules())
            raise RuntimeError("out")

    with pytest.raises(RuntimeError, match="out"):
        look_and_leave()
    assert not any(seen)
    assert [m.training for m in module.backbone] == [True, True, False, True, True, True]


PICTURES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "batch",
    [
        PICTURES,
        (PICTURES, torch.zeros(2, 3)),
        ["name", [PICTURES, 3]],
        {"id": 5, "views": (PICTURES, torch.zeros(2, 3))},
        (torch.arange(2), PICTURES, torch.zeros(2)),  # (index, image, label)
        {"label": torch.zeros(2), "image": PICTURES},
        {"input_ids": torch.ones(2, 7, dtype=torch.long), "image": PICTURES},
    ],
    ids=str,
)
def test_images_are_the_first_tensor_that_can_be_images(batch):
    assert images_of(batch) is PICTURES
    assert batch_size(batch) == 2


@pytest.mark.parametrize("batch", [None, "text", [], {"a": 1}])
def test_no_tensor(batch):
    with pytest.raises(FeatureTapError, match=f"holds no tensor, it is a {type(batch).__name__}"):
        images_of(batch)


def test_tensors_that_are_no_images_are_named():
    batch = {"label": torch.zeros(4), "ids": torch.ones(4, 7, dtype=torch.long)}
    found = re.escape("['label'] torch.float32 (4,), ['ids'] torch.int64 (4, 7); pass forward=")
    with pytest.raises(FeatureTapError, match=found):
        images_of(batch)
    assert batch_size(batch) == 4


def test_a_batch_is_cut_as_a_whole():
    batch = {"image": torch.ones(4, 3), "mask": torch.ones(4, 9), "scale": torch.ones(7), "n": 4}
    cut = first_rows(batch, 4, 3)
    assert [len(cut[name]) for name in ("image", "mask", "scale")] == [3, 3, 7]
    assert first_rows(batch, 4, 4) is batch


class AugmentsOnDevice(NoValidation):
    """Lightning's documented recipe for augmentation on the device."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            return [torch.rand_like(batch[0]) * batch[0], *batch[1:]]
        return batch


@pytest.mark.parametrize("options", [{}, {"at_steps": [3]}], ids=["epochs", "steps"])
def test_held_out_images_are_not_augmented_without_a_validation_loop(tmp_path, options):
    module, stages = AugmentsOnDevice(), []
    module.backbone.register_forward_hook(lambda *_: stages.append(module.trainer.state.stage))
    loader = DataLoader(TensorDataset(images(seed=1)), batch_size=50)
    monitor = AlphaMonitor(dataloader=loader, **options)
    trainer = make_trainer(tmp_path, monitor, max_epochs=1)
    trainer.fit(module, labelled_loader())
    module.eval()
    with torch.no_grad():
        spectrum = eigenspectrum(module.backbone(images(seed=1)))
    assert monitor.history[-1].alpha == pytest.approx(fit_power_law(spectrum).alpha.item())
    assert stages.count("train") == 5  # the training batches alone: the trial is no training either
    assert trainer.state.stage is None


def test_measures_at_steps(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), at_steps=[0, 3, 7])
    module = TinyModule()
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(tmp_path, monitor, logger=logger)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    assert [r.global_step for r in monitor.history] == [0, 3, 5, 7, 10]
    logger.save()
    lines = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()))
    steps = {int(line["step"]): float(line["val_alpha"]) for line in lines if line["val_alpha"]}
    assert set(steps) == {0, 3, 4, 7, 9}  # Lightning labels a validation with the last batch
    assert steps[3] == pytest.approx(monitor.history[1].alpha, rel=1e-6)


@pytest.mark.parametrize("every", [1, 2])
def test_between_validations_no_metric_of_the_last_one_is_kept(tmp_path, every):
    monitor = AlphaMonitor(
        dataloader=unlabeled_loader(), at_steps=[2, 5, 7, 12], every_n_epochs=every
    )
    trainer = make_trainer(tmp_path, monitor)
    trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
    found = {r.global_step: "val_loss" in r.metrics for r in monitor.history}
    # The untrained network was not asked for; 5 is there once, as it was validated.
    assert found == {2: False, 5: True, 7: False, **({10: True} if every == 1 else {})}
    assert [r.global_step for r in monitor.history] == list(found)


def test_steps_are_counted_once_with_accumulation_and_after_a_resume(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    options = {"accumulate_grad_batches": 2, "enable_checkpointing": True}
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), at_steps=[0, 2])
    trainer = make_trainer(tmp_path, monitor, keep, max_epochs=1, **options)
    trainer.fit(NoValidation(), labelled_loader())
    assert [r.global_step for r in monitor.history] == [0, 2, 3]
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), at_steps=[0, 3, 4])
    trainer = make_trainer(tmp_path, monitor, **options)
    trainer.fit(NoValidation(), labelled_loader(), ckpt_path=tmp_path / "last.ckpt")
    assert [r.global_step for r in monitor.history] == [0, 2, 3, 4, 6]


@pytest.mark.parametrize("validates", [True, False])
def test_steps_do_not_hide_which_epochs_are_due(tmp_path, validates):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), at_steps=[1, 6, 11, 16], every_n_epochs=3)
    loaders = [labelled_loader(), *([labelled_loader(seed=5)] if validates else [])]
    module = TinyModule() if validates else NoValidation()
    make_trainer(tmp_path, monitor, max_epochs=4).fit(module, *loaders)
    assert [r.global_step for r in monitor.history] == [1, 5, 6, 11, 16, 20]


def test_steps_need_own_images(tmp_path):
    with pytest.raises(OptionError, match=r"at_steps=\(5,\) needs own images"):
        make_trainer(tmp_path, AlphaMonitor(at_steps=[5])).fit(
            TinyModule(), labelled_loader(), labelled_loader(seed=5)
        )
