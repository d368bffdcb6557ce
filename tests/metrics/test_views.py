import numpy as np
import pytest
import torch

from alphareq_lightning.errors import FitRangeError, NoFitWarning, SpectrumError
from alphareq_lightning.functional import fit_power_law, twins_error
from alphareq_lightning.metrics import Alignment, CrossValidatedAlpha, LiDAR, TwinsError
from alphareq_lightning.recipes import barlow_twins_loss

import oracles
from tiny import TinyModule, images, labelled_loader, make_trainer

A = torch.tensor(oracles.planted_features(1.0, 400, 100, mean=1.0))  # more than one block
B = A + 0.1 * torch.tensor(oracles.planted_features(0.0, 400, 100, seed=1))


@pytest.mark.parametrize("size", [13, 400])
def test_streamed_scores_match_numpy(size):
    lidar, alignment, alpha = LiDAR(), Alignment(), CrossValidatedAlpha(fit_range=(4, 20))
    for a, b in zip(A.split(size), B.split(size), strict=True):
        lidar.update(torch.stack([a, b], dim=1))
        alignment.update(a, b)
        alpha.update(a, b)
    views = torch.stack([A, B], dim=1).numpy()
    assert lidar.compute().item() == pytest.approx(oracles.lidar(views), rel=1e-8)
    truth = oracles.alignment(A.numpy(), B.numpy())
    assert alignment.compute().item() == pytest.approx(truth, rel=1e-6)
    shared = torch.tensor(oracles.cross_validated_eigenvalues(A.numpy(), B.numpy()))
    truth = fit_power_law(shared, (4, 20))
    assert alpha.compute().item() == pytest.approx(truth.alpha.item(), rel=1e-8)
    assert alpha.fit().r2.item() == pytest.approx(truth.r2.item(), rel=1e-8)
    torch.testing.assert_close(alpha.eigenvalues(), shared, rtol=1e-7, atol=1e-10)


def twins_oracle(a, b):
    """By numpy, from the definition."""
    width = a.shape[1]
    correlation = np.corrcoef(a, b, rowvar=False)[:width, width:]
    distance = (correlation - np.eye(width)) ** 2
    diagonal = np.diag(distance)
    return diagonal.mean() + (distance.sum() - diagonal.sum()) / (width * (width - 1))


@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("size", [1, 13, 400])
def test_the_streamed_twins_error_matches_numpy(size, mean):
    metric = TwinsError()
    for a, b in zip((A + mean).split(size), (B - mean).split(size), strict=True):
        metric.update(a, b)
    # Float64 sums of squares up to 1e6 times the variance.
    assert metric.compute().item() == pytest.approx(twins_oracle(A.numpy(), B.numpy()), rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_twins_error_is_the_terms_of_the_loss_for_each_entry(dtype):
    z_a, z_b = A.to(dtype), B.to(dtype)
    metric = TwinsError()
    for a, b in zip(z_a.split(150), z_b.split(150), strict=True):
        metric.update(a, b)
    loss = barlow_twins_loss(z_a, z_b)
    expected = loss.invariance / 100 + loss.redundancy / (100 * 99)
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-6)
    assert metric.sums.numel() == 1 + 4 * 100 + 100**2


