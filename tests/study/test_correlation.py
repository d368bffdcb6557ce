"""Rank correlations against scipy's, and what their intervals promise."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from study import correlation


def test_correlations_agree_with_scipy_and_their_intervals_hold_them():
    rng = np.random.default_rng(3)
    a = rng.normal(size=24).round(1)  # with ties
    b = a + rng.normal(size=24)
    found = correlation.correlation(a, b)
    assert found.value == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert found.low < found.value < found.high
    assert correlation.kendall(a, b).value == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)


def test_a_bootstrap_interval_has_its_level():
    rng = np.random.default_rng(0)
    truth = 6 / math.pi * math.asin(0.6 / 2)  # Spearman's ρ of a Gaussian pair with r = 0.6
    hits = 0
    for _ in range(100):
        pair = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=30)
        found = correlation.correlation(*pair.T)
        hits += found.low <= truth <= found.high
    assert hits >= 85


def test_a_score_that_does_not_vary_has_no_correlation():
    found = correlation.correlation(np.ones(3), np.arange(3.0))
    assert np.isnan(found).all()
    assert np.isnan(correlation.kendall(np.ones(3), np.arange(3.0))).all()
