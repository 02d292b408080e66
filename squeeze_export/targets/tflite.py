"""TensorFlow Lite (LiteRT): the flatbuffer written directly, without TensorFlow.

Integers of the table are unsigned; the format carries them as int8, 128 lower, or as int16, 32,768 lower, zero points too: the same
steps under another name. The input stays uint8, the output is float: MediaPipe and LiteRT.js accept no other form. `int8-npu` has
int8 logits, which leaves no float in the file.

    int8       uint8 -> QUANTIZE -> int8 network -> DEQUANTIZE -> MEAN -> float32 logits; `int8-per-tensor` too
    int8-npu   uint8 -> QUANTIZE -> int8 network -> MEAN -> int8 logits
    int16x8    uint8 -> CAST -> int16 network, int8 weights, int64 biases -> DEQUANTIZE -> MEAN -> float32 logits
    fp32       uint8 -> DEQUANTIZE (scale 1) -> float32 network -> MEAN -> float32 logits
    fp16       the same; weights are stored in half and pass through a DEQUANTIZE, which XNNPACK folds away; biases stay float32
    w8         likewise, with weights of int8 and a scale per output channel
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Audit, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme, check_written_as
from squeeze_export.graph.weights import real_weights, symmetric_weights
from squeeze_export.targets._tflite_audit import audit_file, describe_file
from squeeze_export.targets._tflite_metadata import LABELS_FILE, METADATA_NAME, model_metadata, with_files
from squeeze_export.targets._tflite_writer import Steps, Writer, padding_word

NAME = "tflite"
SUFFIX = ".tflite"
SCHEMES = ("fp32", "fp16", "int8", "int8-npu", "int8-per-tensor", "int16x8", "w8")
RUNTIMES = ("litert", "litert-builtin", "tflite-runtime", "tensorflow-lite")
PACKAGES = ("ai-edge-litert", "flatbuffers")

PROVENANCE_NAME = "squeeze_export"
"""The metadata entry that holds the caller's key -> text, as JSON."""

_PIXELS = Steps((1.0,), (0,))
_RELU = {False: 0, True: 1}  # ActivationFunctionType
_PADDING = {"SAME": 0, "VALID": 1}


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> bytes:
    """Writes the network down; see `Target.emit`.

    Raises:
        BadInput: the scheme is not carried, does not go with the network, or the batch is no positive number.
        Refused: a pool is padded in a way that the format has no word for.
        Unavailable: `ai_edge_litert` or `flatbuffers` is not installed.
    """
    _check(network, scheme, options)
    lowering = _Lowering(network, scheme, options)
    source, result = lowering.run()
    height, width, _ = network.sizes[network.input.name]
    entries = {
        METADATA_NAME: model_metadata(
            name=network.name,
            description=f"{network.name}, {scheme.name}",
            size_px=(width, height),
            output=lowering.output_name,
            labels=network.labels,
        ),
        PROVENANCE_NAME: json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False).encode(),
    }
    packed = lowering.writer.pack(source, result, entries)
    labels = {LABELS_FILE: "".join(f"{label}\n" for label in network.labels).encode()} if network.labels else {}
    return with_files(packed, labels)


