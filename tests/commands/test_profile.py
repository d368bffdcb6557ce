"""Whole networks, profiled layer by layer."""

import json
import math

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import models

from alphareq_lightning.commands.main import main
from alphareq_lightning.errors import DataError, FeatureTapError, OptionError
from alphareq_lightning.functional import eigenspectrum, fit_power_law, rankme
from alphareq_lightning.load.architectures import build_architecture
from alphareq_lightning.load.weights import load_weights
from alphareq_lightning.measure import profile_layers, profiled_layers
from alphareq_lightning.recipes import NarrowResNet
from alphareq_lightning.report.profile import profile_figure, profile_json

MLP = nn.Sequential(
    nn.Linear(64, 48), nn.ReLU(), nn.Sequential(nn.Linear(48, 40)), nn.Linear(40, 5)
)
X = torch.randn(300, 64, generator=torch.manual_seed(0)) * torch.arange(1, 65) ** -0.5


@pytest.mark.parametrize(
    ("model", "count", "first", "last"),
    [
        (models.resnet18, 10, "conv1", "fc:input"),
        (models.vgg11, 11, "features.0", "classifier.6:input"),
        (models.vit_b_16, 14, "conv_proj", "heads.head:input"),
        (models.efficientnet_b0, 19, "features.0", "classifier.1:input"),
        (models.convnext_tiny, 23, "features.0", "classifier.2:input"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), 14, "patch_embed", "head:input"),
        (lambda: timm.create_model("convnext_atto"), 17, "stem.0", "head.fc:input"),
        (NarrowResNet, 5, "stem.0", "stages.3.0"),
    ],
)
def test_the_depth_of_a_network(model, count, first, last):
    with torch.device("meta"):
        labels = [layer.label for layer in profiled_layers(model())]
    assert (len(labels), labels[0], labels[-1]) == (count, first, last)


def test_patterns_choose_layers_and_near_names_are_told():
    model = NarrowResNet()
    labels = [layer.label for layer in profiled_layers(model, ["stages.?.0", "stem"])]
    assert labels == ["stem", "stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0"]
    with pytest.raises(OptionError, match="no layer 'stagse.0'; did you mean 'stages.0'"):
        profiled_layers(model, ["stagse.0"])
    with pytest.raises(OptionError, match="Flatten has no layer with weights"):
        profiled_layers(nn.Flatten())


def test_one_name_is_as_good_as_a_list_of_one():
    [record] = profile_layers(MLP, X.split(100), layers="0", scores="nesum")
    assert record.layer == "0"
    assert list(record.scores) == ["nesum"]


def test_each_layer_has_the_alpha_of_its_features():
    MLP.train()
    records = profile_layers(MLP, X.split(70), fit_range=(3, 20))
    assert [r.layer for r in records] == ["0", "2.0", "3:input"]
    assert MLP.training
    with torch.no_grad():
        features = MLP[0](X)
    expected = fit_power_law(eigenspectrum(features), (3, 20)).alpha.item()
    assert records[0].alpha == pytest.approx(expected, rel=1e-5)
    singular_values = torch.linalg.svdvals(features.double())
    assert records[0].scores["rankme"] == pytest.approx(rankme(singular_values).item(), rel=1e-4)
    assert (records[0].num_samples, records[0].num_features) == (300, 48)
    assert len(MLP[0]._forward_hooks) == 0


def test_maps_can_be_kept_instead_of_pooled():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 4))
    batches = torch.randn(60, 3, 8, 8).split(20)
    for pool, width in {"mean": 8, "project": 288, "flatten": 288}.items():
        [maps, _] = profile_layers(model, batches, pool=pool, fit_range=(2, 6))
        assert (maps.num_features, maps.problem) == (width, None)


