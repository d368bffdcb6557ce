import pytest
import torch
from torch import nn

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


def test_channels_are_multiples_of_sixteen():
    backbone, _ = build_backbone("narrow_resnet", width=16)
    assert all(m.out_channels % 16 == 0 for m in backbone.modules() if isinstance(m, nn.Conv2d))
