"""Corrects biases for the HTP of v68 and v69, which rounds every sum down.

A convolution's int32 sum is multiplied by the ratio m 2^e (1 <= m < 2) of its channel, input scale times weight scale over output
scale, to become a step of the output. Before that, the HTP keeps the sum to a unit of 2^-(4 + e), which is m / 16 steps: v73 and
later round to it, v68 and v69 drop the rest. On average that takes half a unit from every output, m / 32 steps, always downwards,
and it adds up over the layers. Half a unit added to each bias turns the dropping into rounding. Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction", describe such a shift of the mean, and its correction in the bias.

This was seen on Qualcomm's emulator, in single convolutions of SqueezeNet compared with their exact integers. Qualcomm documents
none of it, and no chip was available.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from squeeze_export.core import require
from squeeze_export.formats.onnx import OnnxFile, parsed

ROUNDS_DOWN = frozenset({"v68", "v69"})
"""Versions of the HTP."""
UNIT = 1 / 16
"""The unit over the ratio's mantissa, in steps of the output."""


def correct_biases(content: bytes) -> tuple[bytes, int]:
    """Adds half a unit to the biases of every quantized convolution.

    Args:
        content: an ONNX file in QDQ form.

    Returns:
        The file with the new biases, and the number of changed convolutions; those in float keep their biases.
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
        mantissa, _ = np.frexp(source * weight / output)  # m / 2, which gives half a unit
        half = mantissa * UNIT * output / bias
        held = file.stored[file.makers[node.input[2]].input[0]]
        values = file.array(held.name) + np.rint(half).astype(np.int64)
        held.CopyFrom(onnx.numpy_helper.from_array(np.clip(values, -(2**31), 2**31 - 1).astype(np.int32), held.name))
        corrected += 1
    return file.model.SerializeToString(), corrected


def _scale_before(file: OnnxFile, name: str) -> Any:
    """The scale of the integers that a tensor is dequantized from, () or (channels,) float64; None if there are none."""
    node = file.makers.get(name)
    return _scale(file, node) if node is not None and node.op_type == "DequantizeLinear" else None


def _scale_after(file: OnnxFile, name: str) -> Any:
    """The scale of the integers that a tensor is quantized to, directly or after a ReLU; None if there are none."""
    readers = file.readers.get(name, [])
    if len(readers) == 1 and readers[0].op_type == "Relu":
        readers = file.readers.get(readers[0].output[0], [])
    return _scale(file, readers[0]) if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None


def _scale(file: OnnxFile, node: Any) -> Any:
    return file.array(node.input[1]).astype(np.float64)
