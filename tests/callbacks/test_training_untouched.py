"""With and without the monitor: weights, optimizer and random states, to the last bit."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from untouched import assert_identical, everything, seed

from alphareq_lightning import AlphaMonitor

from tiny import NoValidation, TinyModule, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def own(**options):
    return AlphaMonitor(dataloader=unlabeled_loader(shuffle=True, **options))


def train(tmp_path, monitor, module_class=TinyModule, validate=True, ckpt_path=None, **options):
    seed()
    module = module_class()
    callbacks = [] if monitor is None else [monitor]
    trainer = make_trainer(tmp_path, *callbacks, **{"max_epochs": 3, **options})
    loaders = [labelled_loader(shuffle=True)]
    if validate:
        loaders.append(labelled_loader(seed=5))
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    if monitor is not None:
        assert monitor.history  # it did measure
    return everything(trainer, module)


SETTINGS = {
    "plain": {},
    "several validations per epoch": {"val_check_interval": 2},
    "gradient accumulation": {"accumulate_grad_batches": 2},
    "no sanity check": {"num_sanity_val_steps": 0},
    "every second epoch": {"check_val_every_n_epoch": 2},
    "bf16": {"precision": "bf16-mixed"},
    "without inference mode": {"inference_mode": False},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("monitor", [AlphaMonitor, own], ids=["validation batches", "own images"])
def test_identical(tmp_path, options, monitor):
    assert_identical(train(tmp_path, monitor(), **options), train(tmp_path, None, **options))


def test_identical_with_workers(tmp_path):
    monitor = own(num_workers=2, persistent_workers=True)
    assert_identical(train(tmp_path, monitor), train(tmp_path, None))


def test_identical_without_validation_loop(tmp_path):
    options = {"module_class": NoValidation, "validate": False}
    assert_identical(train(tmp_path, own(), **options), train(tmp_path, None, **options))


@pytest.mark.parametrize("monitor", [AlphaMonitor, own], ids=["validation batches", "own images"])
def test_identical_after_resume(tmp_path, monitor):
    ends = []
    for name, make in (("with", monitor), ("without", lambda: None)):
        seed()
        keep = ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1)
        callbacks = [keep, *filter(None, [make()])]
        trainer = make_trainer(tmp_path, *callbacks, enable_checkpointing=True, max_epochs=1)
        trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
        path = tmp_path / name / "epoch=0.ckpt"
        ends.append(train(tmp_path, make(), ckpt_path=path))
    assert_identical(*ends)


def test_the_comparison_sees_a_difference(tmp_path):
    class Draws(AlphaMonitor):
        def on_validation_start(self, trainer, pl_module):
            super().on_validation_start(trainer, pl_module)
            torch.rand(1)

    first, second = train(tmp_path, Draws()), train(tmp_path, None)
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Counts(TinyModule):
    def __init__(self):
        super().__init__()
        self.steps = []

    def training_step(self, batch, batch_idx):
        self.steps.append(batch_idx)
        return super().training_step(batch, batch_idx)

    def on_validation_batch_start(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.steps.append(-batch_idx)


@pytest.mark.parametrize("shared", ["train", "val"])
def test_identical_when_the_own_images_come_from_the_trainers_own_loader(tmp_path, shared):
    ends, seen = [], []
    for own in (True, False):
        seed()
        workers = {"num_workers": 1, "persistent_workers": True}
        loaders = {
            "train": labelled_loader(shuffle=True, **(workers if shared == "train" else {})),
            "val": labelled_loader(seed=5, **(workers if shared == "val" else {})),
        }
        monitor = AlphaMonitor(dataloader=loaders[shared] if own else None)
        trainer, module = make_trainer(tmp_path, monitor, val_check_interval=2), Counts()
        trainer.fit(module, *loaders.values())
        assert {record.num_samples for record in monitor.history} == {320}
        ends.append(everything(trainer, module))
        seen.append(module.steps)
    assert seen[0] == seen[1]
    assert_identical(*ends)


def test_identical_when_a_generator_is_shared(tmp_path):
    ends = []
    for own in (True, False):
        seed()
        generator = torch.Generator().manual_seed(0)
        images = unlabeled_loader(shuffle=True, generator=generator)
        monitor = AlphaMonitor(dataloader=images if own else None, max_samples=100)
        trainer, module = make_trainer(tmp_path, monitor), TinyModule()
        trainer.fit(
            module, labelled_loader(shuffle=True, generator=generator), labelled_loader(seed=5)
        )
        ends.append([*everything(trainer, module), generator.get_state()])
    assert_identical(*ends)


@pytest.mark.parametrize("with_generator", [True, False])
def test_every_pass_sees_the_same_images(tmp_path, with_generator):
    class Still(TinyModule):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module = Still()
    module.backbone[2].momentum = 0.0
    generator = torch.Generator() if with_generator else None
    images = unlabeled_loader(shuffle=True, generator=generator)
    monitor = AlphaMonitor(dataloader=images, max_samples=100)
    make_trainer(tmp_path, monitor).fit(
        module, labelled_loader(shuffle=True, generator=generator), labelled_loader(seed=5)
    )
    untrained, first, second = monitor.history
    assert untrained.eigenvalues == first.eigenvalues == second.eigenvalues
