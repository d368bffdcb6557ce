"""Which forward passes, loaders and weights a measurement belongs to, and whether that is said."""

import copy
import gc
import logging
import pickle
import warnings
import weakref

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    ModelCheckpoint,
)
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

from alphareq_lightning import AlphaMonitor, OptionError, records_from_checkpoints
from alphareq_lightning.errors import (
    HistoryWarning,
    LoaderWarning,
    NoFitWarning,
    PaddingWarning,
    SharedKeyWarning,
    StaleValueWarning,
    UndersampledWarning,
)
from alphareq_lightning.functional import eigenspectrum, fit_power_law
from alphareq_lightning.selection.ranking import cautions, rank_checkpoints

from tiny import NoValidation, TinyModule, images, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.PoorFitWarning")


def fit(tmp_path, monitor, module=None, *callbacks, loaders=None, **options):
    torch.manual_seed(0)
    module = module or TinyModule()
    trainer = make_trainer(tmp_path, monitor, *callbacks, **options)
    trainer.fit(module, *(loaders or (labelled_loader(), labelled_loader(seed=5))))
    return trainer, module


def alpha_of(backbone, x):
    backbone.eval()
    with torch.no_grad():
        return fit_power_law(eigenspectrum(backbone(x)), num_samples=len(x)).alpha.item()


# -- the weights of a checkpoint -------------------------------------------------------------------


def test_checkpoints_between_measurements_say_whose_alpha_they_carry(tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=2)
    fit(tmp_path, AlphaMonitor(), None, keep, max_epochs=2, enable_checkpointing=True)
    records = records_from_checkpoints([tmp_path / f"step={step}.ckpt" for step in (6, 8, 10)])
    # Validations are after steps 5 and 10; step 10 is saved before the second of them.
    assert [(r.global_step, r.path_step) for r in records] == [(5, 6), (5, 8), (5, 10)]
    measured = ModelCheckpoint(tmp_path / "own", "{step}", save_top_k=-1)
    fit(tmp_path, AlphaMonitor(), None, measured, enable_checkpointing=True)
    own = records_from_checkpoints([tmp_path / "own"])
    assert [(r.global_step, r.path_step) for r in own] == [(10, None), (5, None)]
    ranked = rank_checkpoints([*records, *own], force=True)
    assert [r.path_step for r in ranked[:2]] == [None, None]
    assert any(
        "3 of 5 checkpoints hold weights that were not measured" in c for c in cautions(ranked)
    )


def test_two_fits_of_one_monitor_are_told_apart(tmp_path):
    monitor = AlphaMonitor()
    fit(tmp_path, monitor, max_epochs=4)
    keep = ModelCheckpoint(tmp_path / "second", "{epoch}", save_top_k=-1)
    fit(tmp_path, monitor, TinyModule(), keep, max_epochs=2, enable_checkpointing=True)
    assert [r.global_step for r in monitor.history] == [5, 10, 15, 20, 5, 10]
    assert len({r.run for r in monitor.history[:4]}) == 1
    assert monitor.history[3].run != monitor.history[4].run
    found = {r.epoch: r.alpha for r in records_from_checkpoints([tmp_path / "second"])}
    assert found == {r.epoch: r.alpha for r in monitor.history[4:]}


