"""The network as an ML program (MIL), operator by operator, through coremltools' builder.

    int8     pixels -> quantize, dequantize -> conv, relu, quantize, dequantize ... dequantize -> reduce_mean -> logits
    others   pixels -> conv, relu ... reduce_mean -> logits

Core ML has no integer convolution. It recognises an operator between dequantize and quantize. A zero point of 0, as almost all are,
is left out, which Core ML supports best. A tensor that the table does not quantize, next to a layer kept in float, has no such
pair.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import OUTPUT_NAMES, EmitOptions, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Concat, Conv, GlobalAveragePool, Graph, MaxPool, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme
from squeeze_export.graph.weights import recentred_bias
from squeeze_export.targets.coreml.weights import bits_of, half, half_scales, palette_of, symmetric

IMAGE = "image"
CLASS_PROBABILITIES = "class_probabilities"
MAX_BATCH = 64
"""Of a dynamic batch. An ML program needs a bound."""

HALF_PIXEL = 1 / 128
"""The size of a pixel's step where operators compute in float16. With a step of 1 the scales of conv1's weights would be below the
smallest normal float16, which hardware may round to 0. A power of two changes nothing else."""


def build_program(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, *, classifier: bool) -> tuple[Any, Any]:
    """Lowers a network.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: how numbers are carried.
        options: the outer form.
        classifier: whether to add the output `CLASS_PROBABILITIES`, which coremltools turns into labels.

    Returns:
        The MIL program, and the description of its input for `coremltools.convert`.

    Raises:
        BadInput: two tensors would have the same name.
        Refused: a number is too large for float16.
    """
    ct, mil = require("coremltools", "coreml"), require("coremltools.converters.mil.mil", "coreml")
    mil.Builder.name_count.clear()  # a failed program leaves its counts behind, which would change the names of later constants
    height, width, channels = network.sizes[network.input.name]
    shape: tuple[Any, ...] = (1, channels, height, width)
    if options.input_dtype == "uint8":
        layout = ct.colorlayout.GRAYSCALE if channels == 1 else ct.colorlayout.RGB
        source = ct.ImageType(name=IMAGE, shape=shape, color_layout=layout, channel_first=True)
    else:
        batch = ct.RangeDim(1, MAX_BATCH) if options.batch == "dynamic" else options.batch
        source = ct.TensorType(name=identifier(network.input.name), shape=(batch, height, width, channels), dtype=np.float32)
        shape = tuple(source.shape.symbolic_shape)
    program = mil.Program()
    opset = {17: ct.target.iOS17, 18: ct.target.iOS18}[options.ios]
    with mil.Function({source.name: mil.Builder.placeholder(shape)}, opset_version=opset) as function:
        lowering = _Lowering(mil.Builder, network, scheme, options)
        function.set_outputs(lowering.run(function.inputs[source.name], classifier=classifier))
    program.add_function("main", function)
    return program, source


def identifier(name: str) -> str:
    """A node's name as MIL spells it: `fire2/squeeze1x1` becomes `fire2_squeeze1x1`."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


