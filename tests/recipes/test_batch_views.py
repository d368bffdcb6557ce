"""Views of a batch against torchvision's views of one image: the same in distribution.

Random numbers are drawn in another order, so views cannot be compared one by one. What is drawn is
compared by its moments, within 4.5 standard errors of the two samples (by chance once in 150,000
times; the seeds are fixed). What is done with it is compared exactly.
"""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from alphareq_lightning.recipes import barlow_twins_view
from alphareq_lightning.recipes import batch_views as batched
from alphareq_lightning.recipes.views import digit_view, plain_view

ERRORS = 4.5
PIXEL = 1 / 255
"""Pillow rounds to whole values after each step; torch here does not."""


def same_moments(found, expected, slack=0.0):
    """Means and standard deviations of the columns of two samples."""
    found, expected = (torch.as_tensor(x, dtype=torch.float64) for x in (found, expected))
    for of in (lambda x: x, lambda x: (x - x.mean(0)).square()):
        one, other = of(found), of(expected)
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
        difference = (one.mean(0) - other.mean(0)).abs()
        # What does not vary at all is the same but for float64 rounding.
        assert (difference <= ERRORS * error + slack + 1e-12).all(), (difference / error).tolist()


def photo(seed=0, size=(32, 32)):
    """An image with structure at all scales and with colours."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(3, *size)
    for cells in (2, 5, 13, 32):
        cell = torch.rand(1, 3, cells, cells, generator=generator)
        image += torch.nn.functional.interpolate(cell, size, mode="bilinear")[0]
    return (image / image.amax() * 255).round().byte()


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.6, 1.0)])
@pytest.mark.parametrize("size", [(32, 32), (20, 60), (90, 10)])
def test_crops_are_drawn_as_torchvision_draws_them(size, scale):
    torch.manual_seed(0)
    drawn = batched.draw_crops(20000, *size, scale).T
    theirs = v2.RandomResizedCrop(16, scale=scale)
    image = torch.zeros(3, *size)
    expected = [theirs.make_params([image]) for _ in range(4000)]
    expected = torch.tensor([[p[k] for k in ("top", "left", "height", "width")] for p in expected])

    def describe(crops):
        top, left, height, width = crops.double().T
        share = height * width / math.prod(size)
        return torch.stack([top, left, height, width, share, (width / height).log()], dim=1)

    same_moments(describe(drawn), describe(expected))
    assert (drawn[:, :2] >= 0).all()
    assert (drawn[:, 0] + drawn[:, 2] <= size[0]).all()
    assert (drawn[:, 1] + drawn[:, 3] <= size[1]).all()


@pytest.mark.parametrize(("out", "size"), [(16, (32, 32)), (24, (40, 20)), (8, (64, 64))])
def test_a_crop_is_resized_as_torchvision_resizes_it(out, size):
    torch.manual_seed(0)
    crops = batched.draw_crops(20, *size, (0.08, 1.0))
    image = photo(size=size)
    down = batched.resampling(crops[0], crops[2], size[0], out)
    across = batched.resampling(crops[1], crops[3], size[1], out)
    ours = down[:, None] @ (image.float() / 255) @ across[:, None].mT
    for index, (top, left, height, width) in enumerate(crops.int().T.tolist()):
        box = (top, left, height, width, [out, out])
        theirs = F.resized_crop(image.float() / 255, *box, antialias=True)
        # Float32 sums of at most 64 × 64 weights.
        torch.testing.assert_close(ours[index], theirs, rtol=0, atol=1e-5)
        of_pillow = F.pil_to_tensor(F.resized_crop(F.to_pil_image(image), *box)) / 255
        # Rounded to whole values twice, and its weights to 22 bits.
        assert (ours[index] - of_pillow).abs().max() <= 1.1 * PIXEL


COLOURS = torch.cat([torch.rand(60, 3, 4, 4), torch.full((1, 3, 4, 4), 0.3)])
COLOURS[60, 0] = torch.tensor([0.0, 1.0, 0.3, 0.7])  # ties between channels, black and white


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (batched.brightness, F.adjust_brightness, 0.6, 1.4),
        (batched.contrast, F.adjust_contrast, 0.6, 1.4),
        (batched.saturation, F.adjust_saturation, 0.6, 1.4),
        (batched.turn_hue, F.adjust_hue, -0.1, 0.1),
    ],
)
def test_a_change_of_colour_is_that_of_torchvision(ours, theirs, low, high):
    factors = torch.linspace(low, high, len(COLOURS))
    changed = ours(COLOURS.clone(), factors[:, None, None, None])
    for one, image, factor in zip(changed, COLOURS, factors.tolist(), strict=True):
        # A few float32 operations on values up to 1; a hue is a quotient of differences.
        torch.testing.assert_close(one, theirs(image, factor), rtol=0, atol=2e-5)


def statistics(views):
    """Mean, contrast, colour and direction of each view."""
    red, green, blue = views.unbind(1)
    left, right = views.mean(dim=(1, 2)).tensor_split(2, dim=1)
    return torch.stack(
        [
            *views.mean(dim=(2, 3)).unbind(1),
            views.std(dim=(1, 2, 3)),
            (red - green).mean(dim=(1, 2)),
            (blue - green).abs().mean(dim=(1, 2)),
            left.mean(1) - right.mean(1),
        ],
        dim=1,
    )


def is_gray(views):
    apart = views - views.mean(dim=1, keepdim=True)
    return (apart.abs().amax(dim=(1, 2, 3)) < 1e-3).double()[:, None]


def products(colours):
    return (colours[:, :, None] * colours[:, None]).flatten(1)


def views_of(image, view, count):
    """Many views of one image: by the batch and one by one."""
    torch.manual_seed(1)
    together = torch.cat([view.batch(image.expand(1000, *image.shape)) for _ in range(count)])
    one = F.to_pil_image(image)
    return together, torch.stack([view(one) for _ in range(3000)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop_scale": (0.5, 1.0), "flip": 0.0, "jitter": 0.0, "grayscale": 0.0},
        {"crop_scale": (1.0, 1.0), "flip": 0.3, "jitter": 0.0, "grayscale": 0.0},
        {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter": 1.0, "grayscale": 0.0},
        {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter": 0.2, "grayscale": 0.7},
    ],
)
def test_views_of_a_batch_have_the_moments_of_views_one_by_one(options):
    view = barlow_twins_view(16, mean=[0.0] * 3, std=[1.0] * 3, **options)
    together, one_by_one = views_of(photo(), view, 6)
    # Up to six roundings to whole values, each of at most half a value on the average.
    same_moments(statistics(together), statistics(one_by_one), slack=3 * PIXEL / 2)
    shares = [
        ((v - v.mean(1, keepdim=True)).abs().amax(dim=(1, 2, 3)) < 1e-3).double()
        for v in (together, one_by_one)
    ]
    same_moments(shares[0][:, None], shares[1][:, None])  # how many are gray


def test_colours_of_a_plain_image_have_the_moments_of_colours_one_by_one():
    """No crop or flip changes a plain image: all that varies is the change of colour."""
    image = torch.tensor([200, 120, 60], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    view = barlow_twins_view(8, mean=[0.0] * 3, std=[1.0] * 3)
    together, one_by_one = (v[:, :, 0, 0] for v in views_of(image.contiguous(), view, 20))
    pairs = [
        torch.stack([v[:, i] * v[:, j] for i in range(3) for j in range(i + 1)], 1)
        for v in (together, one_by_one)
    ]
    same_moments(together, one_by_one, slack=3 * PIXEL / 2)
    same_moments(pairs[0], pairs[1], slack=3 * PIXEL)
    untouched = (together * 255 - torch.tensor([200.0, 120.0, 60.0])).abs().amax(1) < 1e-3
    # Neither jittered (.8) nor gray (.2).
    expected = 0.2 * 0.8
    error = math.sqrt(expected * (1 - expected) / len(together))
    assert abs(untouched.double().mean().item() - expected) < ERRORS * error


def test_images_of_a_batch_are_changed_independently():
    view = barlow_twins_view(8)
    torch.manual_seed(0)
    views = view.batch(photo().expand(4000, 3, 32, 32))
    rows = statistics(views)
    even, odd = rows[::2], rows[1::2]
    for column in range(rows.shape[1]):
        correlation = np.corrcoef(even[:, column], odd[:, column])[0, 1]
        assert abs(correlation) < ERRORS / math.sqrt(len(even))


def test_each_image_has_its_colours_changed_in_an_order_of_its_own(monkeypatch):
    for digit, name in enumerate(("brightness", "contrast", "saturation", "turn_hue"), start=1):
        mark = lambda views, factor, digit=digit: views * 10 + digit  # noqa: E731
        monkeypatch.setattr(batched, name, mark)
    torch.manual_seed(0)
    marks = torch.zeros(9600, 3, 1, 1)
    batched.jitter_(marks, torch.arange(9600) % 4 > 0)
    orders, counts = marks[:, 0, 0, 0].unique(return_counts=True)
    assert [sorted(str(int(order))) for order in orders] == [["0"], *[list("1234")] * 24]
    assert counts[0] == 2400
    # 7,200 images in 24 orders.
    assert (counts[1:] - 300).abs().max() < ERRORS * math.sqrt(300)


def test_a_seed_gives_the_same_views_and_the_images_stay_as_they_are():
    images = torch.stack([photo(i) for i in range(4)])
    before = images.clone()
    views = []
    for _ in range(2):
        torch.manual_seed(3)
        views.append(barlow_twins_view(16).batch(images))
    assert torch.equal(views[0], views[1])
    assert torch.equal(images, before)


def test_digits_of_a_batch_have_the_moments_of_digits_one_by_one():
    digit = torch.zeros(3, 16, 16, dtype=torch.uint8)
    digit[:, 3:12, 4:7] = 250
    digit[:, 10:13, 4:12] = 120
    view = digit_view()
    torch.manual_seed(0)
    together = view.batch(digit.expand(12000, 3, 16, 16))
    one_by_one = torch.stack([view(digit) for _ in range(3000)])

    def describe(views):
        gray = (views.mean(1) + 1) / 2
        total = gray.sum(dim=(1, 2))
        along = torch.arange(16.0)
        x = (gray * along).sum(dim=(1, 2)) / total
        y = (gray * along[:, None]).sum(dim=(1, 2)) / total
        xy = (gray * (along - x[:, None, None]) * (along[:, None] - y[:, None, None])).sum(
            dim=(1, 2)
        ) / total
        xx = (gray * (along - x[:, None, None]).square()).sum(dim=(1, 2)) / total
        black = (gray < 0.02).double().mean(dim=(1, 2))
        return torch.stack([total, x, y, xx, xy, gray[:, 6, 5], gray[:, 0, 0], black], dim=1)

    same_moments(describe(together), describe(one_by_one))


@pytest.mark.parametrize(
    ("degrees", "shear", "factor", "shift"), [(15, 0, 1.0, 0), (0, 10, 1.0, 0), (9, 7, 1.2, 0)]
)
def test_a_turn_is_that_of_torchvision(monkeypatch, degrees, shear, factor, shift):
    image = photo(size=(16, 16))
    drawn = iter([degrees, shear, shift, factor])

    def give(self, low, high):
        return self.fill_(next(drawn)) if len(self.shape) != 2 else self.fill_((low + high) / 2)

    monkeypatch.setattr(torch.Tensor, "uniform_", give)
    options = {"degrees": 15, "translate": 0.1, "scale": (0.8, 1.2), "shear": 10}
    nothing = {"erase": 0.0, "erase_scale": (0.02, 0.1), "noise": 0.0}
    [ours] = batched.turn_and_erase(image[None], **options, **nothing)
    theirs = F.affine(
        image.float() / 255,
        degrees,
        [shift, shift],
        factor,
        [shear, 0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    # Two ways to the same coordinates in float32, on an image that changes by up to 1 a pixel.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_plain_views_are_those_of_one_image(size):
    images = torch.stack([photo(i, size) for i in range(3)])
    view = plain_view(16, mean=[0.0] * 3, std=[1.0] * 3)
    for ours, image in zip(view.batch(images), images, strict=True):
        assert (ours - view(F.to_pil_image(image))).abs().max() <= 1.1 * PIXEL


def test_views_go_to_worker_processes():
    view = pickle.loads(pickle.dumps(barlow_twins_view(8)))
    assert view.batch(photo()[None]).shape == view(Image.new("RGB", (9, 9)))[None].shape
