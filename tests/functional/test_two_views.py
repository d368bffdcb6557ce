import numpy as np
import pytest
import torch

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import (
    cross_validated_eigenvalues,
    eigenspectrum,
    fit_power_law,
    merge_moments,
    pair_moments,
)

import oracles


def planted_views(n=3000, d=100, alpha=1.0, noise=2.0, seed=0):
    """A signal with λ_k = k^−α in a random frame, and white noise of its own in each view."""
    signal = oracles.planted_features(alpha, n, d, seed)
    scale = noise * d**-0.5
    rng = np.random.default_rng(seed + 1)
    return [signal + scale * rng.standard_normal((n, d)) for _ in range(2)]


@pytest.mark.parametrize(("n", "d"), [(300, 40), (40, 60)])
def test_shared_spectrum_matches_numpy(n, d):
    a, b = planted_views(n, d)
    values = cross_validated_eigenvalues(pair_moments(torch.tensor(a + 2), torch.tensor(b - 1)))
    truth = oracles.cross_validated_eigenvalues(a, b)
    assert len(values) == min(n, d)
    rank = min(n - 1, d)
    np.testing.assert_allclose(values[:rank], truth[:rank], rtol=1e-7, atol=1e-12)
    assert (values[rank:] == 0).all()


def test_views_that_agree_have_the_plain_spectrum():
    x = torch.tensor(oracles.planted_features(1.0, 500, 30))
    torch.testing.assert_close(
        cross_validated_eigenvalues(pair_moments(x, x)), eigenspectrum(x), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(("alpha", "noise"), [(0.8, 2), (1.0, 2), (1.5, 0.7)])
def test_the_shared_spectrum_is_right_where_the_plain_one_is_wrong(alpha, noise):
    """In each direction noise has the variance of the signal's at about the last fitted rank."""
    a, b = map(torch.tensor, planted_views(alpha=alpha, noise=noise))
    plain = fit_power_law(eigenspectrum(a), (4, 25)).alpha.item()
    shared = cross_validated_eigenvalues(pair_moments(a, b))
    found = fit_power_law(shared, (4, 25)).alpha.item()
    assert plain < alpha - 0.12
    assert found == pytest.approx(alpha, abs=0.05)


def test_pure_noise_has_no_shared_spectrum():
    a, b = torch.randn(2, 1000, 50, generator=torch.manual_seed(0))
    values = cross_validated_eigenvalues(pair_moments(a, b))
    # Of variance 1 each view, nothing is left but 1/√n.
    assert values.abs().max() < 0.15
    with pytest.raises(SpectrumError, match=r"is -.*: eigenvalues of a covariance are finite"):
        fit_power_law(values, (4, 40))


def test_batches_add_up_and_order_of_views_does_not_matter():
    a, b = map(torch.tensor, planted_views(500, 20))
    merged = merge_moments(pair_moments(a[:123], b[:123]), pair_moments(a[123:], b[123:]))
    truth = cross_validated_eigenvalues(pair_moments(a, b))
    torch.testing.assert_close(cross_validated_eigenvalues(merged), truth)
    torch.testing.assert_close(cross_validated_eigenvalues(pair_moments(b, a)), truth)


def test_collapse_and_bad_pairs():
    constant = torch.ones(100, 8) * 3.3
    assert (cross_validated_eigenvalues(pair_moments(constant, constant)) == 0).all()
    with pytest.raises(SpectrumError, match=r"shapes \(5, 4\) and \(6, 4\)"):
        pair_moments(torch.ones(5, 4), torch.ones(6, 4))
    with pytest.raises(SpectrumError, match="at least 3 samples, got 2"):
        cross_validated_eigenvalues(pair_moments(torch.ones(2, 4), torch.ones(2, 4)))
