"""timm's networks, as a classifier somebody wrote holds them."""

import pytest
import timm
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")

VIT = {"img_size": 32, "patch_size": 8, "depth": 2}
SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 2),
}


def classifier(namespace, **children):
    class Classifier(namespace.LightningModule):
        def __init__(self):
            super().__init__()
            for name, child in children.items():
                self.add_module(name, child)

        def validation_step(self, batch, batch_idx):
            images, labels = batch
            x = images
            for child in children.values():
                x = child(x)
            self.log("val_loss", nn.functional.cross_entropy(x, labels))

    return Classifier()


@pytest.mark.parametrize(
    ("name", "options", "label"),
    [
        ("resnet18", {}, "model.fc:input"),
        ("vit_tiny_patch16_224", VIT, "model.head:input"),
        ("swin_tiny_patch4_window7_224", SWIN, "model.head.fc:input"),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, "model.head.fc:input"),
        ("mobilenetv3_small_050", {}, "model.classifier:input"),
        ("efficientnet_lite0", {}, "model.classifier:input"),
        ("mixer_s16_224", {"img_size": 32}, "model.head:input"),
        ("regnetx_002", {}, "model.head.fc:input"),
    ],
)
def test_a_classifier_by_the_rule(conforms, loader, namespace, name, options, label):
    model = timm.create_model(name, num_classes=10, **options)
    conforms(classifier(namespace, model=model), loader, label, lambda x: x, namespace)


@pytest.mark.parametrize(
    ("name", "options", "layer", "axes"),
    [
        ("resnet18", {}, "model.layer3", (2, 3)),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, "model.stages.1", (2, 3)),
        ("swin_tiny_patch4_window7_224", SWIN, "model.layers.1", (1, 2)),
        ("swin_tiny_patch4_window7_224", SWIN, "model.norm", (1, 2)),
        ("vit_tiny_patch16_224", VIT, "model.blocks.1", 1),
        ("mixer_s16_224", {"img_size": 32}, "model.norm", 1),
    ],
)
def test_maps_and_tokens_by_name(conforms, loader, name, options, layer, axes):
    import lightning.pytorch as pl

    module = classifier(pl, model=timm.create_model(name, num_classes=10, **options))
    conforms(module, loader, layer, lambda x: x.mean(axes), layer=layer)


def test_a_backbone_without_classifier(conforms, loader, namespace):
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    module = classifier(namespace, backbone=backbone, head=nn.Linear(192, 10))
    conforms(module, loader, "backbone", lambda x: x, namespace)
