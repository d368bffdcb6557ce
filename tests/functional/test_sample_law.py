import numpy as np
import pytest
import torch

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import expected_eigenvalues

import oracles

D = 240
RANKS = np.arange(1, D + 1)
POPULATIONS = {
    "flat power law": RANKS**-0.5,
    "steep power law": RANKS**-1.5,
    "white": np.ones(D),
    "two levels": np.where(RANKS <= 60, 8.0, 1.0),
    "bent": RANKS**-0.7 * np.exp(-RANKS / 60),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("n", [80, 400])
def test_expected_spectrum_is_the_mean_of_many_samples(name, n):
    population = POPULATIONS[name]
    truth = oracles.mean_log_spectrum(population, n, draws=40)
    found = expected_eigenvalues(torch.tensor(population), n).log().numpy()
    assert len(found) == min(n - 1, D)
    assert (np.diff(found) <= 0).all()
    # 40 draws know the mean log eigenvalue of a head rank to √(2/80/40) = 0.025; the largest and
    # the last few eigenvalues sit at edges, where quantiles are off by more.
    inner = slice(1, int(0.8 * len(truth)))
    np.testing.assert_allclose(found[inner], truth[inner], atol=0.06)
    assert np.abs(found[inner] - truth[inner]).mean() < 0.02


def test_marchenko_pastur_edges():
    # White noise of ratio d / n = 1/4 fills (1 ± 1/2)².
    found = expected_eigenvalues(torch.ones(1000), 4001)
    assert found[0].item() == pytest.approx(2.25, rel=0.01)
    assert found[-1].item() == pytest.approx(0.25, rel=0.02)
    assert found.mean().item() == pytest.approx(1.0, rel=0.005)


def test_many_samples_show_the_population():
    population = torch.tensor(POPULATIONS["steep power law"])
    found = expected_eigenvalues(population, 10**7)
    torch.testing.assert_close(found[:30], population[:30], rtol=1e-4, atol=0)


def test_scale_goes_through():
    population = torch.tensor(POPULATIONS["bent"])
    one, thousand = (expected_eigenvalues(population * s, 100) for s in (1.0, 1000.0))
    torch.testing.assert_close(thousand, 1000 * one, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("population", "n", "text"),
    [
        (torch.ones(4, 4), 10, r"shape \(4, 4\) and num_samples=10"),
        (torch.tensor([1.0, 0.0]), 10, "finite and above 0"),
        (torch.tensor([1.0, float("inf")]), 10, "finite and above 0"),
        (torch.ones(8), 2, "at least 3 samples; got .*num_samples=2"),
    ],
)
def test_what_is_no_population(population, n, text):
    with pytest.raises(SpectrumError, match=text):
        expected_eigenvalues(population, n)
