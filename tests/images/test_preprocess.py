"""Decoding, orientation and geometry."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from squeeze_export.core import CAFFE, TORCHVISION, Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.images import preprocess as preprocess_module
from squeeze_export.images.preprocess import (
    READS_AVIF,
    BrokenImage,
    crop_offset,
    decode,
    load_pixels,
    read_image_bytes,
    resized_size,
)

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
SMALL = Preprocess(8, 6, "bilinear", "rgb", (0, 0, 0), (1, 1, 1))


def read_upright(path: Path) -> Image.Image:
    return decode(io.BytesIO(path.read_bytes()), path)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


def plain(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """torchvision's Resize and CenterCrop, written from its source: the whole image is resized, then cropped."""
    height, width = pixels.shape[:2]
    short, long = min(width, height), max(width, height)
    new_short, new_long = preprocess.resize_px, int(preprocess.resize_px * long / short)
    size = (new_short, new_long) if width <= height else (new_long, new_short)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[preprocess.interpolation.upper()]))
    height, width = preprocess.crop_px, preprocess.width_px or preprocess.crop_px
    top = int(round((resized.shape[0] - height) / 2.0))  # noqa: RUF046 - as torchvision has it
    left = int(round((resized.shape[1] - width) / 2.0))  # noqa: RUF046
    return resized[top : top + height, left : left + width]


def triangle(source: int, resized: int) -> np.ndarray:
    """(resized, source) float64: the bilinear filter widened by the scale, edges left out; needs no Pillow."""
    scale = source / resized
    centres = (np.arange(resized)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(source) + 0.5 - centres) / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@settings(max_examples=30)
@given(width=st.integers(20, 300), height=st.integers(20, 300), spare=st.integers(0, 31), seed=st.integers(0, 9))
def test_geometry_without_pillow(width, height, spare, seed):
    """Within two steps: Pillow rounds after each of its two passes."""
    resize, crop = 64, 64 - spare
    pixels = noise(height, width, seed)
    new_width, new_height = (64, int(64 * height / width)) if width <= height else (int(64 * width / height), 64)
    exact = np.einsum("hy,wx,yxc->hwc", triangle(height, new_height), triangle(width, new_width), pixels, optimize=True)
    top, left = round((new_height - crop) / 2), round((new_width - crop) / 2)
    loaded = load_pixels(png(pixels), Preprocess(resize, crop, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)))
    assert np.abs(loaded - exact[top : top + crop, left : left + crop]).max() < 2


@settings(max_examples=60)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    resize=st.sampled_from([32, 48, 57, 64, 128]),
    spare=st.integers(0, 31),
    interpolation=st.sampled_from(FILTERS),
    seed=st.integers(0, 9),
)
def test_pixels_equal_the_whole_resize_and_crop(width, height, resize, spare, interpolation, seed):
    width, height = max(width, height // 20 + 1), max(height, width // 20 + 1)  # keeps the reference small
    preprocess = Preprocess(resize, resize - spare, interpolation, "rgb", (0, 0, 0), (1, 1, 1))
    pixels = noise(height, width, seed)
    np.testing.assert_array_equal(load_pixels(png(pixels), preprocess), plain(pixels, preprocess))


@pytest.mark.parametrize("preprocess", [TORCHVISION, CAFFE], ids=["torchvision", "caffe"])
@pytest.mark.parametrize("shape", [(299, 299), (375, 500), (640, 427), (100, 100), (256, 256)])
def test_pixels_equal_the_whole_resize_at_the_networks_sizes(preprocess, shape):
    pixels = noise(*shape)
    loaded = load_pixels(png(pixels), preprocess)
    assert loaded.dtype == np.uint8
    assert loaded.shape == (preprocess.crop_px, preprocess.crop_px, 3)
    np.testing.assert_array_equal(loaded, plain(pixels, preprocess))


def test_bilinear_by_hand():
    """Halving an image averages pixels with the weights 1 3 3 1 of a triangle of radius 2, those outside left out."""
    row = np.array([0, 80, 160, 240], np.uint8)
    pixels = np.broadcast_to(row[None, :, None], (4, 4, 3)).copy()
    expected = [(3 * 0 + 3 * 80 + 1 * 160) / 7, (1 * 80 + 3 * 160 + 3 * 240) / 7]
    loaded = load_pixels(png(pixels), Preprocess(2, 2, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)))
    np.testing.assert_array_equal(loaded, np.broadcast_to(np.round(expected)[None, :, None], (2, 2, 3)))


@given(width=st.integers(1, 10**5), height=st.integers(1, 10**5), resize=st.integers(1, 1024))
def test_the_short_side_is_exact_and_the_long_side_rounds_down(width, height, resize):
    new_width, new_height = resized_size(width, height, replace(SMALL, resize_px=resize))
    assert min(new_width, new_height) == resize
    exact = resize * max(width, height) / min(width, height)
    assert max(new_width, new_height) == math.floor(exact)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (200, 31)])
