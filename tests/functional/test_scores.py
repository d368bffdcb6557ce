import numpy as np
import pytest
import torch
from reptrix.rankme import get_rankme

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional import (
    condition_number,
    effective_rank,
    eigenspectrum,
    feature_moments,
    matrix_entropy,
    moments_singular_values,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)

import oracles

OF_EIGENVALUES = [effective_rank, participation_ratio, nesum]
OF_SINGULAR_VALUES = [rankme, stable_rank, condition_number, matrix_entropy]
SCORES = OF_EIGENVALUES + OF_SINGULAR_VALUES


@pytest.mark.parametrize(("n", "d"), [(300, 50), (50, 300)])
@pytest.mark.parametrize("mean", [0.0, 2.0])
@pytest.mark.parametrize("score", SCORES)
def test_scores_match_numpy(score, n, d, mean):
    x = oracles.planted_features(1.0, n, d, mean=mean)
    features = torch.tensor(x)
    truth = getattr(oracles, score.__name__)(x)
    if score in OF_EIGENVALUES:
        assert score(eigenspectrum(features)).item() == pytest.approx(truth, rel=1e-9)
        return
    assert score(torch.linalg.svdvals(features)).item() == pytest.approx(truth, rel=1e-9)
    # Streaming squares the singular values: the tail keeps half of its digits.
    streamed = moments_singular_values(feature_moments(features))
    assert score(streamed).item() == pytest.approx(truth, rel=1e-6)


COUNTS = {
    rankme: 2e-4,  # it adds 1e-7 to each of 64 shares
    effective_rank: 1e-9,
    participation_ratio: 1e-9,
    nesum: 1e-9,
    stable_rank: 1e-9,
}


@pytest.mark.parametrize("score", COUNTS)
def test_scores_count_equal_directions(score):
    for rank in (1, 7, 64):
        values = torch.zeros(64, dtype=torch.float64)
        values[:rank] = 3.0
        assert score(values).item() == pytest.approx(rank, rel=COUNTS[score])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("values", "text"),
    [
        (torch.zeros(4), "not all 0"),
        (torch.tensor([1.0, -1.0, float("nan")]), "2 negative or non-finite"),
        (torch.ones(2, 2), r"of shape \(2, 2\)"),
    ],
)
def test_no_spectrum_no_score(score, values, text):
    with pytest.raises(SpectrumError, match=text):
        score(values)


def test_missing_directions_are_an_infinite_condition():
    # The last feature is a copy: rounding leaves it a variance of 1e-15 of the others'.
    x = torch.randn(400, 6, generator=torch.manual_seed(0))
    x = torch.cat([x, x[:, :1]], dim=1)
    assert condition_number(moments_singular_values(feature_moments(x))) == torch.inf


def test_matrix_entropy_of_order_two_is_a_participation_ratio():
    values = torch.rand(20, generator=torch.manual_seed(0), dtype=torch.float64)
    expected = participation_ratio(values.square()).log()
    torch.testing.assert_close(matrix_entropy(values, order=2), expected)
    # Continuous in the order, at 1 too.
    near, at = matrix_entropy(values, order=1 + 1e-6), matrix_entropy(values)
    torch.testing.assert_close(near, at, rtol=1e-5, atol=0)


@pytest.mark.parametrize("n", [40, 150])
def test_corrected_participation_ratio_is_that_of_all_samples(n):
    population = np.arange(1, 101) ** -0.5
    truth = population.sum() ** 2 / (population**2).sum()
    raw, corrected = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        spectrum = eigenspectrum(torch.tensor(rng.standard_normal((n, 100)) * np.sqrt(population)))
        raw.append(participation_ratio(spectrum).item())
        corrected.append(participation_ratio(spectrum, num_samples=n).item())
    # 1/PR is read high by about 1/n; the rest is the error of 20 draws (about 1 % of 52).
    assert 1 / np.mean(raw) - 1 / truth == pytest.approx(1 / n, rel=0.1)
    assert np.mean(corrected) == pytest.approx(truth, rel=0.03)


def test_a_flat_sample_spectrum_has_no_corrected_ratio():
    # 99 equal eigenvalues are what 100 samples of endlessly many directions give.
    assert participation_ratio(torch.ones(99), num_samples=100) == torch.inf
    with pytest.raises(OptionError, match="num_samples >= 3, got 2"):
        participation_ratio(torch.ones(4), num_samples=2)


def test_options():
    with pytest.raises(OptionError, match="order > 0, got 0"):
        matrix_entropy(torch.ones(4), order=0)


def test_known_deviations_of_others():
    """The same features, the paper's value and the others'; see docs/scores.md."""
    x = oracles.planted_features(1.0, 600, 64, mean=0.5)
    features = torch.tensor(x)
    values = torch.linalg.svdvals(features)
    ours = rankme(values).item()
    assert ours == pytest.approx(oracles.rankme(x), rel=1e-9)
    # reptrix 0.1: entropy of the centred covariance eigenvalues, which is the effective rank.
    theirs = get_rankme(features)
    assert theirs == pytest.approx(effective_rank(eigenspectrum(features)).item(), rel=1e-4)
    assert (round(ours, 1), round(theirs, 1)) == (37.7, 27.7)
    # stable-pretraining: 1e-5 is added instead of 1e-7, and so each empty share counts more.
    p = (values / values.sum()).numpy() + 1e-5
    assert np.exp(-(p * np.log(p)).sum()) > ours + 0.05
    # Variants of the stable rank subtract the mean first: that is NESum.
    centred = features - features.mean(dim=0)
    assert stable_rank(torch.linalg.svdvals(centred)).item() == pytest.approx(
        nesum(eigenspectrum(features)).item(), rel=1e-9
    )
    assert stable_rank(values).item() < 0.5 * nesum(eigenspectrum(features)).item()


def test_features_in_the_place_of_a_spectrum_are_told_what_to_do():
    with pytest.raises(SpectrumError, match=r"got features of shape \(100, 20\); take "):
        rankme(torch.randn(100, 20))
