"""An ONNX model under construction: nodes in order, constants by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export import __version__
from squeeze_export.core import EmitOptions
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import Quantization, QuantizedGraph

OPSET = 13
"""The first opset with a scale per channel. Readers since 2020 open it, also those without opset 21 (16-bit QDQ). ONNX Runtime
makes the same operators of both."""
IR_VERSION = 7
"""The version of opset 13. `onnx` would write its newest one, which older runtimes refuse."""


class Writer:
    """The model while it is being written.

    Args:
        onnx: the module.
        signed: whether activations are int8, 128 lower than in the table, or uint8 as there.
    """

    def __init__(self, onnx: Any, *, signed: bool = False) -> None:
        self.onnx = onnx
        self._signed = signed
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[np.generic]] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, operator: str, inputs: list[str], output: str, *, name: str = "", **attributes: object) -> str:
        """Adds a node, named after its output by default. Returns the output."""
        self._nodes.append(self.onnx.helper.make_node(operator, inputs, [output], name=name or output, **attributes))
        return output

    def cast(self, source: str, output: str, dtype: np.dtype[Any]) -> str:
        """Adds a Cast. Returns the output."""
        return self.add("Cast", [source], output, to=self.onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Adds an initializer. Returns its name, or that of an earlier one with the same content."""
        found = self._known.setdefault((values.dtype.str, values.shape, values.tobytes()), name)
        if found == name:
            self._constants[name] = values
        return found

    def quantize(self, source: str, output: str, q: Quantization) -> str:
        """float -> integer."""
        return self.add("QuantizeLinear", [source, *self._parameters(output, q)], output, name=f"{output}/quantize")

    def dequantize(self, source: str, q: Quantization, output: str = "") -> str:
        """integer -> float, named `source/real` by default."""
        return self.add("DequantizeLinear", [source, *self._parameters(source, q)], output or f"{source}/real")

    def _parameters(self, name: str, q: Quantization) -> list[str]:
        if self._signed:
            zero_point = self.constant(f"zero_point_int8_{q.zero_point - 128}", np.array(q.zero_point - 128, np.int8))
        else:
            zero_point = self.constant(f"zero_point_{q.zero_point}", np.array(q.zero_point, np.uint8))
        return [self.constant(f"{name}/scale", np.array(q.scale, np.float32)), zero_point]

    def model(
        self,
        network: Graph | QuantizedGraph,
        options: EmitOptions,
        outputs: Mapping[str, tuple[int | str, ...]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """The file. `outputs`: name -> shape without the batch; all are float32."""
        onnx, helper = self.onnx, self.onnx.helper
        batch = "N" if options.batch == "dynamic" else options.batch
        pixels = helper.np_dtype_to_tensor_dtype(np.dtype(options.input_dtype))
        graph = helper.make_graph(
            self._nodes,
            network.name,
            [helper.make_tensor_value_info(network.input.name, pixels, (batch, *network.input.shape[1:]))],
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (batch, *rest)) for name, rest in outputs.items()],
            [onnx.numpy_helper.from_array(values, name) for name, values in self._constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="squeeze-export",
            producer_version=__version__,
        )
        labels = {"labels": json.dumps(network.labels, ensure_ascii=False)} if network.labels else {}
        helper.set_model_props(model, dict(sorted({**metadata, **labels}.items())))
        return bytes(model.SerializeToString(deterministic=True))
