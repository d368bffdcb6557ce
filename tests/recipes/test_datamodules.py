import sys
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from alphareq_lightning import AlphaMonitor, DataError
from alphareq_lightning.errors import ImageWarning
from alphareq_lightning.load.images import Images, Pixels, collate_images
from alphareq_lightning.recipes import (
    CIFAR10DataModule,
    DigitsDataModule,
    ImageFolderDataModule,
    STL10DataModule,
)
from alphareq_lightning.recipes.views import TwoViews, barlow_twins_view, plain_view

from tiny import make_trainer


def write_image(path, value=0, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def class_folders(tmp_path):
    for i in range(40):
        write_image(tmp_path / f"class{i % 2}" / f"{i}.png", i)
    return tmp_path


def ready(module):
    module.setup("fit")
    return module


class Sees(pl.LightningModule):
    """Keeps the batches that it is given, and the images that it is run on."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(1, 8)
        self.given = {"train": [], "val": [], "run": []}

    def forward(self, images):
        self.given["run"].append(images)
        return self.backbone(images.flatten(1)[:, :1])

    def training_step(self, batch, batch_idx):
        self.given["train"].append(batch)
        return self.backbone(batch[0].flatten(1)[:, :1]).sum()

    def validation_step(self, batch, batch_idx):
        self.given["val"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def seen(tmp_path, data, **options):
    module = Sees()
    monitor = AlphaMonitor("backbone", fit_range=(2, 5), figures=False)
    options = {"max_epochs": 1, "limit_train_batches": 2, "num_sanity_val_steps": 0, **options}
    make_trainer(tmp_path, monitor, **options).fit(module, datamodule=data)
    return module.given


def is_pair(batch, n, size):
    first, second = batch
    return (
        first.shape == second.shape == (n, 3, size, size)
        and first.dtype == second.dtype == torch.float32
        and not torch.equal(first, second)
    )


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
@pytest.mark.parametrize("validating", [True, False])
@pytest.mark.parametrize("mixed", [False, True])
def test_views_to_train_on_and_held_out_images_as_they_are(
    class_folders, tmp_path_factory, validating, mixed
):
    if mixed:  # then no image is kept in memory, and the views are made one by one
        for i in range(8):
            write_image(class_folders / "class0" / f"odd{i}.png", 50 + i, size=(9, 30))
    data = ImageFolderDataModule(str(class_folders), image_size=16, batch_size=8, holdout=0.25)
    options = {} if validating else {"limit_val_batches": 0}
    given = seen(tmp_path_factory.mktemp("run"), data, **options)
    assert len(given["train"]) == 2
    assert all(is_pair(batch, 8, 16) for batch in given["train"])
    assert all(is_pair(batch, 8, 16) for batch in given["val"])
    assert len(given["val"]) == validating
    _, heldout = data.readout_datasets()
    expected = torch.stack([image for image, _ in heldout])
    measured = torch.cat(given["run"])[-len(expected) :]
    # Pillow rounds where a batch does not: one value of 255, over the normalisation's .24.
    assert (measured - expected).abs().max() <= 1.1 / 255 / 0.24
    assert isinstance(data.train_dataloader().dataset, Images) == mixed


@pytest.mark.parametrize("training", [True, False])
def test_only_images_to_train_on_are_augmented_on_the_device(class_folders, training):
    """Somebody's own uint8 images, measured beside our DataModule, stay as they are."""
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=8))
    data.trainer = SimpleNamespace(training=training)
    pixels = next(iter(data.train_dataloader()))
    batch = data.on_after_batch_transfer(pixels, 0)
    assert is_pair(batch, 8, 32) if training else batch is pixels
    floats = torch.rand(8, 3, 32, 32)
    assert data.on_after_batch_transfer(floats, 0) is floats