def test_validation_after_a_resumed_fit_is_labelled_with_the_weights_that_are_there(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, AlphaMonitor(), None, keep, max_epochs=1, enable_checkpointing=True)
    monitor, module = AlphaMonitor(), TinyModule()
    trainer = make_trainer(tmp_path, monitor, max_epochs=3)
    loaders = (labelled_loader(), labelled_loader(seed=5))
    trainer.fit(module, *loaders, ckpt_path=tmp_path / "last.ckpt")
    trainer.validate(module, loaders[1], verbose=False)
    assert [r.global_step for r in monitor.history] == [5, 10, 15, 15]
    trainer.validate(module, loaders[1], ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert monitor.history[-1].global_step == 5


def test_another_layer_continues_the_history(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    fit(tmp_path, AlphaMonitor("backbone"), None, keep, max_epochs=1, enable_checkpointing=True)
    monitor = AlphaMonitor(["backbone.3", "backbone"])
    again = ModelCheckpoint(tmp_path / "again", save_last=True)
    trainer = make_trainer(tmp_path, monitor, again, max_epochs=2, enable_checkpointing=True)
    loaders = (labelled_loader(), labelled_loader(seed=5))
    trainer.fit(TinyModule(), *loaders, ckpt_path=tmp_path / "last.ckpt")
    assert [r.layer for r in monitor.history] == ["backbone", "backbone.3", "backbone"]
    last = tmp_path / "again" / "last.ckpt"
    with pytest.warns(UserWarning, match="of layer 'backbone.3' are read"):
        [record] = records_from_checkpoints([last])
    assert record.layer == "backbone.3"


# -- whose forward pass ----------------------------------------------------------------------------


class Probe(Callback):
    """Runs the model itself, as a kNN probe does, before or after the validation step."""

    def __init__(self, when):
        self.when = when

    def on_validation_batch_start(self, trainer, pl_module, *_):
        if self.when == "before":
            pl_module(images(64, seed=9))

    def on_validation_batch_end(self, trainer, pl_module, *_):
        if self.when == "after":
            pl_module(images(64, seed=9))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("monitor_first", [True, False])
def test_forward_passes_of_other_callbacks_do_not_count(tmp_path, when, monitor_first):
    monitor = AlphaMonitor()
    callbacks = [monitor, Probe(when)][:: 1 if monitor_first else -1]
    module = TinyModule()
    trainer = make_trainer(tmp_path, *callbacks, max_epochs=1)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    [record] = monitor.history
    assert record.num_samples == 320
    assert record.alpha == pytest.approx(alpha_of(module.backbone, images(seed=5)), rel=1e-5)


@pytest.mark.parametrize("own_first", [True, False])
def test_two_monitors_on_one_layer_see_their_own_images_only(tmp_path, own_first):
    own = AlphaMonitor(dataloader=unlabeled_loader(n=200), prefix="own_")
    monitors = [own, AlphaMonitor()][:: 1 if own_first else -1]
    module = TinyModule()
    trainer = make_trainer(tmp_path, *monitors, max_epochs=1)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    found = {m.prefix: m.history[-1] for m in monitors}
    assert (found["own_"].num_samples, found["val_"].num_samples) == (200, 320)
    expected = alpha_of(module.backbone, images(seed=5))
    assert found["val_"].alpha == pytest.approx(expected, rel=1e-5)


class Lora(nn.Module):
    """Wraps a backbone in the middle of a training, as adapters do."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(36, 4), nn.Linear(4, 48)
        nn.init.normal_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x.flatten(1)))


@pytest.mark.parametrize("own", [True, False])
def test_a_layer_that_is_wrapped_in_mid_training_is_measured_as_it_is_now(tmp_path, own):
    class Wraps(TinyModule):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.old, self.backbone = self.backbone, Lora(self.backbone)

    monitor = AlphaMonitor(dataloader=unlabeled_loader() if own else None)
    _, module = fit(tmp_path, monitor, Wraps())
    expected = alpha_of(module.backbone, images(seed=1 if own else 5))
    assert monitor.history[-1].alpha == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(alpha_of(module.old, images(seed=1 if own else 5)), rel=1e-2)


def test_a_layer_that_is_gone_is_no_measurement(tmp_path):
    class Drops(TinyModule):
        def on_train_epoch_end(self):
            if hasattr(self, "backbone"):
                self.renamed = self.backbone
                del self.backbone

        def forward(self, x):
            return self.head((self.renamed if hasattr(self, "renamed") else self.backbone)(x))

    monitor = AlphaMonitor()
    with pytest.warns(NoFitWarning, match="layer 'backbone' is gone from the module"):
        fit(tmp_path, monitor, Drops())
    assert [r.alpha == r.alpha for r in monitor.history] == [True, False]


def test_the_first_validation_names_what_ran_instead(tmp_path):
    class Idle(TinyModule):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(48, 48)

    text = r"layer 'spare' did not run .* layer= 'backbone' \(64, 48\), .*; or pass dataloader_idx="
    with pytest.warns(NoFitWarning, match=text):
        fit(tmp_path, AlphaMonitor("spare"), Idle(), num_sanity_val_steps=0)


# -- which loader ----------------------------------------------------------------------------------


class TwoLoaders(TinyModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)


def two(first, second):
    train = labelled_loader()
    return train, [first(train), second(train)]


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (lambda train: labelled_loader(n=64), "with 64, 320 samples, the first is measured; choo"),
        (lambda train: DataLoader(train.dataset, batch_size=64), "first .* reads the training dat"),
        (
            lambda train: DataLoader(Subset(train.dataset, range(320)), batch_size=64),
            "first is measured, and it reads the training data",
        ),
    ],
)
@pytest.mark.parametrize("sanity", [0, 2])
def test_the_first_of_several_loaders_is_doubted(tmp_path, first, text, sanity):
    loaders = two(first, lambda train: labelled_loader(seed=5))
    with pytest.warns(LoaderWarning, match=text):
        fit(tmp_path, AlphaMonitor(), TwoLoaders(), loaders=loaders, num_sanity_val_steps=sanity)


def test_a_loader_that_was_chosen_is_not_doubted(tmp_path, recwarn):
    loaders = two(lambda train: train, lambda train: labelled_loader(seed=5))
    monitor = AlphaMonitor(dataloader_idx=1)
    fit(tmp_path, monitor, TwoLoaders(), loaders=loaders)
    fit(tmp_path, AlphaMonitor(dataloader_idx=0), TwoLoaders(), loaders=loaders)
    same = two(lambda train: labelled_loader(seed=6), lambda train: labelled_loader(seed=5))
    fit(tmp_path, AlphaMonitor(), TwoLoaders(), loaders=same)
    assert not [w for w in recwarn if issubclass(w.category, LoaderWarning)]


@pytest.mark.parametrize("options", [{}, {"num_sanity_val_steps": 0}])
def test_a_loader_that_is_not_there_is_an_error_before_training(tmp_path, options):
    class Untrained(TwoLoaders):
        def training_step(self, batch, batch_idx):
            pytest.fail("training had begun")

    loaders = two(lambda train: train, lambda train: labelled_loader(seed=5))
    with pytest.raises(OptionError, match="dataloader_idx=2 is none of the 2 validation loaders"):
        fit(tmp_path, AlphaMonitor(dataloader_idx=2), Untrained(), loaders=loaders, **options)
    with pytest.raises(OptionError, match="dataloader_idx=2 is none of the 2 validation loaders"):
        make_trainer(tmp_path, AlphaMonitor(dataloader_idx=2)).validate(TwoLoaders(), loaders[1])


# -- keys ------------------------------------------------------------------------------------------


def logging_module(hook, key):
    class Logs(TinyModule):
        pass

    def logs(self, *args):
        self.log(key, 99.0)
        return getattr(TinyModule, hook)(self, *args) if hook == "validation_step" else None

    setattr(Logs, hook, logs)
    return Logs()


KEYS = ["val_alpha", "val_rankme", "val_alpha_distance", "val_alpha_samples"]


@pytest.mark.parametrize("hook", ["validation_step", "on_validation_epoch_end"])
@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_taken_is_an_error_before_training(tmp_path, hook, key):
    with pytest.raises(OptionError, match=f"something else logs {key} too"):
        fit(tmp_path, AlphaMonitor(), logging_module(hook, key))
    error = OptionError, f"something else logs {key} too"
    if (hook, key) == ("on_validation_epoch_end", "val_alpha"):  # alone in the progress bar
        error = MisconfigurationException, "twice in `on_validation_epoch_end`"
    with pytest.raises(error[0], match=error[1]):
        make_trainer(tmp_path, AlphaMonitor()).validate(
            logging_module(hook, key), labelled_loader(), verbose=False
        )


@pytest.mark.parametrize("hook", ["validation_step", "on_validation_epoch_end"])
def test_a_key_that_is_taken_is_a_warning_once_training_runs(tmp_path, hook):
    module = logging_module(hook, "val_rankme")
    with pytest.warns(SharedKeyWarning, match="something else logs val_rankme too"):
        trainer, _ = fit(tmp_path, AlphaMonitor(), module, num_sanity_val_steps=0)
    assert trainer.current_epoch == 2


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "training_step"])
def test_a_key_that_is_taken_without_a_validation_loop(tmp_path, hook):
    class Logs(NoValidation):
        def training_step(self, batch, batch_idx):
            if hook == "training_step":
                self.log("val_rankme", 99.0, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self):
            if hook == "on_train_epoch_end":
                self.log("val_rankme", 99.0)

    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    with pytest.warns(SharedKeyWarning, match="something else logs val_rankme too"):
        fit(tmp_path, monitor, Logs(), loaders=(labelled_loader(),))


def test_own_values_are_no_foreign_ones(tmp_path, recwarn):
    collapses = labelled_loader(4, seed=5)  # NaN, and 10 as the distance
    for loader in (labelled_loader(seed=5), collapses):
        for options in ({}, {"num_sanity_val_steps": 0, "precision": "64-true"}):
            monitor = AlphaMonitor(["backbone", "backbone.3"], bias_correction="inversion")
            loaders = (labelled_loader(), loader)
            trainer, module = fit(tmp_path, monitor, loaders=loaders, **options)
            trainer.validate(module, loader, verbose=False)
    assert not [w for w in recwarn if issubclass(w.category, SharedKeyWarning)]


def test_values_that_are_older_than_who_reads_them_thinks(tmp_path):
    stop = EarlyStopping("val_alpha_distance", patience=9)
    with pytest.warns(StaleValueWarning, match="EarlyStopping reads val_alpha_distance .*every_n"):
        fit(tmp_path, AlphaMonitor(every_n_epochs=2), None, stop)


# -- what is said of it ----------------------------------------------------------------------------


def said(caplog):
    return [r.message for r in caplog.records if r.message.startswith("AlphaMonitor:")]


class Convolutional(TinyModule):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 5))


@pytest.mark.parametrize("options", [{}, {"num_sanity_val_steps": 0}, {"max_epochs": 3}])
@pytest.mark.parametrize(
    ("monitor", "text"),
    [
        (
            lambda: AlphaMonitor(),
            "'backbone' (n, 32, 4, 4) → 32 features by mean; validation batches (320); "
            "fit ranks 4–6",
        ),
        (
            lambda: AlphaMonitor(dataloader=unlabeled_loader(n=310), pool="flatten"),
            "'backbone' (n, 32, 4, 4) → 512 features by flatten; own images (310); fit ranks 4–61",
        ),
        (
            lambda: AlphaMonitor(["head.1"], take="input", max_samples=50),
            "'head.1:input' (n, 512) → 512 features; validation batches (50); fit ranks 4–9",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.UndersampledWarning")
def test_one_line_says_what_is_measured(tmp_path, caplog, monitor, text, options):
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        fit(tmp_path, monitor(), Convolutional(), **options)
    assert said(caplog) == [f"AlphaMonitor: {text}"]


def test_the_line_says_which_loader(tmp_path, caplog):
    loaders = two(lambda train: train, lambda train: labelled_loader(seed=5))
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        fit(tmp_path, AlphaMonitor(dataloader_idx=1), TwoLoaders(), loaders=loaders)
    assert said(caplog) == [
        "AlphaMonitor: 'backbone' (n, 48) → 48 features; validation loader 1 of 2 (320); "
        "fit ranks 4–9"
    ]


# -- views and padding -----------------------------------------------------------------------------


class SeveralViews(TinyModule):
    def validation_step(self, batch, batch_idx):
        for _ in range(8):
            self.backbone(batch[0] + 0.1 * torch.randn_like(batch[0]))


def test_views_of_the_same_images_are_not_more_images(tmp_path):
    monitor = AlphaMonitor()
    text = r"40 images \(320 views of them\) for 48 features"
    with pytest.warns(UndersampledWarning, match=text):
        fit(tmp_path, monitor, SeveralViews(), loaders=(labelled_loader(), labelled_loader(40)))
    assert (monitor.history[-1].num_samples, monitor.history[-1].num_images) == (320, 40)


class Tokens(TinyModule):
    """Sees sequences: dicts of padded embeddings, with or without a mask."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(36, 48)

    def forward(self, batch):
        tokens = batch["tokens"] if isinstance(batch, dict) else batch
        return self.head(self.backbone(tokens)).mean(dim=1)

    def training_step(self, batch, batch_idx):
        return self(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self(batch)


def sequences(masked):
    generator = torch.Generator().manual_seed(0)
    batches = []
    for length in (7, 9, 12, 5):
        tokens = torch.randn(80, length, 36, generator=generator)
        counts = torch.randint(1, length + 1, (80, 1), generator=generator)
        mask = (torch.arange(length) < counts).long()
        tokens = tokens * mask[:, :, None] + 5 * (1 - mask[:, :, None])
        batches.append({"tokens": tokens, **({"attention_mask": mask} if masked else {})})
    return batches


def masked_mean(module, batches):
    rows = []
    for batch in batches:
        mask = batch["attention_mask"][:, :, None]
        rows.append((module.backbone(batch["tokens"]) * mask).sum(dim=1) / mask.sum(dim=1))
    with torch.no_grad():
        return fit_power_law(eigenspectrum(torch.cat(rows))).alpha.item()


@pytest.mark.parametrize("own", ["validation batches", "own", "own, by a callable"])
def test_padding_is_left_out_where_the_batch_has_a_mask(tmp_path, own):
    batches = sequences(masked=True)
    module = Tokens()
    options = {}
    if own != "validation batches":
        # The module takes a dict, so the callable is needed to give it one.
        options = {"dataloader": batches, "forward": module}
    loader = DataLoader(batches, batch_size=None)
    monitor = AlphaMonitor(**options)
    fit(tmp_path, monitor, module, loaders=(loader, loader), max_epochs=1)
    expected = masked_mean(module, batches)
    assert monitor.history[-1].alpha == pytest.approx(expected, rel=1e-5)


def test_padding_without_a_mask_is_warned_of(tmp_path):
    loader = DataLoader(sequences(masked=False), batch_size=None)
    with pytest.warns(PaddingWarning, match="4 lengths, 5 to 12, and no batch had an 'attention"):
        fit(tmp_path, AlphaMonitor(), Tokens(), loaders=(loader, loader), max_epochs=1)


def test_a_callable_gets_the_whole_batch(tmp_path):
    seen = []
    module = TinyModule()

    def forward(batch):
        seen.append([type(part).__name__ if part.ndim < 2 else tuple(part.shape) for part in batch])
        return module(batch[1])

    dataset = TensorDataset(torch.arange(100), images(100), torch.zeros(100))
    monitor = AlphaMonitor(
        dataloader=DataLoader(dataset, batch_size=40), forward=forward, max_samples=90
    )
    fit(tmp_path, monitor, module, max_epochs=1)
    assert monitor.history[-1].num_samples == 90
    assert seen[-1] == ["Tensor", (10, 1, 6, 6), "Tensor"]


def averaging():
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "WeightAveraging"):
        pytest.skip("this Lightning has no WeightAveraging yet")
    return callbacks.WeightAveraging()


# -- what a second look found ----------------------------------------------------------------------


def test_averaged_weights_are_measured_in_validations_or_not_at_all(tmp_path):
    loaders = (labelled_loader(), labelled_loader(seed=5))
    for options, given in (({"at_steps": [3]}, loaders), ({}, loaders[:1])):
        monitor = AlphaMonitor(dataloader=unlabeled_loader(), **options)
        module = TinyModule() if options else NoValidation()
        with pytest.raises(OptionError, match="WeightAveraging puts its averaged weights"):
            fit(tmp_path, monitor, module, averaging(), loaders=given)


def test_a_validation_of_a_checkpoint_adds_to_the_history(tmp_path):
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1)
    monitor = AlphaMonitor()
    trainer, module = fit(tmp_path, monitor, None, keep, max_epochs=3, enable_checkpointing=True)
    loader = labelled_loader(seed=5)
    trainer.validate(module, loader, ckpt_path=tmp_path / "step=5.ckpt", verbose=False)
    trainer.validate(module, loader, verbose=False)  # still those weights
    assert [r.global_step for r in monitor.history] == [5, 10, 15, 5, 5]
    assert monitor.history[0].alpha == monitor.history[4].alpha


@pytest.mark.parametrize("how", ["validated", "tested before"])
def test_weights_that_were_saved_alone_have_the_step_of_their_checkpoint(tmp_path, how):
    # Lightning hands callbacks nothing of such a checkpoint.
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_weights_only=True)
    monitor, module = AlphaMonitor(), TinyModule()
    module.test_step = module.validation_step
    trainer, _ = fit(tmp_path, monitor, module, keep, max_epochs=3, enable_checkpointing=True)
    loader, path = labelled_loader(seed=5), tmp_path / "step=5.ckpt"
    if how == "validated":
        trainer.validate(module, loader, ckpt_path=path, verbose=False)
    else:
        trainer.test(module, loader, ckpt_path=path, verbose=False)
        trainer.validate(module, loader, verbose=False)
    assert [r.global_step for r in monitor.history] == [5, 10, 15, 5]
    assert monitor.history[0].alpha == monitor.history[3].alpha


