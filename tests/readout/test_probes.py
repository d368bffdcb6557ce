import sys

import numpy as np
import pytest
import torch

from alphareq_lightning import DataError, OptionError
from alphareq_lightning.errors import ReadoutError
from alphareq_lightning.readout import PROBES, read_out

each_probe = pytest.mark.parametrize("probe", PROBES)


def blobs(n, seed, spread=0.3, num_classes=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    centres = torch.eye(num_classes)
    return centres[labels] + spread * torch.randn(n, num_classes, generator=generator), labels


@each_probe
def test_separable_classes_are_read_out_and_noise_is_not(probe):
    assert read_out(*blobs(400, 0, 0.05), *blobs(400, 1, 0.05), probe=probe).top1 > 99
    noise = torch.randn(800, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(400) % 4
    # Chance is 25 %; 400 draws have a standard deviation of 2 points.
    top1, top5 = read_out(noise[:400], labels, noise[400:], labels, probe=probe)
    assert top1 == pytest.approx(25, abs=7)
    assert top5 == 100  # there are four classes


@each_probe
def test_top_five_of_many_classes(probe):
    top1, top5 = read_out(
        *blobs(800, 0, 0.5, num_classes=20), *blobs(400, 1, 0.5, num_classes=20), probe=probe
    )
    assert 20 < top1 < top5 < 100


@each_probe
def test_the_same_twice_and_no_global_draw(probe):
    data = (*blobs(200, 0, 0.6), *blobs(200, 1, 0.6))
    before = torch.get_rng_state()
    assert read_out(*data, probe=probe) == read_out(*data, probe=probe)
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_changes_what_is_drawn():
    data = (*blobs(64, 0, 1.5), *blobs(1000, 1, 1.5))
    assert len({read_out(*data, probe="adam", seed=seed) for seed in range(4)}) > 1


def test_neighbours_vote_as_in_numpy():
    (x, y), (u, v) = blobs(300, 0, 1.0), blobs(200, 1, 1.0)
    a, b = (t.double().numpy() / np.linalg.norm(t.numpy(), axis=1, keepdims=True) for t in (x, u))
    similar = b @ a.T
    right = 0
    for row, truth in zip(similar, v.tolist(), strict=True):
        nearest = np.argsort(-row)[:20]
        votes = np.bincount(y.numpy()[nearest], np.exp(row[nearest] / 0.07), minlength=4)
        right += votes.argmax() == truth
    assert read_out(x, y, u, v, probe="knn").top1 == pytest.approx(100 * right / 200, abs=0.51)


@each_probe
def test_a_class_that_only_the_test_images_have(probe):
    x, y = blobs(80, 0, 0.05)
    known = y < 3
    assert read_out(x[known], y[known], x, y, probe=probe).top1 == pytest.approx(75)


@each_probe
def test_collapsed_features_are_read_out_at_chance(probe):
    labels = torch.arange(40) % 4
    assert read_out(torch.ones(40, 6), labels, torch.ones(40, 6), labels, probe=probe).top1 == 25


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({1: torch.zeros(8)}, "at least two classes"),
        ({3: torch.tensor([0, 1, -1, -1, 0, 1, 2, 3])}, "2 of 8 test images have no label"),
        ({3: torch.zeros(3)}, r"test features \(n, d\) and labels .* got \(8, 4\) and \(3,\)"),
        ({2: torch.zeros(0, 4), 3: torch.zeros(0)}, "with n >= 1"),
    ],
)
def test_data_that_cannot_be_read_out(change, text):
    data = [*blobs(8, 0), *blobs(8, 1)]
    for position, value in change.items():
        data[position] = value
    with pytest.raises(DataError, match=text):
        read_out(*data)


def test_features_that_are_not_finite():
    x, y = blobs(8, 0)
    with pytest.raises(ReadoutError, match="8 of 8 training images have NaN or infinite"):
        read_out(torch.full_like(x, torch.nan), y, x, y)


def test_unknown_probe():
    with pytest.raises(OptionError, match="'logistic', 'adam', 'knn'.*got 'svm'"):
        read_out(*blobs(8, 0), *blobs(8, 1), probe="svm")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(OptionError, match=r"pip install 'alphareq-lightning\[readout\]'"):
        read_out(*blobs(8, 0), *blobs(8, 1))
