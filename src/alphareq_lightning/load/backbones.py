"""Backbones whose output is the penultimate features."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from alphareq_lightning.errors import OptionError


class NarrowResNet(nn.Module):
    """A small ResNet for small images: 3×3 stem, no max-pool, torchvision's residual blocks.

    Args:
        width: Channels of the first stage, a multiple of 16 (narrower convolutions are slower on
            a CPU, not faster), each later stage doubles them; or those of every stage.
        blocks: Residual blocks in each stage.
        in_channels: Channels of the images.
        stem_stride: 2 halves the sides of the maps from the start: a quarter of the work.

    Example:
        >>> import torch
        >>> NarrowResNet()(torch.ones(2, 3, 16, 16)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        width: int | Sequence[int] = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        in_channels: int = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(len(blocks))] if isinstance(width, int) else width
        if not blocks or len(widths) != len(blocks) or any(w < 16 or w % 16 for w in widths):
            raise OptionError(
                "expected a width for each stage, multiples of 16, and some blocks, "
                f"got {width=} and {blocks=}"
            )
        channels, stages = widths[0], []
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        for index, (out, num_blocks) in enumerate(zip(widths, blocks, strict=True)):
            stages.append(_stage(channels, out, num_blocks, stride=1 if index == 0 else 2))
            channels = out
        self.stages = nn.Sequential(*stages)
        self.num_features = channels

    def forward(self, images: Tensor) -> Tensor:
        """Features averaged over positions, shape ``(n, num_features)``."""
        maps: Tensor = self.stages(self.stem(images))
        return maps.mean(dim=(2, 3))


def build_backbone(name: str, *, small_images: bool = True, **options: Any) -> tuple[Any, int]:
    """Build a backbone without its classifier.

    Args:
        name: ``"narrow_resnet"``, or any classification model of torchvision, or of timm where
            that is installed.
        small_images: Give a torchvision ResNet a 3×3 stem of stride 1 and no max-pool, as usual
            for CIFAR-sized images; other architectures are left as they are.
        options: Passed to the model.

    Returns:
        The module, ``(n, c, h, w)`` → ``(n, d)``, and ``d``.

    Raises:
        OptionError: If there is no such model, or it has no linear classifier to take off.
    """
    if name == "narrow_resnet":
        narrow = NarrowResNet(**options)
        return narrow, narrow.num_features
    known = models.list_models(module=models)
    if name not in known:
        of_timm = _from_timm(name, options)
        if of_timm is not None:
            # The width of what the classifier would read; some heads widen `num_features` before.
            return of_timm, of_timm.head_hidden_size
        near = difflib.get_close_matches(name, ["narrow_resnet", *known], n=4)
        hint = f"did you mean {', '.join(near)}?" if near else "see torchvision.models.list_models"
        raise OptionError(f"there is no backbone {name!r}; {hint}")
    model = models.get_model(name, weights=None, **options)
    if small_images and isinstance(model, ResNet):
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model, _remove_classifier(name, model)


def _from_timm(name: str, options: dict[str, Any]) -> Any:
    try:
        import timm
    except ImportError:
        return None
    return timm.create_model(name, num_classes=0, **options) if timm.is_model(name) else None


def _remove_classifier(name: str, model: nn.Module) -> int:
    """Replace the last `nn.Linear` by the identity; gives the width of what it read."""
    linears = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise OptionError(f"the backbone {name!r} has no nn.Linear classifier to take off")
    path, linear = linears[-1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return linear.in_features


def _stage(channels: int, out: int, num_blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )
    first = BasicBlock(channels, out, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out, out) for _ in range(num_blocks - 1)))
