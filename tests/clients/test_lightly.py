"""Modules as lightly's examples and benchmarks build them, out of lightly's own parts."""

import copy

import pytest
import pytorch_lightning
import timm
import torchvision
from lightly.models.modules import (
    DINOProjectionHead,
    MaskedVisionTransformerTIMM,
    SimCLRProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.utils.benchmarking import LinearClassifier, OnlineLinearClassifier
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")


def resnet():
    return nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])


def vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2)


def module_of(namespace, **children):
    """A LightningModule whose validation step calls its ``forward``."""

    class Module(namespace.LightningModule):
        def __init__(self):
            super().__init__()
            for name, child in children.items():
                self.add_module(name, child)

        def forward(self, images):
            run = self.backbone if "backbone" in children else self.student_backbone
            return run(images).flatten(start_dim=1)

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    return Module()


def flat(maps):
    return maps.flatten(start_dim=1)


@pytest.mark.parametrize(
    ("heads", "label"),
    [
        ({"projection_head": lambda: SimCLRProjectionHead(512, 64, 64)}, "backbone"),
        (
            {
                "projection_head": lambda: SwaVProjectionHead(512, 64, 64),
                "prototypes": lambda: SwaVPrototypes(64, 32),
                "online_classifier": lambda: OnlineLinearClassifier(512, 10),
            },
            "backbone",
        ),
    ],
    ids=["SimCLR", "SwAV"],
)
def test_convolutional_backbones(conforms, loader, namespace, heads, label):
    module = module_of(namespace, backbone=resnet(), **{n: make() for n, make in heads.items()})
    conforms(module, loader, label, flat, namespace)


def test_dino(conforms, loader, namespace):
    student = resnet()
    module = module_of(
        namespace,
        student_backbone=student,
        student_head=DINOProjectionHead(512, 64, 32, 256, freeze_last_layer=1),
        teacher_backbone=copy.deepcopy(student),
        teacher_head=DINOProjectionHead(512, 64, 32, 256),
    )
    conforms(module, loader, "student_backbone", flat, namespace)


def test_mae(conforms, loader, namespace):
    module = module_of(namespace, backbone=MaskedVisionTransformerTIMM(vit=vit()))
    conforms(module, loader, "backbone", lambda features: features, namespace)


def test_mae_that_encodes_by_name(conforms, loader, namespace):
    class Encoding(namespace.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = MaskedVisionTransformerTIMM(vit=vit())

        def validation_step(self, batch, batch_idx):
            self.backbone.encode(images=batch[0])

    label = "backbone.vit.norm"
    conforms(Encoding(), loader, label, lambda tokens: tokens.mean(1), namespace, layer=label)
    conforms(
        Encoding(), loader, label, lambda tokens: tokens[:, 0], namespace, layer=label, pool="cls"
    )


def test_linear_classifier(conforms, loader):
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = resnet()
            self.projection_head = SimCLRProjectionHead(512, 64, 64)

        def forward(self, images):
            return self.backbone(images).flatten(start_dim=1)

    class WithFeatures(LinearClassifier):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    module = WithFeatures(Backbone(), 40, feature_dim=512, num_classes=10)
    # lightly's own modules derive from this one.
    conforms(module, loader, "classification_head:input", flat, pytorch_lightning)
