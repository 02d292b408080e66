"""Golden outputs: what a file must answer to a few inputs that anybody can make, from a formula in integers.

Of image k, at row y, column x and channel c of H rows and W columns:

    wave    = 255 - |2 * (n mod 256) - 255|,  n = 256*y*(k+1)//H + 256*x*(k+2)//W + 85*c     low frequencies: a triangle wave
    chirp   = (x*x*(k+3) + y*y*(k+5) + x*y + 97*c) mod 256                                   all frequencies
    pixel   = (3*wave + chirp) // 4

No photograph is needed, and none is told. The answers are those of the exact integer run, or of the float run in float64.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Conv, Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner, one_blas_thread

COUNT = 2
"""Images."""
STEPS = 1.0
"""Steps of its output that a logit of an integer file may be off: where runtimes rescale in floating point, a few integers before
the last pool are one off, which its mean makes small (less than 0.6 steps in docs/measurements.md).
"""
RELATIVE: Mapping[str, float] = {"fp32": 0.001, "fp16": 0.02, "w8": 0.25, "palette8": 0.25, "palette6": 0.5, "palette4": 1.0}
"""Scheme -> by how much of the largest logit one of a float file may be off. The float run knows nothing of weights in few bits."""
MIXED = 0.02
"""The same for an integer file whose last layer is kept in float."""
DIGITS = 6
"""Digits that a logit of the float run is rounded to: the next ones differ between CPUs."""


@dataclass(frozen=True)
class Golden:
    """What a file must answer to `golden_pixels`.

    Attributes:
        reference: what computed the answers: `integer run` or `float run`.
        pixels_sha256: of the pixels' bytes.
        logits: (images, classes) float32, little-endian, in base64.
        tolerance: by how much a logit may be off.
    """

    reference: Literal["integer run", "float run"]
    pixels_sha256: str
    logits: str
    tolerance: float


def golden_pixels(size: tuple[int, int, int]) -> ByteArray:
    """The inputs, by the formula above.

    Args:
        size: (H, W, C) of the network's input.

    Returns:
        (COUNT, H, W, C) uint8.
    """
    height, width, channels = size
    k, y, x, c = np.ogrid[:COUNT, :height, :width, :channels]
    n = 256 * y * (k + 1) // height + 256 * x * (k + 2) // width + 85 * c
    wave = 255 - abs(2 * (n % 256) - 255)
    chirp = (x * x * (k + 3) + y * y * (k + 5) + x * y + 97 * c) % 256
    pixels: ByteArray = ((3 * wave + chirp) // 4).astype(np.uint8)
    return pixels


def golden(network: Graph | QuantizedGraph, scheme: Scheme) -> Golden:
    """What a file of the network must answer.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: of the file.
    """
    pixels, tolerance = golden_pixels(network.preprocess.input_size), None
    reference: Literal["integer run", "float run"] = "float run"
    with one_blas_thread():
        if isinstance(network, QuantizedGraph):
            logits, reference, tolerance = IntegerRunner(network)(pixels), "integer run", _steps(network)
        else:
            logits = _float_logits(network, pixels)
    if tolerance is None:
        tolerance = RELATIVE.get(scheme.name, MIXED) * float(np.abs(logits).max())
    packed = base64.b64encode(logits.astype("<f4").tobytes()).decode()
    return Golden(reference, pixels_sha256(pixels), packed, tolerance)


def pixels_sha256(pixels: ByteArray) -> str:
    """Of the bytes of (N, H, W, C) uint8 pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def golden_logits(told: Golden) -> FloatArray:
    """The answers, (images, classes) float32.

    Raises:
        ValueError: they are damaged.
    """
    try:
        values = np.frombuffer(base64.b64decode(told.logits, validate=True), "<f4")
    except ValueError as err:
        raise ValueError(f"the golden logits are no float32 in base64: {err}") from err
    if not len(values) or len(values) % COUNT or not np.isfinite(values).all():
        raise ValueError(f"the golden logits are `{len(values)}` numbers for `{COUNT}` images, or not finite")
    return values.astype(np.float32).reshape(COUNT, -1)


def _steps(quantized: QuantizedGraph) -> float | None:
    """The tolerance in logits of an integer file; None where its last layer is kept in float."""
    pool = quantized.nodes[-1]
    scales = [quantized.tensors[name].scale for name in (*pool.inputs, pool.name) if name in quantized.tensors]
    return STEPS * max(scales) if scales else None


def _float_logits(graph: Graph, pixels: ByteArray) -> FloatArray:
    """The float run in float64, rounded to `DIGITS`, so that every CPU gives the same numbers."""
    nodes = tuple(
        replace(node, weight=node.weight.astype(np.float64), bias=node.bias.astype(np.float64)) if isinstance(node, Conv) else node
        for node in graph.nodes
    )
    last, means = graph.nodes[-1].inputs[0], list[NDArray[Any]]()

    def tap(name: str, values: NDArray[Any]) -> None:
        if name == last:
            means.append(values.mean(axis=(1, 2), dtype=np.float64))

    FloatRunner(replace(graph, nodes=nodes))(pixels, tap)
    return np.array([[float(f"{value:.{DIGITS}g}") for value in row] for row in np.concatenate(means)], np.float32)
