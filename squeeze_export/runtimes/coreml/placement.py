"""What a package says about the numbers that its operators compute in. It says nothing about the device that runs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.formats.coreml.program import Operation, Program
from squeeze_export.formats.coreml.values import Constant

SOURCE = (
    "the package, not a device: an operator counts as integer where its operands come from `dequantize` "
    "(and a convolution's weights from int8) and its result goes to `quantize`"
)

_BORDERS = ("quantize", "dequantize", "classify")  # no operators of their own: they say what the others are
_ACTIVATIONS = ("relu", "clip")
_INTEGER_DATA = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}


def read_placement(program: Program, running: Sequence[Operation], floats: FloatPart) -> Placement:
    """Counts the operators that run, and which of them Core ML may run in integers.

    Core ML has no integer convolution: one between `dequantize` and `quantize` is how a package asks for it (A17 Pro, M4 and later
    have it). An activation belongs to the operator before it.

    Args:
        program: the whole program.
        running: its operations that do not only work on constants, in order.
        floats: what the package means to compute in floating point.
    """
    makers = {output.name: operation for operation in program.operations for output in operation.outputs}
    alive = {program.input, *(operation.name for operation in running)}
    sources = {operation.name: [name for name in _names(operation) if name in alive] for operation in running}
    dequantized = {operation.name for operation in running if operation.operator == "dequantize"}
    fed: set[str] = set()
    for operation in running:
        allowed = fed if operation.operator in _ACTIVATIONS and fed.intersection(sources[operation.name]) else dequantized
        if allowed.issuperset(sources[operation.name]) and _integer_weights(operation, makers):
            fed.add(operation.name)
    integer: set[str] = set()
    for operation in reversed(running):
        readers = [reader for reader in running if operation.name in sources[reader.name]]
        leaves = all(
            reader.operator == "quantize" or (reader.operator in _ACTIVATIONS and reader.name in integer) for reader in readers
        )
        if operation.name in fed and readers and leaves:
            integer.add(operation.name)
    counted = [
        PlacedOperator(f"{operation.operator} {operation.name}", operation.name in integer, _macs(operation, makers))
        for operation in running
        if operation.operator not in _BORDERS
    ]
    return place(counted, floats=floats, source=SOURCE)


def _names(operation: Operation) -> list[str]:
    return [entry for bound in operation.arguments.values() for entry in bound if isinstance(entry, str)]


def _weights(operation: Operation) -> str | Constant | None:
    """What a convolution's weights are bound to; None of anything else."""
    return operation.arguments.get("weight", (None,))[0] if operation.operator == "conv" else None


def _integer_weights(operation: Operation, makers: Mapping[str, Operation]) -> bool:
    """Whether it is no convolution, or one whose weights are stored as int8."""
    bound = _weights(operation)
    maker = makers.get(bound) if isinstance(bound, str) else None
    if maker is None or maker.operator not in _INTEGER_DATA:
        return operation.operator != "conv"
    data = maker.arguments[_INTEGER_DATA[maker.operator]][0]
    return isinstance(data, Constant) and data.dtype == "int8"


def _macs(operation: Operation, makers: Mapping[str, Operation]) -> int:
    """Multiply-accumulates of a convolution, for one image; 0 of anything else."""
    bound, result = _weights(operation), operation.outputs[0].type
    if bound is None or result is None:
        return 0
    declared = makers[bound].outputs[0].type if isinstance(bound, str) else None
    sizes = bound.array.shape if isinstance(bound, Constant) else declared.shape if declared is not None else ()
    return math.prod(size or 1 for size in (*result.shape[1:], *sizes[1:]))
