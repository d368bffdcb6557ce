import pytest
import torch

from alphareq_lightning.errors import OptionError, SpectrumError
from alphareq_lightning.functional import eigenspectrum, fit_power_law
from alphareq_lightning.functional.projection import project_features


def test_projection_is_linear_and_keeps_inner_products_on_average():
    x = torch.randn(3, 5000, generator=torch.manual_seed(0), dtype=torch.float64)
    exact = x @ x.T
    found = []
    for seed in range(50):
        y = project_features(x, 200, seed=seed)
        assert y.shape == (3, 200)
        found.append(y @ y.T)
    # Each entry errs by about |x||y|·√(2/200) = 500; the mean of 50 by a seventh of it.
    torch.testing.assert_close(torch.stack(found).mean(dim=0), exact, rtol=0, atol=250)
    two = project_features(2 * x[:1] - 3 * x[1:2], 200)
    parts = project_features(x, 200)
    torch.testing.assert_close(two, 2 * parts[:1] - 3 * parts[1:2])


def test_the_same_projection_every_time_and_no_global_randomness():
    x = torch.randn(4, 3001)
    before = torch.get_rng_state()
    first = project_features(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(project_features(x), first)
    assert torch.equal(project_features(x[2:]), first[2:])  # batch by batch


def test_alpha_of_wide_features_survives():
    """8,000 features; the window ends far below the 2,048 sums that are left."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(600, 200, generator=generator) * torch.arange(1, 201) ** -0.5
    x = latent @ torch.randn(200, 8000, generator=generator)
    full = fit_power_law(eigenspectrum(x), (4, 50)).alpha.item()
    projected = fit_power_law(eigenspectrum(project_features(x)), (4, 50)).alpha.item()
    assert projected == pytest.approx(full, abs=0.03)


def test_narrow_features_stay_and_bad_ones_are_refused():
    x = torch.randn(4, 2048)
    assert project_features(x) is x
    assert project_features(torch.ones(4, 5000, dtype=torch.float16)).dtype == torch.float32
    with pytest.raises(OptionError, match="num_features >= 1, got 0"):
        project_features(x, 0)
    with pytest.raises(SpectrumError, match=r"got shape \(3,\)"):
        project_features(torch.ones(3))
