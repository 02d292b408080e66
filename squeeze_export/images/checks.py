"""Checks of calibration images, and that none of them is an evaluation image too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeeze_export.errors import BadInput
from squeeze_export.images.names import shown

if TYPE_CHECKING:
    from squeeze_export.core import ByteArray

MIN_CALIBRATION_COUNT = 16
# Of 125 and 42 images, only the 125 let equalization gain anything.
FEW_CALIBRATION_COUNT = 100
NOISE_CORRELATION = 0.45
"""Correlation of neighbouring pixels below which an image is noise. Uniform noise of at least the network's input size has at most
0.42, saved as PNG or JPEG and resized; of 600 photographs the least has 0.77, of the 360 drawn demo images 0.51."""


def check_calibration(pixels: ByteArray, files: Sequence[Path], *, left_out: int = 0) -> tuple[str, ...]:
    """Refuses calibration images that would give wrong ranges without anyone noticing.

    Args:
        pixels: (N, H, W, C) uint8, RGB or grey.
        files: N paths, for the messages.
        left_out: how many more there were, broken or duplicate.

    Returns:
        warnings, one line each: what is allowed but may cost accuracy.

    Raises:
        BadInput: fewer than `MIN_CALIBRATION_COUNT` images, an image of one colour (the standard deviation of each channel is
            below one step), or an image of noise (`NOISE_CORRELATION`).
    """
    count = len(files)
    if count < MIN_CALIBRATION_COUNT:
        raise BadInput(
            f"`{count}` calibration images are too few" + (f", without the `{left_out}` that were left out" if left_out else ""),
            hint=f"pass at least {MIN_CALIBRATION_COUNT} to `--calib`, better {FEW_CALIBRATION_COUNT} or more",
        )
    constant = [file for file, image in zip(files, pixels, strict=True) if _is_constant(image)]
    if constant:
        raise BadInput(
            f"`{len(constant)}` of `{count}` calibration images show a single colour, the first is {shown(constant[0])}",
            hint="remove them: they say nothing about the ranges",
        )
    noise = [
        (file, c) for file, image in zip(files, pixels, strict=True) if (c := neighbour_correlation(image)) < NOISE_CORRELATION
    ]
    if noise:
        raise BadInput(
            f"`{len(noise)}` of `{count}` calibration images are noise, the first is {shown(noise[0][0])}: its neighbouring pixels"
            f" have a correlation of `{noise[0][1]:.2f}`, below {NOISE_CORRELATION}",
            hint="remove them: noise drives the layers as no photograph does",
        )
    if count < FEW_CALIBRATION_COUNT:
        return (f"`{count}` calibration images are few: ranges are steadier with {FEW_CALIBRATION_COUNT} or more",)
    return ()


def check_overlap(
    calibration_hashes: Iterable[str], evaluation_hashes: Sequence[str], evaluation_files: Sequence[Path] = ()
) -> None:
    """Refuses to evaluate on images that the network was calibrated on: the result would flatter it.

    It is called for one batch after the other, so that it knows of the first images alone.

    Args:
        calibration_hashes: SHA-256 of the calibration files, as the table keeps them.
        evaluation_hashes: N SHA-256 of the evaluation files.
        evaluation_files: N paths, for the message; without them the hash is named.

    Raises:
        BadInput: files in both, counted among these, the first named.
    """
    known = set(calibration_hashes)
    names: Sequence[object] = evaluation_files or evaluation_hashes
    both = [name for name, digest in zip(names, evaluation_hashes, strict=True) if digest in known]
    if both:
        raise BadInput(
            f"evaluation images are calibration images too: at least `{len(both)}`, the first is {shown(both[0])}",
            hint="remove them from `--eval` or from `--calib`",
        )


def _is_constant(image: ByteArray) -> bool:
    """True where no channel's standard deviation over (H, W) reaches one step."""
    # A sixteenth of the pixels settles almost every photograph: n * variance of the whole is at least that of any part.
    if image[::4, ::4].reshape(-1, image.shape[2]).astype(np.float32).var(axis=0).max() > 20:
        return False
    return bool(image.reshape(-1, image.shape[2]).astype(np.float64).std(axis=0).max() < 1)


def neighbour_correlation(image: ByteArray) -> float:
    """How much a pixel tells about the next: the largest of four correlations of luma, along rows and columns, of single pixels and
    of means of 2 x 2 of them. Fine texture in one direction or at one scale does not make an image noise.

    Args:
        image: (H, W, C) uint8, RGB or grey, H and W at least 2.

    Returns:
        at most 1; above `NOISE_CORRELATION` as soon as one of the four is, without looking at the rest.
    """
    values = image.astype(np.float32)
    luma = values[..., 0] if image.shape[2] == 1 else values @ np.array([0.299, 0.587, 0.114], np.float32)
    largest = -1.0
    for scale in (1, 2):
        height, width = (side // scale for side in luma.shape)
        centred = luma[: height * scale, : width * scale].reshape(height, scale, width, scale).mean(axis=(1, 3))
        centred -= centred.mean()
        power = float(np.square(centred).mean())
        if power < 1e-6:
            return 1.0  # blocks that are all alike: a pattern, not noise
        for one, next_to in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
            if one.size:
                largest = max(largest, float((one * next_to).mean()) / power)
            if largest >= NOISE_CORRELATION:
                return largest
    return largest
