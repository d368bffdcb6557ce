"""The message when a layer never ran, and the check that a layer is still there."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from alphareq_lightning.measure.layers import Layer, replaced
from alphareq_lightning.measure.what_ran import WhatRan

from tiny import TinyModule, images


class TwoNetworks(nn.Module):
    """A student and a teacher, called by their own methods as stable-pretraining's wrapper is."""

    def __init__(self):
        super().__init__()
        self.student = TinyModule().backbone
        self.teacher = TinyModule().backbone

    def forward_teacher(self, x):
        return self.teacher(x)


class Bypassed(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = TwoNetworks()
        self.projector = nn.Linear(48, 8)
        self.classifier = nn.Linear(48, 5)
        self.loss = nn.MSELoss()

    def forward(self, x):
        features = self.backbone.forward_teacher(x)
        self.loss(self.projector(features), torch.zeros(len(x), 8))
        return self.classifier(features)


def watched(module, x, layer):
    ran = WhatRan(module)
    module(x)
    assert not ran.ran
    ran.is_open = True
    module(x)
    ran.remove()
    assert not any(m._forward_hooks for m in module.modules())
    return ran, Layer(layer, module.get_submodule(layer), "output")


@pytest.mark.parametrize("name", ["backbone", "backbone.student"])
def test_a_wrapper_whose_forward_is_bypassed(name):
    ran, layer = watched(Bypassed(), images(8), name)
    text = ran.did_not_run(layer)
    assert text.startswith(f"layer {name!r} did not run in the forward pass that is measured; ")
    assert "layer= 'backbone.teacher' (8, 48), 'backbone.teacher.5' (8, 48)" in text
    assert text.endswith("or pass dataloader_idx= or forward= to run another")
    for word in ("compile", "projector", "classifier", "loss"):
        assert word not in text


def test_layers_inside_the_one_that_did_not_run_come_first():
    timm = pytest.importorskip("timm")
    masked = pytest.importorskip("lightly.models.modules").MaskedVisionTransformerTIMM

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2)
            self.embed = nn.Identity()
            self.backbone = masked(vit=vit)

        def forward(self, x):
            return self.backbone.encode(self.embed(x))

    ran, layer = watched(Masked(), torch.randn(4, 3, 32, 32), "backbone")
    assert "suits them: layer= 'backbone.vit.norm' (4, 17, 192)" in ran.did_not_run(layer)
    assert "'embed'" not in ran.did_not_run(layer)


def test_nothing_ran():
    ran, layer = WhatRan(Bypassed()), Layer("backbone", nn.Identity(), "output")
    ran.remove()
    assert ran.did_not_run(layer) == (
        "layer 'backbone' did not run in the forward pass that is measured; no layer did that "
        "could be measured; pass dataloader_idx= or forward= to run another"
    )


@pytest.mark.parametrize("how", ["function", "method"])
def test_compilation_is_spoken_of_only_where_there_is_any(how):
    module = TinyModule()
    if how == "function":
        module.backbone = torch.compile(module.backbone, backend="eager")
    else:
        module.backbone.compile(backend="eager")
    ran = WhatRan(module)
    hooked = {name for name, m in module.named_modules() if m._forward_hooks}
    assert hooked == ({"backbone", "head"} if how == "function" else {"head"})
    assert "compiled anew" in ran.did_not_run(Layer("backbone.1", nn.Identity(), "output"))
    ran.remove()


class LoRA(nn.Module):
    """What peft does: the layer itself inside, and something added to what it gives."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: None, None),
        (lambda m: setattr(m, "backbone", torch.compile(m.backbone, backend="eager")), None),
        (lambda m: setattr(m, "backbone", checkpoint_wrapper(m.backbone)), None),
        (lambda m: setattr(m, "backbone", TinyModule().backbone), "another TinyEncoder has"),
        (lambda m: setattr(m, "backbone", LoRA(m.backbone)), "a TinyEncoder when .* another LoRA"),
        (lambda m: delattr(m, "backbone"), "'backbone' is gone"),
    ],
    ids=["as it was", "compiled", "checkpointed", "swapped", "LoRA", "deleted"],
)
def test_a_layer_that_was_replaced(change, text):
    module = TinyModule()
    layer = Layer("backbone", module.backbone, "output")
    change(module)
    found = replaced(module, layer)
    if text is None:
        assert found is None
    else:
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(found)
