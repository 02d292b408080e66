"""The numbers that a package's operators compute in. A package says nothing about the device that runs them."""

from __future__ import annotations

from squeeze_export.core import FloatPart, Placement
from squeeze_export.formats.coreml import GROUPS, program_contents
from squeeze_export.formats.coreml.program import Program
from squeeze_export.runtimes.written_placement import written_placement

_BORDERS = ("quantize", "dequantize", "classify")


def read_placement(program: Program, floats: FloatPart) -> Placement:
    """Counts the operators that an image goes through, and those that Core ML may run in integers: the audit's groups. A17 Pro, M4
    and later have integer convolutions.

    Args:
        program: of the package.
        floats: what the package means to compute in floating point.
    """
    contents = program_contents(program, {})
    return written_placement(contents, GROUPS, floats, convolution="conv", borders=_BORDERS, what="the package")
