"""Weights as files store them, and the real values that integer weights stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray
from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import Conv, Graph, QuantizedConv
from squeeze_export.graph.quantized import QuantizedGraph, Scheme

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


@dataclass(frozen=True, eq=False)
class StoredConv:
    """The constants of a float convolution as a scheme stores them.

    Attributes:
        weight: (out, in, kernel, kernel) float32, float16, or int8 with a scale.
        scale: (out,) float32 of int8 weights, else None.
        bias: (out,) float64.
    """

    weight: NDArray[Any]
    scale: FloatArray | None
    bias: NDArray[np.float64]


def stored_conv(conv: Conv, network: Graph | QuantizedGraph, scheme: Scheme) -> StoredConv:
    """The weights in the scheme's dtype; of a layer that an integer scheme keeps in float, in float32.

    Raises:
        Refused: a weight is too large for float16.
    """
    weight: NDArray[Any] = conv.weight
    if scheme.weight_bits and not scheme.integer:
        weight, scale = symmetric_weights(conv.weight)
        return StoredConv(weight, scale, recentred_bias(conv, network, real_weights(weight, scale)))
    if scheme.float_dtype == "float16":
        weight = half(conv.weight, conv)
    return StoredConv(weight, None, recentred_bias(conv, network, weight))


def half(values: NDArray[np.floating[Any]], conv: Conv) -> NDArray[np.float16]:
    """A convolution's numbers in float16.

    Raises:
        Refused: one is too large.
    """
    largest = np.abs(values).max()
    if largest > np.finfo(np.float16).max:
        raise Refused(f"the weights of `{conv.name}` reach `{largest:.4g}`, beyond float16", hint="export it in fp32")
    return values.astype(np.float16)


def recentred_bias(conv: Conv, network: Graph | QuantizedGraph, weight: NDArray[Any]) -> NDArray[np.float64]:
    """The bias for weights that were rounded. The first convolution reads raw pixels, far from 0 on average, so the rounding of its
    weights would shift every output (2.6 to 4 dB of the logits' SQNR): its bias makes up for that at the mean pixel.

    Args:
        conv: with the weights before rounding.
        network: the convolution's.
        weight: (out, in, kernel, kernel): the real values of the rounded weights.

    Returns:
        (out,) float64.
    """
    bias = conv.bias.astype(np.float64)
    if conv.input == network.input.name:
        mean = np.array(network.preprocess.mean_rgb)[:, None, None]
        bias -= ((weight.astype(np.float64) - conv.weight) * mean).sum(axis=(1, 2, 3))
    return bias
