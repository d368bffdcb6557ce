"""Channels first or last: on modules that others wrote, against numpy on features hooked here."""

import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from alphareq_lightning.measure import profile_layers
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import Layer
from alphareq_lightning.measure.layouts import channels_of

import oracles

RANKS = (2, 10)  # a convolution over 2 × 2 pixels of three colours has rank 12


WAV2VEC2 = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def tapped(module, name, x, pool="mean", take="output"):
    """The tap after one forward pass, and the tensor that this test hooked itself."""
    layer = module.get_submodule(name)
    tap = FeatureTap(Layer(name, layer, take), pool)
    tap.is_open = True
    seen = []
    own = layer.register_forward_hook(
        lambda _, args, output: seen.append(output if take == "output" else args[0])
    )
    with torch.no_grad():
        module.eval()(x)
    own.remove()
    tap.remove()
    return tap, seen[0]


def covariance(tap):
    """Of the state: what it holds in numpy's words."""
    moments = tap.moments.compute()
    return (moments.scatter / (moments.num_samples - 1)).numpy()


def same(tap, value, axes):
    """The state holds the covariance of the means over ``axes``, up to the rounding of float32."""
    expected = np.cov(value.double().numpy().mean(axis=axes), rowvar=False)
    assert tap.problem is None
    found = covariance(tap)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def pictures(n=40, size=32, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tiny_swin():
    return torchvision.models.SwinTransformer(
        patch_size=[2, 2], embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4]
    )


def timm_swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 2),
        num_classes=0,
    )


@pytest.mark.parametrize("name", ["features.0", "features.1.0", "features.2", "features.3", "norm"])
def test_torchvisions_swin(name):
    tap, maps = tapped(tiny_swin(), name, pictures())
    assert maps.shape[1] == maps.shape[2] < maps.shape[3]
    same(tap, maps, (1, 2))


@pytest.mark.parametrize("name", ["patch_embed", "layers.0", "layers.1.downsample", "norm"])
def test_timms_swin(name):
    tap, maps = tapped(timm_swin(), name, pictures())
    assert maps.shape[1] == maps.shape[2] < maps.shape[3]
    same(tap, maps, (1, 2))


def test_a_profile_of_swin():
    torch.manual_seed(0)
    model, x = tiny_swin().eval(), pictures(300)
    records = profile_layers(model, x.split(100), fit_range=RANKS)
    outputs = {}
    for record in records[:-1]:
        model.get_submodule(record.layer).register_forward_hook(
            lambda _, __, output, name=record.layer: outputs.setdefault(name, []).append(output)
        )
    with torch.no_grad():
        for batch in x.split(100):
            model(batch)
    layers = ["features.0.0", "features.1.0", "features.1.1", "features.2", "features.3.0"]
    assert [record.layer for record in records] == [*layers, "features.3.1", "head:input"]
    for record in records[:-1]:
        axes = (2, 3) if record.layer == "features.0.0" else (1, 2)  # that is a convolution
        features = torch.cat(outputs[record.layer]).double().mean(axes).numpy()
        alpha, _, _ = oracles.weighted_line(oracles.eigenspectrum(features), *RANKS)
        assert record.alpha == pytest.approx(alpha, rel=2e-6), record.layer


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (lambda: torchvision.models.resnet18(), "layer1"),
        (lambda: torchvision.models.resnet18(), "layer3.1"),
        (lambda: torchvision.models.convnext_tiny(), "features.1.0"),
        (lambda: torchvision.models.convnext_tiny(), "features.0"),
        (lambda: timm.create_model("convnext_atto"), "stages.0.blocks.0"),
        (lambda: timm.create_model("efficientnet_lite0"), "blocks.2"),
        (lambda: torchvision.models.inception_v3(init_weights=False), "Mixed_5b"),
    ],
)
@pytest.mark.parametrize("shape", [(96, 96), (96, 160), (128, 96)])
def test_channels_first_whatever_the_image(module, name, shape):
    x = torch.randn(3, 3, *shape)
    network = module()
    for layout in (torch.contiguous_format, torch.channels_last):
        tap, maps = tapped(network, name, x.contiguous(memory_format=layout))
        same(tap, maps, (2, 3))


def test_as_many_channels_as_rows_and_columns():
    # A ResNet-18 on 256 pixels: its first stage gives (n, 64, 64, 64).
    tap, maps = tapped(torchvision.models.resnet18(), "layer1.0", pictures(3, 256))
    assert maps.shape[1:] == (64, 64, 64)
    same(tap, maps, (2, 3))


