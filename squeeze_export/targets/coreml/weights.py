"""Weights as Core ML's compile-time constants: 8-bit integers with a scale per output channel, or indices into a palette.

`coremltools.optimize` could write the same operators into a finished file. It is not used: it does not adapt the first bias to the
rounded weights, and its palettes for less than 10,000 weights need scikit-learn and are not optimal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import require
from squeeze_export.errors import Refused

LARGEST_STEP = 127
_GRID = 1024


def symmetric(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rounds weights to symmetric 8-bit integers with one scale per output channel.

    Args:
        weight: (out, in, kernel, kernel).

    Returns:
        The integers, -127 to 127, and (out,) scales above 0.
    """
    largest = np.abs(weight.astype(np.float64)).max(axis=(1, 2, 3))
    scale = np.maximum(largest / LARGEST_STEP, np.finfo(np.float16).tiny).astype(np.float16)
    steps = np.rint(weight / scale.astype(np.float64)[:, None, None, None])
    return np.clip(steps, -LARGEST_STEP, LARGEST_STEP).astype(np.int8), scale


def palette_of(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """The palette with the least squared error, and the index of each weight's value.

    One-dimensional k-means has an exact solution (Wu 1991, "Optimal quantization by matrix searching"), which coremltools' kmeans1d
    finds without a random start: the same weights give the same palette. Neighbours closer than a thousandth of the range, or of
    the list, count as one value: for SqueezeNet 1.1 in 6 bits this costs 0.003 dB and takes one second instead of five.

    Args:
        weight: (out, in, kernel, kernel).
        bits: of an index, 1 to 8.

    Returns:
        Indices of the weights' shape, and (2 ** bits,) values in ascending order; unused ones, at the end, are 0.
    """
    clusters = require("coremltools._deps.kmeans1d", "coreml")
    values, places, counts = np.unique(weight.astype(np.float16).astype(np.float64), return_inverse=True, return_counts=True)
    starts = np.arange(len(values))
    if len(values) > 2 * _GRID:
        even = np.linspace(0, len(values), _GRID, endpoint=False).astype(np.int64)
        starts = np.union1d(even, np.searchsorted(values, np.linspace(values[0], values[-1], _GRID, endpoint=False)))
    merged_counts = np.add.reduceat(counts, starts)
    merged = np.add.reduceat(counts * values, starts) / merged_counts
    centres = np.array(clusters.cluster(merged, min(len(merged), 1 << bits), weights=merged_counts).centroids)
    palette = np.zeros(1 << bits, np.float16)
    palette[: len(centres)] = centres
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values).astype(np.uint8)
    return nearest[places].reshape(weight.shape), palette


def half(name: str, values: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """Numbers in float16.

    Raises:
        Refused: one of them is too large.
    """
    largest = np.abs(values).max()
    if not largest <= np.finfo(np.float16).max:
        raise Refused(
            f"`{name}` reaches `{largest:.4g}`, beyond float16", hint="--scheme fp32, or for int8 --coreml-compute float32"
        )
    return values.astype(np.float16)


def half_scales(name: str, scale: NDArray[np.float32], steps: NDArray[np.int8]) -> tuple[NDArray[np.float16], float]:
    """Weight scales in float16, multiplied by one power of two so that none is below the smallest normal float16: hardware may
    round such a scale to 0, which would erase a filter.

    Args:
        name: of the layer, for messages.
        scale: (out,), above 0.
        steps: (out, in, kernel, kernel): the integers. A filter of zeros may have any scale.

    Returns:
        (out,) scales, and the power of two, 1 or more.

    Raises:
        Refused: with every power of two a scale is too large or too small.
    """
    smallest = np.finfo(np.float16).tiny
    used = scale[steps.any(axis=(1, 2, 3))]
    gain = float(2 ** max(0, np.ceil(np.log2(smallest / used.min())))) if used.size else 1.0
    return half(f"{name}_scale", np.maximum(scale * np.float32(gain), smallest)), gain


def bits_of(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Packs indices without gaps, `bits` each and lowest bit first, as iOS 16 and 17 store them."""
    ones = indices.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(ones.ravel(), bitorder="little")
