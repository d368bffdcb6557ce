import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from alphareq_lightning import DataError
from alphareq_lightning.readout import cached_features, extract_features, features_key

from tiny import TinyEncoder, images

MADE = (torch.arange(6.0).view(2, 3), torch.tensor([0, 1]))


def test_features_are_those_of_eval_mode_in_order():
    encoder, x = TinyEncoder().train(), images(50)
    labels = torch.arange(50)
    features, targets = extract_features(encoder, DataLoader(TensorDataset(x, labels), 16))
    assert torch.equal(targets, labels)
    with torch.no_grad():
        torch.testing.assert_close(features, encoder.eval()(x))


def test_every_submodule_is_left_in_its_own_mode():
    encoder = TinyEncoder().train()
    encoder[2].eval()  # somebody froze the norm
    before = [module.training for module in encoder.modules()]
    extract_features(encoder, DataLoader(TensorDataset(images(8), torch.arange(8)), 4))
    assert [module.training for module in encoder.modules()] == before


def test_an_empty_loader():
    with pytest.raises(DataError, match="gave no batch"):
        extract_features(TinyEncoder(), DataLoader(TensorDataset(images(0), torch.arange(0))))


def test_made_once_and_again_when_the_file_is_cut(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return MADE

    for _ in range(2):
        features, labels = cached_features(tmp_path / "cache", "a", make)
        assert torch.equal(features, MADE[0])
        assert torch.equal(labels, MADE[1])
    assert len(calls) == 1
    [path] = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    cached_features(tmp_path / "cache", "a", make)
    assert len(calls) == 2
    cached_features(None, "a", make)
    assert len(calls) == 3


def test_the_key_follows_content(tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"1")
    key = features_key(weights, "backbone", 32)
    moved = weights.rename(tmp_path / "moved.pt")
    assert features_key(moved, "backbone", 32) == key
    moved.write_bytes(b"2")
    assert features_key(moved, "backbone", 32) != key
