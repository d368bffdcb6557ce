"""Which images a readout was made of."""

import os

import torch
from PIL import Image
from torch.utils.data import TensorDataset

from alphareq_lightning.load.sources import fingerprint, image_source


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