@pytest.mark.parametrize("states", [None, {ModelCheckpoint: {}}])  # before Lightning 1.5, classes
def test_checkpoints_of_others_are_no_obstacle(tmp_path, states):
    monitor, trainer = AlphaMonitor(), make_trainer(tmp_path)
    monitor.on_load_checkpoint(trainer, TinyModule(), {"callbacks": states})
    assert not monitor.history


def test_weights_of_an_unknown_step_are_logged_but_not_kept(tmp_path):
    class Elsewhere(TorchCheckpointIO):
        def load_checkpoint(self, path, *args, **options):
            loaded = super().load_checkpoint(tmp_path / "step=5.ckpt", *args, **options)
            return {key: value for key, value in loaded.items() if key != "callbacks"}

    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1)
    monitor = AlphaMonitor(figures=True)
    trainer, module = fit(
        tmp_path,
        monitor,
        None,
        keep,
        max_epochs=2,
        enable_checkpointing=True,
        plugins=[Elsewhere()],
    )
    loader = labelled_loader(seed=5)
    for path in ("memory://step=5.ckpt", None):
        with pytest.warns(HistoryWarning, match="not kept in the history: there is no checkpoint"):
            [logged] = trainer.validate(module, loader, ckpt_path=path, verbose=False)
        assert logged["val_alpha"] == pytest.approx(monitor.history[0].alpha, rel=1e-6)
    assert [r.global_step for r in monitor.history] == [5, 10]
    trainer.validate(module, loader, ckpt_path=tmp_path / "step=5.ckpt", verbose=False)
    assert [r.global_step for r in monitor.history] == [5, 10, 5]
    fit_again = make_trainer(tmp_path, monitor, max_epochs=1)
    fit_again.fit(module, labelled_loader(), loader)
    assert [r.global_step for r in monitor.history] == [5, 10, 5, 5]


