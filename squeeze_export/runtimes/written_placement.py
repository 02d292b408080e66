"""Placement of a file whose runtime does not tell where it ran: the numbers that the file itself asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.formats.audit import Arithmetic
from squeeze_export.formats.contents import FREE, Contents, FileOperator


def written_placement(
    contents: Contents,
    arithmetic: Callable[[Contents], Arithmetic],
    floats: FloatPart,
    *,
    convolution: str,
    borders: Collection[str],
    what: str,
) -> Placement:
    """Counts the operators that an image goes through, and those that a device may run in integers.

    Args:
        contents: of the file.
        arithmetic: of its format, as its audit has it.
        floats: what the file means to compute in floating point.
        convolution: the kind of the operators whose multiply-accumulates are counted.
        borders: kinds that are not counted, because they only say what the others are.
        what: the file is called: `the package`.
    """
    first = {reader for tensor in contents.inputs for reader, _ in contents.readers.get(tensor.key, ())}
    running = [index for index in sorted(first | contents.behind(first)) if contents.operators[index].kind not in borders]
    numbers = arithmetic(contents)
    operators = [(contents.operators[index], not numbers.is_float(index)) for index in running]
    counted = [PlacedOperator(str(each), integer, _macs(each) if each.kind == convolution else 0) for each, integer in operators]
    source = (
        f"{what}, not a device: an operator counts as integer where its operands come from `dequantize` "
        "(and a convolution's weights from int8) and its result goes to `quantize`"
    )
    return place(counted, floats=floats, source=source)


def _macs(operator: FileOperator) -> int:
    """Multiply-accumulates of a convolution for one image."""
    return math.prod(1 if size == FREE else size for size in (*operator.outputs[0].shape[1:], *operator.inputs[1].shape[1:]))
