"""From an image file to the pixels that the network sees: decoded, upright, resized, cropped.

The geometry is torchvision's (`transforms.Resize(resize_px)`, then `transforms.CenterCrop(crop_px)`, both on Pillow images), so
that a checkpoint trained with torchvision meets the pixels it was trained for; `stretch` is `transforms.Resize((height, width))`.
Mean, standard deviation and channel order are not applied here: the graph has them in it (`graph.pixels`).

Three shortcuts were measured and left out, since each changes pixels: JPEG draft mode, `reducing_gap`, and resizing only the
box that the crop keeps (Pillow takes its edges as float32, and from version 13 on may swap the two passes because of it).
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from squeeze_export.core import Preprocess, ResizeMode
from squeeze_export.errors import BadInput
from squeeze_export.images.names import shown

if TYPE_CHECKING:
    from squeeze_export.core import ByteArray

# Above this size Pillow itself warns of a decompression bomb: 256 MiB as RGB.
MAX_PIXELS = 2**28 // 3
MAX_FILE_BYTES = 2**29

READS_AVIF = "avif" in features.modules and features.check("avif") is True
"""Whether Pillow reads AVIF: from 11.3 on, where it was built with libavif."""
# A closed list: a `.jpg` that is really an EPS must not start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", *(("AVIF",) if READS_AVIF else ()))
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
"""Major brands of ISO media files (ISO/IEC 14496-12, `ftyp`), which phones also store as `.jpg`."""
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What Pillow's decoders were seen to raise on damaged files (half a million mutated ones), and their close kin.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # AVIF's
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class BrokenImage(BadInput):
    """A file that is no usable image.

    Attributes:
        reason: what is wrong with it, without the file's name.
    """

    def __init__(self, name: object, reason: str) -> None:
        super().__init__(f"{shown(name)} cannot be read as an image ({reason})", hint="replace it, or take it out")
        self.reason = reason


def check_preprocess(preprocess: Preprocess) -> None:
    """Refuses a crop that the resized image cannot fill, an unknown filter, and other numbers of means than of channels.

    Raises:
        BadInput: the value is named.
    """
    height, width, channels = preprocess.input_size
    if min(height, width) < 1:
        raise BadInput(f"a crop of `{preprocess.size_text}` px has no pixels", hint="the network's input side, such as 224")
    stretched = preprocess.resize_mode == "stretch"
    least, resized = (height, "height") if stretched else (max(height, width), "short side")
    if preprocess.resize_px < least:
        raise BadInput(
            f"the {resized} is resized to `{preprocess.resize_px}` px, less than the crop of `{preprocess.size_text}` px",
            hint=f"resize to {least} px or more",
        )
    if preprocess.interpolation not in _FILTERS:
        raise BadInput(f"unknown interpolation {shown(preprocess.interpolation)}", hint=f"one of {', '.join(_FILTERS)}")
    if preprocess.resize_mode not in get_args(ResizeMode):
        raise BadInput(f"unknown resize mode {shown(preprocess.resize_mode)}", hint=f"one of {', '.join(get_args(ResizeMode))}")
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != channels:
            raise BadInput(
                f"`{len(values)}` numbers for --{name}; the network's images have `{channels}` channel{'s'[: channels > 1]}"
            )


def read_image_bytes(path: Path) -> bytes:
    """A file's bytes, at most `MAX_FILE_BYTES` of them.

    Raises:
        BrokenImage: the file cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as err:
        raise BrokenImage(path, err.strerror or type(err).__name__) from err
    if len(data) > MAX_FILE_BYTES:
        raise BrokenImage(path, f"above the limit of {MAX_FILE_BYTES:,} bytes")
    return data


