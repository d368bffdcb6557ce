from urllib.error import URLError

import pytest
import torch
from torch import nn

from alphareq_lightning import OptionError
from alphareq_lightning.errors import WeightsError
from alphareq_lightning.load.architectures import build_architecture, is_of_timm
from alphareq_lightning.load.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from alphareq_lightning.recipes import build_backbone


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        ("narrow_resnet", 128, 16),
        ("resnet18", 512, 32),
        ("resnet50", 2048, 32),
        ("mobilenet_v3_small", 1024, 32),
        ("convnext_tiny", 768, 32),
        ("efficientnet_b0", 1280, 32),
        ("vit_b_16", 768, 224),
        ("mobilenetv4_conv_small", 1280, 64),  # of timm
    ],
)
def test_backbones_end_in_their_penultimate_features(name, width, size):
    backbone, num_features = build_backbone(name)
    with torch.no_grad():
        assert backbone.eval()(torch.zeros(1, 3, size, size)).shape == (1, width)
    assert num_features == width


def test_small_images_keep_their_resolution():
    small, _ = build_backbone("resnet18")
    large, _ = build_backbone("resnet18", small_images=False)
    assert isinstance(small.maxpool, nn.Identity)
    assert (small.conv1.stride, large.conv1.stride) == ((1, 1), (2, 2))


def test_models_of_timm_take_their_own_options():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    backbone, num_features = build_backbone("vit_tiny_patch16_224", **options)
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, num_features) == (1, 48)


def test_every_stage_can_have_a_width_of_its_own():
    backbone, num_features = build_backbone("narrow_resnet", width=[16, 48], blocks=[1, 2])
    assert backbone(torch.zeros(2, 3, 8, 8)).shape == (2, num_features) == (2, 48)
    assert backbone.stem[0].out_channels == 16


def test_channels_are_multiples_of_sixteen():
    backbone, _ = build_backbone("narrow_resnet", width=16)
    assert all(m.out_channels % 16 == 0 for m in backbone.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "size", "share", "interpolation"),
    [
        ("resnet18", 224, 224 / 256, "bilinear"),
        ("inception_v3", 299, 299 / 342, "bilinear"),
        ("vit_h_14", 224, 1, "bicubic"),  # its weights are for 518 pixels, and so is it with them
        ("timm/resnet18", 224, 0.95, "bicubic"),
    ],
)
def test_what_torchvision_and_timm_do_with_images(name, size, share, interpolation):
    with torch.device("meta"):
        prepared = build_architecture(name).preprocessing
    assert prepared[0::4] == (size, interpolation)
    assert prepared.crop_share == pytest.approx(share)
    channels = (tuple(prepared.mean), tuple(prepared.std))
    assert channels == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_recipes_backbones_get_what_the_recipe_trains_on():
    for name, small in (("narrow_resnet", False), ("resnet18", True)):
        assert build_architecture(name, small_images=small).preprocessing == Preprocessing()
        with pytest.raises(OptionError, match=f"no pretrained weights for the recipe's {name!r}"):
            build_architecture(name, small_images=small, pretrained=True)


def test_near_names_of_both_libraries_are_told_once():
    pytest.importorskip("timm")
    with pytest.raises(OptionError, match="did you mean resnet18") as refused:
        is_of_timm("resnet18x")
    near = str(refused.value).partition("did you mean ")[2].rstrip("?").split(", ")
    assert len(set(near)) == len(near)


def test_weights_that_cannot_be_downloaded_are_told_with_another_way(monkeypatch):
    def without_network(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", without_network)
    with pytest.raises(WeightsError, match="'resnet18' cannot be had.*not known.*--weights FILE"):
        build_architecture("resnet18", pretrained=True)
