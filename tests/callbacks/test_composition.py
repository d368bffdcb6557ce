"""The monitor among everything else that people hand to a Trainer."""

import copy
import pickle

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    WeightAveraging,
)
from torch import nn

from alphareq_lightning import AlphaMonitor, OptionError
from alphareq_lightning.functional import eigenspectrum, fit_power_law

from oracles import planted_features
from tiny import TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
MODES = {
    "validation batches": AlphaMonitor,
    "own images": lambda: AlphaMonitor(dataloader=unlabeled_loader()),
}
both_modes = pytest.mark.parametrize("make", MODES.values(), ids=MODES)


def fit(tmp_path, *callbacks, module=None, **options):
    torch.manual_seed(0)
    module = module or TinyModule()
    trainer = make_trainer(tmp_path, *callbacks, **options)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    return trainer, module


class Planted(TinyModule):
    """Hands known features through, in whatever precision the Trainer uses."""

    def __init__(self):
        super().__init__(width=36)
        self.backbone = nn.Flatten()
        self.head = nn.Linear(36, 5)


def planted_loader():
    x = torch.tensor(planted_features(1.0, 1000, 36)).float()
    return torch.utils.data.DataLoader(x.view(-1, 1, 6, 6), batch_size=128)


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize(
    "precision", ["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]
)
def test_alpha_in_every_precision(tmp_path, precision, inference_mode):
    monitor = AlphaMonitor(dataloader=planted_loader())
    fit(tmp_path, monitor, module=Planted(), precision=precision, inference_mode=inference_mode)
    truth = fit_power_law(
        eigenspectrum(torch.cat(list(planted_loader())).flatten(1).double()), num_samples=1000
    )
    assert monitor.history[-1].alpha == pytest.approx(truth.alpha.item(), abs=1e-3)


@both_modes
def test_weight_averaging_is_measured_with_the_weights_that_are_validated(tmp_path, make):
    class Ema(WeightAveraging):
        def __init__(self):
            super().__init__(multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))

        def should_update(self, step_idx=None, epoch_idx=None):
            return step_idx is not None

    class Remembers(TinyModule):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.validated = [copy.deepcopy(self.backbone)]  # a list is no submodule

    results = []
    for order in (0, 1):
        torch.manual_seed(0)
        monitor, module = make(), Remembers()
        callbacks = [Ema(), monitor] if order else [monitor, Ema()]
        fit(tmp_path, *callbacks, module=module)
        x = images(seed=5 if make is AlphaMonitor else 1)
        with torch.no_grad():
            features = module.validated[0].eval()(x)
        truth = fit_power_law(eigenspectrum(features), num_samples=len(x)).alpha.item()
        assert monitor.history[-1].alpha == pytest.approx(truth, rel=1e-5)
        results.append(monitor.history[-1].alpha)
    assert results[0] == results[1]


@both_modes
@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": True},
        {"overfit_batches": 2},
        {"limit_val_batches": 2},
        {"limit_train_batches": 1},
        {"accumulate_grad_batches": 3},
        {"max_steps": 7, "max_epochs": -1},
        {"gradient_clip_val": 0.5},
        {"detect_anomaly": True},
        {"logger": True},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=str,
)
def test_trainer_options(tmp_path, make, options):
    monitor = make()
    trainer, _ = fit(tmp_path, monitor, **options)
    assert monitor.history
    assert "val_alpha" in trainer.callback_metrics


@both_modes
def test_early_stopping_and_model_checkpoint(tmp_path, make):
    keep = ModelCheckpoint(
        tmp_path / "kept",
        "{epoch}",
        monitor="val_alpha_distance",
        mode="min",
        save_top_k=2,
        save_last=True,
    )
    stop = EarlyStopping("val_alpha_distance", min_delta=1e6, patience=2)
    trainer, _ = fit(tmp_path, make(), keep, stop, max_epochs=20, enable_checkpointing=True)
    assert trainer.current_epoch == 3
    assert len(list((tmp_path / "kept").iterdir())) == 3


@both_modes
def test_learning_rate_finder(tmp_path, make):
    class Tuned(TinyModule):
        lr = 1e-3

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.lr)

    monitor = make()
    fit(tmp_path, LearningRateFinder(num_training_steps=5), monitor, module=Tuned())
    assert [r.epoch for r in monitor.history] == [0, 1]


