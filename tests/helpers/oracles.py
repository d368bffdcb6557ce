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


def nesum(features):
    values = eigenspectrum(features)
    return values.sum() / values[0]


def stable_rank(features):
    return np.linalg.norm(features, "fro") ** 2 / np.linalg.norm(features, 2) ** 2


def condition_number(features):
    return np.linalg.cond(features)


def matrix_entropy(features):
    gram = features @ features.T
    p = np.linalg.eigvalsh(gram / np.trace(gram))
    p = p[p > 0]
    return -(p * np.log(p)).sum()


def coherence(features):
    projector = features @ np.linalg.pinv(features)
    return np.diag(projector).max() * len(features) / np.trace(projector)


def directions(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def selfcluster(features):
    n, d = features.shape
    x = directions(features)
    actual = np.linalg.norm(x @ x.T, "fro") ** 2
    return (d * actual - n * (d + n - 1)) / ((d - 1) * (n - 1) * n)


def alignment(a, b):
    return np.mean(np.linalg.norm(directions(a) - directions(b), axis=1) ** 2)


def uniformity(features, t=2):
    x = directions(features)
    i, j = np.triu_indices(len(x), k=1)
    return np.log(np.mean(np.exp(-t * ((x[i] - x[j]) ** 2).sum(axis=1))))


def twonn_dimension(features, discard=0.1):
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    distances.sort(axis=1)
    log_mu = np.sort(np.log(distances[:, 2] / distances[:, 1]))
    share = np.arange(1, len(log_mu) + 1) / len(log_mu)
    kept = int(len(log_mu) * (1 - discard))
    y = -np.log(1 - share[:kept])
    [slope], *_ = np.linalg.lstsq(log_mu[:kept, None], y, rcond=None)
    return slope


def lidar_eigenvalues(views, delta=1e-4):
    """Sample by sample as the paper writes it."""
    n, q, d = views.shape
    mu = views.mean(axis=(0, 1))
    sigma_b, sigma_w = np.zeros((d, d)), delta * np.eye(d)
    for of_image in views:
        mu_x = of_image.mean(axis=0)
        sigma_b += np.outer(mu_x - mu, mu_x - mu) / n
        for view in of_image:
            sigma_w += np.outer(view - mu_x, view - mu_x) / (n * q)
    values, vectors = np.linalg.eigh(sigma_w)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return np.linalg.eigvalsh(root @ sigma_b @ root)[::-1]


def lidar(views, delta=1e-4, epsilon=1e-7):
    values = lidar_eigenvalues(views, delta).clip(min=0)
    p = values / values.sum() + epsilon
    return np.exp(-(p * np.log(p)).sum())


def cross_validated_eigenvalues(a, b):
    """cvPCA by SVD of each repeat, projecting both on its principal directions."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spectra = []
    for train in (a, b):
        _, _, vt = np.linalg.svd(train, full_matrices=False)
        spectra.append(((a @ vt.T) * (b @ vt.T)).sum(axis=0) / (len(a) - 1))
    return np.mean(spectra, axis=0)


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