@pytest.mark.parametrize("nested", [True, False])
def test_a_mask_is_found_wherever_it_is_and_one_of_another_name_is_warned_of(tmp_path, nested):
    class Nested(Tokens):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[0], batch_idx)

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    batches, module = sequences(masked=True), Nested()
    loader = [(batch, torch.zeros(80)) for batch in batches]
    if not nested:
        for batch in batches:
            batch["padding_mask"] = 1 - batch["attention_mask"]
    expected = masked_mean(module, batches)
    if not nested:
        for batch in batches:
            del batch["attention_mask"]
    monitor = AlphaMonitor()
    loader = DataLoader(loader, batch_size=None)
    if nested:
        fit(tmp_path, monitor, module, loaders=(loader, loader), max_epochs=1)
        expected = masked_mean(module, batches)
        assert monitor.history[-1].alpha == pytest.approx(expected, rel=1e-5)
    else:
        with pytest.warns(PaddingWarning, match="batches have .*'padding_mask'.* not known"):
            fit(tmp_path, monitor, module, loaders=(loader, loader), max_epochs=1)


def test_a_label_that_could_be_images_is_not_measured(tmp_path):
    labels = nn.functional.one_hot(torch.arange(320) % 36, 36).float()
    rows = [{"label": y, "image": x} for x, y in zip(images(seed=1), labels, strict=True)]
    monitor = AlphaMonitor(dataloader=DataLoader(rows, batch_size=50))
    _, module = fit(tmp_path, monitor)
    expected = alpha_of(module.backbone, images(seed=1))
    assert monitor.history[-1].alpha == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("forward", ["backbone", "given"])
