import numpy as np
import pytest
import torch

from alphareq_lightning.errors import FitRangeError, OptionError, SpectrumError
from alphareq_lightning.functional import (
    correct_alpha,
    eigenspectrum,
    fit_power_law,
)
from alphareq_lightning.functional.finite_sample import check_bias_correction

import oracles


def draws(population, n, count, fit_range=(11, 100), seed=0):
    """Corrected fits of several samples; a diagonal population, as Gaussians have no basis."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(population)
    d = len(scale)
    return [
        correct_alpha(
            torch.tensor(oracles.eigenspectrum(rng.standard_normal((n, d)) * scale)),
            fit_range,
            num_samples=n,
            num_features=d,
        )
        for _ in range(count)
    ]


def numbers(found):
    rows = [(f.raw.alpha.item(), f.alpha.item(), f.stderr.item()) for f in found]
    return np.array(rows).T


@pytest.mark.parametrize(
    ("alpha", "n", "tolerance"),
    [(0.5, 250, 0.06), (0.8, 250, 0.03), (1.0, 250, 0.03), (1.5, 250, 0.03), (0.8, 800, 0.03)],
)
def test_planted_exponent(alpha, n, tolerance):
    found = draws(np.arange(1, 501.0) ** -alpha, n, 8)
    raw, corrected, stderr = numbers(found)
    assert corrected.mean() == pytest.approx(alpha, abs=tolerance)
    # Where there is a bias to speak of, most of it goes; 8 draws know their mean to about 0.006.
    assert abs(corrected.mean() - alpha) < max(0.5 * abs(raw.mean() - alpha), 0.015)
    assert 0.5 * corrected.std() < stderr.mean() < 4 * corrected.std()


def test_a_spectrum_that_bends_down_reads_too_high_and_is_corrected_too():
    # No power law anywhere: an inversion that assumes one would move α the wrong way.
    ranks = np.arange(1, 401.0)
    population = ranks**-0.6 * np.exp(-ranks / 60)
    truth = fit_power_law(torch.tensor(population), (8, 80)).alpha.item()
    raw, corrected, _ = numbers(draws(population, 300, 8, (8, 80)))
    assert raw.mean() > truth + 0.05
    assert corrected.mean() == pytest.approx(truth, abs=0.02)


def test_standard_error_covers_the_truth():
    # ±1.28 standard errors are 80 % of a normal distribution.
    _, corrected, stderr = numbers(draws(np.arange(1, 201.0) ** -1.0, 120, 40, (5, 40)))
    assert (np.abs(corrected - 1.0) <= 1.28 * stderr).mean() >= 0.8
    assert stderr.mean() < 3 * corrected.std()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "tolerance"), [(0.5, 0.06), (0.8, 0.03), (1.0, 0.03), (1.5, 0.03)]
)
def test_planted_exponent_at_full_width(alpha, tolerance):
    raw, corrected, stderr = numbers(draws(np.arange(1, 2049.0) ** -alpha, 1024, 10))
    assert corrected.mean() == pytest.approx(alpha, abs=tolerance)
    assert abs(raw.mean() - alpha) > abs(corrected.mean() - alpha)
    assert (np.abs(corrected - alpha) <= 2 * stderr).mean() >= 0.8


def test_many_samples_need_no_correction():
    spectrum = torch.arange(1, 129, dtype=torch.float64) ** -1.2
    found = correct_alpha(spectrum, (4, 25), num_samples=10**6, num_features=128)
    assert found.alpha.item() == pytest.approx(1.2, abs=1e-3)
    assert found.raw.alpha.item() == pytest.approx(1.2, abs=1e-9)
    assert 0 < found.stderr.item() < 2e-3


def test_white_noise_is_flatter_than_it_reads():
    x = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(0))
    found = correct_alpha(eigenspectrum(x), (11, 100), num_samples=1000, num_features=1024)
    assert found.raw.alpha.item() == pytest.approx(0.148937, abs=1e-5)  # reptrix's golden value
    assert abs(found.alpha.item()) < 0.7 * 0.148937
    assert abs(found.alpha.item()) < 2 * found.stderr.item()


def test_dead_directions_are_no_part_of_the_population():
    x = oracles.planted_features(1.0, 300, 200)
    padded = np.concatenate([x, np.zeros((300, 100))], axis=1)
    plain, dead = (
        correct_alpha(
            eigenspectrum(torch.tensor(f)), (4, 40), num_samples=300, num_features=f.shape[1]
        )
        for f in (x, padded)
    )
    assert dead.alpha.item() == pytest.approx(plain.alpha.item(), abs=1e-6)


@pytest.mark.parametrize("last", [50, 64, 99, 127])
def test_windows_up_to_the_last_rank(last):
    found = draws(np.arange(1, 129.0) ** -1.0, 400, 1, (11, last))[0]
    assert found.alpha.item() == pytest.approx(1.0, abs=0.15)
    assert found.stderr.item() < 0.1


def test_scale_does_not_matter_and_nothing_is_touched():
    spectrum = torch.tensor(oracles.eigenspectrum(oracles.planted_features(0.8, 150, 300)))
    before, state = spectrum.clone(), torch.get_rng_state()
    one, other = (
        correct_alpha(s, num_samples=150, num_features=300) for s in (spectrum, 1e6 * spectrum)
    )
    assert one.alpha.item() == pytest.approx(other.alpha.item(), abs=1e-6)
    assert one.stderr.item() == pytest.approx(other.stderr.item(), rel=1e-3)
    assert torch.equal(spectrum, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_outlier_on_a_flat_spectrum_is_refused_instead_of_misread():
    # 100 times the rest of α = 0.5: the trace alone then bends the curve upwards somewhere.
    population = np.arange(1, 513.0) ** -0.5
    population[0] *= 100
    with pytest.raises(SpectrumError, match="comes out rising, by a factor of .* more samples"):
        draws(population, 256, 1, "auto")
    with pytest.raises(SpectrumError, match="comes out rising"):
        draws(population, 256, 1, "auto", seed=1)
    population[0] /= 10
    assert draws(population, 256, 1, "auto")[0].alpha.item() == pytest.approx(0.5, abs=0.1)


def test_what_cannot_be_corrected():
    with pytest.raises(SpectrumError, match="span at most 19 dimensions"):
        correct_alpha(
            torch.cat([torch.ones(19), torch.zeros(81)]), (4, 60), num_samples=400, num_features=100
        )
    with pytest.raises(FitRangeError, match="past the 63 attainable"):
        correct_alpha(torch.ones(64), (4, 100), num_samples=64, num_features=512)
    with pytest.raises(OptionError, match="None or 'inversion', which .* got 'richardson'"):
        check_bias_correction("richardson")


def test_more_samples_than_images_are_refused():
    with pytest.raises(SpectrumError, match="90 samples show only 89 images"):
        correct_alpha(torch.ones(40), num_samples=90, num_features=40, num_images=89)
