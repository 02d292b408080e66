"""One operator of an ONNX file: its attributes and constant operands, checked, and how a message names it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.formats.onnx import OnnxFile, node_name

FLOATS = ("float32", "float16", "float64", "bfloat16")
_SWITCHES = ("ceil_mode", "count_include_pad", "transA", "transB", "keepdims", "training_mode", "allowzero")


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator with its operands.

    Attributes:
        file: that it is in.
        file_name: for messages.
        node: its `NodeProto`.
        operands: in order: constants as arrays, None for one that is left out, and whatever a reader has for the others.
    """

    file: OnnxFile
    file_name: str
    node: Any
    operands: Sequence[Any] = ()

    def __str__(self) -> str:
        return f"{self.kind} `{node_name(self.node)}`"

    @property
    def kind(self) -> str:
        """Its type, such as `Conv`."""
        return str(self.node.op_type)

    @cached_property
    def schema(self) -> Any:
        """What the standard says of it; None of one that is not the standard's."""
        return self.file.schema(self.node) if self.node.domain in ("", "ai.onnx") else None

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Its attributes: text as text, tensors as arrays, the type of a Cast as a dtype."""
        held = self.file.attributes(self.node)
        for key, value in held.items():
            if isinstance(value, bytes):
                held[key] = value.decode("utf-8", "replace")
            elif hasattr(value, "data_type"):
                held[key] = self.file.values(value)
            elif key == "to" and self.kind == "Cast":
                name = self.file.dtype(value)
                if name == "unknown":
                    self.refuse(f"casts to a type `{value}` that is not known")
                held[key] = self.file.numpy_dtype(value)
        return held

    @property
    def wish(self) -> str:
        """What the file calls the layer: a convolution's weights tell that best, since exporters make up the operators' names."""
        if self.kind in ("Conv", "Gemm", "MatMul") and len(self.node.input) > 1:
            found = re.fullmatch(r"([A-Za-z].*?)([._/]weight|_w_0|[._/][wW]|/kernel\S*)", self.node.input[1])
            if found is not None and not self.node.input[1].startswith("onnx::"):
                return found[1]
        return re.sub(rf"/{self.kind}(_\d+)?$", "", node_name(self.node).lstrip("/"))

    def verify(self) -> None:
        """Checks what the standard says: how many operands it has, and its attributes' names and types."""
        if not self.schema.min_input <= len(self.node.input) <= self.schema.max_input:
            self.refuse(f"has {len(self.node.input)} operands")
        for attribute in self.node.attribute:
            known = self.schema.attributes.get(attribute.name)
            if known is None or int(known.type) != attribute.type:
                self.refuse(f"has an attribute `{attribute.name}` that it cannot have in opset {self.file.opset}")
            if attribute.name in _SWITCHES and attribute.i not in (0, 1):
                self.refuse(f"has {attribute.name} {attribute.i}; 0 or 1 is possible")
        held = {attribute.name for attribute in self.node.attribute}
        if lacking := [name for name, known in self.schema.attributes.items() if known.required and name not in held]:
            self.refuse(f"has no attribute `{lacking[0]}`")

    def given(self, place: int) -> NDArray[Any] | None:
        """A constant operand; None where it is left out."""
        operand = self.operands[place] if place < len(self.operands) else None
        if operand is not None and not isinstance(operand, np.ndarray):
            self.refuse(f"takes `{self.node.input[place]}` where a constant is needed")
        return operand

    def floats(self, place: int) -> NDArray[Any]:
        """Such an operand of floats, which must be there."""
        operand = self.given(place)
        if operand is None:
            self.refuse("lacks an operand")
        if operand.dtype.name not in FLOATS:
            self.refuse(f"has `{self.node.input[place]}` of {operand.dtype.name}, not floats")
        return operand

    def integers(self, place: int) -> list[int] | None:
        """Such an operand as a list of integers."""
        given = self.given(place)
        if given is not None and given.dtype.kind not in "iu":
            self.refuse(f"has `{self.node.input[place]}` of {given.dtype.name}, not integers")
        return None if given is None else [int(value) for value in given.reshape(-1)]

    def refuse(self, why: str) -> NoReturn:
        """Raises `BadInput`: which operator, and why."""
        raise BadInput(f"`{self.file_name}` cannot be read: {self} {why}")
