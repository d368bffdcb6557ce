"""Each record of a training knows where it stands, and the user hears of one that fails."""

import math
import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from alphareq_lightning import AlphaMonitor, records_from_checkpoints, verdict
from alphareq_lightning.errors import CourseWarning, PoorFitWarning
from alphareq_lightning.selection.course import course_of

from tiny import make_trainer

HEALTHY = {0: 1.64, 100: 1.98, 200: 1.99, 300: 1.83, 400: 1.71, 500: 1.57}
FAILING = {0: 1.54, 100: 1.10, 200: 1.60, 300: 2.10, 400: 2.26}


def whitened(n=200, width=64):
    """Centred images whose covariance is the identity."""
    drawn = torch.randn(n, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn - drawn.mean(0)).Q.float() * n**0.5


class Planted(pl.LightningModule):
    """Its features have at each step the α that is given for it."""

    def __init__(self, alphas):
        super().__init__()
        self.alphas, self.backbone, self.weight = alphas, nn.Identity(), nn.Parameter(torch.ones(1))

    def forward(self, images):
        alpha = self.alphas[100 * math.ceil(self.trainer.global_step / 100)]
        return self.backbone(images * torch.arange(1, images.shape[1] + 1) ** (-alpha / 2))

    def training_step(self, batch, batch_idx):
        return (self.weight**2).sum()

    def validation_step(self, batch, batch_idx):
        self(batch)
        self.log("val_loss", 1.0 / (1 + self.trainer.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def batches():
    return DataLoader(whitened(), batch_size=2)


def fit(tmp_path, monitor, alphas, *callbacks, steps=None, **options):
    validates = options.pop("validates", True)
    ckpt_path = options.pop("ckpt_path", None)
    trainer = make_trainer(
        tmp_path,
        monitor,
        *callbacks,
        max_epochs=(steps or max(alphas)) // 100,
        num_sanity_val_steps=0,
        **options,
    )
    module, held_out = Planted(alphas), DataLoader(whitened(), batch_size=100)
    trainer.fit(module, batches(), *([held_out] if validates else []), ckpt_path=ckpt_path)
    return trainer


def own(**options):
    return AlphaMonitor("backbone", dataloader=DataLoader(whitened(), batch_size=100), **options)


class Logged(pl.Callback):
    def __init__(self, key="val_alpha_drift"):
        self.key, self.values = key, []

    def on_validation_end(self, trainer, pl_module):
        self.values.append(trainer.callback_metrics[self.key].item())


def test_records_know_where_their_training_stands(tmp_path):
    monitor, logged = own(), Logged()
    fit(tmp_path, monitor, HEALTHY, logged)
    assert [r.alpha for r in monitor.history] == pytest.approx(list(HEALTHY.values()), abs=1e-4)
    stand = ["unknown", "unknown", "warming up", "settling", "settling", "settling"]
    assert [r.phase for r in monitor.history] == stand
    assert [r.untrained_alpha for r in monitor.history] == [monitor.history[0].alpha] * 6
    assert course_of(monitor.history).phase == "settling"
    drifts = [-0.16, -0.12, -0.26]  # from steps 200, 300 and 300
    assert [r.drift for r in monitor.history[3:]] == pytest.approx(drifts, abs=1e-3)
    assert monitor.history[1].drift is None
    assert math.isnan(logged.values[0])  # one key, every time
    expected = [r.drift for r in monitor.history[2:]]
    assert logged.values[1:] == pytest.approx(expected, abs=1e-6)


def test_validation_batches_have_a_course_too(tmp_path):
    monitor = AlphaMonitor("backbone")
    fit(tmp_path, monitor, HEALTHY)
    assert [r.phase for r in monitor.history][-2:] == ["settling", "settling"]
    assert {r.untrained_alpha for r in monitor.history} == {None}


def test_one_checkpoint_is_enough_for_a_verdict(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=1, monitor="val_loss")
    fit(tmp_path, own(), HEALTHY, keep, enable_checkpointing=True)
    [record] = records_from_checkpoints(tmp_path / "kept")
    assert record.phase == "settling"
    found = verdict([record])
    assert found.choice == record
    assert found.courses[record.run].phase == "settling"
    assert not found.doubts


def test_a_resumed_training_goes_on_from_where_it_stood(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, own(), HEALTHY, keep, steps=200, enable_checkpointing=True)
    resumed = own()
    fit(tmp_path, resumed, HEALTHY, ckpt_path=tmp_path / "last.ckpt")
    assert [r.global_step for r in resumed.history] == [0, 100, 200, 300, 400, 500]
    assert resumed.history[-1].phase == "settling"
    assert resumed.history[-1].untrained_alpha == resumed.history[0].alpha


def test_a_monitor_of_two_trainings_keeps_their_courses_apart(tmp_path):
    monitor = own()
    with pytest.warns(CourseWarning):
        fit(tmp_path, monitor, FAILING)
    fit(tmp_path, monitor, HEALTHY)
    assert monitor.history[-1].phase == "settling"


def heard_in(tmp_path, monitor, alphas, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, monitor, alphas, **options)
    return [str(w.message) for w in caught if w.category is CourseWarning]


@pytest.mark.parametrize("validates", [True, False])
def test_a_failing_training_is_said_once(tmp_path, validates):
    monitor = own()
    [sentence] = heard_in(tmp_path, monitor, FAILING, validates=validates)
    assert [r.phase for r in monitor.history[-3:]] == ["warming up", "failing", "failing"]
    assert sentence.startswith("α of layer 'backbone' is 2.10 at step 300, where that of")
    assert "the untrained network was 1.54" in sentence


def test_each_layer_is_said_for_itself(tmp_path):
    class Two(Planted):
        def __init__(self, alphas):
            super().__init__(alphas)
            self.other = nn.Identity()

        def forward(self, images):
            return self.other(super().forward(images))

    monitor = AlphaMonitor(["backbone", "other"], dataloader=DataLoader(whitened(), batch_size=100))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer(tmp_path, monitor, max_epochs=4, num_sanity_val_steps=0)
        trainer.fit(Two(FAILING), batches(), DataLoader(whitened(), batch_size=100))
    heard = [str(w.message)[:20] for w in caught if w.category is CourseWarning]
    assert heard == ["α of layer 'backbone", "α of layer 'other' i"]


def test_a_healthy_training_hears_nothing(tmp_path):
    assert heard_in(tmp_path, own(), HEALTHY) == []


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.NoFitWarning")
def test_a_collapse_is_said_from_the_hundredth_step_on(tmp_path):
    """RankMe of so steep a spectrum is under a fiftieth of its 64 features."""
    steep = {0: 10.0, 100: 1.5, 200: 10.0, 300: 10.0}
    [sentence] = heard_in(tmp_path, own(), steep)
    assert "of layer 'backbone' have collapsed at step 200: RankMe is 1.2 of 64" in sentence
    untrained = own(at_steps=[0, 50])
    assert heard_in(tmp_path, untrained, {0: 12.0, 100: 1.5, 200: 1.5}) == []
    assert untrained.history[0].phase == "collapsed"


def test_a_course_that_cannot_be_told_does_not_end_a_training(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("no course")

    monkeypatch.setattr("alphareq_lightning.callbacks.alpha_monitor.with_course", broken)
    monitor = own()
    [sentence] = heard_in(tmp_path, monitor, HEALTHY)
    assert sentence == "where the training stands could not be told: no course"
    assert [r.phase for r in monitor.history] == [""] * 6
    assert all(r.fit is not None for r in monitor.history)


def test_nothing_is_said_outside_of_a_training(tmp_path):
    monitor = own()
    with pytest.warns(CourseWarning):
        trainer = fit(tmp_path, monitor, FAILING)
    held_out = DataLoader(whitened(), batch_size=100)
    trainer.validate(trainer.lightning_module, held_out, verbose=False)
    assert monitor.history[-1].fit is not None


def test_poor_fits_are_said_as_before(tmp_path):
    class Noise(Planted):
        def forward(self, images):
            bent = torch.where(torch.arange(64) < 6, 1.0, 0.01)
            return self.backbone(images * bent)

    trainer = make_trainer(tmp_path, AlphaMonitor("backbone"), max_epochs=1)
    with pytest.warns(PoorFitWarning, match="R² = "):
        trainer.fit(
            Noise(HEALTHY),
            DataLoader(whitened()[:6], batch_size=2),
            DataLoader(whitened(), batch_size=100),
        )


def test_a_validation_after_the_fit_is_of_the_same_training(tmp_path):
    monitor = own()
    keep = ModelCheckpoint(tmp_path / "kept")
    trainer = fit(tmp_path, monitor, HEALTHY, keep, enable_checkpointing=True)
    held_out = DataLoader(whitened(), batch_size=100)
    trainer.validate(trainer.lightning_module, held_out, verbose=False)
    trainer.validate(Planted(HEALTHY), held_out, ckpt_path="best", verbose=False)
    assert [r.global_step for r in monitor.history[-3:]] == [500] * 3
    assert len({record.run for record in monitor.history}) == 1
    found = verdict(monitor.history)
    assert (found.choice.global_step, len(found.courses)) == (500, 1)


def test_what_is_validated_before_a_training_need_not_be_untrained(tmp_path):
    monitor = own()
    trainer = make_trainer(tmp_path, monitor)
    held_out = DataLoader(whitened(), batch_size=100)
    trainer.validate(Planted(HEALTHY), held_out, verbose=False)
    assert monitor.history[0].untrained_alpha is None
    assert monitor.history[0].phase == ""
