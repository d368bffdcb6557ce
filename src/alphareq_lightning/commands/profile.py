"""``alphareq profile``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from rich.console import Console

from alphareq_lightning.commands._sources import device_of
from alphareq_lightning.commands._terminal import tracked
from alphareq_lightning.files import written_beside
from alphareq_lightning.load.architectures import build_architecture
from alphareq_lightning.load.sources import image_source
from alphareq_lightning.load.weights import load_weights
from alphareq_lightning.measure import profile_layers
from alphareq_lightning.measure.pooling import PoolName
from alphareq_lightning.metrics.scores import without_views
from alphareq_lightning.records import AlphaRecord
from alphareq_lightning.report.profile import profile_figure, profile_json, profile_table
from alphareq_lightning.text import printable


class Profile(NamedTuple):
    """A network, layer by layer."""

    records: list[AlphaRecord]
    """First layer first."""
    about: dict[str, str]
    """Model, weights, images, pool."""
    picture: Path | None
    """α over depth and the spectra; none where matplotlib is missing."""

    @property
    def title(self) -> str:
        """What was measured, in a line."""
        return printable("{model} ({weights}) on {images}".format(**self.about))


def profile_model(
    model: str = "resnet18",
    *,
    weights: Path | None = None,
    trust: bool = False,
    pretrained: bool = False,
    small_images: bool = False,
    options: Mapping[str, Any] | None = None,
    images: Path | None = None,
    image_size: int | None = None,
    max_images: int = 2000,
    batch_size: int = 64,
    num_workers: int = 0,
    layers: str | Sequence[str] = (),
    pool: PoolName = "mean",
    fit_range: tuple[int, int] | None = None,
    scores: Annotated[str | Sequence[str], without_views] = ("rankme",),
    device: str = "auto",
    seed: int = 0,
    out: Path = Path("runs/profile"),
) -> Profile:
    """Measure α at many layers of a torchvision or timm model, in one pass.

    Args:
        model: Name of torchvision, or of timm.
        weights: State dict or Lightning checkpoint.
        trust: Run code that the weights want to run.
        pretrained: Download the library's weights.
        small_images: ResNet stem of the recipe.
        options: Passed to the model.
        images: Folder; default: scikit-learn's digits.
        image_size: Side in pixels; default: the model's.
        max_images: At most this many held-out images, drawn by chance, always the same ones.
        batch_size: Images in a batch.
        num_workers: Processes that load them.
        layers: Names or patterns, such as 'layer*.?', where * stays between two dots and ** does
            not; default: every block.
        pool: How a layer becomes one vector an image.
        fit_range: Ranks of the fit; default: auto.
        scores: Extra scores.
        device: Where to run; auto is a GPU if there is one.
        seed: Of random weights.
        out: Folder of the JSON file and the picture.

    Example:
        alphareq profile --model resnet18 --pretrained --images photos/

    Raises:
        AlphaReQError: If an option cannot work, or the model does not run on the images.
    """
    out, weights = Path(out), weights and Path(weights)  # from Python a name is good, too
    images = images and Path(images)
    where = device_of(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_architecture(
            model, pretrained=pretrained, small_images=small_images, options=options
        )
    if weights is not None:
        load_weights(network.module, weights, trust=trust)
    source = image_source(
        images or "digits",
        preprocessing=network.preprocessing,
        image_size=image_size,
        max_images=max_images,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    records = profile_layers(
        network.module,
        tracked(source.heldout(), "profiling"),
        layers=layers,
        pool=pool,
        fit_range=fit_range or "auto",
        scores=scores,
        device=where,
    )
    about = {
        "model": model,
        "weights": weights.name if weights else "pretrained" if pretrained else "random weights",
        "images": "digits" if images is None else images.name,
        "pool": pool,
    }
    stem = out / model.replace("/", "_")
    picture = stem.with_name(f"{stem.name}.png") if find_spec("matplotlib") is not None else None
    found = Profile(records, about, picture)
    with written_beside(stem.with_name(f"{stem.name}.json")) as unfinished:
        unfinished.write_text(as_json(found), encoding="utf-8")
    if picture is not None:
        with written_beside(picture) as unfinished:
            profile_figure(records, found.title).savefig(unfinished, format="png")
    return found


def show(profile: Profile, console: Console) -> None:
    """A row for each layer, and where the picture is."""
    console.print(profile_table(profile.records, profile.title))
    if profile.picture is not None:
        picture = f"α over depth and the spectra: {profile.picture}"
        console.print(printable(picture), soft_wrap=True)


def as_json(profile: Profile) -> str:
    """The model, and a record for each layer."""
    return profile_json(profile.records, **profile.about)
