"""What only a CUDA GPU can show; run by `make test-gpu` where there is one."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import fsdp

from alphareq_lightning import AlphaMonitor, StreamingMoments
from alphareq_lightning.commands._sources import device_of
from alphareq_lightning.errors import AlphaReQError
from alphareq_lightning.functional import eigenspectrum, fit_power_law, moments_eigenvalues
from alphareq_lightning.measure.state_size import check_room
from alphareq_lightning.recipes import BarlowTwins, DigitsDataModule
from alphareq_lightning.recipes.views import barlow_twins_view, digit_view

from oracles import planted_features
from ranks import Data, Frozen, TellsHistory, reports, torchrun
from tiny import (
    Mixed,
    Planted,
    TinyModule,
    images,
    labelled_loader,
    make_trainer,
    planted_loader,
    unlabeled_loader,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def truth_of(features):
    spectrum = eigenspectrum(features.double())
    return fit_power_law(spectrum, num_samples=len(features)).alpha.item()


class Overflows(Mixed):
    """Its features are infinite in float16 and finite in float32."""

    def __init__(self):
        super().__init__()
        self.backbone[1].weight.data.mul_(1e6)


def fit(folder, module, *callbacks, **options):
    torch.manual_seed(0)
    trainer = make_trainer(folder, *callbacks, accelerator="gpu", max_epochs=1, **options)
    trainer.fit(module, labelled_loader(), labelled_loader(seed=5))


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed", "16-true", "64-true"])
def test_alpha_in_every_precision(tmp_path, precision):
    monitor = AlphaMonitor(dataloader=planted_loader())
    fit(tmp_path, Planted(), monitor, precision=precision)
    truth = truth_of(torch.cat(list(planted_loader())).flatten(1))
    assert monitor.history[-1].alpha == pytest.approx(truth, abs=1e-3)


def test_features_that_overflow_in_float16_are_told(tmp_path):
    half, whole = (AlphaMonitor(dataloader=unlabeled_loader()) for _ in range(2))
    fit(tmp_path, Overflows(), half, precision="16-mixed")
    fit(tmp_path, Overflows(), whole)
    assert math.isnan(half.history[-1].alpha)
    assert "finite" in half.history[-1].problem
    assert whole.history[-1].alpha > 0


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_tf32_that_is_on_changes_no_spectrum_and_stays_on():
    x = torch.tensor(planted_features(2.0, 4000, 256)).float()
    spectra = []
    for device in ("cpu", "cuda"):
        metric = StreamingMoments().to(device)
        for batch in x.to(device).split(500):
            metric.update(batch)
        spectra.append(moments_eigenvalues(metric.moments()).cpu())
    assert torch.backends.cuda.matmul.allow_tf32
    # Products of TF32 have 10 bits, and the first eigenvalue is 65,000 times the last.
    torch.testing.assert_close(spectra[0], spectra[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_an_update_waits_for_nothing(dtype):
    metric, batch = StreamingMoments().cuda(), torch.randn(300, 64, device="cuda").to(dtype)
    metric.update(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metric.moments().num_samples.item() == 600


def test_every_score_is_that_of_the_cpu(tmp_path):
    scores = ["rankme", "effective_rank", "participation_ratio", "nesum", "stable_rank"]
    scores += ["matrix_entropy", "selfcluster", "uniformity", "coherence"]
    scores += ["lidar", "alignment", "twins_error", "cvpca"]

    def doubled(batch):
        return batch * 1.1 + batch.flip(0) * 0.05

    found = []
    for accelerator in ("cpu", "gpu"):
        torch.manual_seed(3)
        monitor = AlphaMonitor(
            dataloader=unlabeled_loader(), scores=scores, augment=doubled, views=4
        )
        options = {"accelerator": accelerator, "precision": "64-true", "max_epochs": 1}
        trainer = make_trainer(tmp_path, monitor, **options)
        trainer.fit(Frozen(), labelled_loader(), labelled_loader(seed=5))
        found.append({"alpha": monitor.history[-1].alpha, **monitor.history[-1].scores})
    assert set(found[0]) == {"alpha", *scores}
    assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize("view", [barlow_twins_view(16), digit_view()])
def test_a_seed_gives_the_same_views_on_both_devices(view):
    pixels = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    views = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(7)
        views.append(view.batch(pixels.to(device)))
    assert views[1].is_cuda
    # Values are 0 to 1 over a standard deviation of .2; a hue near a sixth of the circle may round.
    torch.testing.assert_close(views[1].cpu(), views[0], rtol=0, atol=2e-4)


def test_barlow_twins_with_float16_autocast_and_a_checkpoint_for_the_cpu(tmp_path):
    module = BarlowTwins(backbone_options={"width": [16, 16, 32, 32]}, projector_dim=32)
    data = DigitsDataModule(batch_size=128)
    monitor = AlphaMonitor(at_steps=(0, 5))
    trainer = make_trainer(tmp_path, monitor, accelerator="gpu", precision="16-mixed")
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "of_gpu.ckpt")
    assert {record.global_step for record in monitor.history} >= {0, 5}
    assert all(record.alpha > 0 for record in monitor.history)

    again = AlphaMonitor(at_steps=(0, 5))
    module = BarlowTwins(backbone_options={"width": [16, 16, 32, 32]}, projector_dim=32)
    trainer = make_trainer(tmp_path, again, max_epochs=3)
    data = DigitsDataModule(batch_size=128)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "of_gpu.ckpt")
    before = [record.alpha for record in monitor.history]
    assert [record.alpha for record in again.history][: len(before)] == before
    assert len(again.history) > len(before)


def test_a_compiled_backbone(tmp_path):
    monitor, module = AlphaMonitor(dataloader=unlabeled_loader()), Mixed()
    module.backbone = torch.compile(module.backbone)
    fit(tmp_path, module, monitor)
    with torch.no_grad():
        features = module.cpu().backbone(images(seed=1))
    assert monitor.history[-1].alpha == pytest.approx(truth_of(features), abs=1e-3)


def test_a_layer_that_does_not_fit_is_refused_before_it_is_asked_for():
    with pytest.raises(AlphaReQError, match="GB"):
        check_room(300_000, torch.device("cuda"), "backbone")


def test_auto_is_the_gpu():
    assert device_of("auto").type == "cuda"
    with pytest.raises(AlphaReQError, match="no device 'cuda:99'"):
        device_of("cuda:99")


def test_features_that_are_not_finite_are_refused():
    metric = StreamingMoments().cuda()
    metric.update(torch.full((30, 8), float("nan"), device="cuda"))
    moments = metric.moments()
    with pytest.raises(AlphaReQError, match="8 of 8 features hold NaN or infinite values"):
        moments_eigenvalues(moments)


def test_a_process_that_nccl_serves_reads_the_same_alpha(tmp_path):
    """One process: no sum over ranks is made here."""
    alphas = []
    for accelerator in ("cpu", "gpu"):
        folder = tmp_path / accelerator
        folder.mkdir()
        torch.manual_seed(3)
        monitor = AlphaMonitor(dataloader=unlabeled_loader())
        strategy = "ddp_spawn" if accelerator == "gpu" else "auto"
        options = {"accelerator": accelerator, "strategy": strategy, "precision": "64-true"}
        callbacks = [monitor, TellsHistory(folder, monitor)]
        trainer = make_trainer(folder, *callbacks, max_epochs=1, **options)
        trainer.fit(Frozen(), datamodule=Data())
        alphas.append(reports(folder, 1)[0]["alphas"])
    assert alphas[0] == pytest.approx(alphas[1], abs=1e-6)


@pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="FSDP2 by that name came in torch 2.6")
@pytest.mark.parametrize("sharded", ["backbone", "root"])
def test_one_shard_on_a_gpu(tmp_path, sharded):
    """What FSDP2 makes of the module, in one process: nothing is gathered."""
    script = Path(__file__).parents[1] / "distributed" / "sharded_training.py"
    torchrun(script, 1, tmp_path, sharded, "module", "plain", "gpu", 1)
    backbone = TinyModule().backbone
    backbone[2] = nn.Identity()
    weights = torch.load(tmp_path / "weights.pt", weights_only=True, map_location="cpu")
    backbone.load_state_dict(weights)
    backbone.eval()
    with torch.no_grad():
        expected = truth_of(backbone(images(330, seed=1)))
    *_, [alpha, num_samples] = json.loads((tmp_path / "0.json").read_text())
    assert num_samples == 330
    assert alpha == pytest.approx(expected, rel=1e-3)
