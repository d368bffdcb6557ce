import numpy as np
import pytest
import torch

from alphareq_lightning.errors import EigensolverWarning, RoundedTailWarning, SpectrumError
from alphareq_lightning.functional import (
    covariance,
    covariance_eigenvalues,
    eigenspectrum,
    feature_moments,
    fit_power_law,
    moments_eigenvalues,
    moments_singular_values,
    rankme,
    selfcluster,
)

import oracles


@pytest.mark.parametrize(("n", "d"), [(200, 40), (40, 200), (64, 64), (3, 10)])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_matches_svd_in_numpy(n, d, mean):
    x = oracles.planted_features(1.0, n, d, mean=mean)
    expected = oracles.eigenspectrum(x)
    for spectrum in (
        eigenspectrum(torch.tensor(x)),
        moments_eigenvalues(feature_moments(torch.tensor(x))),
    ):
        assert spectrum.shape == (min(n, d),)
        assert spectrum.dtype == torch.float64
        # eigvalsh is exact relative to the largest eigenvalue
        np.testing.assert_allclose(spectrum, expected, rtol=1e-6, atol=1e-9 * expected[0])


def test_mean_a_thousand_times_the_spread():
    x = oracles.planted_features(1.0, 3000, 128)
    shifted = torch.tensor(x + 1000 * x.std()).float()
    exact = oracles.eigenspectrum(shifted.numpy())
    fit = fit_power_law(eigenspectrum(shifted))
    slope, *_ = oracles.weighted_line(exact, *fit.fit_range)
    # Float32 products err by 1e-7 of an eigenvalue, each in its own way.
    assert fit.alpha.item() == pytest.approx(slope, abs=3e-8)


def test_covariance_is_that_of_torch():
    x = torch.randn(30, 5, dtype=torch.float64)
    for correction in (0, 1):
        torch.testing.assert_close(
            covariance(feature_moments(x), correction=correction),
            torch.cov(x.T, correction=correction),
        )


def test_singular_values_are_uncentred():
    x = torch.randn(50, 6, dtype=torch.float64) + 3
    torch.testing.assert_close(moments_singular_values(feature_moments(x)), torch.linalg.svdvals(x))


@pytest.mark.parametrize("rank", [1, 5, 20])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize(("n", "d"), [(500, 64), (40, 64)])
def test_collapse_shows_as_zeros_not_as_rounding(rank, dtype, n, d):
    rng = np.random.default_rng(rank)
    x = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d))
    if dtype in (torch.float32, torch.float64):
        x += 7
    spectrum = eigenspectrum(torch.tensor(x).to(dtype))
    assert int((spectrum > 0).sum()) == rank


@pytest.mark.parametrize(("n", "d"), [(3000, 64), (300, 64), (40, 64), (200, 300), (9000, 40)])
@pytest.mark.parametrize("kind", ["relu", "two values", "heavy tail", "one feature"])
def test_float32_products_round_below_the_floor(kind, n, d):
    # What rounds worst: sums of equal or very unequal terms, all of one sign.
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, 1, generator=generator)
    columns = torch.rand(1, d, generator=generator)
    x = {
        "relu": lambda: (rows @ (columns - 0.5)).relu(),  # rank 2
        "two values": lambda: (rows > 0).float() @ columns,
        "heavy tail": lambda: rows**5 @ columns**4,
        "one feature": lambda: rows @ torch.cat([columns[:, :1] * 100, columns[:, 1:]], dim=1),
    }[kind]()
    assert int((eigenspectrum(x) > 0).sum()) == (2 if kind == "relu" else 1)


@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_steep_spectra_keep_the_ranks_of_the_fit(alpha):
    x = torch.tensor(oracles.planted_features(alpha, 1500, 640))
    expected = eigenspectrum(x)
    spectrum = eigenspectrum(x.float())
    assert int((spectrum > 0).sum()) > 200
    # ranks 4 to 100 reach down to 1e-5 of the largest eigenvalue
    torch.testing.assert_close(spectrum[:100], expected[:100], rtol=1e-4, atol=0)
    assert fit_power_law(spectrum).alpha.item() == pytest.approx(
        fit_power_law(expected).alpha.item(), abs=1e-5
    )


@pytest.mark.parametrize("n", [1500, 100])
def test_float64_features_keep_a_spread_a_millionth_of_their_mean(n):
    x = oracles.planted_features(1.0, n, 128)
    x = x + 1e6 * x.std()
    slope, *_ = oracles.weighted_line(oracles.eigenspectrum(x), 4, 60)
    fit = fit_power_law(eigenspectrum(torch.tensor(x)), (4, 60))
    assert fit.alpha.item() == pytest.approx(slope, abs=1e-6)  # 1e-16 of the mean is left


