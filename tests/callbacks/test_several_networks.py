"""Student, teacher and projector in one monitor: each runs on the same own images."""

import copy

import pytest
import pytorch_lightning
import torch
import torchvision
from lightly.models.modules import BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import nn
from torch.utils.data import DataLoader

from alphareq_lightning import AlphaMonitor, OptionError
from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.functional import eigenspectrum, fit_power_law

from tiny import NoValidation, TinyModule, labelled_loader, make_trainer, unlabeled_loader

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def pictures(n=96, seed=0):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.projector = BYOLProjectionHead(512, 64, 32)

    def forward(self, x):
        return self.projector(self.backbone(x).flatten(start_dim=1))


class Distils(pytorch_lightning.LightningModule):
    """A student, and a teacher that is its average, as lightly's examples write it."""

    def __init__(self):
        super().__init__()
        self.student = Network()
        self.teacher = copy.deepcopy(self.student)
        deactivate_requires_grad(self.teacher)

    def training_step(self, batch, batch_idx):
        update_momentum(self.student, self.teacher, m=0.9)
        with torch.no_grad():
            target = self.teacher(batch.flip(-1))
        return nn.functional.mse_loss(self.student(batch), target)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


LAYERS = ["student.backbone", "teacher.backbone", "student.projector"]


def test_each_has_a_record_and_keys_of_its_own(tmp_path):
    torch.manual_seed(0)
    module = Distils()
    monitor = AlphaMonitor(
        LAYERS,
        forward=["student", "teacher"],
        dataloader=DataLoader(pictures(seed=1), batch_size=32),
        fit_range=(4, 20),
        scores=["rankme", "alignment"],
        augment=lambda x: x + 0.1 * torch.randn_like(x),
    )
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=tmp_path,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(pictures(), batch_size=32))
    assert [record.layer for record in monitor.history] == 2 * LAYERS  # the first are untrained
    module.eval()
    with torch.no_grad():
        backbones = [
            n.backbone(pictures(seed=1)).flatten(1) for n in (module.student, module.teacher)
        ]
        features = [*backbones, module.student.projector(backbones[0])]
    keys = ["val_alpha", "val_alpha_teacher_backbone", "val_alpha_student_projector"]
    alphas = []
    for record, x, key in zip(monitor.history[3:], features, keys, strict=True):
        alphas.append(fit_power_law(eigenspectrum(x), (4, 20)).alpha.item())
        assert record.num_samples == record.num_images == 96
        assert record.alpha == pytest.approx(alphas[-1], rel=1e-4)  # batches of another size
        assert trainer.callback_metrics[key].item() == pytest.approx(record.alpha, rel=1e-6)
        assert 0 < record.scores["alignment"] < 2
    assert len({round(alpha, 3) for alpha in alphas}) == 3  # or nothing tells them apart


class Shares(NoValidation):
    """Two networks with one trunk."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(self.backbone, nn.Linear(48, 20))
        self.other = nn.Sequential(self.backbone, nn.Linear(48, 20))


def test_a_layer_that_two_passes_share_does_not_count_twice(tmp_path):
    own = {"dataloader": unlabeled_loader(), "forward": ["one", "other"], "fit_range": (2, 12)}
    trainer = make_trainer(tmp_path, AlphaMonitor("backbone", **own))
    with pytest.raises(FeatureTapError, match="layer 'backbone' runs in two of the forward passes"):
        trainer.fit(Shares(), labelled_loader())
    monitor = AlphaMonitor(["one.1", "other.1"], **own)
    make_trainer(tmp_path, monitor, max_epochs=1).fit(Shares(), labelled_loader())
    assert [record.num_samples for record in monitor.history] == [320] * 4


def test_names_and_callables_run_in_order(tmp_path):
    ran = []
    module = TinyModule()
    module.backbone.register_forward_hook(lambda *_: ran.append("backbone"))
    calls = [lambda batch: ran.append(tuple(batch.shape)), "backbone", lambda batch: ran.append(2)]
    monitor = AlphaMonitor("backbone", dataloader=unlabeled_loader(n=50), forward=calls)
    make_trainer(tmp_path, monitor).validate(module, labelled_loader(), verbose=False)
    assert ran[:3] == [(50, 1, 6, 6), "backbone", 2]
    assert monitor.history[0].num_samples == 50


@pytest.mark.parametrize("forward", [[], ["backbone", 3], [None, "backbone"]], ids=str)
def test_what_cannot_run_is_refused(tmp_path, forward):
    monitor = AlphaMonitor(dataloader=unlabeled_loader(), forward=forward)
    with pytest.raises(OptionError, match="expected names of submodules or callables, got forward"):
        make_trainer(tmp_path, monitor).fit(TinyModule(), labelled_loader())
