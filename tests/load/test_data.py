"""Which images a readout was made of."""

import os

import torch
from PIL import Image
from torch.utils.data import TensorDataset

from alphareq_lightning.load.data import DataOptions, fingerprint, labelled_loaders


def folder_of_images(folder):
    for side in ("train", "test"):
        for name, level in (("dark", 20), ("light", 220)):
            (folder / side / name).mkdir(parents=True)
            for number in range(3):
                place = folder / side / name / f"{number}.png"
                Image.new("RGB", (8, 8), (level, level, number)).save(place)
    return folder


def prints(options):
    return [fingerprint(loader.dataset) for loader in labelled_loaders(options)]


def test_the_same_images_are_the_same_and_changed_ones_are_not(tmp_path):
    options = DataOptions(data=str(folder_of_images(tmp_path)), image_size=8)
    assert prints(options) == prints(options)
    assert prints(options) != prints(options._replace(image_size=16))
    assert prints(options) != prints(options._replace(max_images=4))
    before = prints(options)
    os.utime(tmp_path / "test" / "dark" / "1.png", ns=(1, 1))  # written again
    train, test = prints(options)
    assert train == before[0]
    assert test != before[1]


def test_digits_and_tensors():
    assert prints(DataOptions(data="digits")) == prints(DataOptions(data="digits"))
    ones, zeros = TensorDataset(torch.ones(3)), TensorDataset(torch.zeros(3))
    assert fingerprint(ones) == fingerprint(TensorDataset(torch.ones(3)))
    assert fingerprint(ones) != fingerprint(zeros)


def test_few_labels_and_few_images(tmp_path):
    options = DataOptions(data="digits", labels_per_class=2, max_images=100)
    train, test = labelled_loaders(options)
    assert len(train.dataset) == 20
    assert len(test.dataset) == 100
