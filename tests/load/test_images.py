"""Files as they come: cut, damaged, in odd folders."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alphareq_lightning import DataError
from alphareq_lightning.errors import ImageWarning
from alphareq_lightning.load.images import ImageFiles, find_images
from alphareq_lightning.recipes import DigitsDataModule, ImageFolderDataModule


def write_image(path, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def huge_png():
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.jpg", b"not an image"),
        ("header.pgm", b"P5\n6&\n"),
        ("short.pgm", b"P5\n"),
        ("huge.png", huge_png()),
    ],
)
def test_whatever_pillow_says_an_unreadable_file_is_one_warning(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.warns(ImageWarning, match=rf"left out an unreadable image, .*{name}") as caught:
        image, _ = ImageFiles([path])[0]
    assert image is None
    assert len(caught) == 1


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp"])
def test_a_cut_file_is_unreadable(tmp_path, extension):
    path = tmp_path / f"image.{extension}"
    write_image(path, size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(ImageWarning, match=path.name):
        assert ImageFiles([path])[0][0] is None


def test_a_folder_named_like_an_image_is_no_image(tmp_path):
    write_image(tmp_path / "odd.jpg" / "inside.png")
    assert [path.name for path in find_images(tmp_path)[0]] == ["inside.png"]


def test_a_class_missing_on_one_side_does_not_shift_the_labels(tmp_path):
    for side, classes in {"train": "abc", "test": "bc"}.items():
        for name in classes:
            for i in range(3):
                write_image(tmp_path / side / name / f"{i}.png")
    data = ImageFolderDataModule(str(tmp_path), image_size=8, batch_size=4)
    meaning = [
        {(path.parent.name, label) for path, label in zip(s.paths, s.labels, strict=True)}
        for s in (side.dataset for side in data.readout_datasets())
    ]
    assert meaning == [{("a", 0), ("b", 1), ("c", 2)}, {("b", 1), ("c", 2)}]


def test_no_validation_batch_is_a_single_image(tmp_path):
    for i in range(40):
        write_image(tmp_path / f"{i}.png")
    data = ImageFolderDataModule(str(tmp_path), image_size=8, batch_size=8, holdout=17 / 40)
    data.setup("fit")
    assert [len(first) for first, _ in data.val_dataloader()] == [8, 8]
    assert sum(len(images) for images in data.alpha_dataloader()) == 17


def test_one_held_out_image_is_too_few(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="at least 2 held-out images, got 1"):
        ImageFolderDataModule(str(tmp_path), batch_size=4).setup("fit")


def test_sizes_below_two():
    with pytest.raises(DataError, match="batch_size >= 2, got 1"):
        DigitsDataModule(batch_size=1)
    with pytest.raises(DataError, match="max_train >= 2, got -3"):
        ImageFolderDataModule("anywhere", max_train=-3)
