"""``alphareq profile``."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from alphareq_lightning.errors import OptionError
from alphareq_lightning.files import written_beside
from alphareq_lightning.measure.pooling import POOLS
from alphareq_lightning.metrics.scores import SCORES
from alphareq_lightning.text import printable


def add_profile_command(commands: Any) -> None:
    """Add ``profile`` to the subparsers of ``alphareq``."""
    parser = commands.add_parser(
        "profile", help="α at many layers of a torchvision or timm model, in one pass"
    )
    default = " (default: %(default)s)"
    parser.add_argument("--model", default="resnet18", help="torchvision or timm name" + default)
    parser.add_argument("--weights", type=Path, help="state dict or Lightning checkpoint")
    parser.add_argument(
        "--trust", action="store_true", help="run code that the weights want to run"
    )
    parser.add_argument("--pretrained", action="store_true", help="download the library's weights")
    parser.add_argument("--small-images", action="store_true", help="ResNet stem of the recipe")
    parser.add_argument("--options", type=_options, default={}, help="JSON passed to the model")
    parser.add_argument("--images", type=Path, help="folder (default: scikit-learn's digits)")
    parser.add_argument("--image-size", type=int, help="side in pixels (default: the model's)")
    at_most = "at most this many held-out images, drawn by chance, always the same ones"
    parser.add_argument("--max-images", type=int, default=2000, help=at_most + default)
    parser.add_argument("--batch-size", type=int, default=64, help=default)
    parser.add_argument("--num-workers", type=int, default=0, help=default)
    parser.add_argument("--layers", nargs="+", default=(), help="patterns, such as 'layer*.?'")
    parser.add_argument("--pool", choices=POOLS, default="mean", help=default)
    parser.add_argument("--fit-range", type=int, nargs=2, metavar=("FIRST", "LAST"))
    parser.add_argument("--scores", nargs="*", default=["rankme"], help=", ".join(SCORES))
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--seed", type=int, default=0, help="of random weights" + default)
    parser.add_argument("--out", type=Path, default=Path("runs/profile"), help=default)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run_profile)


def run_profile(options: argparse.Namespace) -> int:
    """Measure, print, draw."""
    from alphareq_lightning.load.architectures import build_architecture
    from alphareq_lightning.load.sources import image_source
    from alphareq_lightning.load.weights import load_weights
    from alphareq_lightning.measure.profile import profile_layers
    from alphareq_lightning.report.profile import profile_figure, profile_json, profile_table

    if min(options.max_images, options.batch_size) < 1 or (options.image_size or 1) < 1:
        raise OptionError("expected --max-images, --batch-size and --image-size of at least 1")
    console, progress = Console(), Console(stderr=True)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = build_architecture(
            options.model,
            pretrained=options.pretrained,
            small_images=options.small_images,
            options=options.options,
        )
    if options.weights is not None:
        load_weights(model.module, options.weights, trust=options.trust)
    images = image_source(
        options.images or "digits",
        preprocessing=model.preprocessing,
        image_size=options.image_size,
        max_images=options.max_images,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )
    records = profile_layers(
        model.module,
        track(images.heldout(), "profiling", console=progress, transient=True),
        layers=options.layers,
        pool=options.pool,
        fit_range=options.fit_range or "auto",
        scores=options.scores,
        device=device,
    )
    about = {
        "model": options.model,
        "weights": _weights(options),
        "images": "digits" if options.images is None else options.images.name,
        "pool": options.pool,
    }
    title = printable(f"{about['model']} ({about['weights']}) on {about['images']}")
    text = profile_json(records, **about)
    stem = options.out / options.model.replace("/", "_")
    with written_beside(stem.with_name(f"{stem.name}.json")) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    if options.json:
        print(text)
    else:
        console.print(profile_table(records, title))
    if find_spec("matplotlib") is not None:
        picture = stem.with_name(f"{stem.name}.png")
        with written_beside(picture) as unfinished:
            profile_figure(records, title).savefig(unfinished, format="png")
        progress.print(f"α over depth and the spectra: {picture}", soft_wrap=True)
    return 0


def _weights(options: argparse.Namespace) -> str:
    if options.weights is not None:
        return str(options.weights.name)
    return "pretrained" if options.pretrained else "random weights"


def _options(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value
