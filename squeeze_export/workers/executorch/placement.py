"""The placement of a `.pte`, from what ExecuTorch's worker reports. The report is checked, not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from squeeze_export.core import PlacedOperator, Placement, place
from squeeze_export.errors import Refused

SOURCE = "the operators of the .pte, and of XNNPACK's graph inside it"
PRODUCT = "network.pte"
COMPILE_LIMIT_S, OPEN_LIMIT_S, IMAGE_LIMIT_S = 900.0, 300.0, 30.0
MAX_OPERATORS = 10_000


def placement_of(answer: Mapping[str, Any]) -> Placement:
    """Where the operators of an `int8` file run: all on the CPU. XNNPACK's operators run in integers if their tensors are integers;
    ExecuTorch's portable kernels run the rest.

    Args:
        answer: of `compile_network` or `open_program`.

    Raises:
        Refused: it cannot be read.
    """
    try:
        listed = answer["operators"]
        if not isinstance(listed, list) or not 0 < len(listed) <= MAX_OPERATORS:
            raise ValueError("operators")
        operators = [
            PlacedOperator(f"{str(kind)[:80]} {str(where)[:20]}", integer is True, int(macs))
            for kind, where, integer, macs in listed
        ]
    except (KeyError, TypeError, ValueError) as err:
        raise Refused(f"what executorch reports about its file cannot be read: {type(err).__name__} {err}") from err
    return place(operators, floats="around the convolutions", source=SOURCE)