@pytest.mark.parametrize("crop", [(24, 40), (40, 24), (32, 32)])
def test_a_crop_may_have_any_shape(shape, crop):
    pixels, preprocess = noise(*shape), replace(SMALL, resize_px=40, crop_px=crop[0], width_px=crop[1])
    found = load_pixels(png(pixels), preprocess)
    assert found.shape == (*crop, 3)
    np.testing.assert_array_equal(found, plain(pixels, preprocess))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
@pytest.mark.parametrize(("resize", "size"), [(24, (24, 40)), (48, (48, 80)), (36, (36, 60))])
def test_a_stretched_image_has_the_crops_ratio(shape, resize, size):
    """torchvision's `Resize((height, width))`; what is larger than the crop is cut off all round alike."""
    pixels, preprocess = noise(*shape), replace(SMALL, resize_px=resize, crop_px=24, width_px=40, resize_mode="stretch")
    whole = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    top, left = (size[0] - 24) // 2, (size[1] - 40) // 2
    found = load_pixels(png(pixels), preprocess)
    np.testing.assert_array_equal(found, whole[top : top + 24, left : left + 40])
    assert (found != load_pixels(png(pixels), replace(preprocess, resize_px=48, resize_mode="short-side"))).any()


def test_grey_is_pillows_luma_before_anything_else():
    preprocess = replace(SMALL, channel_order="gray", mean=(0.0,), std=(1.0,))
    pixels = noise(20, 30)
    found = load_pixels(png(pixels), preprocess)
    assert found.shape == (6, 6, 1)
    np.testing.assert_array_equal(found[..., 0], plain(np.asarray(Image.fromarray(pixels).convert("L")), preprocess))
    grey = noise(20, 30)[..., 0]  # an image that is grey already keeps its values
    np.testing.assert_array_equal(load_pixels(png(grey), preprocess)[..., 0], plain(grey, preprocess))


@pytest.mark.parametrize(
    ("preprocess", "says"),
    [
        (replace(SMALL, width_px=9), "the short side is resized to `8` px, less than the crop of `6 x 9` px"),
        (replace(SMALL, width_px=0), "a crop of `6 x 0` px has no pixels"),
        (replace(SMALL, resize_px=5, resize_mode="stretch"), "the height is resized to `5` px, less than the crop"),
        (replace(SMALL, resize_mode="fit"), "unknown resize mode"),
        (replace(SMALL, channel_order="gray"), "`3` numbers for --mean; the network's images have `1` channel"),
        (replace(SMALL, std=(1.0,)), "`1` numbers for --std; the network's images have `3` channels"),
    ],
)
def test_preprocessing_that_contradicts_itself_is_refused(preprocess, says):
    with pytest.raises(BadInput, match=says):
        load_pixels(png(noise(20, 20)), preprocess)


@given(crop=st.integers(1, 500), spare=st.integers(0, 500))
def test_the_crop_is_central_and_inside(crop, spare):
    offset = crop_offset(crop + spare, crop)
    assert 0 <= offset <= spare
    assert abs(offset - spare / 2) <= 0.5


def test_odd_margins_go_to_the_even_neighbour():
    assert [crop_offset(256, 227), crop_offset(258, 227), crop_offset(255, 224)] == [14, 16, 16]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation):
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[:4, :6] = 255  # the upper left quarter is white
    undo = {  # how a camera that writes this orientation stores an upright scene
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(undo[orientation](upright))).save(path, exif=exif)
    np.testing.assert_array_equal(np.asarray(read_upright(path)), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode):
    image = Image.fromarray(noise(10, 14)).convert(mode)
    path = tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path)
    upright = read_upright(path)
    assert upright.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(image.convert("RGB")))
    assert load_pixels(path, SMALL).shape == (6, 6, 3)


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_jpeg_in_cmyk_or_grey_keeps_its_colours(tmp_path: Path, mode):
    """Adobe's CMYK in JPEG is inverted, and so is Pillow's; whoever misses it gets the negative."""
    smooth = np.stack([*np.meshgrid(np.linspace(40, 200, 32), np.linspace(60, 220, 32)), np.full((32, 32), 120.0)], axis=-1)
    image = Image.fromarray(smooth.astype(np.uint8))
    image.convert(mode).save(tmp_path / "x.jpg", quality=95)
    expected = np.asarray(image.convert(mode).convert("RGB")).astype(int)
    assert np.abs(np.asarray(read_upright(tmp_path / "x.jpg")) - expected).max() < 12
    assert np.abs(255 - expected - expected).max() > 100  # the negative is far off