class _Lowering:
    """Turns nodes into operators. Activations are NCHW.

    Attributes:
        dtype: what the operators compute in.
        pixel: the size of a pixel's step; conv1's weights compensate for it.
    """

    def __init__(self, builder: Any, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
        self.mb, self.network, self.scheme, self.options = builder, network, scheme, options
        self.dtype = np.dtype(options.coreml_compute if scheme.integer else scheme.float_dtype)
        self.pixel = HALF_PIXEL if self.dtype == np.float16 else 1.0
        self._shared: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
        names = [identifier(node.name) for node in network.nodes]
        if len(set(names)) < len(names):
            raise BadInput("two of the network's tensors have one name in Core ML, which takes letters, digits and `_` alone")

    def run(self, source: Any, *, classifier: bool) -> list[Any]:
        """Writes every node. Returns the output tensors."""
        network = self.network
        made = {network.input.name: self._pixels(source)}
        for node in network.nodes:
            sources, name = [made[i] for i in node.inputs], identifier(node.name)
            q = network.tensors.get(node.name) if isinstance(network, QuantizedGraph) else None
            result = name if q is None else f"{name}_float"
            if isinstance(node, GlobalAveragePool):
                made[node.name] = self._mean(sources[0], name)
                continue
            gain = 1.0
            if isinstance(node, Conv):
                weight, bias = self._constants(node, name)
                value = self._conv(node, sources[0], weight, bias, result)
            elif isinstance(node, QuantizedConv):
                weight, bias, gain = self._integer_constants(node, name)
                value = self._conv(node, sources[0], weight, bias, result)
            elif isinstance(node, MaxPool):
                sides = self._parameters(kernel_sizes=list(node.kernel), ceil_mode=False)
                value = self.mb.max_pool(x=sources[0], **sides, **self._window(node), name=result)
            elif isinstance(node, Concat):
                value = self.mb.concat(values=sources, **self._parameters(axis=1, interleave=False), name=result)
            else:
                value = self.mb.add(x=sources[0], y=sources[1], name=f"{name}_sum" if node.relu else result)
                value = self.mb.relu(x=value, name=result) if node.relu else value
            made[node.name] = value if q is None else self._requantized(value, name, q, gain)
        logits = made[network.output.name]
        wanted = logits if self.options.ending == "logits" else self._probabilities(logits, OUTPUT_NAMES[self.options.ending])
        # A program cannot give one tensor under two names, so the classifier has its own softmax or sigmoid.
        return [wanted, *([self._probabilities(logits, CLASS_PROBABILITIES)] if classifier else [])]

    def _probabilities(self, logits: Any, name: str) -> Any:
        return self.mb.sigmoid(x=logits, name=name) if self.options.sigmoid else self.mb.softmax(x=logits, axis=1, name=name)

    def _parameters(self, **values: Any) -> dict[str, Any]:
        """Constant operands. Operators share equal constants, which halves the length of the program."""
        found = {}
        for operand, value in values.items():
            array = np.asarray(value)
            key = (array.dtype.str, array.shape, array.tobytes())
            if key not in self._shared:
                self._shared[key] = self.mb.const(val=value, name=f"constant_{len(self._shared)}")
            found[operand] = self._shared[key]
        return found

    def _pixels(self, pixels: Any) -> Any:
        """The pixels as the first node reads them. float16 holds them exactly."""
        if self.options.input_dtype == "float32":
            pixels = self.mb.transpose(x=pixels, perm=[0, 3, 1, 2], name="pixels_nchw")
        if self.dtype == np.float16:
            pixels = self.mb.cast(x=pixels, dtype="fp16", name="pixels_fp16")
            pixels = self.mb.mul(x=pixels, **self._parameters(y=np.float16(self.pixel)), name="pixels_scaled")
        if not self.scheme.integer or all(isinstance(node, Conv) for node in self.network.consumers[self.network.input.name]):
            return pixels
        return self._requantized(pixels, "pixels", Quantization(self.pixel, 0))

    def _requantized(self, value: Any, name: str, q: Quantization, gain: float = 1.0) -> Any:
        """Rounds to the table's 256 values: quantize and dequantize. `value` is `gain` times the real value."""
        zero_point = {"zero_point": np.uint8(q.zero_point)} if q.zero_point else {}
        before, after = (self._parameters(scale=self._scale(scale, name), **zero_point) for scale in (q.scale * gain, q.scale))
        integers = self.mb.quantize(input=value, **before, **self._parameters(output_dtype="uint8"), name=f"{name}_uint8")
        return self.mb.dequantize(input=integers, **after, name=name)

    def _scale(self, scale: float, name: str) -> Any:
        held = self.dtype.type(scale)
        if not np.finfo(self.dtype).tiny <= held <= np.finfo(self.dtype).max / 255:
            raise Refused(f"the scale of `{name}` is `{scale:.4g}`, beyond float16", hint="--coreml-compute float32")
        return held

    def _window(self, node: Conv | QuantizedConv | MaxPool) -> dict[str, Any]:
        top, left, bottom, right = node.pads
        kind = "custom" if any(node.pads) else "valid"
        return self._parameters(strides=list(node.strides), pad_type=kind, pad=[top, bottom, left, right])

    def _conv(self, node: Conv | QuantizedConv, source: Any, weight: Any, bias: NDArray[np.float64], result: str) -> Any:
        name = identifier(node.name)
        held = half(f"{name}_bias", bias) if self.dtype == np.float16 else bias.astype(np.float32)
        value = self.mb.conv(
            x=source,
            weight=weight,
            bias=self.mb.const(val=held, name=f"{name}_bias"),
            **self._window(node),
            **self._parameters(dilations=[1, 1], groups=1),
            name=f"{name}_conv" if node.relu else result,
        )
        return self.mb.relu(x=value, name=result) if node.relu else value

    def _integer_constants(self, node: QuantizedConv, name: str) -> tuple[Any, NDArray[np.float64], float]:
        """The table's weights, the bias as real numbers, and the factor by which both are too large."""
        assert isinstance(self.network, QuantizedGraph)
        scale, gain = node.weight_scale / np.float32(self._unit(node)), 1.0
        held: NDArray[np.floating[Any]] = scale
        if self.dtype == np.float16:
            held, gain = half_scales(name, scale, node.weight)
        products = self.network.tensors[node.input].scale * node.weight_scale.astype(np.float64)
        return self._linear(node.weight, held, name), node.bias * products * gain, gain

    def _constants(self, node: Conv, name: str) -> tuple[Any, NDArray[np.float64]]:
        """The weights in the scheme's form, or for a layer kept in float in `dtype`; and the bias, see `recentred_bias`."""
        unit = self._unit(node)
        weight = node.weight / np.float32(unit)
        if self.dtype == np.float16:
            half(f"{name}_weight", weight)
        if self.scheme.palette:
            indices, palette = palette_of(weight, self.scheme.weight_bits)
            constant, held = self._palette(indices, palette, name), palette[indices]
        elif self.scheme.weight_bits and not self.scheme.integer:
            steps, scale = symmetric(weight)
            constant, held = self._linear(steps, scale, name), (steps * scale[:, None, None, None]).astype(np.float16)
        else:
            held = weight.astype(self.dtype)
            constant = self.mb.const(val=held, name=f"{name}_weight")
        return constant, recentred_bias(node, self.network, held.astype(np.float64) * unit)

    def _unit(self, node: Conv | QuantizedConv) -> float:
        return self.pixel if node.input == self.network.input.name else 1.0

    def _linear(self, steps: NDArray[np.int8], scale: NDArray[np.floating[Any]], name: str) -> Any:
        """Integers with one scale per output channel."""
        name = f"{name}_weight"
        if self.options.ios == 18:
            return self.mb.constexpr_blockwise_shift_scale(data=steps, scale=scale[:, None, None, None], name=name)
        return self.mb.constexpr_affine_dequantize(quantized_data=steps, zero_point=np.int8(0), scale=scale, axis=0, name=name)

    def _palette(self, indices: NDArray[np.uint8], palette: NDArray[np.float16], name: str) -> Any:
        name, bits = f"{name}_weight", self.scheme.weight_bits
        if self.options.ios == 18:
            types = require("coremltools.converters.mil.mil.types", "coreml")
            small = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
            return self.mb.constexpr_lut_to_dense(indices=indices.astype(small), lut=palette.reshape(1, 1, 1, 1, -1, 1), name=name)
        shape = np.array(indices.shape, np.uint32)
        return self.mb.constexpr_lut_to_dense(indices=bits_of(indices, bits), lut=palette, shape=shape, name=name)

    def _mean(self, source: Any, name: str) -> Any:
        """(N, C, H, W) -> (N, C) float32."""
        halves = self.dtype == np.float16
        mean = self.mb.reduce_mean(x=source, axes=[2, 3], keep_dims=False, name=f"{name}_fp16" if halves else name)
        return self.mb.cast(x=mean, dtype="fp32", name=name) if halves else mean
