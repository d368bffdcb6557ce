"""The recipe's own backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from alphareq_lightning.errors import OptionError


class NarrowResNet(nn.Module):
    """A small ResNet for small images: 3×3 stem, no max-pool, torchvision's residual blocks.

    Args:
        width: Channels of the first stage, a multiple of 16 (narrower convolutions are slower on
            a CPU, not faster), each later stage doubles them; or those of every stage.
        blocks: Residual blocks in each stage.
        in_channels: Channels of the images.

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
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
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


def _stage(channels: int, out: int, num_blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )
    first = BasicBlock(channels, out, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out, out) for _ in range(num_blocks - 1)))