def png_of_16_bits(kind: int, values: np.ndarray) -> bytes:
    """PNG of big-endian 16-bit samples; colour type 0 is grey, 2 is RGB (PNG specification, 11.2.2)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    told = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + told


def test_a_png_of_16_bits_keeps_the_upper_8_in_colour_and_is_refused_in_grey(tmp_path: Path):
    colour = np.random.default_rng(0).integers(0, 65536, (9, 11, 3), np.uint16)
    found = decode(io.BytesIO(png_of_16_bits(2, colour)), "x")
    np.testing.assert_array_equal(np.asarray(found), colour >> 8)
    with pytest.raises(BrokenImage, match="not 8 bits"):
        decode(io.BytesIO(png_of_16_bits(0, colour[..., 0])), "x")


def test_a_jpeg_that_lacks_its_end_is_broken_not_half_grey(tmp_path: Path):
    file = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(file, "JPEG")
    decode(io.BytesIO(file.getvalue()), "x")
    for length in (len(file.getvalue()) // 2, len(file.getvalue()) - 300):
        with pytest.raises(BrokenImage, match=r"truncated|bytes not processed|broken"):
            decode(io.BytesIO(file.getvalue()[:length]), "x")


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["index", "table"])
def test_a_transparent_palette_keeps_its_colours(tmp_path: Path, transparency):
    image = Image.fromarray(noise(10, 14)).convert("P")
    image.save(tmp_path / "x.png", transparency=transparency)
    np.testing.assert_array_equal(np.asarray(read_upright(tmp_path / "x.png")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "MPO", "AVIF"])
def test_formats(tmp_path: Path, format_name):
    if format_name == "AVIF" and not READS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    smooth = np.broadcast_to(np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], (32, 32, 3))
    path = tmp_path / "any.jpg"  # the content decides, not the suffix
    Image.fromarray(np.ascontiguousarray(smooth)).save(path, format_name)
    assert np.abs(np.asarray(read_upright(path)).astype(int) - smooth).max() < 12


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused_since_pillow_would_clip_them(tmp_path: Path, dtype):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((9, 9), 4000, dtype)).save(path)
    with pytest.raises(BrokenImage, match="not 8 bits"):
        read_upright(path)


def test_a_closed_list_of_formats(tmp_path: Path):
    path = tmp_path / "x.jpg"
    Image.fromarray(noise(9, 9)).save(path, "EPS")
    with pytest.raises(BrokenImage, match="not one of JPEG, PNG") as caught:
        load_pixels(path, SMALL)
    assert caught.value.message.startswith(f"`{path}` cannot be read as an image (")
    assert caught.value.hint


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "folder"])
def test_broken_files(tmp_path: Path, damage):
    path = tmp_path / "x.jpg"
    if damage == "truncated":
        Image.fromarray(noise(64, 64)).save(path)
        path.write_bytes(path.read_bytes()[:-900])
    elif damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_text("" if damage == "empty" else "not an image")
    with pytest.raises(BrokenImage) as caught:
        load_pixels(path, SMALL)
    assert "\n" not in caught.value.message
    assert "0x" not in caught.value.reason  # no memory address of a buffer


FUZZED = ["JPEG", "PNG", "GIF", "BMP", "WEBP", *(["AVIF"] if READS_AVIF else [])]


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_raises_only_broken_image(data):
    file = io.BytesIO()
    Image.fromarray(noise(12, 12)).save(file, data.draw(st.sampled_from(FUZZED)))
    content = bytearray(file.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        pixels = load_pixels(io.BytesIO(bytes(content)), SMALL)
    except BrokenImage:
        return
    assert pixels.shape == (6, 6, 3)


def bitmap_header(width: int, height: int) -> io.BytesIO:
    """A BMP that claims a size and holds nothing."""
    return io.BytesIO(b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("side", [9_459, 9_460, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    """Just under the limit the file is only truncated; above it, Pillow warns or raises, and so do we."""
    with pytest.raises(BrokenImage) as caught:
        load_pixels(bitmap_header(side, side), SMALL)
    assert ("truncated" in caught.value.reason) == (side == 9_459)


def test_the_limit_is_ours_too(monkeypatch):
    monkeypatch.setattr(preprocess_module, "MAX_PIXELS", 99)
    with pytest.raises(BrokenImage, match="10 x 10 pixels, above the limit of 99"):
        load_pixels(png(noise(10, 10)), SMALL)


def test_a_thread_of_pixels_does_not_become_a_giant():
    with pytest.raises(BrokenImage, match="1 x 200000 pixels would be resized to 256 x 51200000"):
        load_pixels(png(np.zeros((200_000, 1, 3), np.uint8)), TORCHVISION)


def test_a_huge_file_is_not_read_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(preprocess_module, "MAX_FILE_BYTES", 10)
    (tmp_path / "x.jpg").write_bytes(bytes(11))
    with pytest.raises(BrokenImage, match="above the limit of 10 bytes"):
        read_image_bytes(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (Preprocess(5, 6, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)), "resized to `5` px, less than the crop of `6` px"),
        (Preprocess(5, 0, "bilinear", "rgb", (0, 0, 0), (1, 1, 1)), "crop of `0` px"),
        (Preprocess(8, 6, "area", "rgb", (0, 0, 0), (1, 1, 1)), "unknown interpolation `area`"),
    ],
)
def test_preprocessing_that_cannot_be_done(change, match):
    with pytest.raises(BadInput, match=match) as caught:
        load_pixels(png(noise(9, 9)), change)
    assert not isinstance(caught.value, BrokenImage)
    assert caught.value.hint


def test_a_real_photograph(assets: Path):
    path = sorted((assets / "images" / "calib").iterdir())[0]
    np.testing.assert_array_equal(load_pixels(path, CAFFE), plain(np.asarray(Image.open(path).convert("RGB")), CAFFE))