def test_float32_features_widened_to_float64_stay_rounded_as_float32():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(500, 64, generator=generator)
    x = (1e3 + 1e-4 * noise).double()  # 1.6 rounding steps of float32
    assert eigenspectrum(x).count_nonzero() == 0


SCALES = {torch.float32: [1e-30, 1e-22, 1e19, 1e30], torch.float64: [1e-140, 1e-22, 1e19, 1e140]}


@pytest.mark.parametrize(("dtype", "scale"), [(d, s) for d, all_ in SCALES.items() for s in all_])
@pytest.mark.parametrize(("n", "d"), [(300, 128), (100, 128)])
def test_the_unit_of_the_features_does_not_matter(dtype, scale, n, d):
    x = oracles.planted_features(1.0, n, d, mean=0.1)
    scaled = torch.tensor(x * scale).to(dtype)
    moments = feature_moments(scaled)
    slope, *_ = oracles.weighted_line(oracles.eigenspectrum(x), 4, 19)
    for spectrum in (eigenspectrum(scaled), moments_eigenvalues(moments)):
        assert fit_power_law(spectrum, (4, 19)).alpha.item() == pytest.approx(slope, abs=1e-6)
    score = rankme(moments_singular_values(moments)).item()
    assert score == pytest.approx(oracles.rankme(x), rel=1e-5)
    assert selfcluster(scaled).item() == pytest.approx(oracles.selfcluster(x), abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "text"),
    [(1e-170, "as small as .e-17[01] vanish in torch.float64"), (1e170, "overflow torch.float64")],
)
@pytest.mark.parametrize("n", [100, 8])
def test_squares_that_leave_float64_say_so(scale, text, n):
    x = torch.randn(n, 32, dtype=torch.float64) * scale
    for read in (eigenspectrum, lambda x: moments_singular_values(feature_moments(x))):
        with pytest.raises(SpectrumError, match=text):
            read(x)


def test_a_tail_that_rounding_hides_is_a_warning():
    x = torch.tensor(oracles.planted_features(2.5, 1500, 256)).bfloat16()
    with pytest.warns(RoundedTailWarning, match=r"45 of 256 .* RankMe is 30\.\d+ without and 32\."):
        values = moments_singular_values(feature_moments(x))
    assert rankme(values).item() < 0.95 * oracles.rankme(x.double().numpy())


def test_no_warning_for_what_is_collapsed_beyond_doubt():
    x = torch.randn(500, 3) @ torch.randn(3, 256)
    assert int((moments_singular_values(feature_moments(x)) > 0).sum()) == 3


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
@pytest.mark.parametrize("n", [8, 100])
def test_constant_features_have_no_spectrum(value, n):
    assert eigenspectrum(torch.full((n, 32), value)).count_nonzero() == 0


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_samples(n):
    with pytest.raises(SpectrumError, match=f"at least 3 samples, got {n}"):
        eigenspectrum(torch.randn(n, 8))
    with pytest.raises(SpectrumError, match="at least 2 samples, got 1"):
        covariance(feature_moments(torch.randn(1, 8)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [4, 50])
def test_counts_features_that_are_not_finite(bad, n):
    x = torch.randn(n, 8)
    x[0, 2] = x[3, 5] = bad
    with pytest.raises(SpectrumError, match="2 of 8 features hold NaN or infinite"):
        eigenspectrum(x)
    with pytest.raises(SpectrumError, match="2 of 8 features"):
        moments_singular_values(feature_moments(x))


def test_infinite_covariance():
    with pytest.raises(SpectrumError, match="1 of 2 features"):
        covariance_eigenvalues(torch.diag(torch.tensor([1.0, float("inf")])))


def test_solver_failure_falls_back_to_the_cpu_and_says_so(monkeypatch):
    solve, calls = torch.linalg.eigvalsh, []

    def fails_once(matrix):
        calls.append(matrix.device.type)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("did not converge")
        return solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails_once)
    with pytest.warns(EigensolverWarning, match="did not converge.*solved on the CPU"):
        values = covariance_eigenvalues(torch.eye(3))
    assert values.tolist() == [1.0, 1.0, 1.0]


def test_rotation_scale_and_order_do_not_matter():
    x = torch.tensor(oracles.planted_features(0.9, 400, 64))
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))
    alpha = fit_power_law(eigenspectrum(x)).alpha
    for same in (x @ rotation, x * 1e-3, x + 5, x[torch.randperm(400)]):
        torch.testing.assert_close(
            fit_power_law(eigenspectrum(same)).alpha, alpha, rtol=0, atol=1e-9
        )
