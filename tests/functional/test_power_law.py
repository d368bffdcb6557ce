import numpy as np
import pytest
import torch
from reptrix.alpha import get_alpha

from alphareq_lightning.errors import FitRangeError, OptionError, SpectrumError
from alphareq_lightning.functional import (
    alpha_distance,
    eigenspectrum,
    fit_power_law,
    resolve_fit_range,
)

import oracles


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("fit_range", ["auto", (1, 512), (11, 100), (4, 6)])
@pytest.mark.parametrize("weighting", ["inverse_rank", "uniform"])
def test_planted_exponent(alpha, fit_range, weighting):
    ranks = torch.arange(1, 513, dtype=torch.float64)
    fit = fit_power_law(7 * ranks**-alpha, fit_range, weighting=weighting)
    assert fit.alpha.item() == pytest.approx(alpha, abs=1e-10)
    assert fit.intercept.item() == pytest.approx(np.log(7), abs=1e-10)
    assert fit.r2.item() == pytest.approx(1, abs=1e-10)
    assert fit.stderr.item() == pytest.approx(0, abs=1e-10)


def test_golden_value_of_reptrix():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 1024, generator=generator)
    # Published with reptrix: white noise of few samples reads 0.148937 though its true α is 0.
    assert fit_power_law(eigenspectrum(x), (11, 100)).alpha.item() == pytest.approx(
        0.148937, abs=1e-5
    )


@pytest.mark.parametrize(("n", "d"), [(600, 200), (150, 400)])
@pytest.mark.parametrize(("first", "last"), [(11, 100), (4, 100)])
def test_equals_reptrix(n, d, first, last):
    x = torch.tensor(oracles.planted_features(0.8, n, d)).float()
    # reptrix changes the range it is given, so each call gets its own.
    expected = get_alpha(x, fit_range=np.arange(first - 1, last))[0]
    fit = fit_power_law(eigenspectrum(x), (first, last), num_samples=n)
    assert fit.alpha.item() == pytest.approx(expected, abs=1e-6)


def test_a_range_is_never_changed():
    fit_range = [11, 60]
    values = torch.rand(100).sort(descending=True).values + 0.1
    first = fit_power_law(values, fit_range)
    second = fit_power_law(values, fit_range)
    assert fit_range == [11, 60]
    assert first.alpha == second.alpha


def test_matches_polyfit_with_r2_on_the_fitted_ranks():
    values = np.sort(np.random.default_rng(1).gamma(1.0, size=300))[::-1] + 1e-3
    slope, intercept, r2 = oracles.weighted_line(values, 5, 80)
    fit = fit_power_law(torch.tensor(values.copy()), (5, 80))
    np.testing.assert_allclose(
        [fit.alpha, fit.intercept, fit.r2], [slope, intercept, r2], rtol=1e-10
    )
    assert 0 < fit.r2 < 0.999


def test_stderr_is_the_spread_of_alpha_under_the_weights():
    # Residuals with variance rank·σ² are what weights 1/rank assume: then stderr is right.
    rng = np.random.default_rng(0)
    ranks = np.arange(1, 201)
    alphas, errors = [], []
    for _ in range(300):
        noise = 0.01 * np.sqrt(ranks) * rng.standard_normal(200)
        fit = fit_power_law(torch.tensor(np.exp(-np.log(ranks) + noise)), (10, 150))
        alphas.append(fit.alpha.item())
        errors.append(fit.stderr.item())
    # 300 draws know a standard deviation to about 4 %.
    assert np.mean(errors) == pytest.approx(np.std(alphas), rel=0.15)


@pytest.mark.parametrize(
    ("d", "n", "expected"),
    [
        (2048, None, (4, 100)),
        (2048, 10_000, (4, 100)),
        (256, 10_000, (4, 51)),
        (2048, 256, (4, 51)),
        (512, 513, (4, 100)),
        (30, 100, (4, 6)),
        (100, 31, (4, 6)),
    ],
)
def test_auto_follows_the_attainable_ranks(d, n, expected):
    assert resolve_fit_range("auto", d, num_samples=n) == expected


@pytest.mark.parametrize(
    ("fit_range", "text"),
    [
        ((0, 10), r"one-based.*fit_range=\(0, 10\)"),
        ((5, 6), r"at least 3 are needed, got fit_range=\(5, 6\)"),
        ((20, 10), r"fit_range=\(20, 10\)"),
        ((11, 65), r"reaches past the 64 attainable ranks"),
        ("all", r"expected 'auto' or two ranks.*'all'"),
        ((1, 2, 3), r"fit_range=\(1, 2, 3\)"),
        ((1.5, 20.0), r"fit_range=\(1.5, 20.0\)"),
    ],
)
def test_bad_ranges(fit_range, text):
    with pytest.raises(FitRangeError, match=text):
        fit_power_law(torch.ones(64), fit_range)


def test_fewer_features_or_samples_than_the_fit_needs():
    with pytest.raises(FitRangeError, match="needs at least 30 attainable ranks, got 29"):
        fit_power_law(torch.ones(29))
    with pytest.raises(FitRangeError, match="got 29 .num_samples=30"):
        fit_power_law(torch.ones(512), num_samples=30)
    with pytest.raises(FitRangeError, match="past the 63 attainable.*num_samples=64"):
        fit_power_law(torch.ones(512), (11, 100), num_samples=64)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, r"at rank 20 of the fit range \(4, 60\) is 0: the features span at most 19 dim"),
        (-1.0, "at rank 20 .* is -1: .*not negative"),
        (float("nan"), "is nan"),
        (float("inf"), "is inf"),
    ],
)
def test_spectra_that_cannot_be_fitted(value, text):
    values = torch.ones(100)
    values[19] = value
    with pytest.raises(SpectrumError, match=text):
        fit_power_law(values, (4, 60))


def test_wrong_shape_and_weighting():
    with pytest.raises(SpectrumError, match=r"shape \(d,\), got shape \(4, 4\)"):
        fit_power_law(torch.ones(4, 4))
    with pytest.raises(OptionError, match="got 'none'"):
        fit_power_law(torch.ones(64), weighting="none")


def test_distance():
    alphas = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    assert alpha_distance(alphas).tolist() == [0.5, 0.0, 0.5]
    assert alpha_distance(alphas, 1.5).tolist() == [1.0, 0.5, 0.0]
    assert alpha_distance(alphas, (0.75, 1.25)).tolist() == [0.25, 0.0, 0.25]
    assert alpha_distance(torch.tensor(float("nan"))).isnan()


@pytest.mark.parametrize("target", [(1.2, 0.8), -1.0, (0.5, float("inf")), (1.0,), float("nan")])
def test_bad_targets(target):
    with pytest.raises(OptionError, match="expected target"):
        alpha_distance(torch.ones(()), target)


def test_ranks_the_wrong_way_round_are_told_so():
    with pytest.raises(FitRangeError, match=r"got fit_range=\(50, 4\); did you mean \(4, 50\)\?"):
        resolve_fit_range((50, 4), num_samples=1000, num_features=256)
