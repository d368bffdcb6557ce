"""Real Trainers, modules that are not ours."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from alphareq_lightning import AlphaMonitor, OptionError, records_from_checkpoints
from alphareq_lightning.errors import (
    FeatureTapError,
    FitRangeError,
    NoFitWarning,
    PoorFitWarning,
    SpectrumError,
    UndersampledWarning,
)
from alphareq_lightning.functional import eigenspectrum, fit_power_law

from tiny import NoValidation, TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings(
    "ignore::alphareq_lightning.errors.PoorFitWarning",
    "ignore:.*num_workers.*",
    "ignore:.*tensorboard.*",
)


def fit(tmp_path, monitor, module=None, *callbacks, loaders=None, **options):
    torch.manual_seed(0)
    module = module or TinyModule()
    trainer = make_trainer(tmp_path, monitor, *callbacks, **options)
    if loaders is None:
        loaders = (labelled_loader(), labelled_loader(seed=5))
    trainer.fit(module, *loaders)
    return trainer, module


def alpha_of(module, x):
    module.eval()
    with torch.no_grad():
        return fit_power_law(eigenspectrum(module.backbone(x)), num_samples=len(x)).alpha.item()


def test_logs_alpha_of_the_validation_features(tmp_path):
    monitor = AlphaMonitor()
    trainer, module = fit(tmp_path, monitor)
    record = monitor.history[-1]
    assert record.alpha == pytest.approx(alpha_of(module, images(seed=5)), rel=1e-5)
    assert [r.epoch for r in monitor.history] == [0, 1]
    assert (record.layer, record.num_samples, record.num_features) == ("backbone", 320, 48)
    assert record.fit_range == (4, 9)
    assert record.metrics["val_loss"] == pytest.approx(trainer.callback_metrics["val_loss"].item())
    assert len(record.eigenvalues) == 48
    logged = {k: v.item() for k, v in trainer.callback_metrics.items() if "loss" not in k}
    # Lightning keeps logged numbers in float32.
    assert logged == pytest.approx(
        {
            "val_alpha": record.alpha,
            "val_alpha_distance": abs(record.alpha - 1),
            "val_alpha_r2": record.r2,
            "val_alpha_samples": 320,
            "val_alpha_drift": math.nan,  # nothing was measured from step 100 on
            "val_rankme": record.scores["rankme"],
        },
        rel=1e-6,
        nan_ok=True,
    )


def test_own_dataloader_sees_the_network_in_eval_mode(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(shuffle=True))
    _, module = fit(tmp_path, monitor)
    assert monitor.history[-1].alpha == pytest.approx(alpha_of(module, images(seed=1)), rel=1e-5)
    assert monitor.history[-1].num_samples == 320


def test_validation_batches_cost_no_extra_forward(tmp_path):
    calls = []
    module = TinyModule()
    module.backbone.register_forward_hook(lambda *_: calls.append(1))
    fit(tmp_path, AlphaMonitor(), module, num_sanity_val_steps=0, max_epochs=1)
    assert len(calls) == 5 + 5  # five training batches, five validation batches


@pytest.mark.parametrize("owner", ["module", "datamodule"])
def test_alpha_dataloader_method(tmp_path, owner):
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return labelled_loader()

        def val_dataloader(self):
            return labelled_loader(seed=5)

    module, data = TinyModule(), Data()
    target = module if owner == "module" else data
    target.alpha_dataloader = unlabeled_loader
    monitor = AlphaMonitor()
    make_trainer(tmp_path, monitor).fit(module, data)
    assert monitor.history[-1].alpha == pytest.approx(alpha_of(module, images(seed=1)), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}])
def test_no_validation_loop(tmp_path, options):
    module = TinyModule() if options else NoValidation()
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    keep = ModelCheckpoint(tmp_path, monitor="val_alpha_distance", mode="min", save_top_k=-1)
    _, module = fit(
        tmp_path,
        monitor,
        module,
        keep,
        loaders=(labelled_loader(),),
        enable_checkpointing=True,
        **options,
    )
    assert len(monitor.history) == 3
    assert monitor.history[-1].alpha == pytest.approx(alpha_of(module, images(seed=1)), rel=1e-5)
    assert len(list(tmp_path.glob("*.ckpt"))) == 2


def test_nothing_to_measure(tmp_path):
    with pytest.raises(OptionError, match="nothing to measure.*alpha_dataloader"):
        fit(tmp_path, AlphaMonitor(), NoValidation(), loaders=(labelled_loader(),))


def test_several_layers_in_one_pass(tmp_path):
    monitor = AlphaMonitor(["backbone", "backbone.1"])
    trainer, _ = fit(tmp_path, monitor)
    assert {"val_alpha", "val_alpha_backbone_1", "val_rankme_backbone_1"} <= set(
        trainer.callback_metrics
    )
    assert [r.layer for r in monitor.history[-2:]] == ["backbone", "backbone.1"]
    assert monitor.history[-1].num_features == 64


def test_model_checkpoint_keeps_the_best_and_every_checkpoint_carries_its_alpha(tmp_path):
    monitor = AlphaMonitor()
    keep = ModelCheckpoint(
        tmp_path / "kept",
        "{epoch}-{val_alpha:.3f}",
        monitor="val_alpha_distance",
        mode="min",
        save_top_k=2,
        save_last=True,
    )
    fit(tmp_path, monitor, None, keep, max_epochs=4, enable_checkpointing=True)
    distances = [abs(r.alpha - 1) for r in monitor.history]
    best = min(range(4), key=distances.__getitem__)
    assert f"epoch={best}-val_alpha={monitor.history[best].alpha:.3f}" in keep.best_model_path
    checkpoint = torch.load(keep.best_model_path, weights_only=True)
    [state] = [s for k, s in checkpoint["callbacks"].items() if k.startswith("AlphaMonitor")]
    assert state["history"][-1]["alpha"] == monitor.history[best].alpha
    assert keep.best_model_score.item() == pytest.approx(distances[best], rel=1e-6)
    [record] = records_from_checkpoints([keep.best_model_path])
    assert record.alpha == monitor.history[best].alpha
    assert record.path == keep.best_model_path
    assert len(records_from_checkpoints([tmp_path / "kept"])) == 3


def test_resume_continues_the_history(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, AlphaMonitor(), None, keep, enable_checkpointing=True)
    monitor = AlphaMonitor()
    trainer = make_trainer(tmp_path, monitor, max_epochs=3)
    trainer.fit(
        TinyModule(), labelled_loader(), labelled_loader(seed=5), ckpt_path=tmp_path / "last.ckpt"
    )
    assert [r.epoch for r in monitor.history] == [0, 1, 2]


def test_several_validations_per_epoch_each_count(tmp_path):
    monitor = AlphaMonitor()
    fit(tmp_path, monitor, max_epochs=1, val_check_interval=2)
    assert [r.global_step for r in monitor.history] == [2, 4]


def test_every_n_epochs(tmp_path):
    monitor = AlphaMonitor(every_n_epochs=2)
    keep = ModelCheckpoint(tmp_path, monitor="val_alpha_distance", mode="min")
    fit(tmp_path, monitor, None, keep, max_epochs=4, enable_checkpointing=True)
    assert [r.epoch for r in monitor.history] == [0, 2]


def test_every_n_epochs_counts_from_the_first_validation(tmp_path):
    monitor = AlphaMonitor(every_n_epochs=2)
    fit(tmp_path, monitor, max_epochs=6, check_val_every_n_epoch=2)
    assert [r.epoch for r in monitor.history] == [1, 3, 5]
    fit(tmp_path, monitor, max_epochs=1)  # a new fit begins anew
    assert [r.epoch for r in monitor.history] == [1, 3, 5, 0]


def test_dataloader_idx(tmp_path):
    monitor = AlphaMonitor(dataloader_idx=1)
    module = TinyModule()
    module.validation_step = lambda batch, batch_idx, dataloader_idx: module(batch[0])
    loaders = [labelled_loader(seed=5), labelled_loader(seed=6)]
    fit(tmp_path, monitor, module, loaders=(labelled_loader(), loaders))
    assert monitor.history[-1].num_samples == 320
    assert monitor.history[-1].alpha == pytest.approx(alpha_of(module, images(seed=6)), rel=1e-5)


def test_max_samples(tmp_path):
    for monitor in (
        AlphaMonitor(max_samples=200),
        AlphaMonitor(max_samples=200, dataloader=unlabeled_loader()),
    ):
        fit(tmp_path, monitor)
        assert monitor.history[-1].num_samples == 200


def test_trainer_validate(tmp_path):
    monitor = AlphaMonitor()
    trainer = make_trainer(tmp_path, monitor)
    [logged] = trainer.validate(TinyModule(), labelled_loader())
    assert logged["val_alpha"] == pytest.approx(monitor.history[0].alpha, rel=1e-6)


def test_target_interval_and_prefix(tmp_path):
    monitor = AlphaMonitor(target=(0.0, 50.0), prefix="heldout_", scores=[])
    trainer, _ = fit(tmp_path, monitor)
    assert trainer.callback_metrics["heldout_alpha_distance"] == 0
    assert not any("rankme" in key for key in trainer.callback_metrics)


def test_hooks_are_gone_after_fit_and_after_an_exception(tmp_path):
    _, module = fit(tmp_path, AlphaMonitor())
    assert not module.backbone._forward_hooks

    class Breaks(TinyModule):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                raise RuntimeError("user code")

        def on_sanity_check_end(self):
            pass

    broken, monitor = Breaks(), AlphaMonitor(dataloader=unlabeled_loader())
    with pytest.raises(RuntimeError, match="user code"):
        fit(tmp_path, monitor, broken)
    assert not broken.backbone._forward_hooks
    fit(tmp_path, monitor, TinyModule())  # and it can be used again
    assert [r.global_step for r in monitor.history] == [0, 0, 5, 10]


def test_module_built_in_configure_model(tmp_path):
    class Late(TinyModule):
        def __init__(self):
            pl.LightningModule.__init__(self)

        def configure_model(self):
            if not hasattr(self, "backbone"):
                made = TinyModule()
                self.backbone, self.head = made.backbone, made.head

    monitor = AlphaMonitor()
    fit(tmp_path, monitor, Late())
    assert len(monitor.history) == 2
    monitor = AlphaMonitor()
    make_trainer(tmp_path, monitor).validate(Late(), labelled_loader(), verbose=False)
    assert len(monitor.history) == 1


class Collapses(TinyModule):
    """Turns every feature to a constant after its second epoch."""

    def on_validation_epoch_start(self):
        if self.current_epoch >= 1:
            for parameter in self.backbone[-1].parameters():
                parameter.data.zero_()


def test_collapse_keeps_every_key_and_warns_once(tmp_path):
    monitor = AlphaMonitor()
    keep = ModelCheckpoint(tmp_path, monitor="val_alpha_distance", mode="min")
    stop = EarlyStopping("val_alpha_distance", patience=50)
    with pytest.warns(NoFitWarning, match="layer 'backbone'.*span at most 3 dimensions") as caught:
        trainer, _ = fit(
            tmp_path, monitor, Collapses(), keep, stop, max_epochs=4, enable_checkpointing=True
        )
    assert len([w for w in caught if w.category is NoFitWarning]) == 1
    assert trainer.current_epoch == 4
    assert trainer.callback_metrics["val_alpha"].isnan()
    assert trainer.callback_metrics["val_alpha_distance"] == 10.0
    assert "epoch=0" in keep.best_model_path
    assert math.isnan(monitor.history[-1].alpha)
    assert "span at most 3" in monitor.history[-1].problem


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.NoFitWarning")
def test_on_collapse(tmp_path):
    trainer, _ = fit(tmp_path, AlphaMonitor(on_collapse="stop"), Collapses(), max_epochs=9)
    assert trainer.current_epoch == 2
    with pytest.raises(SpectrumError, match="span at most 3 dimensions"):
        fit(tmp_path, AlphaMonitor(on_collapse="raise"), Collapses(), max_epochs=9)


@pytest.mark.parametrize(
    ("backbone", "text"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(36, 48), nn.Threshold(1e9, float("nan"))),
            "48 of 48",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 8)), "needs at least 30 attainable"),
    ],
)
def test_bad_features_never_end_a_training_without_sanity_check(tmp_path, backbone, text):
    module = TinyModule()
    module.backbone = nn.Sequential(nn.Flatten(), *backbone)
    module.head = nn.LazyLinear(5)
    module(images())
    with pytest.warns(NoFitWarning, match=text):
        trainer, _ = fit(tmp_path, AlphaMonitor(), module, num_sanity_val_steps=0)
    assert trainer.current_epoch == 2
    assert trainer.callback_metrics["val_alpha_distance"] == 10.0


def test_too_few_samples(tmp_path):
    with pytest.warns(NoFitWarning, match="at least 3 samples, got 2"):
        fit(tmp_path, AlphaMonitor(), loaders=(labelled_loader(), labelled_loader(2)))
    with pytest.warns(NoFitWarning, match="needs at least 30 attainable ranks, got 19"):
        fit(tmp_path, AlphaMonitor(), loaders=(labelled_loader(), labelled_loader(20)))


def test_fewer_samples_than_features(tmp_path):
    with pytest.warns(UndersampledWarning, match="40 images for 48 features"):
        fit(tmp_path, AlphaMonitor(), loaders=(labelled_loader(), labelled_loader(40)))


@pytest.mark.filterwarnings("default::alphareq_lightning.errors.PoorFitWarning")
def test_poor_fit_warns_once(tmp_path):
    with pytest.warns(PoorFitWarning, match=r"R² = 0\.\d+ over ranks 1 to 48") as caught:
        fit(tmp_path, AlphaMonitor(fit_range=(1, 48)), max_epochs=3)
    assert len([w for w in caught if w.category is PoorFitWarning]) == 1


class Idle(TinyModule):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(4, 4)


class PairBackbone(TinyModule):
    def __init__(self):
        super().__init__()
        inner = self.backbone
        self.backbone = nn.Module()
        self.backbone.inner = inner
        self.backbone.forward = lambda x: (inner(x), x)

    def forward(self, x):
        return self.head(self.backbone(x)[0])


class Rounds(nn.Module):
    def forward(self, x):
        return x.flatten(1).long()


class IntegerBackbone(TinyModule):
    def __init__(self):
        super().__init__()
        self.backbone = Rounds()
        self.head = nn.Linear(36, 5)

    def forward(self, x):
        return self.head(self.backbone(x).float())


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("module", "options", "error", "text"),
    [
        (TinyModule, {"layer": "bakbone"}, OptionError, "did you mean 'backbone'"),
        (Idle, {"layer": "spare"}, FeatureTapError, "layer 'spare' did not run"),
        (IntegerBackbone, {}, FeatureTapError, "floating-point features, got torch.int64"),
        (PairBackbone, {}, FeatureTapError, "output of layer 'backbone' is a tuple"),
        (TinyModule, {"fit_range": (11, 100)}, FitRangeError, "past the 48 attainable ranks"),
        (TinyModule, {"forward": "encoder"}, OptionError, "forward='encoder' is not a submodule"),
    ],
)
def test_certain_failures_come_before_training(tmp_path, module, options, error, text, own):
    loader = unlabeled_loader() if own else None
    made = module()
    made.on_train_batch_start = lambda *_: pytest.fail("training had begun")
    with pytest.raises(error, match=text):
        fit(tmp_path, AlphaMonitor(**options, dataloader=loader), made)
    assert not made.backbone._forward_hooks


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"take": "both"}, "expected take to be one of .*got 'both'"),
        ({"pool": "max"}, "got 'max'"),
        ({"on_collapse": "cry"}, "got 'cry'"),
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"max_samples": 0}, "max_samples=0"),
        ({"prefix": "val/"}, "got prefix='val/'; write 'val_'"),
        ({"scores": ["rankyou"]}, r"unknown scores \['rankyou'\]; there are: rankme"),
        ({"target": (2, 1)}, "expected target"),
        ({"fit_range": (5, 5)}, r"fit_range=\(5, 5\)"),
    ],
)
def test_bad_options_fail_in_the_constructor(options, text):
    with pytest.raises((OptionError, FitRangeError), match=text):
        AlphaMonitor(**options)


@pytest.mark.parametrize(
    ("loader", "error", "text"),
    [
        (DataLoader(images(0)), Exception, "gave no batch"),
        (["not images"], FeatureTapError, "holds no tensor, it is a str"),
        (iter([images(50)]), OptionError, "iterator of unlabeled images can be read only once"),
        (7, OptionError, "expected a DataLoader.*got a int"),
    ],
)
def test_bad_unlabeled_dataloaders(tmp_path, loader, error, text):
    with pytest.raises(error, match=text):
        fit(tmp_path, AlphaMonitor(dataloader=loader))


def test_a_dataloader_that_breaks_in_mid_training_only_warns(tmp_path):
    class Flaky:
        passes = 0

        def __len__(self):
            return 4

        def __iter__(self):
            Flaky.passes += 1
            yield images(50)
            if Flaky.passes > 2:
                raise OSError("the file server is gone")

    with pytest.warns(NoFitWarning, match="pass over unlabeled images failed: the file server"):
        trainer, _ = fit(tmp_path, AlphaMonitor(dataloader=Flaky()))
    assert trainer.current_epoch == 2
    assert "val_alpha" in trainer.callback_metrics


def test_a_module_without_forward(tmp_path):
    class Headless(TinyModule):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return self.head(self.backbone(batch[0])).square().mean()

        validation_step = training_step

    with pytest.raises(FeatureTapError, match="unlabeled images failed: .*pass forward="):
        fit(tmp_path, AlphaMonitor(dataloader=unlabeled_loader()), Headless())
    for forward in ("backbone", lambda x: None):
        monitor = AlphaMonitor(dataloader=unlabeled_loader(), forward=forward)
        if callable(forward):
            with pytest.raises(FeatureTapError, match="layer 'backbone' did not run"):
                fit(tmp_path, monitor, Headless())
        else:
            fit(tmp_path, monitor, Headless())
            assert len(monitor.history) == 3


def test_batches_of_any_shape(tmp_path):
    batches = [
        images(60, 1),
        (images(60, 2), torch.zeros(60)),
        [images(60, 3), images(60, 4)],
        {"meta": "no tensor", "image": images(60, 5), "label": torch.zeros(60)},
    ]
    monitor = AlphaMonitor(dataloader=batches)
    _, module = fit(tmp_path, monitor)
    together = torch.cat([images(60, seed) for seed in (1, 2, 3, 5)])
    assert monitor.history[-1].alpha == pytest.approx(alpha_of(module, together), rel=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_training_is_bit_identical_with_and_without(tmp_path, own):
    def train(*callbacks):
        torch.manual_seed(0)
        module = TinyModule()
        trainer = make_trainer(tmp_path, *callbacks)
        trainer.fit(module, labelled_loader(shuffle=True), labelled_loader(seed=5))
        return [*module.state_dict().values(), torch.get_rng_state()]

    loader = unlabeled_loader(shuffle=True) if own else None
    with_it, without = train(AlphaMonitor(dataloader=loader)), train()
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


def test_two_monitors_keep_their_own_state(tmp_path):
    first = AlphaMonitor()
    second = AlphaMonitor("backbone.1", prefix="early_")
    trainer, _ = fit(tmp_path, first, None, second)
    assert first.state_key != second.state_key
    assert {"val_alpha", "early_alpha"} <= set(trainer.callback_metrics)
