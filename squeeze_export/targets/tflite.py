"""TensorFlow Lite (LiteRT): the flatbuffer written directly, without TensorFlow.

Integers of the table are unsigned; the format carries them as int8, 128 lower, or as int16, 32,768 lower, zero points too: the same
steps under another name. The input stays uint8, the output is float: MediaPipe and LiteRT.js accept no other form. `int8-npu` has
int8 logits, which leaves no float in the file. Pixels given as int8, 128 lower, are the network's own integers: no QUANTIZE then.

    int8       uint8 -> QUANTIZE -> int8 network -> DEQUANTIZE -> MEAN -> float32 logits; `int8-per-tensor` too
               a layer kept in float: DEQUANTIZE -> float32 -> QUANTIZE, where its neighbours are in integers
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

from squeeze_export.core import Audit, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme, check_written_as
from squeeze_export.operators import Contents
from squeeze_export.targets import _tflite_file
from squeeze_export.targets._tflite_audit import audit_file, describe_file
from squeeze_export.targets._tflite_metadata import LABELS_FILE, METADATA_NAME, model_metadata, with_files
from squeeze_export.targets._tflite_weights import write_floats, write_integers
from squeeze_export.targets._tflite_writer import Steps, Writer, padding_word

NAME = "tflite"
SUFFIX = ".tflite"
SCHEMES = ("fp32", "fp16", "int8", "int8-npu", "int8-per-tensor", "int16x8", "w8")
INPUTS = ("uint8", "float32", "int8")
RUNTIMES = ("litert", "litert-builtin", "tflite-runtime", "tensorflow-lite", "tflite-micro")
PACKAGES = ("ai-edge-litert", "flatbuffers")

PROVENANCE_NAME = "squeeze_export"
"""The metadata entry that holds the caller's key -> text, as JSON."""

