"""The operators of an OpenVINO network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import OUTPUT_NAMES, EmitOptions, FloatArray
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme
from squeeze_export.graph.weights import stored_conv

_LEVELS = 256
_PRODUCT_SUFFIX = "/product"
"""A convolution is several operators in the file; the one that multiplies is called `<node>/product`."""
_CHANNELS_FIRST = (0, 3, 1, 2)


class Lowering:
    """Turns nodes into operators, one method per kind. Every operator gets a name, because OpenVINO's default names depend on how
    many the process has made.

    Attributes:
        made: tensor of the graph -> its value in the file, (N, C, H, W).
    """

    def __init__(self, openvino: Any, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
        self._openvino, self._op = openvino, openvino.opset8
        self._network, self._scheme, self._options = network, scheme, options
        self._steps: Mapping[str, Quantization] = network.tensors if isinstance(network, QuantizedGraph) else {}
        self.made: dict[str, Any] = {}

    def run(self) -> Any:
        """Writes every node. Returns the model."""
        name = self._network.input.name
        batch = -1 if self._options.batch == "dynamic" else self._options.batch
        shape, dtype = [batch, *self._network.input.shape[1:]], np.dtype(self._options.input_dtype)
        source = _named(self._op.parameter(shape, dtype.type), name)
        source.set_layout(self._openvino.Layout("NHWC"))
        self.made[name] = self._pixels(source)
        for node in self._network.nodes:
            inputs = [self.made[name] for name in node.inputs]
            if isinstance(node, Conv | QuantizedConv):
                result = self._conv(node, inputs[0])
            elif isinstance(node, MaxPool):
                result = self._max_pool(node, inputs[0])
            elif isinstance(node, Concat):
                result = self._op.concat(inputs, 1)
            elif isinstance(node, Add):
                total = self._op.add(*inputs, name=f"{node.name}/sum")
                result = self._quantized(self._op.relu(total, name=f"{node.name}/relu") if node.relu else total, node.name)
            else:
                # In float, because 8-bit logits often tie for the best class.
                axes = self._constant(f"{node.name}/axes", np.array([2, 3], np.int64))
                result = self._op.reduce_mean(inputs[0], axes, keep_dims=False)
            self.made[node.name] = _named(result, node.name).output(0)  # a max-pool has a second one, of positions
        result = self.made[self._network.output.name].get_node()
        if self._options.softmax:
            result = _named(self._op.softmax(result, 1), OUTPUT_NAMES["softmax"])
        if self._options.sigmoid:
            result = _named(self._op.sigmoid(result), OUTPUT_NAMES["sigmoid"])
        output = self._op.result(result, name=f"{result.get_friendly_name()}/result")
        output.set_layout(self._openvino.Layout("NC"))
        return self._openvino.Model([output], [source], self._network.name)

    def _pixels(self, source: Any) -> Any:
        """The pixels as (N, 3, H, W) float32, behind a FakeQuantize where an integer convolution reads them."""
        name = self._network.input.name
        order = self._constant(f"{name}/order", np.array(_CHANNELS_FIRST, np.int64))
        result = self._op.transpose(source, order, name=f"{name}/nchw")
        if self._options.input_dtype != "float32":
            result = self._op.convert(result, "f32", name=f"{name}/float")
        if not any(isinstance(node, QuantizedConv) for node in self._network.consumers[name]):
            return result
        return self._quantized(result, name, f"{name}/steps")

    def _constant(self, name: str, values: NDArray[Any]) -> Any:
        return self._op.constant(values, name=name)

    def _quantized(self, source: Any, tensor: str, name: str = "") -> Any:
        """A FakeQuantize with the table's steps for `tensor`; the source itself where the table has none."""
        q = self._steps.get(tensor)
        if q is None:
            return source
        name = name or tensor
        low = self._constant(f"{name}/low", np.array(-q.zero_point * q.scale, np.float32))
        high = self._constant(f"{name}/high", np.array((_LEVELS - 1 - q.zero_point) * q.scale, np.float32))
        return self._op.fake_quantize(source, low, high, low, high, _LEVELS, name=name)

    def _conv(self, node: Conv | QuantizedConv, source: Any) -> Any:
        name, op = node.name, self._op
        weight, bias = self._constants(node)
        strides, pads = list(node.strides), (list(node.pads[:2]), list(node.pads[2:]))
        product = op.convolution(source, weight, strides, *pads, [1, 1], name=f"{name}{_PRODUCT_SUFFIX}")
        result = op.add(product, self._constant(f"{name}/bias", bias[None, :, None, None]), name=f"{name}/sum")
        if node.relu:
            result = op.relu(result, name=f"{name}/relu")
        return self._quantized(result, name)

    def _constants(self, node: Conv | QuantizedConv) -> tuple[Any, FloatArray]:
        """The weights' operator, (O, I, k, k) float32, and the bias, (O,) float32."""
        name = f"{node.name}/weight"
        if isinstance(node, QuantizedConv):
            # The format has no integer bias: the runtime adds it to the rescaled sum.
            bias = node.bias * (np.float64(self._steps[node.input].scale) * node.weight_scale.astype(np.float64))
            scale = node.weight_scale[:1] if self._scheme.per_tensor else node.weight_scale
            return self._scaled(name, node.weight, scale), bias.astype(np.float32)
        stored = stored_conv(node, self._network, self._scheme)
        if stored.scale is not None:
            weight = self._scaled(name, stored.weight, stored.scale)
        elif stored.weight.dtype == np.float16:
            weight = self._op.convert(self._constant(f"{name}/half", stored.weight), "f32", name=name)
        else:
            weight = self._constant(name, stored.weight)
        return weight, stored.bias.astype(np.float32)

    def _scaled(self, name: str, steps: NDArray[np.int8], scale: FloatArray) -> Any:
        """int8 weights times their scale, one or one per output channel."""
        integers = self._op.convert(self._constant(f"{name}/int8", steps), "f32", name=f"{name}/float")
        return self._op.multiply(integers, self._constant(f"{name}/scale", scale[:, None, None, None]), name=name)

    def _max_pool(self, node: MaxPool, source: Any) -> Any:
        sides = (list(node.strides), [1, 1], list(node.pads[:2]), list(node.pads[2:]), list(node.kernel))
        return self._op.max_pool(source, *sides, "floor", "explicit", "i64", 0)


def _named(operator: Any, name: str) -> Any:
    """Gives an operator and its first tensor a name."""
    operator.set_friendly_name(name)
    operator.output(0).tensor.names = {name}
    return operator
