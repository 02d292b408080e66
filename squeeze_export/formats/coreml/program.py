"""An ML program as a Core ML model stores it: typed operations in order.

Source: mlmodel/format/MIL.proto of github.com/apple/coremltools (BSD 3-clause).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from squeeze_export.formats.coreml.values import Constant, TensorType, read_type, read_value
from squeeze_export.formats.coreml.wire import Message, Unread

_TOLD = {"buildInfo"}  # names the writer, without effect


@dataclass(frozen=True)
class Variable:
    """A program's input or an operation's output.

    Attributes:
        name: unique in the program.
        type: declared; None for what is no tensor, such as a classifier's dictionary.
    """

    name: str
    type: TensorType | None


@dataclass(frozen=True)
class Operation:
    """One operation; a `const` is one too.

    Attributes:
        operator: its type, such as `conv`.
        arguments: name -> the names of tensors, or constants.
        outputs: one or more.
        nested: whether it contains operations, which are not read.
    """

    operator: str
    arguments: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Variable, ...]
    nested: bool = False

    @property
    def name(self) -> str:
        """The name of its first output."""
        return self.outputs[0].name

    def __str__(self) -> str:
        return f"`{self.operator}` `{self.name}`"


@dataclass(frozen=True)
class Program:
    """The function `main` of an ML program.

    Attributes:
        opset: the operator set, such as `CoreML7`.
        inputs: of the program.
        operations: in the order of the run; each tensor is made once, and before it is used.
        outputs: names of the output tensors, one or more.
    """

    opset: str
    inputs: tuple[Variable, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    @cached_property
    def types(self) -> Mapping[str, TensorType | None]:
        """Tensor -> its type."""
        made = (output for operation in self.operations for output in operation.outputs)
        return {entry.name: entry.type for entry in (*self.inputs, *made)}


def read_program(message: Message, files: Mapping[str, bytes]) -> Program:
    """Reads a `Program` message. Constants are located and checked, but loaded later.

    Args:
        message: the program.
        files: a blob file's name in the model -> its bytes.

    Raises:
        Unread: it has more than one function, or is of a newer form.
        ValueError: it is damaged.
    """
    functions, attributes = message.entries(2, "Function", (1, 2, 3)), message.entries(4, "Value")
    if set(attributes) - _TOLD:
        raise Unread(f"a program with the attributes `{', '.join(attributes)}`")
    if message.integer(1) != 1 or list(functions) != ["main"]:
        names = ", ".join(functions)
        raise Unread(f"a program of version `{message.integer(1)}` with the functions `{names}`, not 1 with `main`")
    function = functions["main"]
    opset, blocks = function.text(2), function.entries(3, "Block", (2, 3))
    if list(blocks) != [opset]:
        raise ValueError(f"a program of the operator set `{opset}`, written in `{', '.join(blocks)}`")
    inputs = tuple(_variable(entry) for entry in function.messages(1, "NamedValueType", (1, 2)))
    operations = tuple(_operation(entry, files) for entry in blocks[opset].messages(3, "Operation", (1, 2, 3, 4, 5)))
    program = Program(opset, inputs, operations, tuple(blocks[opset].texts(2)))
    _check_order(program)
    return program


def _operation(message: Message, files: Mapping[str, bytes]) -> Operation:
    operator = message.text(1)
    outputs = tuple(_variable(entry) for entry in message.messages(3, "NamedValueType", (1, 2)))
    if not outputs:
        raise ValueError(f"an operation of type `{operator}` gives nothing")
    arguments: dict[str, tuple[str | Constant, ...]] = {}
    # A constexpr operator of iOS 16 has its operands among the attributes, one of iOS 18 among the inputs.
    for key, attribute in message.entries(5, "Value", (1, 2, 3, 5)).items():
        if key != "name":
            arguments[key] = (read_value(attribute, files),)
    for key, argument in message.entries(2, "Argument", (1,)).items():
        if key in arguments:
            raise ValueError(f"`{operator}` `{outputs[0].name}` has `{key}` both as an attribute and as an input")
        arguments[key] = tuple(_binding(entry, files) for entry in argument.messages(1, "Binding", (1, 2)))
        if not arguments[key]:
            raise ValueError(f"`{operator}` `{outputs[0].name}` has nothing for `{key}`")
    return Operation(operator, arguments, outputs, 4 in message)


def _binding(message: Message, files: Mapping[str, bytes]) -> str | Constant:
    if message.only(1, 2) == 1:
        return message.text(1)
    return read_value(message.message(2, "Value", (1, 2, 3, 5)), files)


def _variable(message: Message) -> Variable:
    return Variable(message.text(1), read_type(message.message(2, "ValueType")))


def _check_order(program: Program) -> None:
    known = {entry.name for entry in program.inputs}
    for operation in program.operations:
        for bound in operation.arguments.values():
            for entry in bound:
                if isinstance(entry, str) and entry not in known:
                    raise ValueError(f"{operation} takes `{entry}`, which nothing before it makes")
        for output in operation.outputs:
            if output.name in known:
                raise ValueError(f"`{output.name}` is made twice")
            known.add(output.name)
    missing = [name for name in program.outputs if name not in known]
    if missing or not program.outputs:
        raise ValueError(f"the program gives `{', '.join(missing)}`, which nothing makes")