def test_what_is_run_is_what_has_the_name_now(tmp_path, forward):
    class Swaps(TinyModule):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                torch.manual_seed(7)
                self.backbone = TinyModule().backbone

    module = Swaps()
    given = {"backbone": "backbone", "given": lambda batch: module.backbone(batch[0])}[forward]
    loader = DataLoader(TensorDataset(images(seed=1), torch.zeros(320)), batch_size=50)
    monitor = AlphaMonitor("backbone", dataloader=loader, forward=given)
    fit(tmp_path, monitor, module)
    expected = alpha_of(module.backbone, images(seed=1))
    assert monitor.history[-1].alpha == pytest.approx(expected, rel=1e-5)


def test_a_module_as_forward_gets_the_images_in_eval_mode(tmp_path):
    class Outside(nn.Module):
        """No part of the LightningModule, but it runs one."""

        def __init__(self, inner):
            super().__init__()
            self.norm, self.inner = nn.BatchNorm2d(1), [inner]

        def forward(self, x):
            return self.inner[0](self.norm(x))

    module = TinyModule()
    for forward in (module.backbone, Outside(module.backbone)):
        monitor = AlphaMonitor("backbone", dataloader=labelled_loader(seed=1), forward=forward)
        fit(tmp_path, monitor, module, max_epochs=1)
        expected = alpha_of(module.backbone, images(seed=1) / (1 + 1e-5) ** 0.5)
        assert monitor.history[-1].alpha == pytest.approx(expected, rel=1e-4)
    assert forward.norm.num_batches_tracked == 0
    assert forward.training