@both_modes
@pytest.mark.parametrize("finder_first", [True, False])
def test_batch_size_finder(tmp_path, make, finder_first):
    class Sized(TinyModule):
        batch_size = 8

        def train_dataloader(self):
            return labelled_loader(batch_size=self.batch_size)

        def val_dataloader(self):
            return labelled_loader(seed=5)

    monitor, module = make(), Sized()
    callbacks = [BatchSizeFinder(max_trials=2, steps_per_trial=2), monitor]
    trainer = make_trainer(tmp_path, *(callbacks if finder_first else reversed(callbacks)))
    trainer.fit(module)
    assert [r.epoch for r in monitor.history] == [0, 1]
    assert not module.backbone._forward_hooks


@both_modes
@pytest.mark.parametrize("compiled", ["module", "backbone"])
def test_torch_compile(tmp_path, make, compiled):
    torch.manual_seed(0)
    module = TinyModule()
    if compiled == "backbone":
        module.backbone = torch.compile(module.backbone, backend="eager")
    model = torch.compile(module, backend="eager") if compiled == "module" else module
    monitor = make()
    make_trainer(tmp_path, monitor).fit(model, labelled_loader(), labelled_loader(seed=5))
    seed = 5 if make is AlphaMonitor else 1
    with torch.no_grad():
        features = module.eval().backbone(images(seed=seed))
    truth = fit_power_law(eigenspectrum(features), num_samples=320).alpha.item()
    assert monitor.history[-1].alpha == pytest.approx(truth, rel=1e-5)


@both_modes
def test_the_other_namespace(tmp_path, make):
    other = type(
        "Other",
        (pytorch_lightning.LightningModule,),
        {
            name: getattr(TinyModule, name)
            for name in ("forward", "training_step", "validation_step", "configure_optimizers")
        },
    )()
    made = TinyModule()
    other.backbone, other.head = made.backbone, made.head
    monitor = make()
    keep = pytorch_lightning.callbacks.ModelCheckpoint(
        tmp_path, monitor="val_alpha_distance", mode="min"
    )
    pytorch_lightning.Trainer(
        max_epochs=2,
        logger=False,
        accelerator="cpu",
        callbacks=[monitor, keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(other, labelled_loader(), labelled_loader(seed=5))
    assert len(monitor.history) == 2
    assert isinstance(monitor, pl.Callback)
    assert isinstance(monitor, pytorch_lightning.Callback)
    with pytest.raises(Exception, match="nothing to measure"):
        pytorch_lightning.Trainer(
            max_epochs=1,
            logger=False,
            accelerator="cpu",
            callbacks=[AlphaMonitor()],
            limit_val_batches=0,
            enable_checkpointing=False,
        ).fit(other, labelled_loader())


def test_sharded_models_measure_validation_batches_only(tmp_path):
    # Lightning has FSDP on GPUs only; its name stands in for it here.
    class FSDPStrategy(pl.strategies.SingleDeviceStrategy):
        pass

    monitor = AlphaMonitor()
    fit(tmp_path, monitor, strategy=FSDPStrategy("cpu"))
    assert len(monitor.history) == 2
    with pytest.raises(OptionError, match="under FSDPStrategy, which shards the model; take"):
        fit(
            tmp_path,
            AlphaMonitor(dataloader=unlabeled_loader()),
            strategy=FSDPStrategy("cpu"),
        )


def test_teacher_and_student_in_one_pass(tmp_path):
    class Distilled(TinyModule):
        def __init__(self):
            super().__init__()
            self.teacher = copy.deepcopy(self.backbone)

        def forward(self, x):
            self.teacher(x)
            return super().forward(x)

    monitor = AlphaMonitor(["backbone", "teacher"])
    trainer, _ = fit(tmp_path, monitor, module=Distilled())
    assert {"val_alpha", "val_alpha_teacher"} <= set(trainer.callback_metrics)
    assert [r.layer for r in monitor.history] == ["backbone", "teacher"] * 2
    assert monitor.history[2].alpha != monitor.history[3].alpha


def test_keyboard_interrupt_leaves_no_hook(tmp_path):
    class Interrupted(TinyModule):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if not self.trainer.sanity_checking:
                raise KeyboardInterrupt

    module = Interrupted()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, AlphaMonitor(), module=module)
    assert not module.backbone._forward_hooks
    assert module.backbone(images(4)).shape == (4, 48)


def test_copies_and_pickles(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    fit(tmp_path, monitor)
    for other in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        assert other.history == monitor.history
        fit(tmp_path, other)
        assert len(other.history) == 4


def test_one_monitor_two_models(tmp_path):
    monitor = AlphaMonitor()
    fit(tmp_path, monitor)
    wide = TinyModule(width=64)
    fit(tmp_path, monitor, module=wide)
    assert [r.num_features for r in monitor.history] == [48, 48, 64, 64]
    assert not wide.backbone._forward_hooks
