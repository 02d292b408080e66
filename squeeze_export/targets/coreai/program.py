"""The network as a Core AI program, operator by operator, through the builder of `coreai.authoring`. Activations are NCHW.

    exact    uint8 -> dequantize by 1 -> conv2d of integers -> + bias -> * (s_x s_w / s_y) -> quantize by 1 -> uint8
    qdq      uint8 -> dequantize by s_x -> conv2d -> + real bias -> quantize by s_y -> uint8
    floats   cast -> conv2d -> + bias -> relu ...

Core AI has no integer convolution. In the exact form float32 holds the sums of integers without rounding, as long as they stay
below 2**24, so the file gives the integers of `graph.integer`. In both forms pools, concatenations and padding work on the integers
themselves. A layer kept in float takes and gives real values.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import OUTPUT_NAMES, EmitOptions, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Concat, Conv, GlobalAveragePool, Graph, MaxPool, Pads, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme, requantization
from squeeze_export.graph.weights import recentred_bias, symmetric_weights

EXTRA = "coreai"
FUNCTION = "main"

HALF_PIXEL = 1 / 128
"""The size of a pixel's step where operators compute in float16: with a step of 1, scales of conv1's weights can be below 2**-14,
the smallest normal float16. A power of two changes nothing else."""
SUM_LIMIT = 2**24
"""float32 holds all integers up to this."""
FREE = -1

_WHOLE = np.arange(4, dtype=np.int32)
"""The axes of a scale that is one for the tensor."""
_HINT = "--coreai-compute float32"


def build_module(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> Any:
    """Lowers a network.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: how numbers are carried.
        options: the outer form.

    Returns:
        A `coreai.authoring.Module` with the function `FUNCTION`, after Core AI's own rewriting.

    Raises:
        BadInput: the input's name is no identifier.
        Refused: a number is beyond float16, or a sum is too large for the exact form.
        Unavailable: `coreai` is not installed.
    """
    ai = require("coreai.authoring", EXTRA)
    name = network.input.name
    if not name.isidentifier():
        raise BadInput(f"a Core AI input cannot be called `{name}`", hint="letters, digits and `_`, no digit first")
    lowering = _Lowering(ai, network, scheme, options)

    def program(pixels: Any) -> Any:
        return lowering.run(pixels)

    # The builder takes the input's name from the signature, and the types from the annotations.
    parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    program.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    program.__annotations__ = {name: lowering.taken, "return": lowering.given}
    module = ai.Module.create()
    with module:
        ai.graph(program, provided_name=FUNCTION)
    return module


class _Lowering:
    """Turns nodes into operators.

    Attributes:
        dtype: what the operators compute in.
        exact: whether convolutions sum integers.
        pixel: the size of a pixel's step; conv1's weights compensate for it.
        taken, given: the annotations of input and output.
    """

    def __init__(self, ai: Any, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
        self.ai, self.network, self.scheme, self.options = ai, network, scheme, options
        self.dtype = np.dtype(options.coreai_compute if scheme.weight_bits else scheme.float_dtype)
        self.exact = scheme.integer and options.coreai_form == "exact"
        self.pixel = HALF_PIXEL if self.dtype == np.float16 else 1.0
        self.batch = FREE if options.batch == "dynamic" else options.batch
        height, width, channels = network.sizes[network.input.name]
        self.taken = self._tensor((self.batch, height, width, channels), np.dtype(options.input_dtype))
        classes = network.sizes[network.output.name][2]
        self.given = self._tensor((self.batch, classes), np.dtype(np.float32), OUTPUT_NAMES[options.ending])

    def run(self, source: Any) -> Any:
        """Writes every node. Returns the output."""
        network, ai = self.network, self.ai
        made = {network.input.name: self._pixels(source)}
        for node in network.nodes:
            with ai.DebugInfo.file(node.name, 1).activate():  # the only place where Core AI keeps a layer's name
                made[node.name] = self._node(node, made)
        logits = made[network.output.name]
        if self.options.softmax:
            return ai.softmax(logits, np.int32(1))
        return ai.sigmoid(logits) if self.options.sigmoid else logits

    def _node(self, node: QuantizedNode, made: Mapping[str, Any]) -> Any:
        sources, q = [made[name] for name in node.inputs], self._quantization(node.name)
        if isinstance(node, GlobalAveragePool):
            return self._mean(self._real(sources[0], node.input))
        if isinstance(node, QuantizedConv):
            return self._integer_conv(node, sources[0])
        if isinstance(node, Conv):
            return self._rounded(self._float_conv(node, self._real(sources[0], node.input)), q)
        if isinstance(node, MaxPool):
            return self._max_pool(node, sources[0], integers=q is not None)
        if isinstance(node, Concat):
            return self.ai.concat(np.int32(1), sources)
        total = self.ai.broadcasting_add(*(self._real(made[name], name) for name in node.inputs))
        return self._rounded(self.ai.relu(total) if node.relu else total, q)

    def _tensor(self, shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "") -> Any:
        named = {"name": name} if name else {}
        return Annotated[self.ai.Value, self.ai.TensorType(shape, dtype.type, **named)]

    def _pixels(self, pixels: Any) -> Any:
        """(N, H, W, C) -> (N, C, H, W): integers where the first layer reads integers, else real values in steps of `pixel`."""
        pixels = self.ai.transpose(pixels, np.array([0, 3, 1, 2], np.uint32))
        if self.scheme.integer:
            return self._quantize(pixels, 1.0, 0) if self.options.input_dtype == "float32" else pixels
        if self.options.input_dtype != self.dtype.name:
            pixels = self.ai.cast(pixels, self.dtype.type)
        return self._scaled(pixels, self.pixel) if self.pixel != 1 else pixels

    def _scaled(self, value: Any, factor: float) -> Any:
        return self.ai.broadcasting_mul(value, np.full((1, 1, 1, 1), factor, self.dtype))

    def _quantization(self, name: str) -> Quantization | None:
        if not isinstance(self.network, QuantizedGraph):
            return None
        return Quantization(self.pixel, 0) if name == self.network.input.name else self.network.tensors.get(name)

    def _real(self, value: Any, name: str) -> Any:
        """A tensor's real values: what its integers stand for, or itself."""
        q = self._quantization(name)
        return value if q is None else self._dequantize(value, self._scale(q.scale, name), q.zero_point)

    def _rounded(self, value: Any, q: Quantization | None) -> Any:
        return value if q is None else self._quantize(value, q.scale, q.zero_point)

    def _quantize(self, value: Any, scale: float, zero_point: int) -> Any:
        dtype = np.dtype(np.float32) if self.options.input_dtype == "float32" and scale == 1 else self.dtype
        return self.ai.quantize(value, dtype.type(scale), np.uint8(zero_point), dtype.type(0), _WHOLE)

    def _dequantize(self, value: Any, scale: float, zero_point: int) -> Any:
        held = self.dtype.type(scale)
        return self.ai.dequantize(value, held, np.uint8(zero_point), self.dtype.type(0), _WHOLE)

    def _scale(self, scale: float, name: str) -> float:
        """A scale of activations. In float16, Core AI reads those that are not normal numbers as other numbers."""
        if not np.finfo(self.dtype).tiny <= self.dtype.type(scale) <= np.finfo(self.dtype).max / 255:
            raise Refused(f"the scale of `{name}` is `{scale:.4g}`, beyond float16", hint=_HINT)
        return scale

    def _integer_conv(self, node: QuantizedConv, source: Any) -> Any:
        assert isinstance(self.network, QuantizedGraph)
        before, after = self._quantization(node.input), self.network.tensors[node.name]
        assert before is not None  # it reads integers
        source = self._padded(source, node.pads, np.uint8(before.zero_point))
        if self.exact:
            self._check_sums(node, before.zero_point)
            source = self._dequantize(source, 1.0, before.zero_point)
            value = self._conv(node, source, node.weight, np.ones(1), node.bias)
            factors = requantization(node, self.network.tensors)
            value = self.ai.broadcasting_mul(value, factors[None, :, None, None])
            return self._quantize(self._clamped(value, node, after), 1.0, after.zero_point)
        scale = node.weight_scale.astype(np.float64) / (self.pixel if node.input == self.network.input.name else 1.0)
        bias = node.bias * (before.scale * scale)
        if self.dtype == np.float16:
            scale = np.where(
                node.weight.any(axis=(1, 2, 3)), scale, 1.0
            )  # any scale suits a filter of zeros, whose own may be tiny
        held = self._held(f"{node.name}'s weight scale", scale)
        if not held.all():
            raise Refused(f"the smallest weight scale of `{node.name}` is `{scale.min():.4g}`, beyond float16", hint=_HINT)
        source = self._dequantize(source, self._scale(before.scale, node.input), before.zero_point)
        value = self._conv(node, source, node.weight, scale, bias)
        return self._quantize(self._clamped(value, node, after), self._scale(after.scale, node.name), after.zero_point)

    def _clamped(self, value: Any, node: QuantizedConv, after: Quantization) -> Any:
        """The ReLU, where it is not what uint8 does anyway."""
        return self.ai.relu(value) if node.relu and after.zero_point else value

    def _check_sums(self, node: QuantizedConv, zero_point: int) -> None:
        """Refuses a layer whose products float32 cannot sum without rounding, in whatever order. The bias is added last: of a bias
        that float32 holds, the total is rounded once, as the integer run rounds it.
        """
        largest = max(zero_point, self.scheme.levels - zero_point)
        sums = largest * np.abs(node.weight.astype(np.int64)).sum(axis=(1, 2, 3))
        rounded = (sums > 0) & (node.bias.astype(np.float32).astype(np.int64) != node.bias)
        if sums.max() >= SUM_LIMIT or rounded.any():
            reach = max(sums.max(), np.abs(node.bias[rounded].astype(np.int64)).max(initial=0))
            raise Refused(
                f"the sums of `{node.name}` reach `{reach}`, and float32 holds every integer below `{SUM_LIMIT}` alone",
                hint="--coreai-form qdq",
            )

    def _conv(self, node: QuantizedConv | Conv, source: Any, weight: Any, scale: NDArray[Any] | None, bias: NDArray[Any]) -> Any:
        """A convolution of padded input, and its bias. Weights are integers where there is a scale, one or one for each channel."""
        if scale is not None:
            sides = (len(scale), 1, 1, 1)
            zero, least = np.zeros(sides, np.int8), np.zeros(sides, self.dtype)
            weight = self.ai.blockwise_shift_scale(weight, scale.astype(self.dtype).reshape(sides), zero, least)
        strides, ones = np.array(node.strides, np.uint32), np.ones(2, np.uint32)
        value = self.ai.conv2d(source, weight, strides, ones, np.uint32(1))
        return self.ai.broadcasting_add(value, self._held(f"{node.name}'s bias", bias)[None, :, None, None])

    def _float_conv(self, node: Conv, source: Any) -> Any:
        """A convolution of a float scheme, or one kept in float."""
        unit = self.pixel if node.input == self.network.input.name else 1.0
        weight: NDArray[Any] = node.weight / np.float32(unit)
        scale = None
        if self.scheme.weight_bits and not self.scheme.integer:
            weight, scale = symmetric_weights(weight)
            scale = self._held(f"{node.name}'s weight scale", scale)
            real = weight.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
        else:
            weight = self._held(f"{node.name}'s weights", weight)
            real = weight.astype(np.float64)
        bias = recentred_bias(node, self.network, real * unit)
        value = self._conv(node, self._padded(source, node.pads, self.dtype.type(0)), weight, scale, bias)
        return self.ai.relu(value) if node.relu else value

    def _max_pool(self, node: MaxPool, source: Any, *, integers: bool) -> Any:
        lowest = np.uint8(0) if integers else np.finfo(self.dtype).min
        height, width, channels = self.network.sizes[node.name]
        dtype = np.uint8 if integers else self.dtype.type
        sides = (np.array(node.kernel, np.uint32), np.array(node.strides, np.uint32), np.ones(2, np.uint32))
        made = self.ai.TensorType((self.batch, channels, height, width), dtype)  # Core AI believes any size
        return self.ai.maxpool2d(made, self._padded(source, node.pads, lowest), *sides, np.bool_(False))

    def _padded(self, value: Any, pads: Pads, filling: Any) -> Any:
        top, left, bottom, right = pads
        if not any(pads):
            return value
        return self.ai.pad(value, np.array([0, 0, 0, 0, top, bottom, left, right], np.uint32), filling)

    def _mean(self, source: Any) -> Any:
        """(N, C, H, W) -> (N, C) float32."""
        mean = self.ai.shrink_dims(self.ai.reduce_mean(source, np.array([2, 3], np.int32)), np.array([2, 3], np.int32))
        return mean if self.dtype == np.float32 else self.ai.cast(mean, np.float32)

    def _held(self, what: str, values: NDArray[Any]) -> NDArray[Any]:
        """Numbers as `dtype` holds them."""
        largest = np.abs(values).max()
        if not largest <= np.finfo(self.dtype).max:
            raise Refused(f"{what} reaches `{largest:.4g}`, beyond {self.dtype.name}", hint=_HINT)
        return values.astype(self.dtype)
