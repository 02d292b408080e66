"""What ONNX Runtime's profiler says of one inference: the operators that ran, and in what numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place

PROFILER = "ONNX Runtime's profiler, one inference"
_KERNEL_SUFFIX = "_kernel_time"
_MAC_OPERATORS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
_ADDED = re.compile(r"_token_\d+$")


@dataclass(frozen=True)
class Record:
    """One executed operator.

    Attributes:
        name: of its node.
        operator: its type.
        integer: whether its data, in and out, are integers.
        macs: multiply-accumulates of a convolution; 0 of anything else.
        provider: the one that ran it.
    """

    name: str
    operator: str
    integer: bool
    macs: int
    provider: str = ""


def read_events(events: Sequence[Mapping[str, Any]]) -> tuple[Record, ...]:
    """The operators that ran, from a profile's events."""
    return tuple(
        _record(event["name"].removesuffix(_KERNEL_SUFFIX), event["args"])
        for event in events
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL_SUFFIX)
    )


def placement(
    records: Sequence[Record],
    mac_count: int,
    floats: FloatPart,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
    source: str = PROFILER,
) -> Placement:
    """Where the operators ran, and in what numbers.

    Args:
        records: what ran.
        mac_count: multiply-accumulates of the file.
        floats: what the file means to compute in floating point.
        elsewhere: provider that was not asked for -> its device.
        source: what the records were read from.
    """
    operators = [
        PlacedOperator(f"{record.operator} {record.name}", record.integer, record.macs, elsewhere.get(record.provider, ""))
        for record in records
    ]
    return place(operators, floats=floats, source=source, mac_count=mac_count)


def is_mixed(records: Sequence[Record]) -> bool:
    """Whether some convolutions run in integers and some in floats. The CPU's float kernels pad the channels, so the
    multiply-accumulates must then be counted in a run without optimizations, whose convolutions are those of the file.
    """
    return len({record.integer for record in records if record.macs}) > 1


def is_fused(record: Record) -> bool:
    """Whether a record is of a subgraph that a provider compiled: the name that the provider gives it has `_` or `-`, which no
    operator's type has.
    """
    return any(sign in record.operator for sign in "_-")


def name_in_file(name: str) -> str:
    """A node's name without what ONNX Runtime's layout transformation appends to it."""
    return _ADDED.sub("", name)


def _record(name: str, args: Mapping[str, Any]) -> Record:
    """Reads a profiler event: shapes come as `[{"uint8": [1, 55, 55, 64]}, ...]`, in the operator's own order of operands."""
    operator = args["op_name"]
    sources, results = ([next(iter(entry.items())) for entry in args[f"{side}_type_shape"]] for side in ("input", "output"))
    # A QLinear operator has float scales among its operands; they are scalars or vectors, its data are not.
    data = [*(entry for entry in sources if len(entry[1]) > 1), *results]
    macs = 0
    if operator in _MAC_OPERATORS:
        weight = next(shape for _, shape in sources[1:] if len(shape) == 4)  # (O, I, k, k)
        macs = math.prod(results[0][1]) * math.prod(weight[1:])
    integer = all(dtype.startswith(("int", "uint", "bool")) for dtype, _ in data)
    return Record(name, operator, integer, macs, str(args.get("provider", "")))
