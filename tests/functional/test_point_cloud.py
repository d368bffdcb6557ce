import numpy as np
import pytest
import torch

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional import coherence, twonn_dimension

import oracles


def manifold(dimension, n=1500, d=40, seed=0):
    """Points of a flat torus of that dimension, in a random frame of many more."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * np.pi, (n, dimension))
    frame, _ = np.linalg.qr(rng.standard_normal((d, 2 * dimension)))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) @ frame.T


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_twonn_matches_numpy(mean):
    x = manifold(3, n=600) + mean
    ours = twonn_dimension(torch.tensor(x)).item()
    # Squares of 1e4 would swallow the distances between neighbours.
    assert ours == pytest.approx(oracles.twonn_dimension(x), rel=1e-6)
    # Blocks of rows are an implementation's affair; so is a share that is not discarded.
    full = twonn_dimension(torch.tensor(x), discard=0.25).item()
    assert full == pytest.approx(oracles.twonn_dimension(x, 0.25), rel=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_twonn_finds_the_dimension_of_a_manifold(dimension):
    found = twonn_dimension(torch.tensor(manifold(dimension))).item()
    # TwoNN's standard error is about D/√n, 3 % here; it reads low as D grows.
    assert found == pytest.approx(dimension, rel=0.1)


def test_repeated_samples_count_once():
    x = torch.tensor(manifold(2, n=300))
    torch.testing.assert_close(twonn_dimension(torch.cat([x, x[:100]])), twonn_dimension(x))


def test_no_dimension():
    with pytest.raises(SpectrumError, match="needs 10 different samples, got 1"):
        twonn_dimension(torch.ones(50, 3))
    with pytest.raises(SpectrumError, match="all neighbours are equally far"):
        twonn_dimension(torch.eye(12))
    broken = torch.rand(50, 2)
    broken[3, 1] = float("nan")
    with pytest.raises(SpectrumError, match="1 of 100 feature values are NaN"):
        twonn_dimension(broken)
    with pytest.raises(OptionError, match="discard a share from 0 to below 1, got 1"):
        twonn_dimension(torch.ones(50, 3), discard=1)


@pytest.mark.parametrize("rank", [12, 5])
def test_coherence_matches_numpy(rank):
    x = oracles.planted_features(0.5, 200, 12, mean=1.0)
    x = x @ np.diag([1.0] * rank + [0.0] * (12 - rank)) if rank < 12 else x
    assert coherence(torch.tensor(x)).item() == pytest.approx(oracles.coherence(x), rel=1e-9)


def test_total_collapse_is_coherences_best_value():
    assert coherence(torch.full((50, 4), 3.0)).item() == pytest.approx(1)


def test_ends_of_coherence():
    hadamard = torch.tensor([[1.0, 1], [1, -1], [1, 1], [1, -1]])
    assert coherence(hadamard).item() == pytest.approx(1)
    alone = torch.ones(50, 3)
    alone[0] = torch.tensor([0.0, 1.0, -1.0])
    assert coherence(alone).item() == pytest.approx(25)  # n/r: one sample has a direction alone
    with pytest.raises(SpectrumError, match="got 3 samples of rank 3"):
        coherence(torch.eye(3))
    with pytest.raises(SpectrumError, match="got 9 samples of rank 0"):
        coherence(torch.zeros(9, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_has_no_dimension(dtype):
    generator = torch.manual_seed(0)
    one = torch.randn(64, generator=generator) + 1
    steps = torch.randint(-1, 2, (500, 64), generator=generator)
    x = (one * (1 + torch.finfo(dtype).eps / 2 * steps)).to(dtype)
    with pytest.raises(SpectrumError, match="vary no more than their rounding"):
        twonn_dimension(x)
    with pytest.raises(SpectrumError, match="vary no more than their rounding"):
        twonn_dimension(x.double(), computed_in=dtype)


def test_coherence_of_half_precision():
    x = torch.randn(300, 10, generator=torch.manual_seed(0)).bfloat16()
    assert coherence(x).item() == pytest.approx(oracles.coherence(x.double().numpy()), rel=1e-6)
