"""What RKNN-Toolkit2's worker tells of a `.rknn`, as a placement: the compiler's own table of layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_export.core import PlacedOperator, Placement, place
from squeeze_export.errors import Refused

SOURCE = "the compiler's table of layers"
BUILD_LIMIT_S, IMAGE_LIMIT_S = 600.0, 60.0
MAX_OPERATORS = 10_000
_SHAPE = re.compile(r"\(([\d,]+)\)")


def placement_of(answer: Mapping[str, Any]) -> Placement:
    """Where the layers of an `int8-npu` file run.

    Args:
        answer: of the verb `build`.

    Raises:
        Refused: it cannot be read, or names no layers.
    """
    try:
        listed = answer["operators"]
        if not isinstance(listed, list) or not 0 < len(listed) <= MAX_OPERATORS:
            raise ValueError("operators")
        operators = [
            PlacedOperator(
                f"{str(kind)[:40]} {str(name)[:80]}",
                dtype == "INT8",
                _mac_count([str(shape) for shape in shapes]) if kind == "Conv" else 0,
                "" if where == "NPU" else str(where)[:20].lower(),
            )
            for kind, name, dtype, where, shapes in listed
        ]
    except (KeyError, TypeError, ValueError, IndexError) as err:
        raise Refused(f"what rknn-toolkit2 tells of its file cannot be read: {type(err).__name__} {err}") from err
    return place(operators, floats="none", source=SOURCE)


def _mac_count(shapes: Sequence[str]) -> int:
    """Of a convolution: shapes of input, weight and bias in one text, of the result in the other."""
    weight = [int(side) for side in _SHAPE.findall(shapes[0])[1].split(",")]
    result = [int(side) for side in _SHAPE.findall(shapes[1])[0].split(",")]
    return math.prod(result) * math.prod(weight[1:])
