"""The integer run: a quantized graph in exact integers. The oracle of the tests and of the cross-target comparison.

    acc = sum((x - z_x) * w) + bias                              exact
    y   = clamp(round_half_even(float32(acc) * float32(s_x * s_w / s_y)) + z_y, low, 255)

ONNX Runtime with VNNI and LiteRT's XNNPACK give the same integers. Where the scheme has the average pool in integers,

    y   = clamp(round_half_even(float32(sum(x - z_x)) * float32(s_x / (s_y * count))) + z_y, 0, 255)

A scheme of 16-bit activations is computed alike, in float64 and up to 65,535. A layer kept in float takes its input's real values,
s_x * (x - z_x), computes in float32, and its result is rounded where the table has integers for it:

    y   = clamp(round_half_even(float32(result) / float32(s_y)) + z_y, 0, 255)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, MaxPool, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, requantization
from squeeze_export.graph.run import convolve, max_pool, weight_matrix

Integers: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""A table's integers: of 8 bits, or of a scheme's 16."""

Values: TypeAlias = NDArray[Any]
"""(1, H, W, C): a table's integers, or the float32 of a tensor that has none."""

IntegerTap: TypeAlias = Callable[[str, Any], None]
"""Called with a tensor's name and its (1, H, W, C) integers, uint8 or uint16; float32 where it has none."""

ProductError: TypeAlias = Callable[[QuantizedConv, ByteArray], NDArray[np.int32]]
"""By how much a CPU's sums of products are off: of a convolution and its (1, H, W, I) uint8 input, (1, Ho, Wo, O) int32."""

_FLOAT32_EXACT = 2**24


class IntegerRunner:
    """Runs a quantized graph in exact integers.

    The products are summed in float32 where no partial sum can leave its exact range (2^24), else in float64: both are
    exact for integers, and both are matrix products that numpy does fast.

    Args:
        quantized: the graph.
        error: of a CPU whose products are not exact, to emulate it; None is exact.
    """

    def __init__(self, quantized: QuantizedGraph, error: ProductError | None = None) -> None:
        self.quantized = quantized
        self._error = error
        wide = quantized.scheme.activation_bits > 8
        self._levels = quantized.scheme.levels
        self._carrier: Any = np.uint16 if wide else np.uint8
        self._sum: Any = np.int64 if wide else np.int32
        # float32 holds 24 bits of a sum, too few for a result of 16.
        self._real: Any = np.float64 if wide else np.float32
        self._matrices: dict[str, NDArray[np.floating[Any]]] = {}
        self._multipliers: dict[str, NDArray[np.floating[Any]]] = {}
        for conv in quantized.convs:
            largest = self._levels * int(np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max())
            dtype = np.float32 if largest < _FLOAT32_EXACT else np.float64
            self._matrices[conv.name] = weight_matrix(conv.weight.astype(dtype))
            self._multipliers[conv.name] = requantization(conv, quantized.tensors, self._real)
        kept = [node for node in quantized.nodes if isinstance(node, Conv)]
        self._matrices |= {conv.name: weight_matrix(conv.weight) for conv in kept}

    def __call__(self, batch: ByteArray, tap: IntegerTap | None = None) -> FloatArray:
        """Runs a batch, image by image.

        Args:
            batch: (N, H, W, 3) uint8 RGB.
            tap: sees what every node makes, but the logits.

        Returns:
            (N, classes) float32 logits.
        """
        return np.concatenate([self._run(image[None], tap) for image in batch])

    def _run(self, image: ByteArray, tap: IntegerTap | None) -> FloatArray:
        values: dict[str, Values] = {self.quantized.input.name: image}
        for node in self.quantized.nodes:
            if isinstance(node, GlobalAveragePool):
                return self._pool(node, values[node.input])
            values[node.name] = self.step(node, values)
            if tap is not None:
                tap(node.name, values[node.name])
        raise ValueError("the graph has no GlobalAveragePool")

    def _pool(self, node: GlobalAveragePool, source: Values) -> FloatArray:
        """(1, H, W, C) -> (1, C) logits."""
        tensors, count = self.quantized.tensors, source.shape[1] * source.shape[2]
        if node.input not in tensors:
            means: FloatArray = source.mean(axis=(1, 2), dtype=np.float32)
            return means
        q = tensors[node.input]
        if not self.quantized.scheme.integer_output:
            mean = source.mean(axis=(1, 2), dtype=np.float64) - q.zero_point
            logits: FloatArray = (mean * q.scale).astype(np.float32)
            return logits
        total = source.sum(axis=(1, 2), dtype=np.int64) - count * q.zero_point
        result = tensors[node.name]
        rounded = np.rint(total.astype(self._real) * self._real(q.scale / (result.scale * count)))
        steps = np.clip(rounded + result.zero_point, 0, self._levels) - result.zero_point
        dequantized: FloatArray = steps.astype(np.float32) * np.float32(result.scale)
        return dequantized

    def step(self, node: QuantizedConv | Conv | MaxPool | Concat | Add, values: Mapping[str, Values]) -> Values:
        """What one node makes of its inputs.

        Args:
            node: of the quantized graph, not its average pool.
            values: tensor name -> (1, H, W, C) integers, or float32 where the table has none; those that the node reads are enough.

        Returns:
            (1, H, W, C) uint8, or uint16 where activations have 16 bits; float32 where the table has no integers for the tensor.
        """
        if isinstance(node, QuantizedConv):
            return self._conv(node, values[node.input])
        if isinstance(node, Conv):
            real = convolve(self._real_values(node.input, values), self._matrices[node.name], node.kernel, node.strides, node.pads)
            real += node.bias
            return self._rounded(node.name, np.maximum(real, 0, out=real) if node.relu else real)
        if isinstance(node, MaxPool):
            lowest = self._carrier(0) if node.name in self.quantized.tensors else np.float32(-np.inf)
            return max_pool(values[node.input], node.kernel, node.strides, node.pads, lowest)
        if isinstance(node, Concat):
            return np.concatenate([values[name] for name in node.inputs], axis=3)
        first, second = (self._real_values(name, values) for name in node.inputs)
        return self._rounded(node.name, np.maximum(first + second, 0) if node.relu else first + second)

    def _conv(self, conv: QuantizedConv, source: Any) -> Integers:
        matrix = self._matrices[conv.name]
        centred = source.astype(matrix.dtype) - matrix.dtype.type(self.quantized.tensors[conv.input].zero_point)
        acc = convolve(centred, matrix, conv.kernel, conv.strides, conv.pads).astype(self._sum) + conv.bias
        if self._error is not None:
            acc += self._error(conv, source)
        zero = self.quantized.tensors[conv.name].zero_point
        rounded = np.rint(acc.astype(self._real) * self._multipliers[conv.name]) + self._real(zero)
        integers: Integers = np.clip(rounded, zero if conv.relu else 0, self._levels).astype(self._carrier)
        return integers

    def _real_values(self, name: str, values: Mapping[str, Values]) -> Values:
        q = self.quantized.tensors.get(name)
        return values[name] if q is None else (values[name].astype(self._real) - self._real(q.zero_point)) * self._real(q.scale)

    def _rounded(self, name: str, real: Values) -> Values:
        q: Quantization | None = self.quantized.tensors.get(name)
        if q is None:
            return real
        rounded = np.rint(real / self._real(q.scale)) + self._real(q.zero_point)
        integers: Values = np.clip(rounded, 0, self._levels).astype(self._carrier)
        return integers
