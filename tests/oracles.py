"""The truth in numpy, written from the definitions; imports nothing from the package."""

import numpy as np


def eigenspectrum(features):
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    values = np.linalg.svd(x, compute_uv=False) ** 2 / (len(x) - 1)
    return np.sort(values)[::-1].copy()


def weighted_line(eigenvalues, first, last):
    """Slope, intercept and R² of log λ on −log n with weights 1/n, by np.polyfit."""
    n = np.arange(first, last + 1)
    y = np.log(eigenvalues[first - 1 : last])
    # polyfit's weights multiply the residuals, so they are the square roots.
    slope, intercept = np.polyfit(-np.log(n), y, 1, w=np.sqrt(1.0 / n))
    fitted = intercept - slope * np.log(n)
    mean = np.average(y, weights=1 / n)
    r2 = 1 - np.sum((y - fitted) ** 2 / n) / np.sum((y - mean) ** 2 / n)
    return slope, intercept, r2


def rankme(features):
    sigma = np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return np.exp(-(p * np.log(p)).sum())


def effective_rank(features):
    p = eigenspectrum(features)
    p = p[p > 1e-12 * p[0]] / p.sum()
    return np.exp(-(p * np.log(p)).sum())


def participation_ratio(features):
    values = eigenspectrum(features)
    return values.sum() ** 2 / (values**2).sum()


def planted_features(alpha, n, d, seed=0, mean=0.0):
    """Gaussian features whose population covariance has λ_k = k^−α in a random basis."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
    scale = np.arange(1, d + 1) ** (-alpha / 2)
    return mean + (rng.standard_normal((n, d)) * scale) @ basis


def mean_log_spectrum(population, n, draws, seed=0):
    """Mean log eigenvalues of covariances of n Gaussian samples, by brute force."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(population)
    kept = min(n - 1, len(scale))
    logs = [
        np.log(eigenspectrum(rng.standard_normal((n, len(scale))) * scale)[:kept])
        for _ in range(draws)
    ]
    return np.mean(logs, axis=0)
