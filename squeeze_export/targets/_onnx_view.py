"""An ONNX model asked by tensor name: what is a float, and what a runtime can compute in integers."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property
from typing import Any

MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSED: tuple[str, ...] = (*MULTIPLYING, "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Add", "Mul", "Relu")
_FUSED += ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Softmax")
_BESIDE = ("Add", "Concat", "MaxPool", "Relu")
"""Multiply nothing; in float they may stand between convolutions kept in float."""


class View:
    """A model, asked by tensor name.

    Attributes:
        constants: name -> (dtype, bytes of an element, shape) of every initializer and Constant.
    """

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._graph = onnx, model.graph
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                tensors.update((node.output[0], a.t) for a in node.attribute if a.type == a.TENSOR)
        self.constants = {name: (*self._numpy_type(t.data_type), tuple(t.dims)) for name, t in tensors.items()}
        self._types = self._inferred(model)

    def _inferred(self, model: Any) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        try:
            graph = self._onnx.shape_inference.infer_shapes(model).graph
        except self._onnx.shape_inference.InferenceError:
            graph = model.graph  # what stays unknown counts as float
        types = {}
        for entry in (*graph.input, *graph.value_info, *graph.output):
            tensor = entry.type.tensor_type
            shape = tuple(dim.dim_param or int(dim.dim_value) for dim in tensor.shape.dim)
            types[entry.name] = (self._numpy_type(tensor.elem_type)[0], shape)
        return types

    def _numpy_type(self, elem_type: int) -> tuple[str, int]:
        """Name and bytes of an element type; float32 where it is unknown: what cannot be shown to be an integer is not one."""
        try:
            dtype = self._onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        except KeyError:
            return "float32", 4
        return str(dtype.name), int(dtype.itemsize)

    def _type(self, name: str) -> tuple[str, tuple[int | str, ...]]:
        if name in self.constants:
            dtype, _, shape = self.constants[name]
            return dtype, shape
        return self._types.get(name, ("float32", ("?",)))

    def holds_float(self, name: str) -> bool:
        """Whether a tensor's elements are floating-point numbers."""
        return _is_float(self._type(name)[0])

    def described(self, name: str) -> str:
        """`dtype[shape]`."""
        dtype, shape = self._type(name)
        return f"{dtype}[{','.join(str(size) for size in shape)}]"

    @cached_property
    def float_constants(self) -> list[str]:
        """Names of the constants in float that are no quantization's scale."""
        return [name for name, (dtype, *_) in self.constants.items() if _is_float(dtype) and not self._is_scale(name)]

    def _is_scale(self, name: str) -> bool:
        readers = self._readers.get(name, [])
        return bool(readers) and all(self._takes_scale(node, name) for node in readers)

    def _takes_scale(self, node: Any, name: str) -> bool:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return bool(name == node.input[1] and name != node.input[0])
        return bool(node.op_type.startswith("QLinear"))

    def shifts_pixels(self, node: Any) -> bool:
        """Whether a node takes one number off the input, ahead of every product."""
        ahead = self.ancestors([node])
        products = {node_name(other) for other in self._graph.node if other.op_type in MULTIPLYING}
        one = len(node.input) == 2 and node.input[1] in self.constants and math.prod(self.constants[node.input[1]][2]) == 1
        return node.op_type == "Sub" and one and not ahead & products

    def is_shift(self, name: str) -> bool:
        """Whether a constant is nothing but what such a node takes off."""
        readers = self._readers.get(name, [])
        return bool(readers) and all(self.shifts_pixels(node) for node in readers)

    def beside(self, convs: Collection[Any]) -> frozenset[str]:
        """First results of convolutions, and of the operators that multiply nothing and are joined to them by floats alone."""
        found = {conv.output[0] for conv in convs}
        waiting = list(convs)
        while waiting:
            node = waiting.pop()
            makers = (self._makers.get(name) for name in node.input)
            for other in (*makers, *(reader for name in node.output for reader in self._readers.get(name, []))):
                if other is not None and other.op_type in _BESIDE and other.output[0] not in found:
                    found.add(other.output[0])
                    waiting.append(other)
        return frozenset(found)

    def belongs_to(self, name: str, results: Collection[str]) -> bool:
        """Whether nothing reads a constant but, as weight or bias, convolutions whose first results are among `results`, and
        quantizations as their scale: what has the same content is stored once.
        """
        readers = self._readers.get(name, [])
        return bool(readers) and all(
            self._takes_scale(node, name) or (node.op_type == "Conv" and node.output[0] in results and name not in node.input[:1])
            for node in readers
        )

    def gives_logits(self, node: Any) -> bool:
        """Whether a node turns integers into the file's output and does nothing else."""
        return node.op_type == "DequantizeLinear" and self._is_output(node)

    def is_float(self, node: Any) -> bool:
        """Whether a node computes in floating point."""
        if node.op_type == "Constant" or node.op_type.startswith("QLinear"):
            return False
        if node.op_type == "DequantizeLinear":  # a part of the groups that read it, and of nothing else
            readers = self._readers.get(node.output[0], [])
            return self._is_output(node) or not all(self._in_group(reader) for reader in readers)
        if node.op_type == "QuantizeLinear":
            maker = self._makers.get(node.input[0])
            return maker is None or not (maker.op_type == "DequantizeLinear" or self._in_group(maker))
        touches_float = any(self.holds_float(name) for name in (*node.input, *node.output) if name)
        return touches_float and not self._in_group(node)

    def _in_group(self, node: Any) -> bool:
        if node.op_type == "QuantizeLinear":
            return True
        return node.op_type in _FUSED and not self.reasons(node)

    def reasons(self, node: Any) -> list[str]:
        """Why a runtime cannot run a node in integers; empty where it can."""
        found = []
        for name in node.input:
            maker = self._makers.get(name)
            if not name or not self.holds_float(name) or (maker is not None and maker.op_type == "DequantizeLinear"):
                continue
            if name in self.constants:
                found.append(f"its operand `{name}` is stored as {self.described(name)}")
            elif not (node.op_type == "Relu" and maker is not None and self._is_before_relu(maker)):
                found.append(f"its input `{name}` is not quantized")
                if node.op_type in MULTIPLYING and self._is_integer_constant(node.input[1]):
                    found.append("its weights are integers turned back into floats, as in a dynamic-range file")
        if not self._quantized_next(node, through_relu=node.op_type != "Relu"):
            found.append(f"its result `{node.output[0]}` is not quantized")
        return found

    def _is_before_relu(self, node: Any) -> bool:
        return node.op_type in _FUSED and node.op_type != "Relu" and not self.reasons(node)

    def _quantized_next(self, node: Any, *, through_relu: bool) -> bool:
        """Whether QuantizeLinear is all that reads a node's result, or a ReLU of which the same is true."""
        readers = self._readers.get(node.output[0], [])
        return (
            bool(readers)
            and not self._is_output(node)
            and all(
                reader.op_type == "QuantizeLinear"
                or (through_relu and reader.op_type == "Relu" and self._quantized_next(reader, through_relu=False))
                for reader in readers
            )
        )

    def _is_integer_constant(self, name: str) -> bool:
        maker = self._makers.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in self.constants

    def _is_output(self, node: Any) -> bool:
        return any(entry.name in node.output for entry in self._graph.output)

    def ancestors(self, nodes: list[Any]) -> frozenset[str]:
        """Names of the nodes whose results reach one of `nodes`."""
        found: dict[str, None] = {}
        waiting = [name for node in nodes for name in node.input]
        while waiting:
            maker = self._makers.get(waiting.pop())
            if maker is not None and node_name(maker) not in found:
                found[node_name(maker)] = None
                waiting += maker.input
        return frozenset(found)


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))


def node_name(node: Any) -> str:
    """A node's name, or its first result's: names are optional in ONNX."""
    return str(node.name or (node.output[0] if node.output else node.op_type))
