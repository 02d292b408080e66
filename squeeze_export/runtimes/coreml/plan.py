"""A program made ready to run: constants unpacked, operators bound to their kernels, and what runs, run in order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from squeeze_export.errors import Refused
from squeeze_export.formats.coreml.program import Operation, Program
from squeeze_export.formats.coreml.values import Array, Constant, TensorType
from squeeze_export.runtimes.coreml.arguments import HINT, MAX_RESULT_ELEMENTS, Arguments, Kernel
from squeeze_export.runtimes.coreml.constants import UNPACKERS
from squeeze_export.runtimes.coreml.operators import OPERATORS

MAX_ALIVE_ELEMENTS = 2 * MAX_RESULT_ELEMENTS
"""Of all tensors that are kept at once: what an operation takes and gives."""


@dataclass(frozen=True)
class _Step:
    """One operation that runs.

    Attributes:
        operation: what is run.
        name: of the tensor that it makes.
        type: declared; None of a classifier's row.
        kernel: what computes it.
        sources: the tensors that it reads.
    """

    operation: Operation
    name: str
    type: TensorType | None
    kernel: Kernel
    sources: tuple[str, ...]


class Plan:
    """A program that can be run any number of times, also by several threads at once: nothing changes while it runs.

    Attributes:
        operations: those that run; what only works on constants has been computed already.

    Args:
        program: what to run.
        result: name of the output that is wanted.

    Raises:
        Refused: an operator or argument that the evaluator does not know, constants that cannot be unpacked, or a result that is
            not of its declared type.
    """

    def __init__(self, program: Program, result: str) -> None:
        self._input, self._type, self._result = program.input, program.input_type, result
        constants: dict[str, Constant] = {}
        steps: list[_Step] = []
        for operation in program.operations:
            _afford(constant.array for constant in constants.values())
            given = Arguments(operation, constants)
            if operation.operator in UNPACKERS:
                try:
                    constants[operation.name] = UNPACKERS[operation.operator](given)
                except (ValueError, MemoryError) as err:
                    given.refuse(f"cannot be unpacked: {err}")
                given.close()
                _check(operation, _single(operation), constants[operation.name].array)
                continue
            if operation.operator not in OPERATORS:
                known = ", ".join((*UNPACKERS, *OPERATORS))
                raise Refused(f"the evaluator knows no operator `{operation.operator}`", hint=f"it knows: {known}")
            step = _step(operation, OPERATORS[operation.operator](given), given)
            given.close()
            if step.sources:
                steps.append(step)
            else:
                declared = _single(operation)
                constants[step.name] = Constant(declared.element.name, _run(step, {}))
        if result not in {step.name for step in steps}:
            raise Refused(f"the output `{result}` does not depend on the input", hint=HINT)
        self._steps = tuple(steps)
        self._last_use = {name: index for index, step in enumerate(steps) for name in step.sources}
        self.operations = tuple(step.operation for step in steps)

    def __contains__(self, name: str) -> bool:
        return any(step.name == name for step in self._steps)

    def run(self, source: Array, keep: Collection[str] = ()) -> Mapping[str, Array]:
        """Runs the program.

        Args:
            source: the input, of its declared type.
            keep: names of inner tensors to give as well.

        Returns:
            Name -> tensor, of the result and of `keep`.

        Raises:
            Refused: an operation does not fit its operands, or what it gives does not fit its declared type.
        """
        if not self._type.fits(source):
            raise Refused(f"an input of {source.dtype}{list(source.shape)}, the program takes `{self._type}`", hint=HINT)
        wanted = {self._result, *keep}
        alive: dict[str, Array] = {self._input: source}
        for index, step in enumerate(self._steps):
            alive[step.name] = _run(step, alive)
            _afford(alive.values())
            for name in {*step.sources, step.name}:
                # Each tensor goes as soon as nothing needs it: all at once would be tens of megabytes.
                if name not in wanted and self._last_use.get(name, -1) <= index:
                    del alive[name]
        return {name: alive[name] for name in wanted}


def _single(operation: Operation) -> TensorType:
    declared = operation.outputs[0].type
    if len(operation.outputs) != 1 or declared is None:
        raise Refused(f"{operation} gives `{len(operation.outputs)}` results, where one tensor is needed", hint=HINT)
    return declared


def _step(operation: Operation, kernel: Kernel, given: Arguments) -> _Step:
    if operation.operator != "classify":
        return _Step(operation, operation.name, _single(operation), kernel, tuple(given.sources))
    # A label and a dictionary: the row behind both stands for the dictionary, which is last.
    return _Step(operation, operation.outputs[-1].name, None, kernel, tuple(given.sources))


def _run(step: _Step, alive: Mapping[str, Array]) -> Array:
    try:
        # What overflows float16 is infinite there too; the result is looked at in the end.
        with np.errstate(all="ignore"):
            result = step.kernel(alive)
    except (ValueError, IndexError, TypeError, MemoryError) as err:
        raise Refused(f"{step.operation} cannot be computed: {' '.join(str(err).split())}", hint=HINT) from err
    if step.type is not None:
        _check(step.operation, step.type, result)
    return result


def _afford(arrays: Iterable[Array]) -> None:
    if sum(array.size for array in arrays) > MAX_ALIVE_ELEMENTS:
        raise Refused(f"the program holds tensors of more than `{MAX_ALIVE_ELEMENTS}` elements at once", hint=HINT)


def _check(operation: Operation, declared: TensorType, found: Array) -> None:
    if not declared.fits(found):
        raise Refused(f"{operation} gives {found.dtype}{list(found.shape)}, it is declared as `{declared}`", hint=HINT)
