"""An operation's arguments, asked for by name and checked: an argument that the operator does not know is refused, not skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, TypeAlias

from squeeze_export.errors import Refused
from squeeze_export.formats.coreml.program import Operation
from squeeze_export.formats.coreml.values import Array, Constant

Values: TypeAlias = Mapping[str, Array]
"""The tensors that are alive while a program runs."""
Kernel: TypeAlias = Callable[[Values], Array]
"""Computes an operation's result, or fetches an operand, from the tensors that are alive."""

HINT = "the evaluator handles what this tool writes"
MAX_WORKING_ELEMENTS = 2**28
"""Of what an operation needs beside its operands: 2 GB in float64. SqueezeNet 1.0 at 2048 px needs 1.2 GB."""
MAX_RESULT_ELEMENTS = 2**30
"""Of one tensor while a program runs: eight times what may be declared, as the evaluator runs 8 images at once."""


class Arguments:
    """The arguments of one operation.

    Attributes:
        sources: names of the tensors that the operation reads when it runs, in the order in which they were asked for.

    Args:
        operation: the operation.
        constants: every tensor that is known before the program runs.
    """

    def __init__(self, operation: Operation, constants: Mapping[str, Constant]) -> None:
        self.operation = operation
        self.sources: list[str] = []
        self._constants = constants
        self._asked: set[str] = set()

    def operand(self, key: str) -> Kernel:
        """A tensor, which may be constant."""
        return self._fetch(self._one(key))

    def operands(self, key: str) -> list[Kernel]:
        """A list of tensors."""
        return [self._fetch(entry) for entry in self._all(key)]

    def constant(self, key: str, *dtypes: str) -> Constant:
        """A constant of one of `dtypes` (any dtype if none is given)."""
        entry = self._one(key)
        found = entry if isinstance(entry, Constant) else self._constants.get(entry)
        if found is None:
            self.refuse(f"computes its `{key}`")
        if dtypes and found.dtype not in dtypes:
            self.refuse(f"has a `{key}` of `{found.dtype}`; {', '.join(dtypes)} is needed")
        return found

    def integers(self, key: str, count: int | None = None) -> tuple[int, ...]:
        """A constant vector of int32, of `count` numbers unless that is None."""
        array = self.constant(key, "int32").array
        if array.ndim != 1 or (count is not None and array.size != count):
            self.refuse(f"has `{key}` of the shape `{list(array.shape)}`")
        return tuple(int(value) for value in array)

    def integer(self, key: str) -> int:
        """A constant int32."""
        return int(self._scalar(key, "int32").item())

    def number(self, key: str) -> float:
        """A constant float."""
        return float(self._scalar(key, "float32", "float16").item())

    def flag(self, key: str, default: bool) -> bool:
        """A constant bool."""
        return bool(self._scalar(key, "bool").item()) if key in self else default

    def text(self, key: str) -> str:
        """A constant string."""
        return str(self._scalar(key, "string").item())

    def __contains__(self, key: str) -> bool:
        return key in self.operation.arguments

    def refuse(self, why: str) -> NoReturn:
        """Raises Refused: the operation, and why."""
        raise Refused(f"{self.operation} {why}", hint=HINT)

    def expect(self, shape: Sequence[int]) -> None:
        """Compares a result's shape with the declared one before anything of that size is allocated."""
        declared = self.operation.outputs[0].type
        sizes = declared.shape if declared is not None else ()
        if len(sizes) != len(shape) or any(size not in (None, found) for size, found in zip(sizes, shape, strict=True)):
            self.refuse(f"gives `{list(shape)}`, it is declared as `{declared}`")
        self.afford("a result", shape, MAX_RESULT_ELEMENTS)

    def afford(self, what: str, shape: Sequence[int], most: int = MAX_WORKING_ELEMENTS) -> None:
        """Refuses to allocate `what`, of `shape`, if it has more than `most` elements."""
        if math.prod(shape) > most:
            self.refuse(f"needs {what} of `{list(shape)}`, which is more than `{most}` elements")

    def close(self) -> None:
        """Refuses an argument that was not asked for."""
        unknown = [key for key in self.operation.arguments if key not in self._asked]
        if unknown:
            self.refuse(f"has the argument `{unknown[0]}`, which the evaluator does not know")

    def _scalar(self, key: str, *dtypes: str) -> Array:
        array = self.constant(key, *dtypes).array
        if array.ndim:
            self.refuse(f"has `{key}` of the shape `{list(array.shape)}`, not a single value")
        return array

    def _all(self, key: str) -> tuple[str | Constant, ...]:
        self._asked.add(key)
        if key not in self.operation.arguments:
            self.refuse(f"has no `{key}`")
        return self.operation.arguments[key]

    def _one(self, key: str) -> str | Constant:
        entries = self._all(key)
        if len(entries) != 1:
            self.refuse(f"has `{len(entries)}` tensors as `{key}`")
        return entries[0]

    def _fetch(self, entry: str | Constant) -> Kernel:
        if isinstance(entry, str) and entry not in self._constants:
            self.sources.append(entry)
            return lambda values: values[entry]
        array = (entry if isinstance(entry, Constant) else self._constants[entry]).array
        return lambda values: array
