import numpy as np
import pytest
import torch

from alphareq_lightning.errors import FitRangeError, SpectrumError
from alphareq_lightning.functional import (
    fit_broken_power_law,
    fit_power_law,
    window_family,
    window_spread,
)

import oracles

SPECTRUM = torch.tensor(oracles.eigenspectrum(oracles.planted_features(0.9, 900, 400)))


def test_each_window_is_the_fit_of_that_window():
    found = window_spread(SPECTRUM, num_samples=900)
    assert len(found.alphas) == len(window_family(400)) > 30
    for (first, last), alpha, r2 in zip(
        found.windows.tolist(), found.alphas, found.r2s, strict=True
    ):
        slope, _, expected = oracles.weighted_line(SPECTRUM.numpy(), first, last)
        assert alpha.item() == pytest.approx(slope, abs=1e-9)
        assert r2.item() == pytest.approx(expected, abs=1e-9)
    assert found.spread == pytest.approx(float(np.ptp(found.alphas.numpy())))


def test_best_window_is_the_straight_one():
    ranks = torch.arange(1, 301, dtype=torch.float64)
    bent = torch.where(ranks < 40, ranks**-1.0, 40.0 * ranks**-2.0)
    windows = [(2, 20), (4, 39), (4, 100), (20, 150)]
    found = window_spread(bent, windows)
    assert found.best == (2, 20)  # as straight as 4 to 39, and a longer stretch of ranks
    assert found.r2s[1].item() == pytest.approx(1, abs=1e-12)
    assert window_spread(torch.ones(100)).r2s.tolist() == [1.0] * len(window_family(100))
    assert window_spread(ranks**-0.7).spread == pytest.approx(0, abs=1e-10)


def test_windows_that_cannot_be_fitted():
    with pytest.raises(FitRangeError, match="23 attainable ranks; the default windows need 24"):
        window_spread(torch.ones(64), num_samples=24)
    with pytest.raises(FitRangeError, match="reaches past the 64 attainable"):
        window_spread(torch.ones(64), [(4, 20), (4, 100)])
    with pytest.raises(FitRangeError, match=r"no window to fit: got windows=\[\]"):
        window_spread(torch.ones(64), [])
    with pytest.raises(SpectrumError, match="rank 11 .* is 0"):
        window_spread(torch.cat([torch.ones(10), torch.zeros(54)]), [(4, 20)])


@pytest.mark.parametrize(("head", "tail", "at"), [(0.6, 1.4, 12), (2.0, 0.5, 60), (1.0, 1.1, 30)])
def test_broken_line_finds_what_was_planted(head, tail, at):
    ranks = torch.arange(1, 301, dtype=torch.float64)
    values = 3 * torch.where(ranks < at, ranks**-head, at ** (tail - head) * ranks**-tail)
    fit = fit_broken_power_law(values, (3, 200))
    assert fit.head.item() == pytest.approx(head, abs=1e-9)
    assert fit.tail.item() == pytest.approx(tail, abs=1e-9)
    assert fit.break_rank == at
    assert fit.r2.item() == pytest.approx(1, abs=1e-9)
    assert fit.fit_range == (3, 200)


def test_broken_line_is_the_best_of_all_breaks():
    fit = fit_broken_power_law(SPECTRUM, (4, 60))
    n = np.arange(4, 61)
    x, y, w = np.log(n), np.log(SPECTRUM[3:60].numpy()), 1 / n
    costs = {}
    for at in range(7, 58):
        design = np.stack([np.ones_like(x), x, np.maximum(x - np.log(at), 0)], axis=1)
        solution = np.linalg.solve(design.T @ (w[:, None] * design), design.T @ (w * y))
        costs[at] = (w * (y - design @ solution) ** 2).sum(), solution
    at = min(costs, key=lambda k: costs[k][0])
    assert fit.break_rank == at
    assert fit.head.item() == pytest.approx(-costs[at][1][1], abs=1e-8)
    assert fit.tail.item() == pytest.approx(-costs[at][1][1:].sum(), abs=1e-8)
    assert fit.r2 >= fit_power_law(SPECTRUM, (4, 60)).r2


def test_broken_line_needs_ranks():
    with pytest.raises(FitRangeError, match=r"at least 7 ranks, got \(4, 9\)"):
        fit_broken_power_law(torch.ones(64), (4, 9))
    with pytest.raises(SpectrumError, match="rank 31 .*is 0"):
        fit_broken_power_law(torch.cat([torch.ones(30), torch.zeros(70)]), (4, 50))
    flat = fit_broken_power_law(torch.ones(64), (4, 30))
    assert (flat.r2.item(), flat.head.item()) == pytest.approx((1.0, 0.0), abs=1e-9)
