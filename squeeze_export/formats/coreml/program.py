"""An ML program as it is written in a Core ML model: typed operations in order, nothing computed yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from squeeze_export.formats.coreml.blobs import Blob
from squeeze_export.formats.coreml.values import Constant, TensorType, read_type, read_value
from squeeze_export.formats.coreml.wire import Message

OPSETS: Mapping[str, str] = {"CoreML7": "iOS 17", "CoreML8": "iOS 18"}
"""Operator sets that are read, and the systems that they came with."""

_TOLD = {"buildInfo"}  # says who wrote it, and changes nothing


@dataclass(frozen=True)
class Output:
    """One result of an operation.

    Attributes:
        name: of the tensor.
        type: declared; None of a classifier's dictionary.
    """

    name: str
    type: TensorType | None


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        operator: its type, such as `conv`.
        arguments: name of the argument -> what it is bound to: tensors by name, or constants written on the spot.
        outputs: its results.
    """

    operator: str
    arguments: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Output, ...]

    @property
    def name(self) -> str:
        """Of its first result: in a program, no two tensors share one."""
        return self.outputs[0].name

    def __str__(self) -> str:
        return f"`{self.operator}` `{self.name}`"


@dataclass(frozen=True)
class Program:
    """The function `main` of an ML program.

    Attributes:
        input: name of its one input.
        input_type: of that.
        operations: in the order in which they run; no tensor is used before it is made, none is made twice.
        outputs: names of the tensors that it gives.
    """

    input: str
    input_type: TensorType
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read_program(message: Message, files: Mapping[str, Mapping[int, Blob]]) -> Program:
    """Reads a `Program` message.

    Args:
        message: the program.
        files: name of a blob file as the model spells it -> its blobs.

    Raises:
        ValueError: it is damaged, or more than one function of one input, or of another operator set.
    """
    functions, attributes = message.entries(2, "Function", (1, 2, 3)), message.entries(4, "Value")
    if set(attributes) - _TOLD:
        raise ValueError(f"a program with the attributes `{', '.join(attributes)}`")
    if message.integer(1) != 1 or list(functions) != ["main"]:
        names = ", ".join(functions)
        raise ValueError(f"a program of version `{message.integer(1)}` with the functions `{names}`, not 1 with `main`")
    function = functions["main"]
    opset, blocks = function.text(2), function.entries(3, "Function", (1, 2, 3))
    if opset not in OPSETS or list(blocks) != [opset]:
        raise ValueError(f"a program of the operator set `{opset}`; the evaluator reads {', '.join(OPSETS)}")
    inputs = [_output(entry) for entry in function.messages(1, "NamedValueType", (1, 2))]
    if len(inputs) != 1 or inputs[0].type is None:
        raise ValueError(f"a program of `{len(inputs)}` inputs, where one tensor is needed")
    block = blocks[opset]
    operations = tuple(_operation(entry, files) for entry in block.messages(3, "Operation", (1, 2, 3, 5)))
    outputs = tuple(block.texts(2))
    _check_order(inputs[0].name, operations, outputs)
    return Program(inputs[0].name, inputs[0].type, operations, outputs)


def _operation(message: Message, files: Mapping[str, Mapping[int, Blob]]) -> Operation:
    operator = message.text(1)
    outputs = tuple(_output(entry) for entry in message.messages(3, "NamedValueType", (1, 2)))
    if not outputs:
        raise ValueError(f"an operation of type `{operator}` gives nothing")
    arguments: dict[str, tuple[str | Constant, ...]] = {}
    # A constexpr operator of iOS 16 has its operands among the attributes, one of iOS 18 among the inputs.
    for key, attribute in message.entries(5, "Operation", (1, 2, 3, 5)).items():
        if key != "name":
            arguments[key] = (read_value(attribute, files),)
    for key, argument in message.entries(2, "Operation", (1,)).items():
        if key in arguments:
            raise ValueError(f"`{operator}` `{outputs[0].name}` has `{key}` both as an attribute and as an input")
        arguments[key] = tuple(_binding(entry, files) for entry in argument.messages(1, "Binding", (1, 2)))
        if not arguments[key]:
            raise ValueError(f"`{operator}` `{outputs[0].name}` has nothing for `{key}`")
    return Operation(operator, arguments, outputs)


def _binding(message: Message, files: Mapping[str, Mapping[int, Blob]]) -> str | Constant:
    if message.only(1, 2) == 1:
        return message.text(1)
    return read_value(message.message(2, "Value", (1, 2, 3, 5)), files)


def _output(message: Message) -> Output:
    return Output(message.text(1), read_type(message.message(2, "ValueType")))


def _check_order(source: str, operations: tuple[Operation, ...], outputs: tuple[str, ...]) -> None:
    known = {source}
    for operation in operations:
        for bound in operation.arguments.values():
            for entry in bound:
                if isinstance(entry, str) and entry not in known:
                    raise ValueError(f"{operation} takes `{entry}`, which nothing before it makes")
        for output in operation.outputs:
            if output.name in known:
                raise ValueError(f"`{output.name}` is made twice")
            known.add(output.name)
    missing = [name for name in outputs if name not in known]
    if missing or not outputs:
        raise ValueError(f"the program gives `{', '.join(missing)}`, which nothing makes")
