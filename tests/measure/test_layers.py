import pytest
import torchvision
from torch import nn

from alphareq_lightning.errors import FeatureTapError, OptionError
from alphareq_lightning.measure.layers import choose_layer, matches, resolve_layers

from tiny import TinyModule


class Wrapper(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def test_a_child_called_backbone_wins():
    assert choose_layer(TinyModule()).label == "backbone"
    both = Wrapper(projector=nn.Linear(4, 4), encoder=nn.Linear(4, 4))
    assert choose_layer(both).label == "encoder"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("resnet18", "model.fc:input"),
        ("mobilenet_v3_small", "model.classifier.3:input"),
        ("vit_b_16", "model.heads.head:input"),
        ("alexnet", "model.classifier.6:input"),
    ],
)
def test_else_the_input_of_the_last_linear(name, label):
    model = torchvision.models.get_model(name, weights=None)
    assert choose_layer(Wrapper(model=model)).label == label


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Wrapper(net=nn.Conv2d(1, 1, 1)), "there is no nn.Linear; pass layer=.*one of: net"),
        (
            Wrapper(net=nn.Linear(4, 4), projection_head=nn.Linear(4, 4)),
            "'projection_head', looks like a head.*one of: net, projection_head",
        ),
        (
            Wrapper(trunk=nn.Sequential(Wrapper(fc=nn.Linear(4, 4)))),
            "'trunk.0.fc', lies inside a repeated block",
        ),
    ],
)
def test_raises_with_candidates_when_it_cannot_tell(module, text):
    with pytest.raises(FeatureTapError, match=text):
        choose_layer(module)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("backbon", "no layer 'backbon'; did you mean 'backbone'"),
        ("5", r"no layer '5'; did you mean 'backbone.5'"),
        ("xyz", "try one of backbone, backbone.0"),
        ("", "no layer ''"),
    ],
)
def test_unknown_layer_lists_near_names(name, text):
    with pytest.raises(OptionError, match=text):
        resolve_layers(TinyModule(), name, "output")


def test_several_layers():
    layers = resolve_layers(TinyModule(), ["backbone.1", "head"], "input")
    assert [layer.label for layer in layers] == ["backbone.1:input", "head:input"]


def vit():
    timm = pytest.importorskip("timm")  # not among the lowest versions
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3)


@pytest.mark.parametrize(
    ("model", "layer", "labels"),
    [
        (vit, "blocks.*", ["blocks.0", "blocks.1", "blocks.2"]),
        (vit, "blocks.[02].mlp.fc?", [f"blocks.{i}.mlp.fc{j}" for i in (0, 2) for j in (1, 2)]),
        (vit, ["blocks.2", "blocks.*"], ["blocks.2", "blocks.0", "blocks.1"]),
        (vit, "**.mlp", ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"]),
        (torchvision.models.resnet18, "layer*", ["layer1", "layer2", "layer3", "layer4"]),
        (torchvision.models.resnet18, ["layer[!123]", "fc"], ["layer4", "fc"]),
    ],
)
def test_a_pattern_names_its_layers_in_the_models_order(model, layer, labels):
    assert [layer.label for layer in resolve_layers(model(), layer, "output")] == labels


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("block.*", r"no layer matches 'block.*'; did you mean 'blocks.\d'"),
        ("fc?", r"no layer matches 'fc\?'; did you mean 'blocks.0.mlp.fc1'"),
        ("q*z.*", "no layer matches.*; try one of patch_embed, patch_embed.proj"),
    ],
)
def test_a_pattern_of_nothing_lists_near_names(pattern, text):
    with pytest.raises(OptionError, match=text):
        resolve_layers(vit(), pattern, "output")


def test_layers_that_would_share_a_key_are_refused():
    module = Wrapper(a=Wrapper(b=nn.Linear(4, 4)), a_b=nn.Linear(4, 4))
    with pytest.raises(OptionError, match="layers 'a.b' and 'a_b' would be logged under one key"):
        resolve_layers(module, "**", "output")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.*", ["a.b"], ["a", "a.b.c"]),
        ("a.**", ["a.b", "a.b.c"], ["a"]),
        ("**c", ["c", "a.b.c"], ["a.c.b"]),
        ("a?b", ["aab"], ["a.b", "ab"]),
        ("a[1-3].[!x]", ["a2.y"], ["a4.y", "a2.x"]),
        ("a+(?", ["a+(b"], ["aa(b"]),  # no regular expression
    ],
)
def test_what_a_pattern_matches(pattern, yes, no):
    assert [name for name in yes + no if matches(name, pattern)] == yes
