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
)
from torch import nn

from alphareq_lightning import AlphaMonitor
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional import eigenspectrum, fit_power_law

from tiny import (
    Mixed,
    Planted,
    TinyModule,
    images,
    labelled_loader,
    make_trainer,
    planted_loader,
    unlabeled_loader,
)

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


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize(
    # On the CPU Lightning turns 16-mixed into bf16-mixed: float16 autocast is not tried here.
    "precision",
    ["32-true", "bf16-mixed", "16-true", "bf16-true", "64-true"],
)
def test_alpha_in_every_precision(tmp_path, precision, inference_mode):
    monitor = AlphaMonitor(dataloader=planted_loader())
    fit(tmp_path, monitor, module=Planted(), precision=precision, inference_mode=inference_mode)
    truth = fit_power_law(
        eigenspectrum(torch.cat(list(planted_loader())).flatten(1).double()), num_samples=1000
    )
    assert monitor.history[-1].alpha == pytest.approx(truth.alpha.item(), abs=1e-3)


class Widens(nn.Module):
    def forward(self, x):
        self.came_in = x.dtype
        return x.float()


@both_modes
def test_autocast_reaches_the_measured_features(tmp_path, make):
    monitor, module = make(), Mixed(Widens())
    fit(tmp_path, monitor, module=module, precision="bf16-mixed", num_sanity_val_steps=0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = module.backbone(images(seed=5 if make is AlphaMonitor else 1))
    truth = fit_power_law(eigenspectrum(features.double()), num_samples=320).alpha.item()
    assert module.backbone[-1].came_in == torch.bfloat16
    # A batch of 50 and one of 320 may round differently in half precision.
    assert monitor.history[-1].alpha == pytest.approx(truth, abs=1e-3)
    with torch.no_grad():
        module.backbone(images(4))
    assert module.backbone[-1].came_in == torch.float32


@both_modes
def test_collapse_is_seen_in_half_precision_that_was_widened(tmp_path, make):
    monitor, module = make(), Mixed(Widens(), rank=3)
    fit(tmp_path, monitor, module=module, precision="bf16-mixed")
    assert "span at most 3 dimensions" in monitor.history[-1].problem


@pytest.mark.skipif(
    not hasattr(pl.callbacks, "WeightAveraging"), reason="this Lightning has no WeightAveraging"
)
@both_modes
def test_weight_averaging_is_measured_with_the_weights_that_are_validated(tmp_path, make):
    class Ema(pl.callbacks.WeightAveraging):
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
    # Lightning 2.4 takes the finder's own epoch for the first of the training.
    finder_counts = tuple(map(int, pl.__version__.split(".")[:2])) < (2, 6)
    epochs = [r.epoch for r in monitor.history if r.global_step > 0]
    assert epochs == ([1] if finder_counts else [0, 1])


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
    assert [r.epoch for r in monitor.history if r.global_step > 0] == [0, 1]
    assert not module.backbone._forward_hooks


@both_modes
@pytest.mark.parametrize(
    ("compiled", "fullgraph"),
    [
        ("module", False),  # Lightning's own steps have no whole graph
        ("backbone", False),
        ("backbone", True),
        ("in place", False),
        ("in place", True),
    ],
)
def test_torch_compile(tmp_path, make, compiled, fullgraph):
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = TinyModule()
    if compiled == "backbone":
        module.backbone = torch.compile(module.backbone, backend="eager", fullgraph=fullgraph)
    if compiled == "in place":
        module.backbone.compile(backend="eager", fullgraph=fullgraph)
    call = module.backbone._compiled_call_impl
    model = torch.compile(module, backend="eager") if compiled == "module" else module
    monitor = make()
    make_trainer(tmp_path, monitor).fit(model, labelled_loader(), labelled_loader(seed=5))
    seed = 5 if make is AlphaMonitor else 1
    with torch.no_grad():
        features = module.eval().backbone(images(seed=seed))
    truth = fit_power_law(eigenspectrum(features), num_samples=320).alpha.item()
    assert monitor.history[-1].alpha == pytest.approx(truth, rel=1e-5)
    assert module.backbone._compiled_call_impl is call


@both_modes
@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_compiled_in_place_when_the_monitor_listens_already(tmp_path, make, hook):
    class Compiles(TinyModule):
        pass

    def compiles(self):
        if self.backbone._compiled_call_impl is None:
            self.backbone.compile(backend="eager", fullgraph=True)

    setattr(Compiles, hook, compiles)
    torch._dynamo.reset()
    monitor = make()
    _, module = fit(tmp_path, monitor, module=Compiles())
    with torch.no_grad():
        features = module.eval().backbone(images(seed=5 if make is AlphaMonitor else 1))
    truth = fit_power_law(eigenspectrum(features), num_samples=320).alpha.item()
    assert monitor.history[-1].alpha == pytest.approx(truth, rel=1e-5)


def test_two_monitors_on_one_layer_that_is_compiled_in_place(tmp_path):
    torch._dynamo.reset()
    module = TinyModule()
    module.backbone.compile(backend="eager", fullgraph=True)
    monitors = [AlphaMonitor(), AlphaMonitor(prefix="again_")]
    fit(tmp_path, *monitors, module=module)
    assert monitors[0].history[-1].alpha == monitors[1].history[-1].alpha
    with pytest.raises(FeatureTapError, match="lies inside of 'backbone', which is compiled with"):
        fit(tmp_path, AlphaMonitor(), AlphaMonitor("backbone.3", prefix="in_"), module=module)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_layer_inside_a_whole_graph_is_refused_before_training(tmp_path, in_place):
    module = TinyModule()
    if in_place:
        module.backbone.compile(backend="eager", fullgraph=True)
        name = "backbone.3"
    else:
        module.backbone = torch.compile(module.backbone, backend="eager", fullgraph=True)
        name = "backbone._orig_mod.3"
    with pytest.raises(FeatureTapError, match=f"layer '{name}' lies inside of 'backbone', which"):
        fit(tmp_path, AlphaMonitor(name), module=module)


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
    assert [r.epoch for r in monitor.history if r.global_step > 0] == [0, 1]
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
        assert len(other.history) == 6


def test_one_monitor_two_models(tmp_path):
    monitor = AlphaMonitor()
    fit(tmp_path, monitor)
    wide = TinyModule(width=64)
    fit(tmp_path, monitor, module=wide)
    assert [r.num_features for r in monitor.history] == [48, 48, 64, 64]
    assert not wide.backbone._forward_hooks


def test_copies_of_a_running_module_count_nothing(tmp_path):
    class Copies(TinyModule):
        def validation_step(self, batch, batch_idx):
            self.kept = [copy.deepcopy(self.backbone), pickle.loads(pickle.dumps(self.backbone))]
            super().validation_step(batch, batch_idx)
            for copied in self.kept:
                copied(batch[0])

    monitor, module = AlphaMonitor(), Copies()
    fit(tmp_path, monitor, module=module)
    assert [r.num_samples for r in monitor.history] == [320, 320]
    for copied in module.kept:
        [hook] = copied._forward_hooks.values()
        assert vars(hook.__self__) == {}  # it holds neither the module nor its features


def test_a_module_compiled_and_run_before_says_why_nothing_is_seen(tmp_path):
    class Compiled(TinyModule):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(nn.Sequential(self.backbone, self.head), backend="eager")

        def forward(self, x):
            return self.net(x)

    torch._dynamo.reset()
    _, module = fit(tmp_path, module=Compiled())
    with pytest.raises(FeatureTapError, match="run compiled must be compiled anew to see hooks"):
        fit(tmp_path, AlphaMonitor("backbone"), module=module)


def test_a_shared_module_by_its_second_name(tmp_path):
    class Shares(TinyModule):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(self.backbone, self.head)

    monitor = AlphaMonitor("model.0")
    fit(tmp_path, monitor, module=Shares())
    assert [(r.layer, r.num_samples) for r in monitor.history] == [("model.0", 320)] * 2
