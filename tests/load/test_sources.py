"""Images to measure and to read out on, and which ones a readout was made of."""

import os

import pytest
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import TensorDataset

from alphareq_lightning import DataError
from alphareq_lightning.load.preprocessing import Preprocessing
from alphareq_lightning.load.sources import fingerprint, image_source

from sweeps import TinyData


def folder_of_images(folder):
    for side in ("train", "test"):
        for name, level in (("dark", 20), ("light", 220)):
            (folder / side / name).mkdir(parents=True)
            for number in range(3):
                place = folder / side / name / f"{number}.png"
                Image.new("RGB", (8, 8), (level, level, number)).save(place)
    return folder


def prints(data, **options):
    return [fingerprint(side.dataset) for side in image_source(data, **options).labelled()]


def test_the_same_images_are_the_same_and_changed_ones_are_not(tmp_path):
    folder = folder_of_images(tmp_path)
    before = prints(folder, image_size=8)
    assert before == prints(folder, image_size=8)
    assert before != prints(folder, image_size=16)
    assert before != prints(folder, image_size=8, max_images=4)
    os.utime(tmp_path / "test" / "dark" / "1.png", ns=(1, 1))  # written again
    train, test = prints(folder, image_size=8)
    assert train == before[0]
    assert test != before[1]


def test_digits_and_tensors():
    assert prints("digits") == prints("digits")
    ones, zeros = TensorDataset(torch.ones(3)), TensorDataset(torch.zeros(3))
    assert fingerprint(ones) == fingerprint(TensorDataset(torch.ones(3)))
    assert fingerprint(ones) != fingerprint(zeros)


def test_few_labels_and_few_images(tmp_path):
    train, test = image_source("digits", max_images=100).labelled(labels_per_class=2)
    assert len(train.dataset) == 20
    assert len(test.dataset) == 100


def test_digits_as_the_network_expects_them():
    expected = Preprocessing(24, (0.2, 0.3, 0.4), (0.5, 0.25, 0.125), crop_share=0.5)
    images = torch.cat(list(image_source("digits", preprocessing=expected).heldout()))
    assert images.shape == (599, 3, 24, 24)
    whole = image_source("digits", image_size=24, statistics="imagenet").heldout()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in expected[1:3])
    imagenet = [
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ]
    # Two roundings of float32 values below 8.
    torch.testing.assert_close(
        images * std + mean, torch.cat(list(whole)) * imagenet[1] + imagenet[0], rtol=0, atol=1e-6
    )


def test_held_out_images_are_drawn_by_chance_and_the_same_again(tmp_path):
    for level in range(40):
        Image.new("RGB", (4, 4), (level, level, level)).save(tmp_path / f"{level:02}.png")

    def drawn(**options):
        plain = Preprocessing(4, (0.0,) * 3, (1 / 255,) * 3)
        source = image_source(tmp_path, preprocessing=plain, max_images=10, **options)
        return [round(image.mean().item()) for image in torch.cat(list(source.heldout()))]

    assert len(set(drawn())) == 10
    assert drawn() == drawn(batch_size=3) == sorted(drawn())
    assert drawn() not in (drawn(seed=1), list(range(0, 40, 4)))


def test_any_datamodule():
    source = image_source(TinyData(), max_images=30, batch_size=20)
    [(images, _)] = source.heldout()  # a batch of its own loader has 50
    assert images.shape == (30, 1, 6, 6)
    train, test = source.labelled(labels_per_class=2)
    assert (len(train.dataset), len(test.dataset), train.batch_size) == (8, 30, 20)
    assert next(iter(image_source(TinyData(labelled=False)).heldout()))[0].shape[0] == 50
    with pytest.raises(DataError, match="400 of the images have no labels; a readout needs them"):
        image_source(TinyData(labelled=False)).labelled()
    with pytest.raises(DataError, match=r"LightningDataModule has no readout_datasets\(\)"):
        image_source(LightningDataModule()).labelled()
    with pytest.raises(DataError, match="say which images, by --data digits"):
        image_source()
