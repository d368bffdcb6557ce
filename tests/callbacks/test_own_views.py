"""Scores of views in the monitor itself: views of its own images, the same at every measurement."""

import copy
import random
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2
from untouched import assert_identical, everything, seed

from alphareq_lightning import AlphaMonitor, Gauge, GaugeOptions, OptionError
from alphareq_lightning.callbacks.augmented_views import generators_of
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional import cross_validated_eigenvalues, fit_power_law, pair_moments
from alphareq_lightning.measure import profile_layers

import oracles
from ranks import Frozen
from tiny import NoValidation, TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
OF_VIEWS = ["lidar", "alignment", "twins_error", "cvpca"]


def noisy(x):
    """From all three global generators."""
    return x + 0.1 * torch.randn_like(x) + 0.01 * random.random() * np.random.rand()


class Remembers:
    """Keeps what it has drawn."""

    def __init__(self):
        self.given = []

    def __call__(self, x):
        self.given.append(noisy(x))
        return self.given[-1]


def fit(tmp_path, monitor, module=None, validate=True, **options):
    seed()
    module = module or (TinyModule() if validate else NoValidation())
    trainer = make_trainer(tmp_path, *([monitor] if monitor else []), **options)
    loaders = [labelled_loader(shuffle=True), *([labelled_loader(seed=5)] if validate else [])]
    trainer.fit(module, *loaders)
    return trainer, module


def twins_oracle(a, b):
    width = a.shape[1]
    distance = (np.corrcoef(a, b, rowvar=False)[:width, width:] - np.eye(width)) ** 2
    off_diagonal = distance.sum() - np.trace(distance)
    return np.trace(distance) / width + off_diagonal / (width * (width - 1))


@pytest.mark.parametrize("views", [2, 5])
def test_the_scores_are_those_of_the_views_and_alpha_that_of_the_images(tmp_path, views):
    augment = Remembers()
    own = {"dataloader": unlabeled_loader(), "figures": False}
    monitor = AlphaMonitor(scores=["rankme", *OF_VIEWS], views=views, augment=augment, **own)
    trainer, module = fit(tmp_path, monitor, max_epochs=1)
    fit(tmp_path, plain := AlphaMonitor(**own), max_epochs=1)
    record, expected = monitor.history[-1], plain.history[-1]
    assert record.alpha == expected.alpha
    assert record.num_samples == record.num_images == expected.num_images == 320
    assert record.scores["rankme"] == expected.scores["rankme"]

    batches = -(-320 // 50)
    drawn = augment.given[-batches * views :]  # after those of the untrained network
    module.eval()
    with torch.no_grad():
        heard = [module.backbone(x) for x in drawn]
    stacked = torch.cat(
        [torch.stack(heard[i : i + views], dim=1) for i in range(0, len(heard), views)]
    ).double()
    even = views // 2 * 2
    a, b = (stacked[:, start:even:2].flatten(0, 1) for start in (0, 1))
    cv = fit_power_law(cross_validated_eigenvalues(pair_moments(a, b)), num_samples=len(a))
    a, b = a.numpy(), b.numpy()
    truth = {
        "lidar": oracles.lidar(stacked.numpy()),
        "alignment": oracles.alignment(a, b),
        "twins_error": twins_oracle(a, b),
        "cvpca": cv.alpha.item(),
    }
    for name, value in truth.items():  # the network ran in float32
        assert record.scores[name] == pytest.approx(value, rel=1e-4), name
        assert trainer.callback_metrics[f"val_{name}"].item() == pytest.approx(value, rel=1e-4)


class Own:
    """An augmentation with generators of its own, one of each kind."""

    def __init__(self):
        self.torch, self.numpy = torch.Generator().manual_seed(3), np.random.default_rng(3)
        self.old, self.python = np.random.RandomState(3), random.Random(3)

    def view(self, x):
        shift = self.numpy.random() + self.old.rand() + self.python.random()
        return x + 0.1 * shift * torch.randn(x.shape, generator=self.torch)

    def numbers(self):
        return [
            torch.rand(1, generator=self.torch).item(),
            *(self.numpy.random(), self.old.rand(), self.python.random()),
        ]


def test_every_measurement_draws_the_same_views(tmp_path):
    own = Own()
    untouched = copy.deepcopy(own).numbers()
    for augment in (noisy, own.view, partial(Own.view, own), lambda x: own.view(noisy(x))):
        monitor = AlphaMonitor(
            dataloader=unlabeled_loader(shuffle=True),
            scores=["lidar", "alignment"],
            augment=augment,
            at_steps=[0, 3],
        )
        fit(tmp_path, monitor, Frozen())
        assert len(monitor.history) == 4
        assert len({tuple(record.scores.values()) for record in monitor.history}) == 1
    assert own.numbers() == untouched


def test_generators_are_found_where_augmentations_keep_them():
    own = Own()
    for augment in (own.view, partial(Own.view, own), lambda x: own.view(x)):
        assert len(generators_of(augment)) == 4
    chain = v2.Compose([v2.Lambda(own.view), v2.Identity()])
    assert len(generators_of(chain)) == 4
    module = TinyModule()
    module.draws = own.torch
    assert generators_of(module.validation_step) == [own.torch]
    assert generators_of(noisy) == []


SETTINGS = {
    "plain": {},
    "bf16": {"precision": "bf16-mixed"},
    "no validation loop": {"validate": False},
    "no sanity check": {"num_sanity_val_steps": 0},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_training_is_the_same_to_the_last_bit(tmp_path, options):
    own = Own()
    loader = unlabeled_loader(shuffle=True)
    both = {"augment": lambda x: noisy(own.view(x)), "views": 3, "at_steps": [0, 2]}
    monitor = AlphaMonitor(dataloader=loader, scores=OF_VIEWS, **both)
    measured = everything(*fit(tmp_path, monitor, **options))
    assert_identical(measured, everything(*fit(tmp_path, None, **options)))


class FailsLater:
    """Works in the trial before training, and no more."""

    calls = 0

    def __call__(self, x):
        self.calls += 1
        if self.calls > 5:
            raise ValueError("no augmentation today")
        return noisy(x)


def test_an_augmentation_that_fails_in_training_is_a_problem_and_leaves_no_trace(tmp_path):
    own = {"dataloader": unlabeled_loader(), "scores": ["alignment"], "at_steps": ()}
    monitor = AlphaMonitor(augment=FailsLater(), **own)
    trainer, module = fit(tmp_path, monitor)
    assert_identical(everything(trainer, module), everything(*fit(tmp_path, None)))
    assert "augment= failed on images of shape (50, 1, 6, 6): no aug" in monitor.history[0].problem
    assert {"val_alpha", "val_alignment"} <= set(trainer.callback_metrics)


class Knows(pl.LightningDataModule):
    """Images and views, as a DataModule says both."""

    def train_dataloader(self):
        return labelled_loader()

    def alpha_dataloader(self):
        return unlabeled_loader()

    def alpha_view(self, x):
        return x.flip(-1)


def test_views_that_a_datamodule_makes(tmp_path):
    monitor = AlphaMonitor(scores=["alignment"])
    make_trainer(tmp_path, monitor).fit(NoValidation(), datamodule=Knows())
    assert monitor.history[-1].scores["alignment"] == pytest.approx(0, abs=1e-12)  # all alike


def test_a_callable_gets_the_views_in_its_batch(tmp_path):
    seen = []

    def forward(batch):
        seen.append({name: value.clone() for name, value in batch.items()})
        module.backbone(batch["image"])

    batches = [{"image": images(100, seed=s), "index": torch.arange(100)} for s in range(2)]
    module = NoValidation()
    monitor = AlphaMonitor(
        dataloader=batches, forward=forward, scores=["alignment"], augment=lambda x: x.mul_(2)
    )
    fit(tmp_path, monitor, module, validate=False, max_epochs=1)
    clean, *views = seen[-3:]
    assert torch.equal(clean["image"], images(100, seed=1))  # though views were made in place
    for view in views:
        assert torch.equal(view["image"], 2 * clean["image"])
        assert torch.equal(view["index"], clean["index"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scores": ["lidar"], "views": 1}, "expected an integer views >= 2, got views=1"),
        ({"scores": ["lidar"], "augment": 3}, "augment= a callable of a batch of images, got 3"),
        ({"augment": noisy}, "augment= is for scores of views; ask for some.*: lidar, alignment"),
    ],
)
def test_what_the_constructor_refuses(options, text):
    with pytest.raises(OptionError, match=text):
        AlphaMonitor(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "'lidar' needs views of own images.*: pass dataloader= or write a method alpha_data"),
        ({"dataloader": unlabeled_loader()}, r"pass augment=.* or write a method alpha_view\(im"),
    ],
)
def test_views_need_images_and_somebody_who_makes_them(tmp_path, options, text):
    with pytest.raises(OptionError, match=text):
        fit(tmp_path, AlphaMonitor(scores=["lidar"], **options))