def test_a_layer_without_alpha_says_why_and_the_others_go_on():
    class TwoPaths(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.last = nn.Linear(64, 40), nn.Linear(2, 2), nn.Linear(40, 2)

        def forward(self, x):
            return self.last(self.used(x))

    used, unused, last = profile_layers(TwoPaths(), X.split(100), fit_range=(3, 20))
    assert used.problem is None
    assert last.problem is None
    assert unused.problem == "no features were seen"
    assert math.isnan(unused.alpha)
    text = profile_json([used, unused], model="m")
    assert json.loads(text)["layers"][1]["alpha"] is None
    assert "NaN" not in text
    assert len(profile_figure([used, unused, last]).axes) == 2


def test_images_that_do_not_fit_are_one_error_and_leave_no_hook():
    with pytest.raises(FeatureTapError, match=r"images of shape \(300, 3\): .*shapes"):
        profile_layers(MLP, [X[:, :3]])
    assert len(MLP[0]._forward_hooks) == 0


def test_weights_under_any_prefix(tmp_path):
    model = NarrowResNet(blocks=(1, 1))
    state = model.state_dict()
    plain, checkpoint = tmp_path / "plain.pth", tmp_path / "last.ckpt"
    torch.save(state, plain)
    more = {f"backbone.{k}": v for k, v in state.items()} | {"projector.weight": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": more}, checkpoint)
    for path in (plain, checkpoint):
        loaded = build_architecture("narrow_resnet", options={"blocks": [1, 1]})
        load_weights(loaded.module, path)
        for key, value in loaded.module.state_dict().items():
            assert torch.equal(value, state[key]), key
    with pytest.raises(DataError, match=r"does not fit the model: \d+ of \d+ tensors .*stages.2"):
        load_weights(NarrowResNet(), plain)


def test_another_classifier_is_no_matter(tmp_path):
    path = tmp_path / "ten_classes.pth"
    torch.save(models.resnet18(num_classes=10).state_dict(), path)
    for name in ("resnet18", "timm/resnet18"):
        loaded = build_architecture(name)
        load_weights(loaded.module, path)
        assert loaded.preprocessing.image_size == 224


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"not weights", "cannot be read safely as weights"),
        (Evil(), "cannot be read safely as weights"),
        ([1, 2], "holds a list, not weights by name"),
        ({"epoch": 1}, "holds no state dict"),
    ],
)
def test_bad_weights_are_refused(tmp_path, content, text, capsys):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(DataError, match=text):
        load_weights(models.resnet18(), path)
    assert "code ran" not in capsys.readouterr().out


def test_models_that_do_not_exist():
    with pytest.raises(OptionError, match="no model 'resnet19'; did you mean .*resnet18"):
        build_architecture("resnet19")
    with pytest.raises(OptionError, match="does not take these options: .*depth"):
        build_architecture("resnet18", options={"depth": 3})


def test_pretrained_asks_the_library_for_its_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "get_model", lambda name, weights: asked.append((name, weights)))
    build_architecture("resnet18", pretrained=True)
    build_architecture("resnet18")
    assert asked == [("resnet18", "DEFAULT"), ("resnet18", None)]


def profile(tmp_path, *more):
    small = ["--model", "narrow_resnet", "--options", '{"blocks": [1, 1]}', "--max-images", "200"]
    return ["profile", *small, "--out", str(tmp_path / "out"), *more]


def test_command_prints_a_table_and_draws(tmp_path, capsys):
    assert main(profile(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "stages.1.0" in output
    assert "random weights" in output
    assert (tmp_path / "out" / "narrow_resnet.png").stat().st_size > 10_000
    saved = json.loads((tmp_path / "out" / "narrow_resnet.json").read_text())
    assert [layer["layer"] for layer in saved["layers"]] == ["stem.0", "stages.0.0", "stages.1.0"]
    assert saved["layers"][0]["num_samples"] == 200
    # The same seed, the same weights; and JSON alone on the standard output.
    before = torch.get_rng_state()
    assert main(profile(tmp_path, "--json", "--layers", "stages.1.*")) == 0
    assert torch.equal(before, torch.get_rng_state())
    again = json.loads(capsys.readouterr().out)
    by_name = {layer["layer"]: layer["alpha"] for layer in again["layers"]}
    assert by_name["stages.1.0"] == pytest.approx(saved["layers"][2]["alpha"], rel=1e-6)


def test_command_on_a_folder_of_images(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        pixels = torch.randint(256, (40, 36 + i % 3, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    arguments = ["--images", str(folder), "--image-size", "24", "--scores", "nesum"]
    assert main(profile(tmp_path, *arguments, "--fit-range", "2", "9", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == "photos"
    [layer, *_] = result["layers"]
    assert (layer["num_samples"], layer["fit_range"]) == (40, [2, 9])
    assert layer["scores"]["nesum"] > 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--images", "gone"], "no folder gone"),
        (["--layers", "stem", "nothing*"], "no layer matches 'nothing"),
        (["--max-images", "0"], "expected an integer max_images >= 1, got max_images=0"),
        (["--scores", "rankyou"], "unknown scores"),
    ],
)
def test_command_refuses_in_one_line(tmp_path, capsys, arguments, text):
    assert main(profile(tmp_path, *arguments)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("alphareq: ")
    assert text in error


@pytest.mark.parametrize(("value", "text"), [("{", "expected JSON"), ("3", "a JSON object")])
def test_options_are_json(tmp_path, capsys, value, text):
    with pytest.raises(SystemExit):
        main(["profile", "--options", value])
    assert text in capsys.readouterr().err
