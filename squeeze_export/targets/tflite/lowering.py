"""The graph's nodes as the format's operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import OUTPUT_NAMES, EmitOptions
from squeeze_export.graph.nodes import (
    Add,
    Concat,
    Conv,
    GlobalAveragePool,
    Graph,
    MaxPool,
    QuantizedConv,
    QuantizedNode,
    signed_tensors,
)
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme
from squeeze_export.targets.tflite.weights import write_floats, write_integers
from squeeze_export.targets.tflite.writer import Steps, Writer, padding_word

_PIXELS = {"uint8": Steps((1.0,), (0,)), "int8": Steps((1.0,), (-128,)), "int16": Steps((1.0,), (0,))}


class Lowering:
    """Turns nodes into operators, one method per kind.

    A tensor that the table quantizes is written in integers, any other in float. Float operators read integers through one
    DEQUANTIZE that they share, and a QUANTIZE follows where the table quantizes their result.

    Attributes:
        writer: the file under construction.
        output_name: `logits`, `probabilities` after a softmax, `scores` after a sigmoid.
        integers: tensor name -> index of its integer tensor in the file.
        reals: tensor name -> index of its float tensor in the file.
    """

    def __init__(self, network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions) -> None:
        self.network = network
        self.options = options
        self.scheme = scheme
        self.steps: Mapping[str, Quantization] = network.tensors if isinstance(network, QuantizedGraph) else {}
        self.wide = scheme.activation_bits == 16
        self.version = 2 + self.wide  # of operators that move or pool integers: 2 added int8, 3 int16
        self.carried = f"int{scheme.activation_bits}"
        self.batch = -1 if options.batch == "dynamic" else options.batch
        self.output_name = OUTPUT_NAMES[options.ending]
        self.writer = Writer(f"{network.name}, {scheme.name}")
        self.signed = signed_tensors(network.nodes)
        self.integers: dict[str, int] = {}
        self.reals: dict[str, int] = {}

    def run(self) -> tuple[int, int]:
        """Writes every node. Returns the input tensor and the output tensor."""
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
                fields = {"fusedActivationFunction": int(node.relu)}
                fields |= {"potScaleInt16": False} if self.wide else {}  # its scales are no powers of two
                self._operator("ADD", node, self._sources(node), ("AddOptions", fields))
            elif isinstance(node, GlobalAveragePool):
                self._mean(node)
        output = self.network.output.name
        result = self.integers[output] if self.scheme.integer_output else self.reals[output]
        return source, self._probabilities(result) if self.options.ending != "logits" else result

    def _computes_integers(self, node: QuantizedNode) -> bool:
        if isinstance(node, GlobalAveragePool):
            return self.scheme.integer_output
        return not isinstance(node, Conv) and all(name in self.steps for name in (*node.inputs, node.name))

    def _sources(self, node: QuantizedNode) -> list[int]:
        return [self.integers[name] if self._computes_integers(node) else self._real(name) for name in node.inputs]

    def _real(self, name: str) -> int:
        """The float tensor, made from the integers at the first call."""
        if name not in self.reals:
            self.reals[name] = self._tensor(f"{name}/float", self.network.sizes[name])
            source = [self.integers[name]]
            self.writer.operator("DEQUANTIZE", self.version, source, self.reals[name], ("DequantizeOptions", {}))
        return self.reals[name]

    def _tensor(self, name: str, size: Sequence[int], like: str = "") -> int:
        """Adds a tensor with a batch dimension: float32, or with the integers that the table has for the tensor `like`."""
        if not like:
            return self.writer.tensor(name, (self.batch, *size), "float32")
        return self.writer.tensor(name, (self.batch, *size), self.carried, self._steps(like))

    def _steps(self, name: str) -> Steps:
        q = self.steps[name]
        return Steps((q.scale,), (q.zero_point - self.scheme.middle,))

    def _operator(
        self, kind: str, node: QuantizedNode, inputs: list[int], options: tuple[str, Mapping[str, Any]], version: int | None = None
    ) -> None:
        """Adds a node's operator; `version` is that of its integer kernel where it differs from `self.version`."""
        name, size, rounded = node.name, self.network.sizes[node.name], node.name in self.steps
        if self._computes_integers(node):
            self.integers[name] = self._tensor(name, size, name)
            self.writer.operator(kind, version or self.version, inputs, self.integers[name], options)
            return
        output = self._tensor(f"{name}/unrounded" if rounded else name, size)
        self.writer.operator(kind, 1, inputs, output, options)
        if rounded:
            self.integers[name] = self._tensor(name, size, name)
            self.writer.operator("QUANTIZE", 1, [output], self.integers[name], ("QuantizeOptions", {}))
        else:
            self.reals[name] = output

    def _input(self) -> int:
        """The input tensor, converted to its readers' dtypes without changing a value."""
        name, given = self.network.input.name, self.options.input_dtype
        size = (self.batch, *self.network.sizes[name])
        source = self.writer.tensor(name, size, given, _PIXELS.get(given))
        readers = {self._computes_integers(node) for node in self.network.consumers[name]}
        if True in readers and given == self.carried:
            self.integers[name] = source
        elif True in readers:
            moved = self.integers[name] = self.writer.tensor(f"{name}/{self.carried}", size, self.carried, _PIXELS[self.carried])
            if self.wide and given == "uint8":  # from uint8 to int16 there is no QUANTIZE
                self.writer.operator("CAST", 1, [source], moved, ("CastOptions", {}))
            else:  # version 2 added int16
                self.writer.operator("QUANTIZE", 1 + self.wide, [source], moved, ("QuantizeOptions", {}))
        if given == "float32":
            self.reals[name] = source
        elif False in readers:  # version 2 added int8
            self.reals[name] = self._tensor(f"{name}/float", self.network.sizes[name])
            self.writer.operator("DEQUANTIZE", 1 + (given == "int8"), [source], self.reals[name], ("DequantizeOptions", {}))
        return source

    def _conv(self, node: Conv | QuantizedConv) -> None:
        size = self.network.sizes[node.input]
        (source,) = self._sources(node)
        padding = padding_word(size, node.kernel, node.strides, node.pads)
        if padding is None:
            source, padding = self._padded(node, size, source), "VALID"
        if isinstance(node, QuantizedConv):
            weight, bias = write_integers(self.writer, node, self.steps[node.input], self.scheme)
        else:
            weight, bias = write_floats(self.writer, node, self.network, self.scheme)
        fields = _window(node, padding) | {"fusedActivationFunction": int(node.relu)}  # ActivationFunctionType.RELU is 1
        version = 4 if self.wide else 3  # 3 is int8, with a weight scale per output channel; 4 added int16
        self._operator("CONV_2D", node, [source, weight, bias], ("Conv2DOptions", fields), version)

    def _padded(self, node: Conv | QuantizedConv | MaxPool, size: tuple[int, int, int], source: int) -> int:
        """Pads with zeros, which in integers is the tensor's zero point. Before a pool of a tensor that can be negative, with the
        lowest value instead: padding never wins a maximum.
        """
        top, left, bottom, right = node.pads
        amounts = np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
        name, shape = f"{node.name}/padded", (size[0] + top + bottom, size[1] + left + right, size[2])
        integer = self._computes_integers(node)
        output = self._tensor(name, shape, node.input if integer else "")
        inputs = [source, self.writer.constant(f"{node.name}/pads", amounts)]
        kind, options = "PAD", "PadOptions"
        if isinstance(node, MaxPool) and node.input in self.signed:
            kind, options = "PADV2", "PadV2Options"
            lowest = np.iinfo(self.carried).min if integer else np.finfo(np.float32).min
            fill = np.array([lowest], self.carried if integer else "float32")
            inputs.append(self.writer.constant(f"{node.name}/lowest", fill, self._steps(node.input) if integer else None))
        self.writer.operator(kind, self.version if integer else 1, inputs, output, (options, {}))
        return output

    def _max_pool(self, node: MaxPool) -> None:
        size = self.network.sizes[node.input]
        (source,) = self._sources(node)
        padding = padding_word(size, node.kernel, node.strides, node.pads)
        if padding is None:
            source, padding = self._padded(node, size, source), "VALID"
        rows, columns = node.kernel
        fields = _window(node, padding) | {"filterWidth": columns, "filterHeight": rows, "fusedActivationFunction": 0}
        self._operator("MAX_POOL_2D", node, [source], ("Pool2DOptions", fields))

    def _mean(self, node: GlobalAveragePool) -> None:
        """In float unless the scheme has integer logits, because 8-bit logits often tie for the best class."""
        (source,) = self._sources(node)
        integer = self.scheme.integer_output
        inputs = [source, self.writer.constant(f"{node.name}/axes", np.array([1, 2], np.int32))]
        output = self._tensor(node.name, self.network.sizes[node.input][2:], node.name if integer else "")
        (self.integers if integer else self.reals)[node.name] = output
        self.writer.operator("MEAN", self.version if integer else 1, inputs, output, ("ReducerOptions", {"keepDims": False}))

    def _probabilities(self, logits: int) -> int:
        output = self._tensor(self.output_name, self.network.sizes[self.network.output.name][2:])
        if self.options.softmax:
            self.writer.operator("SOFTMAX", 1, [logits], output, ("SoftmaxOptions", {"beta": 1.0}))
        else:
            self.writer.operator("LOGISTIC", 1, [logits], output)
        return output


def _window(node: Conv | QuantizedConv | MaxPool, padding: str) -> dict[str, int]:
    return {"padding": {"SAME": 0, "VALID": 1}[padding], "strideW": node.strides[1], "strideH": node.strides[0]}
