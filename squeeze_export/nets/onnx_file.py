"""An ONNX graph, checked as far as matching it against a SqueezeNet needs. Operators that change nothing are skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.formats.onnx import OnnxFile

OLDEST_OPSET = 7
MIN_SIDE_PX, MAX_SIDE_PX = 32, 2048
FINAL_POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")
AFTER_POOL = ("Softmax", "Flatten", "Reshape", "Squeeze")
_UNCHANGED = ("Identity", "Dropout", "Cast")
_OPERAND_COUNT = {"Conv": 2, "Add": 2, "Concat": 2, "Constant": 0}
_KNOWN = frozenset(("Conv", "Relu", "MaxPool", "Concat", "Add", "Constant", *FINAL_POOLS, *AFTER_POOL, *_UNCHANGED))
_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}


class FloatGraph:
    """The parts of an ONNX graph that matching asks for, checked: one input, one output, no circle, known operators.

    Attributes:
        input: name of the input tensor.
        output: name of the output tensor.
        side_px: height and width of the input; None where symbolic.
    """

    def __init__(self, file: OnnxFile, name: str) -> None:
        self._file, self._name, graph = file, name, file.graph
        opset = max((entry.version for entry in file.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        if opset < OLDEST_OPSET:
            raise BadInput(f"`{name}` has opset `{opset}`; {OLDEST_OPSET} and later are read")
        initial = {tensor.name for tensor in graph.initializer}
        inputs = [entry for entry in graph.input if entry.name not in initial]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise BadInput(f"`{name}` has `{len(inputs)}` inputs and `{len(graph.output)}` outputs; a SqueezeNet has one of each")
        for node in file.sorted_nodes:
            count = len(node.input)
            if count < _OPERAND_COUNT.get(node.op_type, 1) or not node.output or (node.op_type == "Add" and count != 2):
                raise BadInput(f"`{name}` is damaged: {_text(node)} has `{count}` inputs and `{len(node.output)}` outputs")
        self.input, self.output = inputs[0].name, graph.output[0].name
        self.side_px = self._side(inputs[0])
        self._refuse_foreign(file.sorted_nodes)

    def find(self, tensor: str) -> Any | None:
        """The node that makes a tensor, those that change nothing skipped; None for the input and for stored tensors."""
        return self._file.makers.get(self.past_unchanged(tensor))

    def maker(self, tensor: str, *types: str) -> Any:
        """As `find`, but refuses the file unless the node is one of `types`."""
        node = self.find(tensor)
        if node is None or node.op_type not in types:
            found = _text(node) if node is not None else f"`{self.past_unchanged(tensor)}`, which no operator makes,"
            raise BadInput(f"`{self._name}` is no SqueezeNet: {found} stands where {' or '.join(types)} is needed")
        return node

    def past_unchanged(self, tensor: str) -> str:
        """Goes back over Identity, Dropout and Cast between floats."""
        while (node := self._file.makers.get(tensor)) is not None and node.op_type in _UNCHANGED:
            if node.op_type == "Cast" and self.attribute(node, "to", 1) not in tuple(_FLOATS):
                self.refuse(node, "casts to no float type")
            tensor = node.input[0]
        return tensor

    def attribute(self, node: Any, key: str, default: Any) -> Any:
        """An attribute's value as Python has it (int, list of int, bytes, tensor ...)."""
        return self._file.attributes(node).get(key, default)

    def constant(self, node: Any, tensor: str) -> Any:
        """A constant operand of `node`, as a numpy array of its own dtype."""
        source = self.past_unchanged(tensor)
        if source in self._file.stored:
            return self._file.array(source)
        maker = self._file.makers.get(source)
        held = self._file.attributes(maker) if maker is not None and maker.op_type == "Constant" else {"value": None}
        if "value" in held:
            self.refuse(node, f"takes `{tensor}`, which is not stored in the file")
        return np.asarray(held.get("value_ints", []))

    def floats(self, node: Any, tensor: str, rank: int) -> NDArray[np.float32]:
        """A constant operand of floats as float32."""
        values = self.constant(node, tensor)
        if values.dtype.name not in _FLOATS.values() or values.ndim != rank or 0 in values.shape:
            self.refuse(node, f"has `{tensor}` of {values.dtype.name}{list(values.shape)}, not floats of {rank} dimensions")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, np.float32)

    def refuse(self, node: Any, why: str) -> NoReturn:
        """Refuses the file because of one node."""
        raise BadInput(f"`{self._name}` is no SqueezeNet that can be read: {_text(node)} {why}")

    def _refuse_foreign(self, nodes: Sequence[Any]) -> None:
        """Names the first operator, in the file's order, that the output depends on and no SqueezeNet has."""
        needed = {self.output}
        foreign = None
        for node in reversed(nodes):
            if needed.intersection(node.output):
                if node.domain not in ("", "ai.onnx") or node.op_type not in _KNOWN:
                    foreign = node
                needed.update(node.input[:1] if node.op_type in AFTER_POOL else node.input)
        if foreign is not None:
            hint = "give the float model that the int8 file was made from" if "uantizeLinear" in foreign.op_type else None
            raise BadInput(f"`{self._name}` is no SqueezeNet: {_text(foreign)} is an operator that SqueezeNet lacks", hint=hint)

    def _side(self, value: Any) -> int | None:
        dims = value.type.tensor_type.shape.dim
        sizes = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in dims]
        if len(sizes) != 4 or sizes[1] not in (3, None) or sizes[2] != sizes[3]:
            raise BadInput(f"`{self._name}` takes an input of `{sizes}`; N, 3, and equal height and width are needed")
        side = sizes[2]
        if side is not None and not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
            raise BadInput(f"`{self._name}` takes an input of `{side}` px; {MIN_SIDE_PX} to {MAX_SIDE_PX} are possible")
        return side


def _text(node: Any) -> str:
    """A node's type and name; many exporters leave the name empty, so then the tensor that it makes."""
    return f"{node.op_type} `{node.name or ', '.join(node.output)}`"
