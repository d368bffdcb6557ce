import pytest
import torch

from alphareq_lightning.errors import FitRangeError, NoFitWarning, SpectrumError
from alphareq_lightning.functional import fit_power_law
from alphareq_lightning.metrics import Alignment, CrossValidatedAlpha, LiDAR

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
    """What the README tells users to write."""

    def __init__(self):
        super().__init__()
        self.lidar, self.alignment, self.alpha = LiDAR(), Alignment(), CrossValidatedAlpha()

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        z_a, z_b = self.backbone(x), self.backbone(x + 0.1 * x.flip(0))
        self.lidar.update(torch.stack([z_a, z_b], dim=1))
        self.alignment.update(z_a, z_b)
        self.alpha.update(z_a, z_b)
        self.log_dict({"val_lidar": self.lidar, "val_alignment": self.alignment})
        self.log("val_cv_alpha", self.alpha)


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