def test_the_twins_error_compares_widths_where_the_loss_does_not():
    """The same noise on ever more independent dimensions."""
    errors, losses = [], []
    for width in (8, 64):
        z = torch.randn(2000, width, generator=torch.Generator().manual_seed(0))
        views = [
            z + torch.randn(z.shape, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
        ]
        errors.append(twins_error(*views).item())
        losses.append(barlow_twins_loss(*views).loss.item())
    # Means over 8 and 64 dimensions of (1 - C)², whose C of about .5 has an error of .02.
    assert errors[0] == pytest.approx(errors[1], rel=0.1)
    assert losses[1] > 5 * losses[0]


@pytest.mark.parametrize("value", [0.0, 1.0, 33.3, 1e6 + 0.3])
def test_a_constant_projection_agrees_with_nothing(value):
    z = A.float().clone()
    z[:, 0] = value
    metric = TwinsError()
    for part in z.split(64):
        metric.update(part, part)
    correlation = metric.cross_correlation()
    assert correlation[0].abs().max() == correlation[:, 0].abs().max() == 0
    loss = barlow_twins_loss(z, z)
    expected = loss.invariance / 100 + loss.redundancy / (100 * 99)
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_projection_has_no_off_diagonal():
    assert twins_error(A[:, :1], A[:, :1]).item() == pytest.approx(0, abs=1e-12)
    assert twins_error(A[:, :1], -A[:, :1]).item() == pytest.approx(4, abs=1e-9)


def test_merging_the_twins_error():
    halves = [TwinsError() for _ in range(2)]
    for half, rows in zip(halves, (slice(0, 250), slice(250, 400)), strict=True):
        half.update(A[rows], B[rows])
    halves[0].merge_state(halves[1])
    assert halves[0].compute().item() == pytest.approx(twins_error(A, B).item(), rel=1e-10)
    empty = TwinsError()
    empty.merge_state(halves[0].metric_state)
    assert empty.compute() == halves[0].compute()
    with pytest.raises(SpectrumError, match="expected 100 projections as in .*, got 3"):
        halves[0].update(torch.ones(4, 3), torch.ones(4, 3))
    with pytest.raises(SpectrumError, match=r"got shapes \(4, 3\) and \(4, 2\)"):
        empty.update(torch.ones(4, 3), torch.ones(4, 2))


def test_no_twins_error_is_nan_and_a_warning():
    with pytest.warns(NoFitWarning, match="TwinsError is NaN: no pair of views was seen"):
        assert TwinsError().compute().isnan()
    metric = TwinsError()
    metric.update(torch.ones(1, 3), torch.ones(1, 3))
    with pytest.warns(NoFitWarning, match="at least two images, all finite; got 1 images and 0"):
        assert metric.compute().isnan()
    metric = TwinsError()
    metric.update(torch.full((4, 3), torch.nan), torch.ones(4, 3))
    with pytest.warns(NoFitWarning, match="got 4 images and 15 sums that are not finite"):
        assert metric.compute().isnan()


def test_lidar_state_is_two_matrices_whatever_the_number_of_images():
    metric = LiDAR()
    for _ in range(3):
        metric.update(torch.randn(50, 6, 8))
        assert metric.between.numel() == metric.within.numel() == 3 + 8 + 64


def test_merging_lidar():
    halves = [LiDAR() for _ in range(2)]
    views = torch.stack([A, B], dim=1)
    for half, part in zip(halves, views.split(250), strict=True):
        half.update(part)
    halves[0].merge_state(halves[1])
    assert halves[0].compute().item() == pytest.approx(oracles.lidar(views.numpy()), rel=1e-8)
    with pytest.raises(SpectrumError, match="cannot merge states of 100 and 3 features"):
        halves[0].merge_state({name: torch.zeros(15) for name in ("between", "within")})


def test_what_is_no_state_is_not_merged():
    with pytest.raises(SpectrumError, match=r"expected a state with 'between', got \['x'\]"):
        LiDAR().merge_state({"x": 1})


def test_no_views_are_nan_and_a_warning():
    metric = LiDAR()
    metric.update(torch.ones(5, 2, 4))
    with pytest.warns(NoFitWarning, match="LiDAR is NaN: .*no difference between images"):
        assert metric.compute().isnan()
    metric = Alignment()
    metric.update(torch.zeros(5, 4), torch.zeros(5, 4))
    with pytest.warns(NoFitWarning, match="Alignment is NaN: no pair of views"):
        assert metric.compute().isnan()
    metric = CrossValidatedAlpha()
    metric.update(torch.ones(50, 40), torch.ones(50, 40))
    with pytest.warns(NoFitWarning, match="CrossValidatedAlpha is NaN: .*collapse"):
        assert metric.compute().isnan()
    with pytest.warns(NoFitWarning, match="no views were seen"):
        assert LiDAR().compute().isnan()


def test_options_fail_at_once():
    with pytest.raises(FitRangeError, match=r"\(9, 3\)"):
        CrossValidatedAlpha(fit_range=(9, 3))


class TwoViewModule(TinyModule):
    """What docs/scores.md tells users to write."""

    def __init__(self):
        super().__init__()
        self.lidar, self.alignment, self.alpha = LiDAR(), Alignment(), CrossValidatedAlpha()
        self.twins_error = TwinsError()

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        z_a, z_b = self.backbone(x), self.backbone(x + 0.1 * x.flip(0))
        self.lidar.update(torch.stack([z_a, z_b], dim=1))
        self.alignment.update(z_a, z_b)
        self.alpha.update(z_a, z_b)
        self.log_dict({"val_lidar": self.lidar, "val_alignment": self.alignment})
        self.log("val_cv_alpha", self.alpha)
        self.twins_error.update(z_a, z_b)
        self.log("val_twins_error", self.twins_error)


def test_metrics_in_a_validation_step(tmp_path):
    torch.manual_seed(0)
    module = TwoViewModule()
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))
    module.eval()
    with torch.no_grad():
        x = images(seed=5)
        pairs = [
            torch.stack([module.backbone(b), module.backbone(b + 0.1 * b.flip(0))], dim=1)
            for b in x.split(64)
        ]
    views = torch.cat(pairs).double().numpy()
    logged = trainer.callback_metrics
    assert logged["val_lidar"].item() == pytest.approx(oracles.lidar(views), rel=1e-4)
    truth = oracles.alignment(views[:, 0], views[:, 1])
    assert logged["val_alignment"].item() == pytest.approx(truth, rel=1e-4)
    assert logged["val_cv_alpha"].isfinite()
    truth = twins_oracle(views[:, 0], views[:, 1])
    assert logged["val_twins_error"].item() == pytest.approx(truth, rel=1e-4)