def decode(file: IO[bytes], name: object) -> Image.Image:
    """Decodes an image: upright, RGB, 8 bits a channel.

    The EXIF orientation is applied. torchvision's default loader does not, and so sees many photographs from phones sideways;
    apps hand upright pixels to the network, so calibration and validation must too.

    Colour is what Pillow's `convert("RGB")` makes of it: grey is repeated, palettes are looked up, CMYK is converted, alpha is
    dropped. 16-bit and float images are refused, since `convert` would clip them to white. Of an animation, the first frame.

    Args:
        file: a binary file.
        name: what to call it in an error.

    Raises:
        BrokenImage: no image, damaged, more than `MAX_PIXELS`, or more than 8 bits a channel.
    """
    try:
        image: Image.Image = Image.open(file, formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BrokenImage(name, f"{image.width} x {image.height} pixels, above the limit of {MAX_PIXELS:,}")
        if image.mode in ("I", "F") or ";16" in image.mode:
            raise BrokenImage(name, f"pixels of mode {image.mode}, not 8 bits a channel")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same colours as straight to RGB, without Pillow's warning
        return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as err:
        raise BrokenImage(name, f"{_kind(file)}not one of {', '.join(_FORMATS)}") from err
    except _DECODER_ERRORS as err:
        raise BrokenImage(name, " ".join(str(err).split())[:120] or type(err).__name__) from err


def _kind(file: IO[bytes]) -> str:
    """`HEIC inside, ` by the first bytes of such a file, whatever its ending; else nothing."""
    file.seek(0)
    head = file.read(12)
    return f"{kind} inside, " if head[4:8] == b"ftyp" and (kind := _BRANDS.get(head[8:12])) else ""


def resized_size(width_px: int, height_px: int, preprocess: Preprocess) -> tuple[int, int]:
    """(width, height) after resizing.

    The long side is rounded down, as in torchvision's `transforms.functional._compute_resized_output_size`. Stretched, the picture
    has the ratio of the crop.
    """
    resize_px = preprocess.resize_px
    if preprocess.resize_mode == "stretch":
        crop_height, crop_width, _ = preprocess.input_size
        return round(resize_px * crop_width / crop_height), resize_px
    if width_px <= height_px:
        return resize_px, int(resize_px * height_px / width_px)
    return int(resize_px * width_px / height_px), resize_px


def crop_offset(length_px: int, crop_px: int) -> int:
    """First pixel of a centre crop; halves go to the even neighbour, as in torchvision's `center_crop`."""
    return round((length_px - crop_px) / 2)


def fit(image: Image.Image, preprocess: Preprocess, name: object) -> ByteArray:
    """Resizes, then crops the centre.

    Args:
        image: RGB. For a network of one channel Pillow's `convert("L")` makes it grey first.
        preprocess: checked by `check_preprocess`.
        name: what to call the image in an error.

    Returns:
        (H, W, C) uint8 of the network's input size, RGB or grey.

    Raises:
        BrokenImage: so thin that resizing its short side would make more than `MAX_PIXELS`.
    """
    width, height = resized_size(image.width, image.height, preprocess)
    if width * height > MAX_PIXELS:
        raise BrokenImage(name, f"{image.width} x {image.height} pixels would be resized to {width} x {height}")
    crop_height, crop_width, channels = preprocess.input_size
    if channels == 1:
        image = image.convert("L")
    resized = image.resize((width, height), _FILTERS[preprocess.interpolation])
    left, top = crop_offset(width, crop_width), crop_offset(height, crop_height)
    return np.array(resized.crop((left, top, left + crop_width, top + crop_height))).reshape(preprocess.input_size)


def load_pixels(path_or_file: Path | IO[bytes], preprocess: Preprocess) -> ByteArray:
    """An image file as the network's input pixels.

    Upright by its EXIF orientation, which torchvision's default loader ignores (see `decode`).

    Args:
        path_or_file: a path, or a binary file.
        preprocess: all but `mean` and `std` are used.

    Returns:
        (H, W, C) uint8 of the network's input size, RGB or grey.

    Raises:
        BrokenImage: the file is no usable image.
        BadInput: the resized image cannot fill the crop.
    """
    check_preprocess(preprocess)
    if isinstance(path_or_file, Path):
        return fit(decode(io.BytesIO(read_image_bytes(path_or_file)), path_or_file), preprocess, path_or_file)
    name = getattr(path_or_file, "name", "image")
    return fit(decode(path_or_file, name), preprocess, name)
