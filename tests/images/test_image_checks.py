"""What calibration and evaluation images must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_export import demo
from squeeze_export.core import CAFFE, TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.images.checks import NOISE_CORRELATION, check_calibration, check_overlap, neighbour_correlation
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream

DEMO = replace(TORCHVISION, resize_px=96, crop_px=96)


def images(count: int) -> tuple[np.ndarray, list[Path]]:
    blocks = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    pixels = blocks.repeat(4, axis=1).repeat(4, axis=2)  # (count, 8, 8, 3)
    return pixels, [Path(f"{i}.png") for i in range(count)]


def test_enough_different_images_pass():
    assert check_calibration(*images(100)) == ()


def test_few_images_are_a_warning_and_too_few_an_error():
    assert check_calibration(*images(16)) == ("`16` calibration images are few: ranges are steadier with 100 or more",)
    with pytest.raises(BadInput, match="`15` calibration images are too few") as caught:
        check_calibration(*images(15))
    assert "16" in str(caught.value.hint)
    with pytest.raises(BadInput, match="`15` calibration images are too few, without the `2` that were left out"):
        check_calibration(*images(15), left_out=2)


@pytest.mark.parametrize("kind", ["black", "red", "faint noise"])
def test_constant_images_are_refused(kind):
    pixels, files = images(20)
    for index in (4, 9):
        pixels[index] = [200, 0, 3] if kind == "red" else 0
    if kind == "faint noise":
        pixels[4, ::2], pixels[9, :, ::2] = 1, 1  # a standard deviation of half a step
    with pytest.raises(BadInput, match=r"`2` of `20` calibration images show a single colour, the first is `4.png`"):
        check_calibration(pixels, files)


def test_one_bright_row_is_enough_to_be_an_image():
    pixels, files = images(20)
    pixels[4] = 0
    pixels[4, 1, :, 2] = 255  # between the pixels that the quick look samples
    check_calibration(pixels, files)


def saved_noise(file: Path, side: int, draw: np.random.Generator, **settings: object) -> None:
    Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(file, **settings)


@pytest.mark.parametrize("preprocess", [TORCHVISION, CAFFE, DEMO, replace(DEMO, resize_px=36, crop_px=32)], ids=lambda p: p.crop_px)
def test_noise_is_refused_whatever_file_it_comes_in(preprocess, tmp_path):
    draw = np.random.default_rng(0)
    for index, side in enumerate((preprocess.crop_px, preprocess.resize_px, 300, 512)):
        for copy in range(2):
            saved_noise(tmp_path / f"{index}{copy}.png", side, draw)
            saved_noise(tmp_path / f"{index}{copy}.jpg", side, draw, quality=60 + 30 * copy)
    grey = draw.integers(0, 256, (400, 400), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    batch, _ = ImageStream(open_calibration(tmp_path), preprocess).load()
    with pytest.raises(
        BadInput, match=r"`17` of `17` calibration images are noise, .* correlation of `-?0\.\d\d`, below 0.45"
    ) as caught:
        check_calibration(batch.pixels, batch.files)
    assert str(caught.value.hint).startswith("remove them")


def test_one_noise_image_is_named():
    pixels, files = images(20)
    pixels[7] = np.random.default_rng(2).integers(0, 256, (8, 8, 3))
    with pytest.raises(BadInput, match=r"`1` of `20` calibration images are noise, the first is `7.png`"):
        check_calibration(pixels, files)


def test_texture_in_one_direction_or_at_one_scale_is_no_noise():
    draw = np.random.default_rng(0)
    stripes = np.broadcast_to(draw.integers(0, 256, (64, 1, 1)), (64, 64, 3)).astype(np.uint8)
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    coarse = draw.integers(0, 256, (16, 16, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    for image in (stripes, stripes.transpose(1, 0, 2), checks, coarse):
        assert neighbour_correlation(image) >= NOISE_CORRELATION


def test_neighbour_correlation_by_hand():
    row = np.array([0, 0, 200, 200, 0, 0, 200, 200], np.uint8)
    image = np.broadcast_to(row[None, :, None], (8, 8, 3))
    assert neighbour_correlation(image) == pytest.approx(1.0)  # along the columns: every row is alike
    assert neighbour_correlation(np.broadcast_to(row[:1], (8, 8, 3))) == 1.0


def test_the_drawn_images_are_no_noise():
    for folder in (demo.calibration_folder(), demo.evaluation_folder()):
        batch, _ = ImageStream(open_calibration(folder), DEMO).load()
        assert min(map(neighbour_correlation, batch.pixels)) >= NOISE_CORRELATION


def test_overlap():
    check_overlap(["a", "b"], ["c", "d"])
    check_overlap([], [])
    with pytest.raises(BadInput, match=r"evaluation images are calibration images too: at least `2`, .* `y.png`") as caught:
        check_overlap(iter(["a", "b"]), ["c", "b", "a"], [Path("x.png"), Path("y.png"), Path("z.png")])
    assert "--eval" in str(caught.value.hint)
    with pytest.raises(BadInput, match="the first is `b`"):
        check_overlap(["a", "b"], ["c", "b"])


def test_the_photographs_pass(assets: Path):
    batch, _ = ImageStream(open_calibration(assets / "images" / "calib"), TORCHVISION).load()
    assert check_calibration(batch.pixels, batch.files) == ()
