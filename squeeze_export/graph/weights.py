"""Weights in 8 bits, one scale per output channel: what `w8` files hold, and what integers stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray
from squeeze_export.graph.nodes import QuantizedConv

LARGEST_STEP = 127


def symmetric_weights(weight: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Rounds weights to the nearest of 255 steps.

    Args:
        weight: (out, in, kernel, kernel).

    Returns:
        The integers, -127 to 127, and (out,) scales above 0.
    """
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scale: FloatArray = np.maximum(largest / np.float32(LARGEST_STEP), np.finfo(np.float32).tiny).astype(np.float32)
    steps = np.rint(weight / scale[:, None, None, None])
    return np.clip(steps, -LARGEST_STEP, LARGEST_STEP).astype(np.int8), scale


def real_weights(steps: NDArray[np.int8], scale: FloatArray) -> FloatArray:
    """(out, in, kernel, kernel) float32: what the integers stand for, in a runtime's arithmetic."""
    return steps.astype(np.float32) * scale[:, None, None, None]


def real_layer(conv: QuantizedConv, input_scale: float) -> tuple[FloatArray, FloatArray]:
    """The (out, in, kernel, kernel) weights and (out,) biases, float32, that a convolution's integers stand for."""
    bias = conv.bias * (input_scale * conv.weight_scale.astype(np.float64))
    return real_weights(conv.weight, conv.weight_scale), bias.astype(np.float32)
