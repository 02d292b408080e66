"""What calibration and evaluation images must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from squeeze_export.core import TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.images.checks import check_calibration, check_overlap
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import load_all


def images(count: int) -> tuple[np.ndarray, list[Path], list[str]]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return pixels, [Path(f"{i}.png") for i in range(count)], [f"{i:064x}" for i in range(count)]


def test_enough_different_images_pass():
    assert check_calibration(*images(100)) == ()


def test_few_images_are_a_warning_and_too_few_an_error():
    assert check_calibration(*images(16)) == ("`16` calibration images are few: ranges are steadier with 100 or more",)
    with pytest.raises(BadInput, match="`15` calibration images are too few") as caught:
        check_calibration(*images(15))
    assert "16" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["black", "red", "faint noise"])
def test_constant_images_are_refused(kind):
    pixels, files, hashes = images(20)
    for index in (4, 9):
        pixels[index] = [200, 0, 3] if kind == "red" else 0
    if kind == "faint noise":
        pixels[4, ::2], pixels[9, :, ::2] = 1, 1  # a standard deviation of half a step
    with pytest.raises(BadInput, match=r"`2` of `20` calibration images show a single colour, the first is `4.png`"):
        check_calibration(pixels, files, hashes)


def test_one_bright_row_is_enough_to_be_an_image():
    pixels, files, hashes = images(20)
    pixels[4] = 0
    pixels[4, 1, :, 2] = 255  # between the pixels that the quick look samples
    check_calibration(pixels, files, hashes)


def test_duplicates_by_file():
    pixels, files, hashes = images(20)
    hashes[7] = hashes[3]
    hashes[9] = hashes[3]
    with pytest.raises(BadInput, match=r"`2` of `20` calibration images are duplicates: `7.png` is the same file as `3.png`"):
        check_calibration(pixels, files, hashes)


def test_duplicates_by_pixels():
    pixels, files, hashes = images(20)
    pixels[19] = pixels[0]
    with pytest.raises(BadInput, match=r"`1` of `20` .*: `19.png` is the same pixels as `0.png`") as caught:
        check_calibration(pixels, files, hashes)
    assert caught.value.hint


def test_overlap():
    check_overlap(["a", "b"], ["c", "d"])
    check_overlap([], [])
    with pytest.raises(BadInput, match=r"`2` of `3` evaluation images are calibration images too, .* `y.png`") as caught:
        check_overlap(iter(["a", "b"]), ["c", "b", "a"], [Path("x.png"), Path("y.png"), Path("z.png")])
    assert "--eval" in str(caught.value.hint)
    with pytest.raises(BadInput, match="the first is `b`"):
        check_overlap(["a", "b"], ["c", "b"])


def test_the_photographs_pass(assets: Path):
    batch, _ = load_all(open_calibration(assets / "images" / "calib"), TORCHVISION)
    assert check_calibration(batch.pixels, batch.files, batch.hashes) == ()
