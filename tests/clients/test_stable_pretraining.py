"""stable-pretraining from PyPI, where it can be imported.

It is not among the packages for development: once installed, it gives callbacks to every Trainer.
Put it and what it needs into a folder (``pip install --target``) and that on the path.
"""

import importlib
import inspect

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import choose_layer
from alphareq_lightning.measure.what_ran import WhatRan

spt = pytest.importorskip("stable_pretraining")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning"),
]


def encoder():
    network = spt.backbone.from_torchvision("resnet18", low_resolution=True, weights=None)
    network.fc = nn.Identity()
    return network


def with_teacher(network):
    return spt.backbone.TeacherStudentWrapper(network)


def projected():
    return {"backbone": encoder(), "projector": nn.Linear(512, 64)}


@pytest.fixture
def dicts(loader):
    rows = [{"image": image, "label": label} for image, label in loader.dataset]
    return DataLoader(rows, batch_size=40)


@pytest.mark.parametrize(
    ("forward", "children", "label"),
    [
        ("simclr", lambda: {"backbone": encoder(), "projector": nn.Linear(512, 64)}, "backbone"),
        (
            "barlow_twins",
            lambda: {"backbone": encoder(), "projector": nn.Linear(512, 64)},
            "backbone",
        ),
        (
            "supervised",
            lambda: {"backbone": encoder(), "classifier": nn.Linear(512, 10)},
            "backbone",
        ),
        (
            "byol",
            lambda: {
                "backbone": with_teacher(encoder()),
                "projector": with_teacher(nn.Linear(512, 64)),
                "predictor": nn.Linear(64, 64),
            },
            "backbone.teacher",
        ),
    ],
    ids=["SimCLR", "Barlow Twins", "supervised", "BYOL"],
)
def test_by_the_rule(conforms, dicts, forward, children, label):
    function = getattr(importlib.import_module("stable_pretraining.forward"), forward)
    losses = {"supervised_loss": nn.CrossEntropyLoss()} if forward == "supervised" else {}
    module = spt.Module(forward=function, **children(), **losses)
    conforms(module, dicts, label, lambda x: x.flatten(1))


VIT = {"encoder_name": "vit_tiny_patch16_224", "pretrained": False}
RAN = {
    "BarlowTwins": "backbone",
    "BYOL": "backbone.teacher",
    "CMAE": "backbone.teacher",
    "Data2Vec": "encoder.teacher",
    "DINO": "backbone.teacher",
    "DINOv2": "backbone.teacher",
    "iBOT": "backbone.teacher",
    "LeJEPA": "backbone",
    "MAE": "encoder",
    "MoCov2": "backbone.teacher",
    "MoCov3": "backbone.teacher",
    "MSN": "backbone.teacher",
    "NNCLR": "backbone",
    "PIRL": "backbone",
    "SALT": "student",
    "SimCLR": "backbone",
    "SimSiam": "backbone",
    "SwAV": "backbone",
    "TiCO": "backbone",
    "VICReg": "backbone",
    "WMSE": "backbone",
}
BYPASSED = {
    "BEiT": ("encoder", "encoder.norm"),
    "CrossMAE": ("encoder", "encoder.norm"),
    "DINOv3": ("backbone.teacher", "backbone.teacher.norm"),
    "IJEPA": ("encoder.teacher", "encoder.student.vit.norm"),
    "iGPT": ("encoder", "encoder.norm"),
    "MaskFeat": ("encoder", "encoder.norm"),
    "SimMIM": ("encoder", "encoder.norm"),
    "VICRegL": ("encoder", "encoder.norm"),
}


def evaluated(name):
    """The tap on the layer that the rule takes, after one pass as in validation."""
    method = getattr(importlib.import_module("stable_pretraining.methods"), name)
    options = VIT if "encoder_name" in inspect.signature(method).parameters else {}
    module = method(**options).eval()
    ran, tap = WhatRan(module), FeatureTap(choose_layer(module))
    ran.is_open = tap.is_open = True
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        if "images" in inspect.signature(module.forward).parameters:
            module(images=images)
        else:
            module(images)
    ran.remove()
    tap.remove()
    return tap, ran


@pytest.mark.parametrize(("name", "label"), RAN.items())
def test_the_layer_of_each_method(name, label):
    """The table of skeletons, on the real thing."""
    tap, _ = evaluated(name)
    assert (tap.layer.label, tap.problem) == (label, None)
    assert tap.num_samples == 2
    assert tap.moments.num_features == (768 if name == "MAE" else 192)


@pytest.mark.parametrize(("name", "label", "ran"), [(n, *v) for n, v in BYPASSED.items()])
def test_the_message_where_forward_is_bypassed(name, label, ran):
    tap, what_ran = evaluated(name)
    assert (tap.layer.label, tap.num_samples) == (label, 0)
    message = what_ran.did_not_run(tap.layer)
    assert message.startswith(f"layer {label!r} did not run in the forward pass that is measured")
    assert f"{ran!r} (2, " in message
    assert "compile" not in message
