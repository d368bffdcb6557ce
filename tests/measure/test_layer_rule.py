"""The layer that `choose_layer` takes in every module that three libraries ship.

A module is written down as its skeleton: the names of its children, in the order in which it
defines them, and what kind of network each is. Read from lightly 1.6 (the examples, the benchmarks
of ImageNet and of CIFAR-10), solo-learn at 9187ea3 (``solo/methods``) and stable-pretraining at
d15ec96 (``stable_pretraining/methods``); of these no code is here.
"""

import pytest
from torch import nn

from alphareq_lightning.errors import FeatureTapError
from alphareq_lightning.measure.layers import choose_layer


class Skeleton(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, kind in children.items():
            self.add_module(name, build(kind))


def build(kind):
    if isinstance(kind, dict):
        return Skeleton(**kind)
    return KINDS[kind]()


def mlp():
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


KINDS = {
    "resnet": lambda: Skeleton(conv1="conv", layer1="convs", fc="nothing"),
    "resnet+fc": lambda: Skeleton(conv1="conv", layer1="convs", fc="linear"),
    "resnet+mlp": lambda: Skeleton(conv1="conv", layer1="convs", fc="mlp"),
    "vit": lambda: Skeleton(patch_embed="conv", blocks="blocks", norm="norm", head="nothing"),
    "masked": lambda: Skeleton(vit="vit"),  # a ViT whose wrapper drops tokens
    "dino_head": lambda: Skeleton(mlp="mlp", last_layer="linear"),
    "two_heads": lambda: Skeleton(dino_head="dino_head", ibot_head="dino_head"),
    "decoder": lambda: Skeleton(decoder_embed="linear", blocks="blocks", decoder_pred="linear"),
    "blocks": lambda: nn.Sequential(mlp(), mlp()),
    "convs": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    "classifier": lambda: Skeleton(classification_head="linear"),
    "list": lambda: nn.ModuleList([nn.Linear(4, 4)]),
    "mlp": mlp,
    "linear": lambda: nn.Linear(4, 4),
    "conv": lambda: nn.Conv2d(3, 4, 3),
    "norm": lambda: nn.LayerNorm(4),
    "nothing": nn.Identity,
}


def ema(kind):
    """A student and its average in one wrapper."""
    return {"student": kind, "teacher": kind}


PROJECTED = {"backbone": "resnet", "projection_head": "mlp", "criterion": "nothing"}
PREDICTED = {"backbone": "resnet", "projection_head": "mlp", "prediction_head": "mlp"}
MOMENTUM = {
    **PROJECTED,
    "backbone_momentum": "resnet",
    "projection_head_momentum": "mlp",
    "criterion": "nothing",
}
MASKED = {"backbone": "masked", "decoder_embed": "linear", "decoder": "decoder"}
DINO = {"student_backbone": "resnet", "student_head": "dino_head"}
IBOT = {
    "teacher_backbone": "masked",
    "student_backbone": "masked",
    "student_head": "dino_head",
    "teacher_head": "dino_head",
}
DINOV2 = {**IBOT, "teacher_head": "two_heads", "student_head": "two_heads"}
CAPI = {
    "student_backbone": "masked",
    "student_head": "dino_head",
    "predictor": "decoder",
    "teacher_backbone": "masked",
    "teacher_head": "dino_head",
}
ONLINE = {"online_classifier": "classifier"}

LIGHTLY = {
    # examples
    "AIM": ({"backbone": "vit", "projection_head": "mlp"}, "backbone"),
    "BarlowTwins": (PROJECTED, "backbone"),
    "BYOL": ({**PREDICTED, **MOMENTUM}, "backbone"),
    "CAPI": (CAPI, "student_backbone"),
    "DCL": (PROJECTED, "backbone"),
    "DenseCL": (
        {"backbone": "resnet", "projection_head_global": "mlp", "projection_head_local": "mlp"},
        "backbone",
    ),
    "DetConS": (PROJECTED, "backbone"),
    "DINO": (
        {**DINO, "teacher_backbone": "resnet", "teacher_head": "dino_head"},
        "student_backbone",
    ),
    "DINOv2": (DINOV2, "student_backbone"),
    "FastSiam": (PREDICTED, "backbone"),
    "FDA": (PROJECTED, "backbone"),
    "FroSSL": (PROJECTED, "backbone"),
    "IBOT": (IBOT, "student_backbone"),
    "IJEPA": ({"encoder": "vit", "predictor": "decoder", "target_encoder": "vit"}, "encoder"),
    "LeJEPA": ({"backbone": "vit", "projection_head": "mlp"}, "backbone"),
    "MAE": ({**MASKED, "prediction_head": "linear"}, "backbone"),
    "MMCR": (MOMENTUM, "backbone"),
    "MoCo": (MOMENTUM, "backbone"),
    "MSN": (
        {
            "backbone": "masked",
            "projection_head": "mlp",
            "anchor_backbone": "masked",
            "anchor_projection_head": "mlp",
        },
        "backbone",
    ),
    "NNCLR": ({**PREDICTED, "memory_bank": "nothing"}, "backbone"),
    "Pixio": ({**MASKED, "prediction_head": "linear"}, "backbone"),
    "PMSN": (
        {"backbone": "masked", "projection_head": "mlp", "anchor_backbone": "masked"},
        "backbone",
    ),
    "SimCLR": (PROJECTED, "backbone"),
    "SimMIM": ({"backbone": "masked", "decoder": "linear"}, "backbone"),
    "SimSiam": (PREDICTED, "backbone"),
    "SMoG": ({**PREDICTED, **MOMENTUM, "smog": "linear"}, "backbone"),
    "SwAV": ({**PROJECTED, "prototypes": "list"}, "backbone"),
    "SwAV queue": ({**PROJECTED, "prototypes": "list", "queues": "list"}, "backbone"),
    "TiCo": (MOMENTUM, "backbone"),
    "VICReg": (PROJECTED, "backbone"),
    "VICRegL": ({**PROJECTED, "local_projection_head": "mlp"}, "backbone"),
    # benchmarks of ImageNet
    "BYOL, ResNet-50": (
        {**PREDICTED, "teacher_backbone": "resnet", "teacher_projection_head": "mlp", **ONLINE},
        "backbone",
    ),
    "DINO, ResNet-50": (
        {
            "backbone": "resnet",
            "projection_head": "dino_head",
            "student_backbone": "resnet",
            "student_projection_head": "dino_head",
            **ONLINE,
        },
        "backbone",
    ),
    "MoCoV2, ResNet-50": (
        {**PROJECTED, "key_backbone": "resnet", "key_projection_head": "mlp", **ONLINE},
        "backbone",
    ),
    "the seven others, ResNet-50": ({**PROJECTED, **ONLINE}, "backbone"),
    "AIM, MAE, LeJEPA, Pixio and VISReg, ViT-B/16": ({**MASKED, **ONLINE}, "backbone"),
    "CAPI, ViT-B/16": ({**CAPI, **ONLINE}, "student_backbone"),
    "DINOv2, ViT-B/16": ({**DINOV2, **ONLINE}, "student_backbone"),
    "iBOT, ViT-B/16": ({**IBOT, **ONLINE}, "student_backbone"),
    "LinearClassifier": (
        {"model": {**PROJECTED}, "classification_head": "linear"},
        "classification_head:input",
    ),
    # benchmarks of CIFAR-10, ImageNette, ImageNet-100
    "DINO, CIFAR-10": (
        {
            "backbone": "resnet",
            "head": "dino_head",
            "teacher_backbone": "resnet",
            "teacher_head": "dino_head",
        },
        "backbone",
    ),
    "the thirteen others, CIFAR-10": ({**MOMENTUM, "prediction_head": "mlp"}, "backbone"),
}

SOLO = {"backbone": "resnet", "classifier": "linear"}
SOLO_MOMENTUM = {**SOLO, "momentum_backbone": "resnet", "momentum_classifier": "linear"}
SOLO_LEARN = {
    "All4One": (
        {**SOLO_MOMENTUM, "projector": "mlp", "predictor": "mlp", "transformer_encoder": "blocks"},
        "backbone",
    ),
    "BarlowTwins, SimCLR, SupCon, VIbCReg, VICReg": ({**SOLO, "projector": "mlp"}, "backbone"),
    "BYOL, MoCoV3, NNBYOL": (
        {**SOLO_MOMENTUM, "projector": "mlp", "momentum_projector": "mlp", "predictor": "mlp"},
        "backbone",
    ),
    "DeepClusterV2": ({**SOLO, "projector": "mlp", "prototypes": "list"}, "backbone"),
    "DINO": ({**SOLO_MOMENTUM, "head": "dino_head", "momentum_head": "dino_head"}, "backbone"),
    "LinearModel": (SOLO, "backbone"),
    "MAE": ({**SOLO, "decoder": "decoder"}, "backbone"),
    "MoCoV2Plus, ReSSL": (
        {**SOLO_MOMENTUM, "projector": "mlp", "momentum_projector": "mlp"},
        "backbone",
    ),
    "NNCLR, NNSiam, SimSiam": ({**SOLO, "projector": "mlp", "predictor": "mlp"}, "backbone"),
    "SwAV": ({**SOLO, "projector": "mlp", "prototypes": "linear"}, "backbone"),
    "WMSE": ({**SOLO, "projector": "mlp", "whitening": "nothing"}, "backbone"),
}

STABLE = {"backbone": "resnet", "projector": "mlp", "callbacks_modules": "nothing"}
STABLE_EMA = {"backbone": ema("vit"), "projector": ema("mlp")}
TWO_EMA_HEADS = {
    "backbone": ema("vit"),
    "cls_head": ema("dino_head"),
    "patch_head": ema("dino_head"),
}
STABLE_PRETRAINING = {
    "BarlowTwins, LeJEPA, SimCLR, TiCO, VICReg, WMSE": (STABLE, "backbone"),
    "BEiT, iGPT, MaskFeat": ({"encoder": "vit", "head": "linear"}, "encoder"),
    "BYOL, MoCov3": ({**STABLE_EMA, "predictor": "mlp"}, "backbone.teacher"),
    "CMAE": ({**STABLE_EMA, "predictor": "mlp", "recon_head": "linear"}, "backbone.teacher"),
    "CrossMAE": ({"encoder": "vit", "decoder": "decoder"}, "encoder"),
    "Data2Vec": ({"encoder": ema("vit"), "regressor": "linear"}, "encoder.teacher"),
    "DINO, MSN": (STABLE_EMA, "backbone.teacher"),
    "DINOv2, DINOv3, iBOT, MIMRefiner": (TWO_EMA_HEADS, "backbone.teacher"),
    "IJEPA": ({"encoder": ema("masked"), "predictor": "decoder"}, "encoder.teacher"),
    "MAE": ({"encoder": "masked", "decoder": "decoder"}, "encoder"),
    "MoCov2": ({**STABLE_EMA, "queue": "nothing"}, "backbone.teacher"),
    "NEPA": (
        {"patch_embed": "conv", "blocks": "blocks", "norm": "norm"},
        "'blocks.1.3', lies inside a repeated block.*patch_embed, blocks, norm",
    ),
    "NNCLR, SimSiam": ({**STABLE, "predictor": "mlp"}, "backbone"),
    "PIRL": ({"backbone": "resnet", "proj_image": "linear", "proj_jigsaw": "linear"}, "backbone"),
    "SALT": ({"teacher": {"backbone": "vit"}, "student": "masked", "predictor": "mlp"}, "student"),
    "SimMIM": ({"encoder": "vit", "decoder": "linear"}, "encoder"),
    "SwAV": ({**STABLE, "prototypes": "linear"}, "backbone"),
    "VICRegL": (
        {"encoder": "vit", "projector_global": "mlp", "projector_local": "mlp"},
        "encoder",
    ),
}

OTHERS = {
    # facebookresearch: dino, moco, moco-v3, simsiam, ijepa, swav, barlowtwins
    "DINO's MultiCropWrapper": (
        {
            "student": {"backbone": "vit", "head": "dino_head"},
            "teacher": {"backbone": "vit", "head": "dino_head"},
        },
        "student.backbone",
    ),
    "MultiCropWrapper alone": ({"backbone": "vit", "head": "dino_head"}, "backbone"),
    "MultiCropWrapper in a module": (
        {"model": {"backbone": "vit", "head": "dino_head"}},
        "model.backbone",
    ),
    "MoCo v2": ({"encoder_q": "resnet+mlp", "encoder_k": "resnet+mlp"}, "encoder_q.fc:input"),
    "MoCo v3": (
        {"base_encoder": "resnet+mlp", "momentum_encoder": "resnet+mlp", "predictor": "mlp"},
        "base_encoder.fc:input",
    ),
    "SimSiam": ({"encoder": "resnet+mlp", "predictor": "mlp"}, "encoder.fc:input"),
    "I-JEPA": (
        {"encoder": "vit", "predictor": "decoder", "target_encoder": "vit"},
        "encoder",
    ),
    "Barlow Twins": ({"backbone": "resnet", "projector": "mlp", "bn": "nothing"}, "backbone"),
    "SwAV's ResNet": (
        {"model": {"layer1": "convs", "projection_head": "mlp", "prototypes": "linear"}},
        "'model.prototypes', looks like a head",
    ),
    "bolts' BYOL": (
        {
            "online_network": {"encoder": "resnet", "projector": "mlp", "predictor": "mlp"},
            "target_network": {"encoder": "resnet", "projector": "mlp", "predictor": "mlp"},
        },
        "online_network.encoder",
    ),
    # transformers
    "BertModel": (
        {"model": {"embeddings": "norm", "encoder": {"layer": "blocks"}, "pooler": "linear"}},
        "model.pooler:input",
    ),
    "a causal language model": (
        {"model": {"transformer": {"h": "blocks"}, "lm_head": "linear"}},
        "'model.lm_head', looks like a head",
    ),
    "Wav2Vec2Model as an encoder": (
        {"encoder": {"feature_extractor": "convs", "feature_projection": "linear", "encoder": {}}},
        "encoder",
    ),
    # names without a backbone
    "a projector called head": (
        {"net": "resnet", "head": "mlp"},
        "'head.3', looks like a head.*layer='head', take='input'",
    ),
    "a network whose fc is a projector": (
        {"net": "resnet+mlp"},
        "'net.fc.3', looks like a head.*layer='net.fc', take='input'",
    ),
    "a classifier": ({"net": "resnet", "head": "linear"}, "head:input"),
    "a classifier inside": ({"net": "resnet+fc"}, "net.fc:input"),
    "teacher_head alone": ({"net": "vit", "teacher_head": "dino_head"}, "looks like a head"),
    "prototypes": ({"net": "resnet", "prototypes": "linear"}, "'prototypes', looks like a head"),
    "torchvision's ViT as a backbone": (
        {"backbone": {"conv_proj": "conv", "encoder": "blocks", "heads": "linear"}},
        "backbone",
    ),
}


def rows():
    for library in ("LIGHTLY", "SOLO_LEARN", "STABLE_PRETRAINING", "OTHERS"):
        for method, (skeleton, chosen) in globals()[library].items():
            yield pytest.param(skeleton, chosen, id=f"{library}: {method}")


@pytest.mark.parametrize(("skeleton", "chosen"), list(rows()))
def test_the_layer_of(skeleton, chosen):
    module = Skeleton(**skeleton)
    if chosen.startswith("'") or " " in chosen:
        with pytest.raises(FeatureTapError, match=chosen):
            choose_layer(module)
    else:
        assert choose_layer(module).label == chosen
