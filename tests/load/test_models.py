"""Weights as they are found in the wild."""

import os

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from lightning.pytorch.cli import LightningCLI
from torch import nn

from alphareq_lightning import OptionError, SelectionError
from alphareq_lightning.load.models import ModelSource
from alphareq_lightning.measure.layer_features import LayerFeatures

from tiny import TinyModule, unlabeled_loader


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18()


def same(module, other):
    pairs = zip(module.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs if not a.startswith("fc."))


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder.", "backbone._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_bare_weights_under_any_prefix(tmp_path, resnet, prefix, key):
    state = {prefix + name: t for name, t in resnet.state_dict().items() if "fc." not in name}
    state["projector.weight"] = torch.ones(2, 2)
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "w.pth")
    model = ModelSource(model="resnet18").load(tmp_path / "w.pth")
    assert same(model.module, resnet)
    assert model.epoch == (0 if key is None else 3)
    assert not model.module.training


def test_a_config_of_a_fixed_class(tmp_path):
    cli = LightningCLI(TinyModule, args=["--model.width=24"], run=False, save_config_callback=None)
    config = tmp_path / "config.yaml"
    config.write_text(cli.parser.dump(cli.config))
    assert "class_path: tiny" not in config.read_text()
    torch.save({"state_dict": TinyModule(width=24).state_dict()}, tmp_path / "w.ckpt")
    source = ModelSource(config=config, module="tiny.TinyModule")
    assert source.load(tmp_path / "w.ckpt").module.head.in_features == 24
    with pytest.raises(OptionError, match="has no class_path .* name it with --module"):
        ModelSource(config=config).load(config)
    with pytest.raises(OptionError, match="say what the weights belong to, by one of"):
        ModelSource(config=config, model="resnet18").load(config)


def test_another_number_of_classes(tmp_path, resnet):
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "w.pth")
    ModelSource(model="resnet18").load(tmp_path / "w.pth")


def test_safetensors_and_timm(tmp_path):
    vit = timm.create_model("test_vit")
    safetensors.torch.save_file(vit.state_dict(), tmp_path / "w.safetensors")
    model = ModelSource(model="timm/test_vit").load(tmp_path / "w.safetensors")
    torch.testing.assert_close(model.module.state_dict(), vit.state_dict())


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_code_in_a_checkpoint_is_run_only_when_trusted(tmp_path, monkeypatch, resnet):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": resnet.state_dict(), "extra": Payload()}, "w.ckpt")
    with pytest.raises(SelectionError, match="cannot be read safely.*pass --trust") as caught:
        ModelSource(model="resnet18").load(tmp_path / "w.ckpt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()
    ModelSource(model="resnet18", trust=True).load(tmp_path / "w.ckpt")
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ([1], "holds a list, not weights by name"),
        ({"epoch": 3}, "holds no state dict"),
        (
            {"layer.weight": torch.ones(3)},
            r"not fit the model: \d+ of 122 tensors",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, thing, text):
    torch.save(thing, tmp_path / "w.pth")
    with pytest.raises(SelectionError, match=text):
        ModelSource(model="resnet18").load(tmp_path / "w.pth")
    with pytest.raises(SelectionError, match="there is no file"):
        ModelSource(model="resnet18").load(tmp_path / "gone.pth")


class NeedsWidth(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, 2)


def test_hyperparameters_come_from_the_checkpoint(tmp_path):
    source = ModelSource(module=f"{__name__}.NeedsWidth")
    state = NeedsWidth(5).state_dict()
    # LightningCLI adds names that begin with an underscore.
    torch.save({"state_dict": state, "hyper_parameters": {"width": 5, "_x": 1}}, tmp_path / "a")
    assert source.load(tmp_path / "a").module.linear.in_features == 5
    torch.save({"state_dict": state}, tmp_path / "b")
    with pytest.raises(SelectionError, match="missing 1 required.*save_hyperparameters"):
        source.load(tmp_path / "b")
    torch.save({"state_dict": state, "hyper_parameters": {"width": 6}}, tmp_path / "c")
    with pytest.raises(SelectionError, match="does not fit the model: .*size mismatch") as caught:
        source.load(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_features_of_a_layer_by_the_name_in_its_record():
    module, x = TinyModule().eval(), next(iter(unlabeled_loader()))
    with torch.no_grad():
        features = module.backbone(x)
        assert torch.equal(LayerFeatures(module, "backbone")(x), features)
        assert torch.equal(LayerFeatures(module, "head:input")(x), features)
