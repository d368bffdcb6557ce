"""No finite α where the features have no spectrum, and no lost tail where they have a steep one."""

import numpy as np
import pytest
import torch

from alphareq_lightning.errors import SpectrumError
from alphareq_lightning.functional import (
    eigenspectrum,
    fit_power_law,
    merge_moments,
    moments_eigenvalues,
    moments_singular_values,
    rankme,
)
from alphareq_lightning.functional.moments import accumulate_, empty_moments

import oracles

SHAPES = {(512, 2048): 12, (1000, 1024): 20, (2000, 256): 60, (300, 512): 60, (600, 64): 90}
LARGER = [1.0, 3.0, 30.0, 1e3, 1e5]


def collapsed(seed, n, d):
    """Features of at most 20 dimensions, and how many: float32, with what spoils its sums."""
    rng = np.random.default_rng(seed)
    rank = int(rng.choice([0, 1, 2, 5, 12, 20]))
    directions = rng.standard_normal((rank, d))
    kind = rng.choice(["gaussian", "clusters", "relu", "heavy"])
    weights = {
        "gaussian": lambda: rng.standard_normal((n, rank)),
        "clusters": lambda: np.eye(rank + 1)[rng.integers(0, rank + 1, n)][:, :rank],
        "relu": lambda: rng.standard_normal((n, rank)).clip(min=0),
        "heavy": lambda: rng.standard_t(2, (n, rank)),
    }[kind]()
    x = weights @ directions + rng.standard_normal(d)  # the mean is no dimension
    rows = int(rng.choice([0, 1, 2, 4]))
    x[rng.integers(0, n, rows)] = rng.choice(LARGER) * rng.standard_normal((rows, d))
    units = int(rng.choice([0, 0, 1, 3]))
    x[:, rng.integers(0, d, units)] *= rng.choice(LARGER)
    return torch.tensor(x * rng.choice([1e-3, 1.0, 100.0])).float(), rank + rows


def streamed(x, size):
    running = empty_moments(x.shape[1])
    for batch in x.split(size):
        accumulate_(running, batch)
    return running


@pytest.mark.parametrize(
    ("n", "d"),
    [pytest.param(*shape, marks=[pytest.mark.slow] if shape[1] > 1024 else []) for shape in SHAPES],
)
def test_a_collapsed_layer_never_gets_an_alpha_from_rounding(n, d):
    found = {}
    for seed in range(SHAPES[n, d]):
        x, rank = collapsed(seed, n, d)
        size = [n, 256, n // 3 + 1][seed % 3]
        spectra = [moments_eigenvalues(streamed(x, size))]
        if seed % 3 == 0:
            spectra.append(eigenspectrum(x))
        if seed % 3 == 2:
            parts = streamed(x[: n // 4], size), streamed(x[n // 4 :], size)
            spectra.append(moments_eigenvalues(merge_moments(*parts)))
        for spectrum in spectra:
            positive = int((spectrum > 0).sum())
            if positive > rank:
                found[seed] = (rank, positive)
                continue
            with pytest.raises(SpectrumError, match="span at most"):
                fit_power_law(spectrum, (max(rank - 4, 1), rank + 4), num_samples=n)
    assert found == {}


@pytest.mark.parametrize("window", ["auto", (11, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_one_row_beside_equal_rows_is_one_dimension(seed, window):
    # What float32 rounds off 511 equal products beside one that is larger is a smooth spectrum:
    # it had α = 1.0 with R² = .998 over ranks 11 to 50.
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1024, generator=generator).repeat(1000, 1)
    x[3] = torch.randn(1024, generator=generator)
    for spectrum in (eigenspectrum(x), moments_eigenvalues(streamed(x, 256))):
        with pytest.raises(SpectrumError, match="span at most 3|span at most 10"):
            fit_power_law(spectrum, window, num_samples=1000)
        assert int((spectrum > 0).sum()) == 1


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize(("n", "d"), [(1500, 512), (300, 512)])
@pytest.mark.parametrize("spoilt", ["", "unit", "row"])
def test_steep_spectra_read_as_those_of_float64_features(alpha, n, d, spoilt):
    x = torch.tensor(oracles.planted_features(alpha, n, d)).float()
    if spoilt == "unit":
        x[:, 7] *= 1e3
    if spoilt == "row":
        x[5] *= 100
    truth = oracles.eigenspectrum(x.numpy())
    slope, *_ = oracles.weighted_line(truth, 4, 50)
    running = streamed(x, 256)
    for spectrum in (moments_eigenvalues(running), eigenspectrum(x)):
        # Where float32 sums are taken they err by at most 1e-6 of the least eigenvalue fitted.
        assert fit_power_law(spectrum, (4, 50)).alpha.item() == pytest.approx(slope, abs=1e-7)
    score = rankme(moments_singular_values(running)).item()
    # One eigenvalue in 500 may fall below what rounds off features with a unit 1e3 larger.
    assert score == pytest.approx(oracles.rankme(x.numpy()), rel=1e-3 if spoilt else 1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0])
@pytest.mark.parametrize("last", [1, 2, 5, 9])
def test_a_last_batch_of_few_rows_rounds_no_more(scale, last):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = scale * rng.standard_normal((34, 1)) @ rng.standard_normal((1, 10))
        moments = empty_moments(10)
        for batch in torch.tensor(x).float().split([34 - last, last]):
            accumulate_(moments, batch)
        assert int((moments_eigenvalues(moments) > 0).sum()) == 1