def test_loaders_whose_batches_come_together(tmp_path, caplog):
    class Both(TinyModule):
        def validation_step(self, batch, batch_idx):
            for part in batch:
                self(part[0])

    both = CombinedLoader([labelled_loader(seed=5), labelled_loader(seed=6)], "max_size")
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        fit(tmp_path, AlphaMonitor(), Both(), loaders=(labelled_loader(), both))
    assert "validation batches of 2 loaders together" in said(caplog)[0]
    with pytest.raises(OptionError, match="dataloader_idx=1 is none of the 1 validation loaders"):
        fit(tmp_path, AlphaMonitor(dataloader_idx=1), Both(), loaders=(labelled_loader(), both))


def test_the_held_out_half_of_a_split_is_no_training_data(tmp_path, recwarn):
    train, held_out = random_split(labelled_loader().dataset, [160, 160])
    loaders = [DataLoader(held_out, batch_size=40), DataLoader(train, batch_size=40)]
    monitor = AlphaMonitor()
    fit(tmp_path, monitor, TwoLoaders(), loaders=(DataLoader(train, batch_size=40), loaders))
    assert not [w for w in recwarn if issubclass(w.category, LoaderWarning)]


def test_no_measurement_before_the_first_validation_is_due(tmp_path):
    monitor = AlphaMonitor(dataloader=unlabeled_loader())
    options = {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0, "max_epochs": 4}
    fit(tmp_path, monitor, **options)
    assert [r.global_step for r in monitor.history] == [0, 10, 20]


