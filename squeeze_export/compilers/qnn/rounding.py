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
    model = onnx.load_model_from_string(content)
    graph = _Graph(model.graph)
    corrected = 0
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) != 3:
            continue
        scales = [graph.scale_before(name) for name in node.input]
        output = graph.scale_after(node.output[0])
        if output is None or any(scale is None for scale in scales):
            continue
        source, weight, bias = scales
        mantissa, _ = np.frexp(source * weight / output)  # m / 2, so that this is half a unit
        half = mantissa * UNIT * output / bias
        held = graph.tensors[graph.makers[node.input[2]].input[0]]
        values = onnx.numpy_helper.to_array(held) + np.rint(half).astype(np.int64)
        held.CopyFrom(onnx.numpy_helper.from_array(np.clip(values, -(2**31), 2**31 - 1).astype(np.int32), held.name))
        corrected += 1
    return model.SerializeToString(), corrected


class _Graph:
    """Which node makes a tensor, which read it, and what is constant."""

    def __init__(self, graph: Any) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def scale_before(self, name: str) -> Any:
        """() or (channels,) float64: of the integers that a tensor is the real values of; None where it is of no integers."""
        node = self.makers.get(name)
        return self._scale(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def scale_after(self, name: str) -> Any:
        """Likewise, of the integers that a tensor is rounded to, after a ReLU or none."""
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == "Relu":
            readers = self.readers.get(readers[0].output[0], [])
        return self._scale(readers[0]) if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None

    def _scale(self, node: Any) -> Any:
        to_array = require("onnx.numpy_helper", "qnn").to_array
        return to_array(self.tensors[node.input[1]]).astype(np.float64)
