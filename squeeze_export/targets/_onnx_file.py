"""An ONNX file's operators, with the integers that they stand between: what `lint` looks at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.operators import FREE, Attribute, Contents, FileOperator, FileTensor
from squeeze_export.targets._onnx_audit import read_model
from squeeze_export.targets._onnx_view import node_name

MAX_VALUES = 16
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_ACTIVATIONS = ("Relu", "Clip")
"""Belong to the operator before them where integers follow."""


def contents(path: Path) -> Contents:
    """The operators of a file. Pairs of QuantizeLinear and DequantizeLinear are no operators but what their neighbours' tensors
    are carried in; those at the edge of the integers are operators, for nobody else brings floats to integers there.

    Raises:
        BadInput: it cannot be read, or is no sound ONNX file.
    """
    onnx = require("onnx", "onnx")
    return _Reader(onnx, read_model(onnx, path)).contents()


class _Reader:
    """A model, asked by tensor name."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._graph = onnx, model.graph
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self._constants.update((node.output[0], a.t) for a in node.attribute if a.type == a.TENSOR)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._results = {entry.name for entry in model.graph.output}
        try:
            graph = onnx.shape_inference.infer_shapes(model).graph
        except onnx.shape_inference.InferenceError:
            graph = model.graph
        self._types = {e.name: e.type.tensor_type for e in (*graph.input, *graph.value_info, *graph.output)}

    def contents(self) -> Contents:
        """The whole of it."""
        given = [entry.name for entry in self._graph.input if entry.name not in self._constants]
        inputs, outputs = ([self._stored(name) for name in names] for names in (given, [e.name for e in self._graph.output]))
        return Contents("onnx", tuple(self._operators()), tuple(inputs), tuple(outputs))

    def _operators(self) -> Iterator[FileOperator]:
        for node in self._graph.node:
            if node.op_type == "Constant" or (node.op_type in _PAIR and not self._at_edge(node)):
                continue
            # What an edge brings from one kind to the other is told by the tensors themselves.
            tensor = self._stored if node.op_type in _PAIR else self._carried
            yield FileOperator(
                node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}",
                node_name(node),
                tuple(tensor(name) for name in node.input if name),
                tuple(tensor(name) for name in node.output if name),
                {a.name: value for a in node.attribute if (value := self._attribute(a)) is not None},
            )

    def _at_edge(self, node: Any) -> bool:
        """Whether one of the pair stands alone: nothing but it makes integers of what is a float elsewhere, or the reverse."""
        if node.input[0] in self._constants:
            return False
        if node.op_type == "QuantizeLinear":
            return not self._carried(node.input[0]).scales
        readers = self._readers.get(node.output[0], [])
        return node.output[0] in self._results or any(not self._ends_in_integers(reader) for reader in readers)

    def _ends_in_integers(self, node: Any) -> bool:
        return node.op_type == "QuantizeLinear" or any(self._carried(name).scales for name in node.output)

    def _carried(self, name: str) -> FileTensor:
        """A tensor as a runtime that knows the pairs hands it on: in the integers that it comes from or goes to at once."""
        maker, readers = self._makers.get(name), self._readers.get(name, [])
        if maker is not None and maker.op_type == "DequantizeLinear":
            return self._quantized(name, maker, maker.input[0])
        if len(readers) == 1 and readers[0].op_type in _ACTIVATIONS:
            return self._carried_through(name, readers[0])
        if name not in self._results and readers and all(reader.op_type == "QuantizeLinear" for reader in readers):
            return self._quantized(name, readers[0], readers[0].output[0])
        return self._stored(name)

    def _carried_through(self, name: str, activation: Any) -> FileTensor:
        made = self._carried(activation.output[0])
        plain = self._stored(name)
        return FileTensor(name, made.dtype, plain.shape, False, made.scales, made.zero_points) if made.scales else plain

    def _quantized(self, name: str, node: Any, integers: str) -> FileTensor:
        """`name`, carried in the tensor `integers`, of which a QuantizeLinear or DequantizeLinear has the scale."""
        scales = tuple(float(value) for value in self._array(node.input[1]))
        zeros = tuple(int(value) for value in self._array(node.input[2])) if len(node.input) > 2 else (0,) * len(scales)
        stored = self._stored(integers)
        dtype = self._dtype(self._constants[node.input[2]].data_type) if len(node.input) > 2 else stored.dtype
        return FileTensor(name, dtype, self._stored(name).shape or stored.shape, stored.constant, scales, zeros)

    def _stored(self, name: str) -> FileTensor:
        if name in self._constants:
            tensor = self._constants[name]
            shape = tuple(int(side) for side in tensor.dims)
            few = tensor.data_type in (tensor.INT32, tensor.INT64) and sum(shape) <= MAX_VALUES
            values = tuple(int(v) for v in self._array(name)) if few else ()
            return FileTensor(name, self._dtype(tensor.data_type), shape, True, values=values)
        kind = self._types.get(name)
        if kind is None:
            return FileTensor(name, "unknown", ())
        shape = tuple(int(dim.dim_value) if dim.HasField("dim_value") else FREE for dim in kind.shape.dim)
        return FileTensor(name, self._dtype(kind.elem_type), shape)

    def _dtype(self, elem_type: int) -> str:
        try:
            return str(self._onnx.helper.tensor_dtype_to_np_dtype(elem_type).name)
        except KeyError:
            return "unknown"

    def _array(self, name: str) -> Any:
        """A constant's elements in a row; none of what is no constant."""
        return self._onnx.numpy_helper.to_array(self._constants[name]).reshape(-1) if name in self._constants else ()

    def _attribute(self, attribute: Any) -> Attribute | None:
        value = self._onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, list) and all(isinstance(entry, int) for entry in value):
            return tuple(value)
        return value if isinstance(value, int | float) else None
