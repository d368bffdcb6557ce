"""One network and one folder are one α, whichever command measures it."""

import json

import pytest
import timm
import torch
from PIL import Image

from alphareq_lightning.commands.main import main
from alphareq_lightning.records import read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for i in range(60):
        small = torch.rand(3, 12 + i % 3, 15, generator=generator)[None]
        large = torch.nn.functional.interpolate(small, scale_factor=15, mode="bicubic")[0]
        pixels = (large.clamp(0, 1) * 255).byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:02}.png")
    return folder


# The first takes its own 160 pixels and no others, the second any.
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("more", [(), ("--max-images", "40"), ("--image-size", "160")], ids=str)
def test_profile_and_score_see_the_same_images(folder, tmp_path, capsys, name, more):
    torch.manual_seed(0)
    weights = tmp_path / "w.pth"
    torch.save(timm.create_model(name).state_dict(), weights)
    model = ("--model", f"timm/{name}", "--fit-range", "2", "9", *more)
    profile = ("--weights", str(weights), "--images", str(folder), "--out", str(tmp_path))
    assert main(["profile", *model, *profile, "--json"]) == 0
    *_, last = json.loads(capsys.readouterr().out)["layers"]
    score = ("--data", str(folder), "--out", str(tmp_path / "r.jsonl"))
    assert main(["score", str(weights), *model, *score, "--device", "cpu"]) == 0
    [record] = read_records(tmp_path / "r.jsonl")
    assert (record.layer, record.num_samples) == (last["layer"], last["num_samples"])
    # The same numbers, summed in batches of another size.
    assert record.alpha == pytest.approx(last["alpha"], rel=1e-5)


def test_the_images_are_prepared_as_timm_prepares_them(folder):
    from alphareq_lightning.load.architectures import build_architecture
    from alphareq_lightning.load.sources import image_source

    model, prepared = build_architecture("timm/test_vit")
    config = timm.data.resolve_model_data_config(model)
    own = timm.data.create_transform(**config)
    [batch] = image_source(folder, preprocessing=prepared).heldout()
    expected = torch.stack([own(Image.open(path)) for path in sorted(folder.iterdir())])
    # timm resizes with Pillow, which rounds otherwise: a few values of 255, over a std of 0.5.
    assert (batch - expected).abs().max() <= 3 / 255 / 0.5
