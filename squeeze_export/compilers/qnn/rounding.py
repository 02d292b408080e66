"""What the HTP of v68 and v69 takes off every sum, given back through the biases.

A convolution's int32 sum is multiplied by the ratio m 2^e (1 <= m < 2) of its channel, input scale times weight scale over output
scale, to become a step of the output. Before that the HTP keeps the sum to a unit of 2^-(4 + e), which is m / 16 steps: v73 and
later round to it, v68 and v69 drop what is below. That is half a unit for every output on average, m / 32 steps, always downwards,
and adds up over the layers. Half a unit in each bias makes the rounding of the former out of the dropping of the latter. Such a
shift of the mean, and its cure in the bias, are those of Nagel et al. 2019, "Data-free quantization through weight equalization
and bias correction", whatever takes the mean away.

Seen on Qualcomm's emulator, in single convolutions of SqueezeNet beside their exact integers; Qualcomm documents none of it, and no
chip was at hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from squeeze_export.core import require
from squeeze_export.formats.onnx import OnnxFile, parsed

ROUNDS_DOWN = frozenset({"v68", "v69"})
"""Architectures of the HTP."""
UNIT = 1 / 16
"""Of the ratio's mantissa, in steps of the output."""


def correct_biases(content: bytes) -> tuple[bytes, int]:
    """Adds half a unit to the biases of every quantized convolution.

    Args:
        content: an ONNX file in QDQ form.

    Returns:
        The file with other biases, and of how many convolutions; those that compute in float keep theirs.
    """
    onnx = require("onnx", "qnn")
    file = parsed(content, "the model")
    corrected = 0
    for node in file.graph.node:
        if node.op_type != "Conv" or len(node.input) != 3:
            continue
        scales = [_scale_before(file, name) for name in node.input]
        output = _scale_after(file, node.output[0])
        if output is None or any(scale is None for scale in scales):
            continue
        source, weight, bias = scales
        mantissa, _ = np.frexp(source * weight / output)  # m / 2, so that this is half a unit
        half = mantissa * UNIT * output / bias
        held = file.stored[file.makers[node.input[2]].input[0]]
        values = file.array(held.name) + np.rint(half).astype(np.int64)
        held.CopyFrom(onnx.numpy_helper.from_array(np.clip(values, -(2**31), 2**31 - 1).astype(np.int32), held.name))
        corrected += 1
    return file.model.SerializeToString(), corrected


def _scale_before(file: OnnxFile, name: str) -> Any:
    """() or (channels,) float64: of the integers that a tensor is the real values of; None where it is of no integers."""
    node = file.makers.get(name)
    return _scale(file, node) if node is not None and node.op_type == "DequantizeLinear" else None


def _scale_after(file: OnnxFile, name: str) -> Any:
    """Likewise, of the integers that a tensor is rounded to, after a ReLU or none."""
    readers = file.readers.get(name, [])
    if len(readers) == 1 and readers[0].op_type == "Relu":
        readers = file.readers.get(readers[0].output[0], [])
    return _scale(file, readers[0]) if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None


def _scale(file: OnnxFile, node: Any) -> Any:
    return file.array(node.input[1]).astype(np.float64)