def describe(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output, read from the file.

    Raises:
        BadInput: no such file, or no TFLite file with one input and one output.
    """
    return describe_file(path)


def audit(path: Path) -> Audit:
    """What is inside the file; see `_tflite_audit.audit_file`.

    Raises:
        BadInput: no such file, or no TFLite file.
    """
    return audit_file(path)


def _check(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
    if scheme.name not in SCHEMES:
        raise BadInput(f"tflite carries no scheme `{scheme.name}`", hint=f"one of: {', '.join(SCHEMES)}")
    if scheme.integer != isinstance(network, QuantizedGraph):
        needed = "a quantized graph" if scheme.integer else "the float graph"
        raise BadInput(f"scheme `{scheme.name}` is written from {needed}, not from a `{type(network).__name__}`")
    if isinstance(network, QuantizedGraph):
        check_written_as(network, scheme)
    if scheme.integer_output and options.softmax:
        raise BadInput(f"`{scheme.name}` gives logits of 8 bits, not probabilities", hint="leave out --softmax, or --scheme int8")
    if options.batch != "dynamic" and options.batch < 1:
        raise BadInput(f"a batch of `{options.batch}` images", hint="a positive number, or dynamic")


class _Lowering:
    """Turns nodes into operators, one method a kind.

    Attributes:
        writer: the file under construction.
        output_name: `logits`, or `probabilities` after a softmax.
    """

    def __init__(self, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
        self.network = network
        self.options = options
        self.scheme = scheme
        self.half = scheme.float_dtype == "float16" and not scheme.weight_bits
        self.steps: Mapping[str, Quantization] = network.tensors if isinstance(network, QuantizedGraph) else {}
        self.integer = scheme.integer
        self.wide = scheme.activation_bits == 16
        self.dtype = f"int{scheme.activation_bits}" if scheme.integer else "float32"
        self.version = 1 + scheme.integer + self.wide  # of every operator that moves or pools: 2 added int8, 3 int16
        self.batch = -1 if options.batch == "dynamic" else options.batch
        self.output_name = "probabilities" if options.softmax else network.output.name
        self.writer = Writer(f"{network.name}, {scheme.name}")
        self.indices: dict[str, int] = {}

    def run(self) -> tuple[int, int]:
        """Writes every node; (input tensor, output tensor)."""
        source = self._input()
        for node in self.network.nodes:
            if isinstance(node, Conv | QuantizedConv):
                self._conv(node)
            elif isinstance(node, MaxPool):
                self._max_pool(node)
            elif isinstance(node, Concat):
                fields = {"axis": 3, "fusedActivationFunction": 0}
                self._operator("CONCATENATION", node.name, node.inputs, ("ConcatenationOptions", fields))
            elif isinstance(node, Add):
                fields = {"fusedActivationFunction": 0}
                fields |= {"potScaleInt16": False} if self.wide else {}  # its scales are no powers of two
                self._operator("ADD", node.name, node.inputs, ("AddOptions", fields))
            elif isinstance(node, GlobalAveragePool):
                self._mean(node)
        result = self.indices[self.network.output.name]
        return source, self._softmax(result) if self.options.softmax else result

    def _activation(self, name: str, *, like: str | None = None, shape: tuple[int, int, int] | None = None) -> int:
        """A tensor of the network's own dtype; `like` names the table's entry where it is not `name`."""
        size = shape or self.network.sizes[name]
        found = self.steps.get(like or name)
        return self.writer.tensor(name, (self.batch, *size), self.dtype, self._steps(found) if found is not None else None)

    def _steps(self, q: Quantization) -> Steps:
        return Steps((q.scale,), (q.zero_point - self.scheme.middle,))

    def _operator(self, kind: str, name: str, inputs: tuple[str, ...], options: tuple[str, Mapping[str, Any]]) -> None:
        output = self.indices[name] = self._activation(name)
        self.writer.operator(kind, self.version, [self.indices[i] for i in inputs], output, options)

    def _input(self) -> int:
        """The input tensor and what brings it to the network's dtype, without changing a value."""
        name = self.network.input.name
        size = (self.batch, *self.network.sizes[name])
        floats = self.options.input_dtype == "float32"
        source = self.writer.tensor(name, size, self.options.input_dtype, None if floats else _PIXELS)
        if self.wide:
            moved = self.writer.tensor(f"{name}/int16", size, "int16", _PIXELS)
            if floats:
                self.writer.operator("QUANTIZE", 2, [source], moved, ("QuantizeOptions", {}))  # version 2 added int16
            else:  # from uint8 to int16 there is no QUANTIZE
                self.writer.operator("CAST", 1, [source], moved, ("CastOptions", {}))
        elif self.integer:
            moved = self.writer.tensor(f"{name}/int8", size, "int8", Steps((1.0,), (-self.scheme.middle,)))
            self.writer.operator("QUANTIZE", 1, [source], moved, ("QuantizeOptions", {}))
        elif floats:
            moved = source
        else:
            moved = self.writer.tensor(f"{name}/float", size, "float32")
            self.writer.operator("DEQUANTIZE", 1, [source], moved, ("DequantizeOptions", {}))
        self.indices[name] = moved
        return source

    def _conv(self, node: Conv | QuantizedConv) -> None:
        size = self.network.sizes[node.input]
        source = self.indices[node.input]
        padding = padding_word(size, node.kernel, node.stride, node.pads)
        if padding is None:
            source, padding = self._padded(node, size), "VALID"
        weight, bias = self._constants(node)
        output = self.indices[node.name] = self._activation(node.name)
        fields = {
            "padding": _PADDING[padding],
            "strideW": node.stride,
            "strideH": node.stride,
            "fusedActivationFunction": _RELU[node.relu],
        }
        version = (4 if self.wide else 3) if self.integer else 1  # 3 is int8, with a weight scale per output channel; 4 added int16
        self.writer.operator("CONV_2D", version, [source, weight, bias], output, ("Conv2DOptions", fields))

    def _constants(self, node: Conv | QuantizedConv) -> tuple[int, int]:
        """The weights, OHWI, and the bias."""
        writer, names = self.writer, (f"{node.name}/weight", f"{node.name}/bias")
        weight, first = node.weight.transpose(0, 2, 3, 1), node.input == self.network.input.name
        if isinstance(node, QuantizedConv):
            # In float32, as the runtimes check it: bias scale = input scale * weight scale.
            scales = node.weight_scale[:1] if self.scheme.per_tensor else node.weight_scale
            products = np.float32(self.steps[node.input].scale) * scales
            zeros = (0,) * len(scales)
            return (
                writer.constant(names[0], weight, Steps(tuple(scales.tolist()), zeros)),
                writer.constant(
                    names[1], node.bias.astype(np.int64 if self.wide else np.int32), Steps(tuple(products.tolist()), zeros)
                ),
            )
        if self.scheme.weight_bits:
            steps, scale = symmetric_weights(node.weight)
            ohwi = steps.transpose(0, 2, 3, 1)
            stored = writer.constant(f"{names[0]}/int8", ohwi, Steps(tuple(scale.tolist()), (0,) * len(scale)))
            widened = writer.tensor(names[0], weight.shape, "float32")
            writer.operator("DEQUANTIZE", 5, [stored], widened, ("DequantizeOptions", {}))  # version 5: a scale per channel
            held = real_weights(steps, scale).transpose(0, 2, 3, 1)
            return widened, writer.constant(names[1], self._recentred(node, held) if first else node.bias)
        if not self.half:
            return writer.constant(names[0], weight), writer.constant(names[1], node.bias)
        if np.abs(weight).max() > np.finfo(np.float16).max:
            raise Refused(f"`{node.name}` has weights beyond float16's largest, 65504", hint="export it with --scheme fp32")
        half = weight.astype(np.float16)
        bias = self._recentred(node, half) if first else node.bias
        widened = writer.tensor(names[0], weight.shape, "float32")
        stored = writer.constant(f"{names[0]}/half", half)
        writer.operator("DEQUANTIZE", 3, [stored], widened, ("DequantizeOptions", {}))  # version 3 added float16
        return widened, writer.constant(names[1], bias)

    def _recentred(self, conv: Conv, held: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The bias of the first convolution with the mean folded in by its *rounded* weights (OHWI), as in the integer table.

        Pixels lie around the mean, not around 0, so rounding the weights shifts every output: 2.6 (v1.0) to 4 dB (v1.1) of the
        logits' SQNR.
        """
        preprocess = self.network.preprocess
        mean = np.array(preprocess.mean if preprocess.channel_order == "rgb" else preprocess.mean[::-1], np.float64)
        lost = conv.weight.transpose(0, 2, 3, 1).astype(np.float64) - held
        bias: NDArray[np.float32] = (conv.bias + (lost * mean).sum(axis=(1, 2, 3))).astype(np.float32)
        return bias

    def _padded(self, node: Conv | QuantizedConv, size: tuple[int, int, int]) -> int:
        """Real zeros around a convolution's input: the integer of the tensor's own zero point."""
        top, left, bottom, right = node.pads
        amounts = np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
        shape = (size[0] + top + bottom, size[1] + left + right, size[2])
        output = self._activation(f"{node.name}/padded", like=node.input, shape=shape)
        inputs = [self.indices[node.input], self.writer.constant(f"{node.name}/pads", amounts)]
        self.writer.operator("PAD", self.version, inputs, output, ("PadOptions", {}))
        return output

    def _max_pool(self, node: MaxPool) -> None:
        padding = padding_word(self.network.sizes[node.input], node.kernel, node.stride, node.pads)
        if padding is None:
            size = self.network.sizes[node.input]
            raise Refused(f"tflite has no pool like `{node.name}`, padded by `{node.pads}` on `{size}`")
        fields = {
            "padding": _PADDING[padding],
            "strideW": node.stride,
            "strideH": node.stride,
            "filterWidth": node.kernel,
            "filterHeight": node.kernel,
            "fusedActivationFunction": 0,
        }
        self._operator("MAX_POOL_2D", node.name, (node.input,), ("Pool2DOptions", fields))

    def _mean(self, node: GlobalAveragePool) -> None:
        """In float, unless the scheme wants integers: logits of 8 bits tie for the best class."""
        source = self.indices[node.input]
        size = self.network.sizes[node.input]
        dtype, version, steps = "float32", 1, None
        if self.scheme.integer_output:
            dtype, version, steps = self.dtype, self.version, self._steps(self.steps[node.name])
        elif self.integer:
            widened = self.writer.tensor(f"{node.input}/float", (self.batch, *size), "float32")
            self.writer.operator("DEQUANTIZE", self.version, [source], widened, ("DequantizeOptions", {}))
            source = widened
        axes = self.writer.constant(f"{node.name}/axes", np.array([1, 2], np.int32))
        output = self.writer.tensor(node.name, (self.batch, size[2]), dtype, steps)
        self.writer.operator("MEAN", version, [source, axes], output, ("ReducerOptions", {"keepDims": False}))
        self.indices[node.name] = output

    def _softmax(self, logits: int) -> int:
        classes = self.network.sizes[self.network.output.name][2]
        output = self.writer.tensor(self.output_name, (self.batch, classes), "float32")
        self.writer.operator("SOFTMAX", 1, [logits], output, ("SoftmaxOptions", {"beta": 1.0}))
        return output
