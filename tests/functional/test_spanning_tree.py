import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional import mst_dimension
from alphareq_lightning.functional.spanning_tree import spanning_tree


def framed(points, width=50, seed=0):
    """Points in a random frame of many more dimensions, far from the origin."""
    rng = np.random.default_rng(seed)
    frame, _ = np.linalg.qr(rng.standard_normal((width, points.shape[1])))
    return torch.tensor(points @ frame.T + 100)


def cube(dimension, n, seed=1):
    return np.random.default_rng(seed).random((n, dimension))


def sphere(dimension, n, seed=1):
    x = np.random.default_rng(seed).standard_normal((n, dimension + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def gaussian(dimension, n, seed=1):
    return np.random.default_rng(seed).standard_normal((n, dimension))


@pytest.mark.parametrize("dimension", [1, 3, 8])
def test_the_tree_is_scipys(dimension):
    distances = squareform(pdist(cube(dimension, 300)))
    edges = spanning_tree(distances)
    expected = minimum_spanning_tree(distances).tocoo()
    truth = {frozenset(pair) for pair in zip(expected.row, expected.col, strict=True)}
    assert {frozenset(pair) for pair in edges.tolist()} == truth


def test_the_line_is_that_of_scipys_trees_of_random_samples():
    x = cube(4, 1600)
    order = np.random.default_rng(5).permutation(len(x))
    sizes = np.arange(100, 1601, 100)
    lengths = [minimum_spanning_tree(squareform(pdist(x[order[:n]]))).sum() for n in sizes]
    slope, _ = np.polyfit(np.log(sizes), np.log(lengths), 1)
    # Other subsets of the same points: dimensions of 4 scatter by 4 % between seeds.
    assert mst_dimension(framed(x)).item() == pytest.approx(1 / (1 - slope), rel=0.1)


@pytest.mark.parametrize("shape", [cube, sphere, gaussian])
@pytest.mark.parametrize(("dimension", "rel"), [(1, 0.12), (2, 0.1), (5, 0.15), (10, 0.2)])
def test_known_dimensions(shape, dimension, rel):
    """The boundary of a cube and the tails of a Gaussian bias small samples, the first down."""
    assert mst_dimension(framed(shape(dimension, 2000))).item() == pytest.approx(dimension, rel=rel)


def test_a_helix_sampled_evenly_has_one():
    """The paper's example, where TwoNN diverges; of a tree of 12 points the ends are a twelfth."""
    t = np.linspace(0, 6 * np.pi, 200)
    helix = np.stack([np.cos(t), np.sin(t), t / 3], axis=1)
    assert mst_dimension(torch.tensor(helix)).item() == pytest.approx(1, abs=0.15)


def test_order_copies_scale_and_place_do_not_matter():
    x = framed(cube(3, 400))
    found = mst_dimension(x)
    torch.testing.assert_close(mst_dimension(x.flip(0)), found)
    torch.testing.assert_close(mst_dimension(torch.cat([x, x[:100]])), found)
    torch.testing.assert_close(mst_dimension(1e-3 * x), found)
    before = torch.get_rng_state()
    assert mst_dimension(x) == found
    assert torch.equal(before, torch.get_rng_state())


def test_no_dimension():
    with pytest.raises(SpectrumError, match="needs 64 different samples, got 1"):
        mst_dimension(torch.ones(500, 3))
    with pytest.raises(SpectrumError, match="needs 64 different samples, got 63"):
        mst_dimension(torch.rand(63, 3))
    with pytest.raises(SpectrumError, match="grow as fast as their number of points"):
        mst_dimension(torch.eye(100))
    steps = torch.randint(-1, 2, (500, 64), generator=torch.manual_seed(0))
    noise = (torch.randn(64) + 1) * (1 + torch.finfo(torch.float32).eps / 2 * steps)
    with pytest.raises(SpectrumError, match="vary no more than their rounding"):
        mst_dimension(noise)
    broken = torch.rand(100, 2)
    broken[3, 1] = float("nan")
    with pytest.raises(SpectrumError, match="1 of 200 feature values are NaN"):
        mst_dimension(broken)
    with pytest.raises(OptionError, match="num_sizes from 2 to 16, got 1"):
        mst_dimension(torch.rand(100, 2), num_sizes=1)
