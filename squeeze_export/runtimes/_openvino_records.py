"""What OpenVINO says that it executes: the operators of a compiled model, the kernels behind them and the precision they run in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place

_NOT_EXECUTED = ("Const", "Input", "Output")
_CONVOLUTION = "Convolution"


@dataclass(frozen=True)
class Executed:
    """One operator after OpenVINO's own fusions.

    Attributes:
        name: of the last operator of the file that was fused into it; its own where it was added.
        operator: OpenVINO's name of its kind, such as `Convolution`.
        kernel: the primitive, such as `brgconv_avx512_I8`.
        precision: what it computes in, such as `u8`, `bf16`, `f32`.
        output_precisions: of what it gives.
        macs: multiply-accumulates of a convolution for one image; 0 of anything else.
    """

    name: str
    operator: str
    kernel: str
    precision: str
    output_precisions: tuple[str, ...]
    macs: int

    @property
    def integer(self) -> bool:
        """Whether it computes in integers, and unless it is a convolution also gives them."""
        given = () if self.operator == _CONVOLUTION else self.output_precisions
        return all(precision.startswith(("i", "u", "boolean")) for precision in (self.precision, *given))


def read_records(compiled: Any) -> tuple[Executed, ...]:
    """The operators of a compiled model, in the order of execution; constants and what only depends on them are none.

    Args:
        compiled: an `openvino.CompiledModel` for the CPU.
    """
    return tuple(_executed(compiled.get_runtime_model()))


def placement(records: Sequence[Executed], floats: FloatPart) -> Placement:
    """How much of it runs in integers.

    Args:
        records: what is executed.
        floats: what the file means to compute in floating point.
    """
    operators = [PlacedOperator(f"{record.operator} {record.name}", record.integer, record.macs) for record in records]
    source = "OpenVINO's runtime model: primitiveType, runtimePrecision and outputPrecisions of each operator"
    return place(operators, floats=floats, source=source)


def kernel_families(records: Sequence[Executed]) -> str:
    """The kernels that the convolutions run in, with their precision; 1x1 ones are no family of their own."""
    found = {record.kernel.replace("_1x1_", "_") for record in records if record.operator == _CONVOLUTION}
    return ", ".join(sorted(found)) or "no convolution"


def _executed(model: Any) -> Iterator[Executed]:
    constant: set[str] = set()
    for node in model.get_ordered_ops():
        told = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        kind = told["layerType"]
        if kind == "Const" or (sources and all(source.get_friendly_name() in constant for source in sources)):
            constant.add(node.get_friendly_name())
        elif kind not in _NOT_EXECUTED:
            origin = told["originalLayersNames"].split(",")[-1]
            yield Executed(
                name=origin or node.get_friendly_name(),
                operator=kind,
                kernel=told["primitiveType"],
                precision=told["runtimePrecision"],
                output_precisions=tuple(told["outputPrecisions"].split(",")),
                macs=_macs(node, sources[1]) if kind == _CONVOLUTION else 0,
            )


def _macs(node: Any, weight: Any) -> int:
    """Of one image: the elements of the output without the batch, times the weights (O, ...) behind each."""
    output, weights = node.get_output_partial_shape(0), weight.get_output_partial_shape(0)
    return math.prod(dim.get_length() for dim in [*list(output)[1:], *list(weights)[1:]])
