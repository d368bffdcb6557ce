import pytest
import torch
from reptrix.lidar import get_lidar

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional import lidar, lidar_eigenvalues, view_moments
from alphareq_lightning.functional.lidar import accumulate_views_

import oracles


def views(n=300, q=4, d=16, rank=16, noise=0.3, seed=0):
    """Images that differ in ``rank`` directions by 1, seen with noise in all ``d``."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, d, generator=generator, dtype=torch.float64)
    images[..., rank:] = 0
    return images + noise * torch.randn(n, q, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("delta", [1e-4, 0.5])
@pytest.mark.parametrize("n", [300, 10])
def test_lidar_matches_numpy(n, delta):
    x = views(n=n) + 5.0
    truth = oracles.lidar(x.numpy(), delta)
    assert lidar(x, delta=delta).item() == pytest.approx(truth, rel=1e-9)
    spectrum = lidar_eigenvalues(view_moments(x), delta=delta)
    expected = torch.tensor(oracles.lidar_eigenvalues(x.numpy(), delta).copy())
    torch.testing.assert_close(spectrum, expected.clamp(min=0), rtol=1e-8, atol=1e-8)


def test_batches_and_blocks_add_up():
    x = views(n=300)
    running = view_moments(x[:7])
    for batch in x[7:].split(140):  # more than a block of 128 images
        accumulate_views_(running, batch)
    torch.testing.assert_close(lidar(running), lidar(x), rtol=1e-10, atol=0)
    half = view_moments(x.float())
    assert lidar(half).item() == pytest.approx(lidar(x).item(), rel=1e-5)


@pytest.mark.parametrize("rank", [2, 8, 16])
def test_lidar_counts_what_tells_images_apart(rank):
    # Means of 4 views keep a quarter of the noise: 1/4 in each direction, beside 1/0.03² of signal.
    assert lidar(views(n=2000, rank=rank, noise=0.03)).item() == pytest.approx(rank, rel=0.03)


def test_lidar_sees_through_augmentation_noise_where_rankme_does_not():
    # Eight directions of loud noise that differ from view to view of one image.
    clean = views(n=2000, d=16, rank=8, noise=0.05)
    loud = clean.clone()
    loud[..., 8:] += 3 * torch.randn(2000, 4, 8, dtype=torch.float64)
    rank = oracles.rankme(loud.flatten(0, 1).numpy())
    assert rank > 12
    assert lidar(loud).item() == pytest.approx(8, rel=0.02)


def test_known_deviation_of_reptrix():
    """reptrix 0.1 takes the PCA of the LDA matrix: squared eigenvalues, of its centred rows."""
    x = views(n=500, d=32, noise=0.5) * torch.arange(1, 33) ** -0.5
    ours = lidar(x, delta=1e-6).item()
    theirs = get_lidar(x, 500, 4)
    values = lidar_eigenvalues(view_moments(x), delta=1e-6)
    p = values.square() / values.square().sum()
    squared = (-torch.xlogy(p, p).sum()).exp().item()
    assert ours == pytest.approx(oracles.lidar(x.numpy(), 1e-6), rel=1e-9)
    assert theirs == pytest.approx(squared, rel=0.03)
    assert (round(ours, 1), round(float(theirs), 1)) == (19.2, 14.7)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.ones(5, 4), r"\(images, views, features\) with at least 2 views, .*\(5, 4\)"),
        (torch.ones(5, 1, 4), r"\(5, 1, 4\)"),
        (torch.ones(5, 2, 4, dtype=torch.int64), "int64"),
        (torch.ones(2, 2, 4), "at least 3 samples, got 2"),
        (torch.ones(5, 2, 4), "not all 0"),
        (torch.full((5, 2, 4), torch.nan), "4 of 4 features hold NaN"),
    ],
)
def test_no_views_no_lidar(x, text):
    with pytest.raises(SpectrumError, match=text):
        lidar(x)


def test_options():
    with pytest.raises(OptionError, match=r"delta > 0 and epsilon >= 0, got delta=0"):
        lidar(views(), delta=0)
    with pytest.raises(SpectrumError, match=r"cannot be inverted with delta=0.0001 .*larger delta"):
        lidar(views(noise=0) * 1e9 + 1e9 * torch.randn(300, 4, 1), delta=1e-4)


def test_width_must_stay():
    with pytest.raises(SpectrumError, match="expected features with 16 columns"):
        accumulate_views_(view_moments(views()), torch.ones(3, 2, 5))
