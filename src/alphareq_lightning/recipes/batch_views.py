"""Random views of a whole batch at once, on the device that it is on.

Each image has its own crop, flip and colours, drawn as torchvision draws them for one image. What
is drawn comes from the CPU, so a seed gives the same views on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2.functional import rgb_to_grayscale

CROP_RATIO = 3 / 4, 4 / 3
"""Width over height of the crops, as torchvision's `RandomResizedCrop` has it by default."""
ERASE_RATIO = 1 / 3.3, 1 / 0.3
"""Width over height of what torchvision's `RandomErasing` erases by default."""
CROP_TRIALS = 10
"""How often torchvision draws a crop that does not fit before it takes the largest that does."""


def crop_and_colour(
    images: Tensor,
    *,
    image_size: int,
    crop_scale: tuple[float, float],
    flip: float,
    jitter: float,
    grayscale: float,
) -> Tensor:
    """One random view of each image; the options are those of `barlow_twins_view`.

    Uint8 pixels ``(n, 3, h, w)`` → float32 views from 0 to 1, ``(n, 3, image_size, image_size)``.
    """
    device, n = images.device, len(images)
    tops, lefts, heights, widths = draw_crops(n, images.shape[2], images.shape[3], crop_scale)
    down = resampling(tops, heights, images.shape[2], image_size)
    across = resampling(lefts, widths, images.shape[3], image_size)
    across = torch.where((torch.rand(n) < flip)[:, None, None], across.flip(1), across)
    pixels = torch.einsum("nxw,nchw->nhcx", across.to(device), images.float() / 255)
    views = torch.einsum("nyh,nhcx->ncyx", down.to(device), pixels)
    jitter_(views, torch.rand(n) < jitter)
    gray = _rows(torch.rand(n) < grayscale, device)
    views[gray] = rgb_to_grayscale(views[gray], num_output_channels=3)
    return views


def turn_and_erase(
    images: Tensor,
    *,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
    erase: float,
    erase_scale: tuple[float, float],
    noise: float,
) -> Tensor:
    """One random view of each square image; what `digit_view` does to one.

    Args:
        images: Uint8 pixels, shape ``(n, 3, side, side)``.
        degrees: Largest turn, either way.
        translate: Largest shift along each side as a share of it, in whole pixels.
        scale: Of the size.
        shear: Largest shear in degrees, either way.
        erase: Probability that a rectangle is set to 0.
        erase_scale: Area of the rectangle as a share of the image.
        noise: Standard deviation of the noise on each value.

    Returns:
        Float32 views from 0 to 1, of the same shape.
    """
    device, n, side = images.device, len(images), images.shape[-1]
    turn = torch.deg2rad(torch.empty(n).uniform_(-degrees, degrees))
    sheared = torch.deg2rad(torch.empty(n).uniform_(-shear, shear)).tan()
    pixels = translate * side
    shift = torch.empty(n, 2, 1).uniform_(-pixels, pixels).round() * (2 / side)
    cos, sin = turn.cos(), turn.sin()
    # Where each pixel of the view comes from: the inverse of turn times shear, whose det is 1.
    rows = (cos - sin * sheared, cos * sheared + sin, -sin, cos)
    backwards = torch.stack(rows, dim=1).view(n, 2, 2)
    backwards = backwards / torch.empty(n, 1, 1).uniform_(*scale)
    maps = torch.cat([backwards, -backwards @ shift], dim=2).to(device)
    places = affine_grid(maps, list(images.shape), align_corners=False)
    views = grid_sample(images.float() / 255, places, align_corners=False)
    tops, lefts, heights, widths = draw_crops(n, side, side, erase_scale, ERASE_RATIO)
    along = torch.arange(side)
    down = (along >= tops[:, None]) & (along < (tops + heights)[:, None])
    across = (along >= lefts[:, None]) & (along < (lefts + widths)[:, None])
    erased = down[:, :, None] & across[:, None] & (torch.rand(n) < erase)[:, None, None]
    views = views.masked_fill_(erased.to(device)[:, None], 0)
    return views.add_(torch.randn(views.shape).to(device), alpha=noise).clamp_(0, 1)