_PIXELS = {"uint8": Steps((1.0,), (0,)), "int8": Steps((1.0,), (-128,)), "int16": Steps((1.0,), (0,))}
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

    A tensor that the table has integers for is written in integers, every other one in float. Who computes in float takes the real
    values of integers from one DEQUANTIZE, which all such readers share, and its result is rounded where the table has integers for
    it.

    Attributes:
        writer: the file under construction.
        output_name: `logits`, or `probabilities` after a softmax.
        integers: tensor name -> the file's tensor of the network's own integers.
        reals: tensor name -> the file's tensor of its real values.
    """

    def __init__(self, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
        self.network = network
        self.options = options
        self.scheme = scheme
        self.steps: Mapping[str, Quantization] = network.tensors if isinstance(network, QuantizedGraph) else {}
        self.wide = scheme.activation_bits == 16
        self.version = 2 + self.wide  # of every operator that moves or pools integers: 2 added int8, 3 int16
        self.batch = -1 if options.batch == "dynamic" else options.batch
        self.output_name = "probabilities" if options.softmax else network.output.name
        self.writer = Writer(f"{network.name}, {scheme.name}")
        self.integers: dict[str, int] = {}
        self.reals: dict[str, int] = {}

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
                self._operator("CONCATENATION", node, self._sources(node), ("ConcatenationOptions", fields))
            elif isinstance(node, Add):
                fields = {"fusedActivationFunction": 0}
                fields |= {"potScaleInt16": False} if self.wide else {}  # its scales are no powers of two
                self._operator("ADD", node, self._sources(node), ("AddOptions", fields))
            elif isinstance(node, GlobalAveragePool):
                self._mean(node)
        output = self.network.output.name
        result = self.integers[output] if self.scheme.integer_output else self.reals[output]
        return source, self._softmax(result) if self.options.softmax else result

    def _computes_integers(self, node: QuantizedNode) -> bool:
        if isinstance(node, GlobalAveragePool):
            return self.scheme.integer_output
        return not isinstance(node, Conv) and all(name in self.steps for name in (*node.inputs, node.name))

    def _sources(self, node: QuantizedNode) -> list[int]:
        return [self.integers[name] if self._computes_integers(node) else self._real(name) for name in node.inputs]

    def _real(self, name: str) -> int:
        """The tensor of real values, of which there is one."""
        if name not in self.reals:
            self.reals[name] = self._floats(f"{name}/float", self.network.sizes[name])
            source = [self.integers[name]]
            self.writer.operator("DEQUANTIZE", self.version, source, self.reals[name], ("DequantizeOptions", {}))
        return self.reals[name]

    def _floats(self, name: str, size: tuple[int, int, int]) -> int:
        return self.writer.tensor(name, (self.batch, *size), "float32")

    def _integers(self, name: str, *, like: str | None = None, shape: tuple[int, int, int] | None = None) -> int:
        """A tensor of the network's own integers; `like` names the table's entry where it is not `name`."""
        size = shape or self.network.sizes[name]
        return self.writer.tensor(name, (self.batch, *size), f"int{self.scheme.activation_bits}", self._steps(like or name))

    def _steps(self, name: str) -> Steps:
        q = self.steps[name]
        return Steps((q.scale,), (q.zero_point - self.scheme.middle,))

    def _operator(
        self, kind: str, node: QuantizedNode, inputs: list[int], options: tuple[str, Mapping[str, Any]], version: int | None = None
    ) -> None:
        """Adds a node's operator; `version` is that of its integer kernel, where it is not that of most."""
        name, rounded = node.name, node.name in self.steps
        if self._computes_integers(node):
            self.integers[name] = self._integers(name)
            self.writer.operator(kind, version or self.version, inputs, self.integers[name], options)
            return
        output = self._floats(f"{name}/unrounded" if rounded else name, self.network.sizes[name])
        self.writer.operator(kind, 1, inputs, output, options)
        if rounded:
            self.integers[name] = self._integers(name)
            self.writer.operator("QUANTIZE", 1, [output], self.integers[name], ("QuantizeOptions", {}))
        else:
            self.reals[name] = output

    def _input(self) -> int:
        """The input tensor and what brings it to its readers' dtype, without changing a value."""
        name, given = self.network.input.name, self.options.input_dtype
        size = (self.batch, *self.network.sizes[name])
        source = self.writer.tensor(name, size, given, _PIXELS.get(given))
        readers = {self._computes_integers(node) for node in self.network.consumers[name]}
        carried = f"int{self.scheme.activation_bits}"
        if True in readers and given == carried:
            self.integers[name] = source
        elif True in readers:
            moved = self.integers[name] = self.writer.tensor(f"{name}/{carried}", size, carried, _PIXELS[carried])
            if self.wide and given == "uint8":  # from uint8 to int16 there is no QUANTIZE
                self.writer.operator("CAST", 1, [source], moved, ("CastOptions", {}))
            else:  # version 2 added int16
                self.writer.operator("QUANTIZE", 1 + self.wide, [source], moved, ("QuantizeOptions", {}))
        if given == "float32":
            self.reals[name] = source
        elif False in readers:  # version 2 added int8
            self.reals[name] = self._floats(f"{name}/float", self.network.sizes[name])
            self.writer.operator("DEQUANTIZE", 1 + (given == "int8"), [source], self.reals[name], ("DequantizeOptions", {}))
        return source

    def _conv(self, node: Conv | QuantizedConv) -> None:
        size = self.network.sizes[node.input]
        (source,) = self._sources(node)
        padding = padding_word(size, node.kernel, node.stride, node.pads)
        if padding is None:
            source, padding = self._padded(node, size, source), "VALID"
        if isinstance(node, QuantizedConv):
            weight, bias = write_integers(self.writer, node, self.steps[node.input], self.scheme)
        else:
            pixels = self.network.preprocess if node.input == self.network.input.name else None
            weight, bias = write_floats(self.writer, node, self.scheme, pixels)
        fields = {
            "padding": _PADDING[padding],
            "strideW": node.stride,
            "strideH": node.stride,
            "fusedActivationFunction": _RELU[node.relu],
        }
        version = 4 if self.wide else 3  # 3 is int8, with a weight scale per output channel; 4 added int16
        self._operator("CONV_2D", node, [source, weight, bias], ("Conv2DOptions", fields), version)

    def _padded(self, node: Conv | QuantizedConv, size: tuple[int, int, int], source: int) -> int:
        """Real zeros around a convolution's input: of integers, that of the tensor's own zero point."""
        top, left, bottom, right = node.pads
        amounts = np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
        name, shape = f"{node.name}/padded", (size[0] + top + bottom, size[1] + left + right, size[2])
        integer = self._computes_integers(node)
        output = self._integers(name, like=node.input, shape=shape) if integer else self._floats(name, shape)
        inputs = [source, self.writer.constant(f"{node.name}/pads", amounts)]
        self.writer.operator("PAD", self.version if integer else 1, inputs, output, ("PadOptions", {}))
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
        self._operator("MAX_POOL_2D", node, self._sources(node), ("Pool2DOptions", fields))

    def _mean(self, node: GlobalAveragePool) -> None:
        """In float, unless the scheme wants integers: logits of 8 bits tie for the best class."""
        (source,) = self._sources(node)
        shape = (self.batch, self.network.sizes[node.input][2])
        integer = self.scheme.integer_output
        dtype, steps = (f"int{self.scheme.activation_bits}", self._steps(node.name)) if integer else ("float32", None)
        inputs = [source, self.writer.constant(f"{node.name}/axes", np.array([1, 2], np.int32))]
        output = self.writer.tensor(node.name, shape, dtype, steps)
        (self.integers if integer else self.reals)[node.name] = output
        self.writer.operator("MEAN", self.version if integer else 1, inputs, output, ("ReducerOptions", {"keepDims": False}))

    def _softmax(self, logits: int) -> int:
        classes = self.network.sizes[self.network.output.name][2]
        output = self.writer.tensor(self.output_name, (self.batch, classes), "float32")
        self.writer.operator("SOFTMAX", 1, [logits], output, ("SoftmaxOptions", {"beta": 1.0}))
        return output


def contents(path: Path) -> Contents:
    """The file's operators; see `_tflite_file.contents`."""
    return _tflite_file.contents(path)