class AudioNet(nn.Module):
    """Convolutions over time, as in wav2vec2's feature extractor, with few steps left."""

    def __init__(self, norm=False):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(1, 48, 10, 5), nn.GELU())
        self.norm = nn.LayerNorm(48) if norm else nn.Identity()
        self.last = nn.Sequential(nn.Conv1d(48, 48, 4, 2), nn.BatchNorm1d(48))

    def forward(self, x):
        x = self.conv(x)
        return self.last(self.norm(x.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("name", ["", "conv", "conv.0", "last", "last.1"])
@pytest.mark.parametrize("norm", [False, True])
def test_convolutions_over_time(name, norm):
    tap, value = tapped(AudioNet(norm), name, torch.randn(60, 1, 200))
    assert value.shape[1] == 48 > value.shape[2]
    same(tap, value, 2)


def test_what_goes_into_a_convolution_over_time():
    tap, value = tapped(AudioNet(), "last.0", torch.randn(60, 1, 200), take="input")
    same(tap, value, 2)


@pytest.mark.parametrize(
    ("name", "take"), [("blocks.1", "output"), ("norm", "output"), ("head", "input")]
)
def test_tokens_of_a_vit(name, take):
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, global_pool=""
    )
    tap, tokens = tapped(vit, name, pictures(), take=take)
    assert tokens.shape == (40, 17, 192)
    same(tap, tokens, 1)


@pytest.mark.parametrize(
    "shape", [(20, 9, 16), (20, 5, 6, 7)], ids=["tokens or time", "no two sides alike"]
)
def test_what_cannot_be_told_is_refused_and_the_choices_are_named(shape):
    x = torch.randn(shape)
    tap, _ = tapped(nn.Sequential(nn.Identity()), "0", x)
    assert tap.num_samples == 0
    text = r"channels first or last; pass pool='mean_first' .* or 'mean_last' .*or a callable"
    with pytest.raises(AssertionError, match=re.escape(str(shape)) + ".*" + text):
        raise AssertionError(tap.problem)
    between = tuple(range(1, x.ndim - 1))
    for pool, axes in (("mean_first", tuple(a + 1 for a in between)), ("mean_last", between)):
        tap, _ = tapped(nn.Sequential(nn.Identity()), "0", x, pool)
        same(tap, x, axes)


def sequence_first():
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32), 1, enable_nested_tensor=False
    )


@pytest.mark.parametrize("pool", ["mean", "cls", "flatten", "project"])
def test_samples_in_the_second_dimension_are_refused(pool):
    x = torch.randn(9, 20, 16)  # (t, n, d), torch's own default
    tap, _ = tapped(sequence_first(), "", x, pool)
    with pytest.raises(AssertionError, match=r"shape \(9, 20, 16\).* may be \(t, n, d\)"):
        raise AssertionError(tap.problem)
    tap, value = tapped(sequence_first(), "", x, lambda tokens: tokens.mean(dim=0))
    same(tap, value, 0)


class PatchEmbedding(nn.Module):
    """As in transformers: one convolution, whose output becomes tokens."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Conv2d(3, 16, 8, 8)

    def forward(self, x):
        return self.projection(x).flatten(2).mT


@pytest.mark.parametrize("width", [16, 24])
def test_a_convolution_whose_maps_become_tokens(width):
    module = PatchEmbedding()
    tap, tokens = tapped(module, "", torch.randn(40, 3, 32, 8 * width // 4))
    assert tokens.shape == (40, width, 16)
    if width != 16:
        same(tap, tokens, 1)
    else:  # as many tokens as channels
        assert "cannot tell" in tap.problem


@pytest.mark.parametrize(("pool", "axes"), [("mean_first", (2, 3)), ("mean_last", (1, 2))])
def test_what_is_said_counts(pool, axes):
    tap, maps = tapped(nn.Sequential(nn.Conv2d(3, 16, 3)), "0", pictures(40, 6), pool)
    same(tap, maps, axes)


def shapes_in(network, x):
    shapes = {}

    def hook_of(name):
        def hook(module, args, output):
            if torch.is_tensor(output):
                shapes.setdefault(name, tuple(output.shape))

        return hook

    handles = [m.register_forward_hook(hook_of(name)) for name, m in network.named_modules()]
    with torch.no_grad():
        network.eval()(x)
    for handle in handles:
        handle.remove()
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnext26ts",
        "densenet121",
        "poolformer_s12",
        "ghostnet_050",
        "hrnet_w18_small",
        "inception_v3",
        "mobilevit_xxs",
        "davit_tiny",
        "focalnet_tiny_srf",
        "pvt_v2_b0",
        "xcit_nano_12_p16_224",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_channels_are_what_the_size_of_the_image_leaves_alone(name):
    # On 256 × 320 pixels the first maps are 64 × 80, and 64 is what many have for channels.
    options = {"strict_img_size": False} if name.startswith("swin") else {}
    network = timm.create_model(name, num_classes=10, **options)
    small, large = (shapes_in(network, torch.zeros(2, 3, *s)) for s in ((224, 224), (256, 320)))
    told = 0
    for layer in small.keys() & large.keys():
        pairs = list(zip(small[layer], large[layer], strict=False))[1:]
        kept = [a == b for a, b in pairs]
        if len(small[layer]) != len(large[layer]) or len(pairs) < 2 or sum(kept) != 1:
            continue
        if not (kept[0] or kept[-1]):  # heads of attention
            continue
        for shape in (small[layer], large[layer]):
            found = channels_of(shape, Layer(layer, network.get_submodule(layer), "output"))
            assert found in (None, "first" if kept[0] else "last"), layer
            told += found is not None
    assert told > 100


@pytest.mark.parametrize("steps", [800, 1320])
def test_a_convolution_over_time_between_two_transpositions(steps):
    # As wav2vec2's positional embedding; of 1,320 samples there are as many steps as channels.
    network = Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2))
    tap, tokens = tapped(network, "encoder.pos_conv_embed", torch.randn(40, steps))
    if steps == 800:
        assert tokens.shape == (40, 19, 32)
        same(tap, tokens, 1)
    else:
        assert tokens.shape == (40, 32, 32)
        assert "cannot tell" in tap.problem