def draw_crops(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = CROP_RATIO,
) -> Tensor:
    """Top, left, height and width of ``n`` random crops, float32, shape ``(4, n)``.

    Area and log ratio are even; what does not fit into the image is drawn again, and at last the
    largest crop of an allowed ratio is taken, as torchvision's `RandomResizedCrop` does.
    """
    low, high = map(math.log, ratio)
    area = height * width * torch.empty(n, CROP_TRIALS).uniform_(*scale)
    ratios = torch.empty(n, CROP_TRIALS).uniform_(low, high).exp()
    widths, heights = (area * ratios).sqrt().round(), (area / ratios).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    chosen = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    widest, tallest = round(height * ratio[1]), round(width / ratio[0])
    crop_width = torch.where(found, widths.gather(1, chosen)[:, 0], min(width, widest))
    crop_height = torch.where(found, heights.gather(1, chosen)[:, 0], min(height, tallest))
    lefts = torch.where(found, torch.rand(n), 0.5) * (width - crop_width + found.float())
    tops = torch.where(found, torch.rand(n), 0.5) * (height - crop_height + found.float())
    return torch.stack([tops.floor(), lefts.floor(), crop_height, crop_width])


def resampling(starts: Tensor, lengths: Tensor, size: int, out: int) -> Tensor:
    """Matrices that cut ``lengths`` pixels from ``starts`` on and resize them to ``out``.

    The triangle filter of Pillow's bilinear resize with antialiasing; nothing outside of the crop
    comes in.

    Args:
        starts: First pixel of each crop, shape ``(n,)``.
        lengths: Pixels in each crop, shape ``(n,)``.
        size: Pixels of the image along this side.
        out: Pixels of the view.

    Returns:
        Shape ``(n, out, size)``; rows sum to 1.

    Example:
        >>> resampling(torch.tensor([1.0]), torch.tensor([2.0]), 4, 2)[0].tolist()
        [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    """
    factors = (lengths / out)[:, None, None]
    inside = torch.arange(size) - starts[:, None, None]
    centres = (torch.arange(out)[:, None] + 0.5) * factors
    weights = (1 - (inside + 0.5 - centres).abs() / factors.clamp(min=1)).clamp(min=0)
    weights = weights * ((inside >= 0) & (inside < lengths[:, None, None]))
    return weights / weights.sum(dim=2, keepdim=True)


def jitter_(views: Tensor, changed: Tensor, strength: float = 0.4, hue: float = 0.1) -> None:
    """Change brightness, contrast, saturation and hue in place, in an order of each image's own.

    Args:
        views: Values from 0 to 1, shape ``(n, 3, h, w)``.
        changed: Which images to change, on the CPU, shape ``(n,)``.
        strength: Brightness, contrast and saturation are multiplied by up to 1 ± this.
        hue: Turned by up to this share of the circle.
    """
    n = len(views)
    factors = torch.empty(n, 4).uniform_(1 - strength, 1 + strength)
    factors[:, 3] = torch.empty(n).uniform_(-hue, hue)
    order = torch.rand(n, 4).argsort(dim=1)
    on_device = factors.to(views.device)
    for turn in range(4):
        for index, change in enumerate((brightness, contrast, saturation, turn_hue)):
            rows = _rows(changed & (order[:, turn] == index), views.device)
            views[rows] = change(views[rows], on_device[rows, index, None, None, None])


def brightness(views: Tensor, factor: Tensor) -> Tensor:
    """Multiply all values."""
    return (views * factor).clamp_(0, 1)


def contrast(views: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance from each image's mean gray."""
    gray: Tensor = rgb_to_grayscale(views)
    return gray.mean(dim=(2, 3), keepdim=True).lerp(views, factor).clamp_(0, 1)


def saturation(views: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance from each pixel's gray."""
    gray: Tensor = rgb_to_grayscale(views)
    return gray.lerp(views, factor).clamp_(0, 1)


def turn_hue(views: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by a share of the circle; value and saturation (of HSV) stay.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> turn_hue(red, torch.full((1, 1, 1, 1), 1 / 3)).round(decimals=5).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    red, green, blue = views.unbind(1)
    value = views.amax(dim=1)
    chroma = value - views.amin(dim=1)
    divisor = chroma.clamp(min=1e-9)  # gray has no hue; its chroma of 0 keeps it gray below
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # A channel is at its lowest for two sixths of the circle, opposite of its own colour.
    offsets = torch.tensor([5.0, 3.0, 1.0], device=views.device).view(3, 1, 1)
    around = (offsets + sixths[:, None] + 6 * turns) % 6
    lowered = torch.minimum(around, 4 - around).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * lowered


def _rows(chosen: Tensor, device: torch.device) -> Tensor:
    """Indices of what is chosen; found on the CPU, so that the device need not be waited for."""
    return chosen.nonzero()[:, 0].to(device, non_blocking=True)
