"""The numbers that a program's operators compute in. A program says nothing about the device that runs it."""

from __future__ import annotations

import math

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.formats.contents import FREE, Contents, FileOperator
from squeeze_export.formats.coreai import GROUPS

SOURCE = (
    "the file, not a device: an operator counts as integer where its operands come from `dequantize` "
    "(and a convolution's weights from int8) and its result goes to `quantize`"
)

_BORDERS = ("quantize", "dequantize")  # not counted: they only say what the others are


def read_placement(contents: Contents, floats: FloatPart) -> Placement:
    """Counts the operators that an image goes through, and those that a device may run in integers: the audit's groups.

    Args:
        contents: of the file.
        floats: what the file means to compute in floating point.
    """
    first = {reader for tensor in contents.inputs for reader, _ in contents.readers.get(tensor.key, ())}
    running = [index for index in sorted(first | contents.behind(first)) if contents.operators[index].kind not in _BORDERS]
    numbers = GROUPS(contents)
    counted = [
        PlacedOperator(str(contents.operators[index]), not numbers.is_float(index), _macs(contents.operators[index]))
        for index in running
    ]
    return place(counted, floats=floats, source=SOURCE)


def _macs(operator: FileOperator) -> int:
    """Multiply-accumulates of a convolution for one image; 0 for anything else."""
    if operator.kind != "conv2d":
        return 0
    return math.prod(1 if size == FREE else size for size in (*operator.outputs[0].shape[1:], *operator.inputs[1].shape[1:]))
