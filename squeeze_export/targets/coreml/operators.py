"""A package's program as plain operators and types, read from its protobuf messages within bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze_export.core import Dimension, require
from squeeze_export.targets.coreml.package import Package


@dataclass(frozen=True)
class Tensor:
    """The type of a tensor.

    Attributes:
        dtype: numpy's name; of what is no tensor, the message's: `dictionaryType` ...
        shape: `?` where a dimension is open.
    """

    dtype: str
    shape: tuple[Dimension, ...]

    @property
    def floating(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def size_bytes(self) -> int:
        """Of its numbers, packed; 0 where it holds none, or their count is open."""
        bits = re.search(r"\d+$", self.dtype)
        numbers = [size for size in self.shape if isinstance(size, int)]
        if bits is None or len(numbers) < len(self.shape):
            return 0
        return -(-math.prod(numbers) * int(bits[0]) // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Operator:
    """One operation; a `const` is one too.

    Attributes:
        kind: such as `conv`.
        inputs: operand -> names of tensors.
        outputs: name -> type.
        constants: operand -> type of the values that are written into the operation itself.
        plain: whether it has no operations inside.
    """

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    plain: bool

    @property
    def name(self) -> str:
        """Of its first result."""
        return next(iter(self.outputs), self.kind)

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return tuple(name for names in self.inputs.values() for name in names)


@dataclass(frozen=True)
class Program:
    """The function of an ML program.

    Attributes:
        inputs: name -> type.
        operators: in the order in which they run.
        outputs: names of the tensors that it gives.
    """

    inputs: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    outputs: tuple[str, ...]


def read_program(package: Package) -> Program:
    """Reads a package's program. Constants stay where they are; only their places are checked.

    Raises:
        ValueError: it is no ML program of one function, or constants lie outside their file.
    """
    program = package.model.mlProgram
    if package.model.WhichOneof("Type") != "mlProgram" or list(program.functions) != ["main"]:
        raise ValueError("it is no ML program of one function")
    function = program.functions["main"]
    if list(function.block_specializations) != [function.opset]:
        raise ValueError(f"it is not written in its own operator set, {function.opset!r}")
    block = function.block_specializations[function.opset]
    return Program(
        {entry.name: _tensor(entry.type) for entry in function.inputs},
        tuple(_operator(entry, package) for entry in block.operations),
        tuple(block.outputs),
    )


def _operator(operation: Any, package: Package) -> Operator:
    inputs: dict[str, tuple[str, ...]] = {}
    constants = {key: _constant(value, package) for key, value in operation.attributes.items() if key != "name"}
    for key, argument in operation.inputs.items():
        inputs[key] = tuple(binding.name for binding in argument.arguments if binding.WhichOneof("binding") == "name")
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                constants[key] = _constant(binding.value, package)
    outputs = {entry.name: _tensor(entry.type) for entry in operation.outputs}
    return Operator(operation.type, inputs, outputs, constants, not operation.blocks)


def _constant(value: Any, package: Package) -> Tensor:
    tensor = _tensor(value.type)
    if value.WhichOneof("value") == "blobFileValue":
        place = value.blobFileValue
        found = package.blob_bytes(place.fileName, place.offset)
        if found != tensor.size_bytes:
            raise ValueError(f"{found} bytes of weights at {place.offset} for {tensor}")
    return tensor


def _tensor(kind: Any) -> Tensor:
    which = kind.WhichOneof("type") or ""
    if which != "tensorType":
        return Tensor(which, ())
    names = require("coremltools.proto.MIL_pb2", "coreml").DataType
    sizes = tuple(
        int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else "?"
        for dimension in kind.tensorType.dimensions
    )
    return Tensor(str(names.Name(kind.tensorType.dataType)).lower(), sizes)