def test_metrics_of_the_user_with_names_like_ours_are_kept(tmp_path):
    class Logs(TinyModule):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val_alphabet_acc", 0.5)

    monitor = AlphaMonitor()
    fit(tmp_path, monitor, Logs(), max_epochs=1)
    assert monitor.history[0].metrics["val_alphabet_acc"] == 0.5


# -- whose weights ---------------------------------------------------------------------------------


def validate(trainer, module, ckpt_path=None):
    """Logged α of a validation, and whether its weights are called unknown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        [logged] = trainer.validate(
            module, labelled_loader(seed=5), ckpt_path=ckpt_path, verbose=False
        )
    told = [w for w in caught if issubclass(w.category, HistoryWarning)]
    assert all("no module that this monitor has seen trained" in str(w.message) for w in told)
    return logged["val_alpha"], bool(told)


def places(monitor):
    return [(record.run, record.global_step) for record in monitor.history]


@pytest.fixture
def kept_runs(tmp_path):
    """Trainer, module and monitor after ten steps; and of another run the checkpoint of five."""
    other = ModelCheckpoint(tmp_path / "other", "{step}", save_top_k=-1)
    fit(tmp_path, AlphaMonitor(), None, other, enable_checkpointing=True)
    own = ModelCheckpoint(tmp_path / "own", "{step}", save_top_k=-1)
    monitor = AlphaMonitor()
    trainer, module = fit(tmp_path, monitor, None, own, enable_checkpointing=True)
    return trainer, module, monitor, tmp_path


def test_a_module_that_was_not_trained_is_logged_but_not_kept(kept_runs):
    trainer, module, monitor, _ = kept_runs
    fresh = TinyModule()
    logged, unknown = validate(trainer, fresh)
    assert unknown
    assert logged == pytest.approx(alpha_of(fresh.backbone, images(seed=5)), rel=1e-5)
    assert [step for _, step in places(monitor)] == [5, 10]
    assert not validate(trainer, module)[1]
    assert [step for _, step in places(monitor)] == [5, 10, 10]


def test_it_is_not_kept_either_when_the_trained_one_is_gone(tmp_path):
    monitor, trainer = AlphaMonitor(), make_trainer(tmp_path)
    trainer.callbacks.append(monitor)
    trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
    for _ in range(3):
        assert validate(trainer, TinyModule())[1]
    assert [step for _, step in places(monitor)] == [5, 10]


def test_each_module_has_the_step_and_the_run_of_its_own_weights(kept_runs):
    trainer, module, monitor, folder = kept_runs
    other, checkpoint = TinyModule(), folder / "other" / "step=5.ckpt"
    [theirs] = {record.run for record in records_from_checkpoints([checkpoint])}
    [own] = {run for run, _ in places(monitor)}
    validate(trainer, other, checkpoint)
    validate(trainer, module)
    validate(trainer, other)
    assert places(monitor)[2:] == [(theirs, 5), (own, 10), (theirs, 5)]
    assert monitor.history[2].alpha == monitor.history[4].alpha
    trainer.save_checkpoint(folder / "later.ckpt")
    assert records_from_checkpoints([folder / "later.ckpt"])[0].run == own


def test_another_trainer_knows_what_was_trained_in_the_first(kept_runs):
    trainer, module, monitor, folder = kept_runs
    [own] = {run for run, _ in places(monitor)}
    validate(make_trainer(folder, monitor), module)
    fresh = make_trainer(folder, monitor)
    validate(fresh, TinyModule())  # before any training, as far as this Trainer knows
    validate(trainer, module)
    assert [place == (own, 10) for place in places(monitor)[2:]] == [True, False, True]


def test_a_copy_of_a_monitor_does_not_guess(kept_runs):
    trainer, module, monitor, folder = kept_runs
    validate(trainer, module, folder / "own" / "step=5.ckpt")
    for copied in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        trainer.callbacks[trainer.callbacks.index(monitor)] = monitor = copied
        assert validate(trainer, module)[1]
        assert [step for _, step in places(copied)] == [5, 10, 5]


@pytest.mark.parametrize("left_out", ["nothing", "callbacks"])
def test_a_batch_size_finder_loads_nothing_that_counts(kept_runs, left_out):
    trainer, module, monitor, folder = kept_runs
    path = folder / "own" / "step=5.ckpt"
    saved = torch.load(path, weights_only=False)
    saved.pop(left_out, None)
    torch.save(saved, path)

    class Sized(LightningDataModule):
        batch_size = 16

        def val_dataloader(self):
            return DataLoader(labelled_loader(seed=5).dataset, self.batch_size)

    trainer.callbacks.insert(0, BatchSizeFinder(steps_per_trial=1, max_trials=1))
    with pytest.warns(HistoryWarning, match="no module that this monitor has seen trained"):
        trainer.validate(TinyModule(), datamodule=Sized(), verbose=False)
    trainer.validate(TinyModule(), datamodule=Sized(), ckpt_path=path)
    trainer.callbacks.pop(0)
    validate(trainer, module)
    assert [step for _, step in places(monitor)] == [5, 10, 5, 10]
    assert len({run for run, _ in places(monitor)}) == 1


def test_a_monitor_that_came_late_takes_the_first_module_for_the_trained_one(tmp_path):
    trainer, monitor = make_trainer(tmp_path), AlphaMonitor()
    module = TinyModule()
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    trainer.callbacks.append(monitor)
    assert [validate(trainer, own)[1] for own in (module, TinyModule(), module)] == [
        False,
        True,
        False,
    ]
    [(run, step)] = set(places(monitor))
    assert (bool(run), step) == (True, 10)


def test_a_fit_that_fails_before_training_has_trained_nothing(kept_runs):
    trainer, module, monitor, _ = kept_runs

    class Fails(TinyModule):
        def on_fit_start(self):
            raise RuntimeError("no data")

    other = Fails()
    with pytest.raises(RuntimeError, match="no data"):
        trainer.fit(other, labelled_loader(), labelled_loader(seed=5))
    assert [validate(trainer, own)[1] for own in (other, module)] == [True, False]
    assert len(set(places(monitor))) == 2


def resumed(trainer, module, checkpoint):
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5), ckpt_path=checkpoint)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_resumed_fit_that_ends_at_once_has_the_weights_of_its_checkpoint(kept_runs, fresh):
    _, module, monitor, folder = kept_runs
    [own] = {run for run, _ in places(monitor)}
    ended, module = make_trainer(folder, monitor, max_epochs=1), TinyModule() if fresh else module
    resumed(ended, module, folder / "own" / "step=5.ckpt")
    assert not validate(ended, module)[1]
    assert places(monitor) == [(own, 5), (own, 5)]
    assert monitor.history[0].alpha == monitor.history[1].alpha


def test_a_fit_that_trains_nothing_leaves_the_run_as_it_was(kept_runs):
    trainer, module, monitor, folder = kept_runs
    [own] = {run for run, _ in places(monitor)}
    with pytest.raises(FileNotFoundError):
        resumed(trainer, module, folder / "no such.ckpt")
    assert not validate(trainer, module)[1]
    assert set(places(monitor)) == {(own, 5), (own, 10)}
    assert monitor.state_dict()["run"] == own


def test_each_fold_keeps_its_own_module(tmp_path):
    monitor, trained = AlphaMonitor(), []
    for fold in range(2):
        trainer, module = fit(tmp_path / str(fold), monitor)
        trained.append((trainer, module))
    runs = list(dict.fromkeys(run for run, _ in places(monitor)))
    assert len(runs) == 2
    for trainer, module in trained:
        assert not validate(trainer, module)[1]
    assert places(monitor)[-2:] == [(runs[0], 10), (runs[1], 10)]


def test_what_shares_weights_with_a_module_that_is_trained_is_known_no_more(kept_runs):
    _, module, monitor, folder = kept_runs
    student = TinyModule()
    student.backbone = module.backbone
    other = make_trainer(folder, monitor)
    other.fit(student, labelled_loader(), labelled_loader(seed=5))
    assert [validate(other, own)[1] for own in (student, module)] == [False, True]


def test_a_monitor_does_not_keep_or_carry_a_module_that_was_trained(tmp_path):
    class Unpicklable(TinyModule):
        def __init__(self):
            super().__init__()
            self.schedule = lambda step: 1.0

    monitor = AlphaMonitor()
    trainer, module = fit(tmp_path, monitor, Unpicklable())
    assert pickle.loads(pickle.dumps(monitor)).history == monitor.history
    kept = weakref.ref(module)
    del trainer, module
    gc.collect()
    assert kept() is None
