"""Networks by name, each with what it expects of its images."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from torch import nn
from torchvision import models
from torchvision.models.resnet import ResNet

from alphareq_lightning.errors import OptionError, WeightsError
from alphareq_lightning.load.mlp import MLP
from alphareq_lightning.load.narrow_resnet import NarrowResNet
from alphareq_lightning.load.preprocessing import RECIPE, Preprocessing

OWN = {"narrow_resnet": NarrowResNet, "mlp": MLP}
"""Backbones of the recipe."""


class Architecture(NamedTuple):
    """A network and the images that it expects."""

    module: nn.Module
    preprocessing: Preprocessing


def build_architecture(
    name: str,
    *,
    pretrained: bool = False,
    small_images: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Architecture:
    """Build a model of torchvision or timm, or a backbone of the recipe.

    Args:
        name: A classification model of torchvision, else one of timm (``timm/NAME`` asks timm
            alone), or ``"narrow_resnet"`` or ``"mlp"``.
        pretrained: Download the library's own weights.
        small_images: Build it as the recipe does: a ResNet with a 3×3 stem and no max-pool.
        options: Passed to the model.

    Returns:
        The network, and what its library does with images before it sees them: of a model of
        torchvision, with the newest weights that there are.

    Raises:
        OptionError: If there is no such model, or it does not take ``options``.
        WeightsError: If the library's own weights cannot be downloaded.
    """
    given = dict(options or {})
    of_recipe = small_images or name in OWN
    if of_recipe and pretrained:
        raise OptionError(
            f"there are no pretrained weights for the recipe's {name!r}; leave out --pretrained"
        )
    try:
        if of_recipe:
            return Architecture(build_backbone(name, small_images=small_images, **given)[0], RECIPE)
        if is_of_timm(name):
            return _of_timm(name, pretrained=pretrained, **given)
        module = models.get_model(name, weights="DEFAULT" if pretrained else None, **given)
    except TypeError as error:
        raise OptionError(f"the model {name!r} does not take these options: {error}") from error
    except OSError as error:
        if not pretrained:
            raise
        raise WeightsError(
            f"the pretrained weights of {name!r} cannot be had: {error}; "
            "without a network, give them by --weights FILE"
        ) from error
    own: Any = models.get_model_weights(name).DEFAULT.transforms()
    # Without weights some are built for images of another size.
    size = getattr(module, "image_size", own.crop_size[0])
    share = own.crop_size[0] / own.resize_size[0]
    prepared = Preprocessing(size, own.mean, own.std, share, own.interpolation.value)
    return Architecture(module, prepared)


def build_backbone(name: str, *, small_images: bool = True, **options: Any) -> tuple[Any, int]:
    """Build a backbone without its classifier.

    Args:
        name: ``"narrow_resnet"`` or ``"mlp"``, or any classification model of torchvision, or of
            timm where that is installed.
        small_images: Give a torchvision ResNet a 3×3 stem of stride 1 and no max-pool, as usual
            for CIFAR-sized images; other architectures are left as they are.
        options: Passed to the model.

    Returns:
        The module, ``(n, c, h, w)`` → ``(n, d)``, and ``d``.

    Raises:
        OptionError: If there is no such model, or it has no linear classifier to take off.
    """
    if name in OWN:
        own = OWN[name](**options)
        return own, own.num_features
    if is_of_timm(name):
        headless: Any = _of_timm(name, num_classes=0, **options).module
        # The width of what the classifier would read; some heads widen `num_features` before.
        return headless, headless.head_hidden_size
    model = models.get_model(name, weights=None, **options)
    if small_images and isinstance(model, ResNet):
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model, _remove_classifier(name, model)


def is_of_timm(name: str) -> bool:
    """Whether timm has to build a model; torchvision comes first where both have it.

    Raises:
        OptionError: If neither has it.
    """
    known, bare = models.list_models(module=models), name.removeprefix("timm/")
    if name in known:
        return False
    why = " in torchvision, and timm is not installed"
    if find_spec("timm") is not None:
        import timm

        if timm.is_model(bare):
            return True
        known, why = [*known, *timm.list_models()], ""
    near = difflib.get_close_matches(bare, dict.fromkeys([*known, *OWN]), n=4)
    hint = f"did you mean {', '.join(near)}?" if near else "see torchvision.models.list_models"
    raise OptionError(f"there is no model {name!r}{why}; {hint}")


def _of_timm(name: str, **options: Any) -> Architecture:
    import timm

    module = timm.create_model(name.removeprefix("timm/"), **options)
    own: Any = timm.data.resolve_model_data_config(module)  # type: ignore[attr-defined, no-untyped-call]
    size, share = own["input_size"][-1], own["crop_pct"]
    prepared = Preprocessing(size, own["mean"], own["std"], share, own["interpolation"])
    return Architecture(module, prepared)


def _remove_classifier(name: str, model: nn.Module) -> int:
    """Replace the last `nn.Linear` by the identity; gives the width of what it read."""
    linears = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise OptionError(f"the backbone {name!r} has no nn.Linear classifier to take off")
    path, linear = linears[-1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return linear.in_features
