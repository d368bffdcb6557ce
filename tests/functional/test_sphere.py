import numpy as np
import pytest
import torch

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional import alignment, selfcluster, uniformity

import oracles

X = oracles.planted_features(0.8, 700, 20, mean=0.3)
Y = X + 0.1 * oracles.planted_features(0.2, 700, 20, seed=1)


def test_scores_match_numpy():
    x, y = torch.tensor(X), torch.tensor(Y)
    assert selfcluster(x).item() == pytest.approx(oracles.selfcluster(X), rel=1e-10)
    assert uniformity(x).item() == pytest.approx(oracles.uniformity(X), rel=1e-10)
    assert uniformity(x, temperature=5).item() == pytest.approx(oracles.uniformity(X, 5), rel=1e-10)
    assert alignment(x, y).item() == pytest.approx(oracles.alignment(X, Y), rel=1e-10)
    distances = np.linalg.norm(oracles.directions(X) - oracles.directions(Y), axis=1)
    assert alignment(x, y, power=1).item() == pytest.approx(distances.mean(), rel=1e-10)


def test_even_directions_and_one_line_are_the_ends_of_selfcluster():
    even = torch.randn(3000, 30, generator=torch.manual_seed(0))
    # Its spread under even directions is about 2/n.
    assert selfcluster(even).item() == pytest.approx(0, abs=2e-3)
    line = torch.randn(100, 1) * torch.ones(30)
    assert selfcluster(line).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_length_says_nothing(scale):
    x = torch.tensor(X)
    factors = scale * torch.rand(700, 1, generator=torch.manual_seed(0), dtype=torch.float64)
    for score in (selfcluster, uniformity, lambda z: alignment(z, torch.tensor(Y))):
        torch.testing.assert_close(score(x * factors), score(x), rtol=1e-9, atol=1e-12)


def test_float32_features_keep_their_digits():
    x = torch.tensor(X).float() * 1e-30  # squares of these are below float32's range
    assert selfcluster(x).item() == pytest.approx(oracles.selfcluster(X), rel=1e-5)


def test_zeros_have_no_direction():
    padded = torch.cat([torch.tensor(X), torch.zeros(50, 20, dtype=torch.float64)])
    torch.testing.assert_close(selfcluster(padded), selfcluster(torch.tensor(X)))
    torch.testing.assert_close(uniformity(padded), uniformity(torch.tensor(X)))
    pairs = torch.cat([torch.tensor(Y), torch.ones(50, 20, dtype=torch.float64)])
    torch.testing.assert_close(
        alignment(padded, pairs), alignment(torch.tensor(X), torch.tensor(Y))
    )
    zeros = torch.zeros(5, 4)
    with pytest.raises(SpectrumError, match="at least 2 directions in 2 dimensions, got 0 in 4"):
        selfcluster(zeros)
    with pytest.raises(SpectrumError, match="at least 2 directions in 2 dimensions, got 5 in 1"):
        selfcluster(torch.ones(5, 1))
    with pytest.raises(SpectrumError, match="uniformity needs at least 2 directions, got 0"):
        uniformity(zeros)
    with pytest.raises(SpectrumError, match="at least one pair of views that are not zero"):
        alignment(zeros, zeros)


def test_pairs_and_options():
    with pytest.raises(SpectrumError, match=r"shapes \(3, 2\) and \(3, 4\)"):
        alignment(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(OptionError, match="temperature > 0, got -1"):
        uniformity(torch.ones(3, 2), temperature=-1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad):
    x = torch.randn(20, 3)
    broken = x.clone()
    broken[4, 1] = bad
    for score in (uniformity, selfcluster, lambda f: alignment(x, f)):
        with pytest.raises(SpectrumError, match="1 of 60 feature values are NaN or infinite"):
            score(broken)
