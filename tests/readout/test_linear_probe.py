import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import DataError
from alphareq_lightning.readout import extract_features, linear_readout_accuracy

from tiny import TinyEncoder, images


def blobs(n, seed, spread=0.3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    centres = torch.eye(4)
    return centres[labels] + spread * torch.randn(n, 4, generator=generator), labels


def test_separable_classes_are_read_out_and_noise_is_not():
    assert linear_readout_accuracy(*blobs(400, 0, 0.05), *blobs(400, 1, 0.05)) == 1.0
    noise = torch.randn(800, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(400) % 4
    # Chance is 1/4; 400 draws have a standard deviation of 2 points.
    accuracy = linear_readout_accuracy(noise[:400], labels, noise[400:], labels)
    assert accuracy == pytest.approx(0.25, abs=0.07)


def test_the_same_twice():
    data = (*blobs(200, 0, 0.6), *blobs(200, 1, 0.6))
    assert linear_readout_accuracy(*data) == linear_readout_accuracy(*data)


def test_features_are_those_of_eval_mode_in_order():
    encoder, x = TinyEncoder().train(), images(50)
    labels = torch.arange(50)
    features, targets = extract_features(encoder, DataLoader(TensorDataset(x, labels), 16))
    assert torch.equal(targets, labels)
    with torch.no_grad():
        torch.testing.assert_close(features, encoder.eval()(x))


def test_one_class():
    x = torch.randn(8, 2)
    with pytest.raises(DataError, match="at least two classes"):
        linear_readout_accuracy(x, torch.zeros(8), x, torch.zeros(8))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(DataError, match=r"pip install 'alphareq-lightning\[demo\]'"):
        linear_readout_accuracy(*blobs(8, 0), *blobs(8, 1))


def test_every_submodule_is_left_in_its_own_mode():
    encoder = TinyEncoder().train()
    encoder[2].eval()  # somebody froze the norm
    before = [module.training for module in encoder.modules()]
    extract_features(encoder, DataLoader(TensorDataset(images(8), torch.arange(8)), 4))
    assert [module.training for module in encoder.modules()] == before


def test_an_empty_loader():
    with pytest.raises(DataError, match="gave no batch"):
        extract_features(TinyEncoder(), DataLoader(TensorDataset(images(0), torch.arange(0))))
