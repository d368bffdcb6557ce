"""A model to profile, by name, and its weights from a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models

from alphareq_lightning.errors import DataError, OptionError
from alphareq_lightning.load.plain_pickle import check_pickle
from alphareq_lightning.recipes import build_backbone
from alphareq_lightning.recipes.views import IMAGENET_MEAN, IMAGENET_STD

IMAGENET_SIZE = 224
SHOWN_KEYS = 4
STATE_KEYS = ("state_dict", "model", "model_state_dict")


class ProfiledModel(NamedTuple):
    """A network and the images that it expects."""

    module: nn.Module
    image_size: int = IMAGENET_SIZE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def load_model(
    name: str,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    small_images: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ProfiledModel:
    """Build a model of torchvision or timm, or a backbone of the recipe.

    Args:
        name: A classification model of torchvision, else one of timm (``timm/NAME`` asks timm
            alone), or ``"narrow_resnet"``.
        weights: A state dict, or a checkpoint of Lightning that holds one under any prefix; read
            with ``weights_only=True``.
        pretrained: Download the library's own weights.
        small_images: Build it as the recipe does: a ResNet with a 3×3 stem and no max-pool.
        options: Passed to the model.

    Raises:
        OptionError: If there is no such model, or it does not take ``options``.
        DataError: If the weights cannot be read, or do not fit.
    """
    try:
        model = _build(name, pretrained, small_images, dict(options or {}))
    except TypeError as error:
        raise OptionError(f"the model {name!r} does not take these options: {error}") from error
    if weights is not None:
        load_weights(model.module, weights)
    return model


def _build(name: str, pretrained: bool, small: bool, options: dict[str, Any]) -> ProfiledModel:
    if name == "narrow_resnet" or small:
        return ProfiledModel(build_backbone(name, small_images=small, **options)[0])
    if name in models.list_models(module=models):
        chosen = "DEFAULT" if pretrained else None
        return ProfiledModel(models.get_model(name, weights=chosen, **options))
    bare = name.removeprefix("timm/")
    if find_spec("timm") is None:
        known = models.list_models(module=models)
        raise OptionError(_unknown(name, known, " in torchvision, and timm is not installed"))
    import timm

    if bare not in timm.list_models():
        known = [*models.list_models(module=models), *timm.list_models(), "narrow_resnet"]
        raise OptionError(_unknown(bare, known))
    module = timm.create_model(bare, pretrained=pretrained, **options)
    config: Any = timm.data.resolve_model_data_config(module)  # type: ignore[attr-defined, no-untyped-call]
    return ProfiledModel(module, config["input_size"][-1], config["mean"], config["std"])


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict that holds the model's under any prefix, classifier aside.

    Raises:
        DataError: If the file is missing, is not a state dict, or does not fit the model.
    """
    try:
        check_pickle(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read safely as weights: {reason}") from error
    model.load_state_dict(fitting_weights(model, state, path), strict=False)


def fitting_weights(model: nn.Module, checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """The part of a checkpoint that belongs to a model, whatever it was nested in.

    Only the classifier may be missing: self-supervised weights often come without it.

    Args:
        model: Says which names and shapes are wanted.
        checkpoint: A state dict, or a mapping that holds one.
        path: Where it came from, for messages.

    Raises:
        DataError: If it holds no weights, or they do not fit the model.
    """
    state = _state_dict(checkpoint, path)
    expected = model.state_dict()
    prefixes = {""} | {
        ".".join(parts[:depth]) + "."
        for parts in (name.split(".") for name in state)
        for depth in range(1, len(parts))
    }

    def under(prefix: str) -> dict[str, Tensor]:
        return {
            name: state[prefix + name]
            for name, value in expected.items()
            if prefix + name in state and state[prefix + name].shape == value.shape
        }

    fitting = max((under(prefix) for prefix in sorted(prefixes)), key=len)
    optional = _classifier_keys(model)
    missing = [key for key in expected if key not in fitting and key not in optional]
    if missing or not fitting:
        shown = ", ".join(missing[:SHOWN_KEYS])
        raise DataError(
            f"{path} does not fit the model: {len(missing)} of {len(expected)} tensors are missing "
            f"or have another shape, for example {shown}"
        )
    return fitting


def _state_dict(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    for key in STATE_KEYS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    items = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    state = {name: value for name, value in items if isinstance(value, Tensor)}
    if not state:
        raise DataError(f"{path} holds no state dict")
    # What torch.compile puts into every name.
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}


def _classifier_keys(model: nn.Module) -> set[str]:
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    batches = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    return batches | ({f"{linears[-1]}.weight", f"{linears[-1]}.bias"} if linears else set())


def _unknown(name: str, known: list[str], why: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=4)
    hint = f"did you mean {', '.join(near)}?" if near else "see torchvision.models.list_models"
    return f"there is no model {name!r}{why}; {hint}"