@pytest.mark.parametrize(
    ("augment", "text"),
    [
        (lambda x: x[:, :, 1:], r"one view of shape \(50, 1, 6, 6\), got \(50, 1, 5, 6\)"),
        (lambda x: (x, x), r"one view of shape \(50, 1, 6, 6\), got a tuple"),
        (lambda x: x / 0 @ x.T, r"augment= failed on images of shape \(50, 1, 6, 6\)"),
    ],
)
def test_an_augmentation_that_cannot_work_stops_before_training(tmp_path, augment, text):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), scores=["lidar"], augment=augment)
    with pytest.raises(FeatureTapError, match=text):
        fit(tmp_path, monitor)


def test_without_views_the_score_is_refused_and_says_where_they_are_made():
    module, text = nn.Sequential(nn.Linear(8, 8)), r"'alignment' needs two views.*GaugeOptions\("
    with pytest.raises(OptionError, match=text):
        GaugeOptions(scores="alignment")
    with pytest.raises(OptionError, match=text):
        profile_layers(module, torch.randn(50, 8).split(10), scores=["alignment"])


def test_views_in_any_loop():
    network, x = nn.Sequential(nn.Linear(36, 8)), images(200).flatten(1)
    options = GaugeOptions(layer="0", scores=["alignment"], views=2, fit_range=(2, 8))
    with Gauge(options, network) as gauge, torch.no_grad():
        for batch in x.split(50):
            with gauge.watching(batch):
                network(batch)
            with gauge.watching_views(batch):
                network(batch), network(batch + 1)
        [record] = gauge.record()
        truth = oracles.alignment(network(x).numpy(), network(x + 1).numpy())
        assert record.scores["alignment"] == pytest.approx(truth, rel=1e-5)
        assert record.num_samples == 200
        with gauge.watching(x), gauge.watching_views(x):
            network(x)
        [record] = gauge.record(warn=False)
    assert "layer '0' ran 1 times in the passes over 2 views" in record.problem
