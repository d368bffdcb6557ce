"""The untrained network is measured once, before the first step, where there are own images."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from alphareq_lightning import AlphaMonitor, SpectrumError
from alphareq_lightning.functional import eigenspectrum, fit_power_law

from tiny import NoValidation, TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.PoorFitWarning")


def steps(monitor):
    return [record.global_step for record in monitor.history]


def fit(tmp_path, monitor, module=None, **options):
    module = module or TinyModule()
    validates = not isinstance(module, NoValidation)
    trainer = make_trainer(tmp_path, monitor, **options)
    loaders = [labelled_loader(), *([labelled_loader(seed=5)] if validates else [])]
    trainer.fit(module, *loaders, ckpt_path=options.pop("ckpt_path", None))
    return trainer


@pytest.mark.parametrize("module_class", [TinyModule, NoValidation])
def test_own_images_are_measured_before_the_first_step(tmp_path, module_class):
    module = module_class().eval()
    with torch.no_grad():
        spectrum = eigenspectrum(module.backbone(images(seed=1)))
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    fit(tmp_path, monitor, module.train())
    assert steps(monitor) == [0, 5, 10]
    assert monitor.history[0].alpha == pytest.approx(fit_power_law(spectrum).alpha.item())
    assert monitor.history[0].num_samples == 320


def test_it_is_logged_as_a_step_of_its_own(tmp_path):
    logger = CSVLogger(tmp_path)
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    fit(tmp_path, monitor, logger=logger)
    lines = csv.DictReader((Path(logger.log_dir) / "metrics.csv").open())
    logged = {int(line["step"]): float(line["val_alpha"]) for line in lines if line["val_alpha"]}
    assert logged[0] == pytest.approx(monitor.history[0].alpha, rel=1e-6)


def test_validation_batches_have_no_untrained_network(tmp_path):
    monitor = AlphaMonitor()
    fit(tmp_path, monitor)
    assert steps(monitor) == [5, 10]


def test_it_can_be_switched_off(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), at_steps=())
    fit(tmp_path, monitor)
    assert steps(monitor) == [5, 10]


def test_its_images_run_once(tmp_path):
    class Counting(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    module, ran = TinyModule(), []
    module.backbone.register_forward_hook(lambda m, args, _: ran.append((m.training, len(args[0]))))
    loader = Counting(unlabeled_loader())
    fit(tmp_path, AlphaMonitor(dataloader=loader), module, max_epochs=1, num_sanity_val_steps=0)
    assert loader.passes == 2  # before the first step, and at the validation
    of_training = ran.index((True, 64))
    assert ran[:of_training] == [(False, 50)] * 6 + [(False, 20)]


def test_a_resumed_fit_does_not_measure_it_again(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    trainer = make_trainer(tmp_path, monitor, keep, enable_checkpointing=True, max_epochs=1)
    trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
    resumed = AlphaMonitor(dataloader=unlabeled_loader())
    make_trainer(tmp_path, resumed).fit(
        TinyModule(), labelled_loader(), labelled_loader(seed=5), ckpt_path=tmp_path / "last.ckpt"
    )
    assert steps(resumed) == [0, 5, 10]
    assert len({record.run for record in resumed.history}) == 1


def test_nor_does_one_resumed_from_before_the_first_step(tmp_path):
    class Saves(AlphaMonitor):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 0:
                trainer.save_checkpoint(tmp_path / "first.ckpt")

    fit(tmp_path, Saves(dataloader=unlabeled_loader()), max_epochs=1)
    resumed = Saves(dataloader=unlabeled_loader())
    # Lightning 2.4 begins with a validation there, which is one more measurement of step 0.
    make_trainer(tmp_path, resumed, max_epochs=1, limit_val_batches=0).fit(
        TinyModule(), labelled_loader(), labelled_loader(seed=5), ckpt_path=tmp_path / "first.ckpt"
    )
    assert steps(resumed) == [0, 5]


def test_another_fit_measures_its_own(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    for _ in range(2):
        fit(tmp_path, monitor, max_epochs=1)
    assert steps(monitor) == [0, 5, 0, 5]
    assert len({record.run for record in monitor.history}) == 2


def test_averaged_weights_are_there_in_validations_only(tmp_path):
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no WeightAveraging")
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    trainer = make_trainer(tmp_path, callbacks.EMAWeightAveraging(), monitor)
    trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
    assert steps(monitor) == [5, 10]


class Flat(TinyModule):
    """Its features are all zero until it has learnt."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.backbone[5].weight)
        nn.init.zeros_(self.backbone[5].bias)


@pytest.mark.parametrize("on_collapse", ["warn", "stop", "raise"])
def test_a_network_that_has_not_learnt_cannot_have_collapsed(tmp_path, on_collapse):
    monitor = AlphaMonitor("backbone", dataloader=unlabeled_loader(), on_collapse=on_collapse)
    fit(tmp_path, monitor, Flat())
    assert steps(monitor) == [0, 5, 10]
    assert monitor.history[0].fit is None
    assert all(record.fit is not None for record in monitor.history[1:])


def test_on_collapse_is_obeyed_from_the_first_step_on(tmp_path):
    class Collapsed(Flat):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    monitor = AlphaMonitor(
        "backbone", dataloader=unlabeled_loader(), on_collapse="raise", at_steps=[0, 2]
    )
    with (
        pytest.warns(match="α of layer 'backbone'"),
        pytest.raises(SpectrumError, match="variance|rank"),
    ):
        fit(tmp_path, monitor, Collapsed())
    assert steps(monitor) == [0]


class Breaks(list):
    """Batches, of which one cannot be read in the first pass."""

    def __init__(self, at):
        super().__init__(unlabeled_loader())
        self.at, self.passes = at, 0

    def __iter__(self):
        self.passes += 1
        for number, batch in enumerate(super().__iter__()):
            if self.passes == 1 and number == self.at:
                raise OSError("gone for a while")
            yield batch


def test_what_goes_wrong_past_the_first_batch_does_not_end_a_training(tmp_path):
    monitor = AlphaMonitor(dataloader=Breaks(at=3))
    fit(tmp_path, monitor)
    assert steps(monitor) == [0, 5, 10]
    assert "gone for a while" in monitor.history[0].problem
    assert [record.fit is None for record in monitor.history] == [True, False, False]


def test_what_cannot_begin_fails_before_the_first_step(tmp_path):
    monitor = AlphaMonitor(dataloader=Breaks(at=0))
    with pytest.raises(RuntimeError, match="unlabeled images failed: gone for a while"):
        fit(tmp_path, monitor)
    assert not monitor.history