def test_too_many_images_are_not_kept_in_memory(class_folders, monkeypatch):
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=8))
    assert isinstance(data.train_dataloader().dataset, Pixels)
    monkeypatch.setattr("alphareq_lightning.load.images.IN_MEMORY_BYTES", 36 * 20 * 24 * 3 - 1)
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=8))
    assert isinstance(data.train_dataloader().dataset, Images)


def test_a_view_of_ones_own_is_made_one_by_one(class_folders):
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=8))
    data.view = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)])
    first, second = next(iter(data.train_dataloader()))
    assert first.shape == second.shape == (8, 3, 20, 24)


def test_images_in_memory_reach_worker_processes(class_folders):
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=4, num_workers=1))
    assert next(iter(data.train_dataloader())).dtype == torch.uint8
    assert is_pair(next(iter(data.val_dataloader())), 4, 32)


def test_every_training_image_comes_once_an_epoch(class_folders):
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=9))
    batches = torch.cat(list(data.train_dataloader()))
    assert len(batches) == len(batches.flatten(1).unique(dim=0)) == 36


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_digits_give_pairs_of_views_and_plain_held_out_images(tmp_path):
    data = ready(DigitsDataModule(batch_size=100))
    assert all(is_pair(batch, 100, 16) for batch in seen(tmp_path, data)["train"])
    plain = torch.cat(list(data.alpha_dataloader()))
    assert len(plain) == 599
    assert torch.equal(plain, torch.cat(list(data.alpha_dataloader())))
    assert plain.min() >= -1
    assert plain.max() <= 1


def test_digits_do_not_overlap_and_are_split_the_same_again():
    data, again = ready(DigitsDataModule()), ready(DigitsDataModule())
    assert not set(data.train_indices) & set(data.heldout_indices)
    assert len(data.train_indices) + len(data.heldout_indices) == 1797
    assert data.heldout_indices == again.heldout_indices
    assert data.heldout_indices != ready(DigitsDataModule(seed=1)).heldout_indices


def test_digits_readout_has_all_classes():
    train, test = DigitsDataModule().readout_datasets()
    assert {train[i][1] for i in range(200)} == {test[i][1] for i in range(200)} == set(range(10))


def paths(dataset, indices):
    return {dataset.paths[i] for i in indices}


def test_class_folders_are_split_by_file(class_folders):
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=8, holdout=0.25))
    train = paths(data.train_source, data.train_indices)
    heldout = paths(data.heldout_source, data.heldout_indices)
    assert (len(train), len(heldout), train & heldout) == (30, 10, set())
    assert next(iter(data.val_dataloader()))[0].shape == (8, 3, 32, 32)
    _, label = data.readout_datasets()[0][0]
    assert label in (0, 1)


def test_train_and_test_folders_are_used_as_they_are(tmp_path):
    for i in range(12):
        write_image(tmp_path / ("train" if i < 8 else "val") / f"class{i % 2}" / f"{i}.png", i)
    data = ready(ImageFolderDataModule(str(tmp_path), batch_size=4))
    assert {p.parts[-3] for p in paths(data.train_source, data.train_indices)} == {"train"}
    assert {p.parts[-3] for p in paths(data.heldout_source, data.heldout_indices)} == {"val"}


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(20):
        write_image(tmp_path / f"{i}.jpg", i)
    data = ready(ImageFolderDataModule(str(tmp_path), batch_size=4))
    assert next(iter(data.alpha_dataloader())).shape == (2, 3, 32, 32)
    with pytest.raises(DataError, match="have no labels"):
        data.readout_datasets()


def test_subsets_are_seeded(class_folders):
    options = {"batch_size": 4, "max_train": 9, "max_heldout": 2}
    data = ready(ImageFolderDataModule(str(class_folders), **options))
    again = ready(ImageFolderDataModule(str(class_folders), **options))
    assert data.train_indices == again.train_indices
    assert (len(data.train_indices), len(data.heldout_indices)) == (9, 2)


def test_an_unreadable_image_is_left_out_of_its_batch(class_folders):
    (class_folders / "class0" / "0.png").write_bytes(b"not an image")
    (class_folders / "class1" / "1.png").write_bytes(
        (class_folders / "class1" / "3.png").read_bytes()[:300]
    )
    data = ready(ImageFolderDataModule(str(class_folders), batch_size=10))

    with pytest.warns(ImageWarning, match=r"left out an unreadable image, .*[01]\.png") as caught:
        sides = [data.train_dataloader().dataset, data.val_dataloader().dataset]
    assert sum(map(len, sides)) == 38
    assert len(caught) == 2
    each = Images(data.train_source, data.view)  # as where they differ in size
    with pytest.warns(ImageWarning, match=r"left out an unreadable image, .*[01]\.png"):
        sizes = [len(batch) for batch in DataLoader(each, 10, collate_fn=collate_images)]
    assert sum(sizes) == 38


def test_a_batch_without_any_readable_image(tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    data = ready(ImageFolderDataModule(str(tmp_path), batch_size=4, holdout=0.25))
    with (
        pytest.warns(ImageWarning),
        pytest.raises(DataError, match="none of the 4 images of a batch could be read"),
    ):
        next(iter(data.train_dataloader()))


def test_torchvision_cifar10(monkeypatch):
    made = {}

    class Fake(list):
        def __init__(self, root, train, download):
            made[train] = (root, download)
            super().__init__([(Image.new("RGB", (32, 32)), 3)] * (40 if train else 20))

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    data = ready(CIFAR10DataModule("here", batch_size=10, num_workers=0))
    assert made == {True: ("here", False), False: ("here", False)}
    assert next(iter(data.train_dataloader())).shape == (10, 3, 32, 32)
    assert next(iter(data.val_dataloader()))[1].shape == (10, 3, 32, 32)
    assert len(data.alpha_dataloader()) == 2


def test_torchvision_stl10_trains_on_unlabeled_images(monkeypatch):
    class Fake(list):
        def __init__(self, root, split, download):
            self.split = split
            label = -1 if split == "unlabeled" else 2
            super().__init__([(Image.new("RGB", (96, 96)), label)] * 20)

    monkeypatch.setattr(datasets, "STL10", Fake)
    data = ready(STL10DataModule("here", image_size=64, batch_size=10, num_workers=0))
    assert (data.train_source.split, data.heldout_source.split) == ("unlabeled", "test")
    train, test = data.readout_datasets()
    assert (train.dataset.split, test.dataset.split, train[0][1]) == ("train", "test", 2)


@pytest.mark.parametrize("module", [CIFAR10DataModule, STL10DataModule])
def test_a_dataset_that_is_not_there(tmp_path, module):
    with pytest.raises(DataError, match=r"not found or corrupted.*root="):
        ready(module(str(tmp_path)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: ImageFolderDataModule(str(p / "gone")), "there is no folder .*gone"),
        (lambda p: ImageFolderDataModule(str(p)), "no image in .*looked for .jpg"),
        (lambda p: DigitsDataModule(holdout=1.5), "holdout=1.5 of 1797 images"),
        (
            lambda p: DigitsDataModule(batch_size=2000),
            "batch_size=2000 leaves no whole batch of 1198",
        ),
    ],
)
def test_bad_input(tmp_path, make, text):
    with pytest.raises(DataError, match=text):
        ready(make(tmp_path))


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"alphareq-lightning\[demo\]"):
        ready(DigitsDataModule())


def test_views():
    image = Image.new("RGB", (40, 30), (255, 0, 0))
    assert plain_view(16)(image).shape == (3, 16, 16)
    assert torch.equal(plain_view(16)(image), plain_view(16)(image))
    first, second = TwoViews(barlow_twins_view(16))(image)
    assert first.shape == (3, 16, 16)
    # A plain red image still changes in brightness and hue.
    pairs = [TwoViews(barlow_twins_view(16))(image) for _ in range(8)]
    assert any(not torch.equal(a, b) for a, b in [*pairs, (first, second)])
