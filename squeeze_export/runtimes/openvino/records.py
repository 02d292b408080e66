"""What OpenVINO says that it executes: the operators of a compiled model, with their kernels and precision."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.runtimes.openvino.plugins import device_of, execution_devices
from squeeze_export.runtimes.quiet import quiet

_NOT_EXECUTED = ("Const", "Input", "Output")
_CONVOLUTION = "Convolution"


@dataclass(frozen=True)
class Executed:
    """One operator after OpenVINO's own fusions.

    Attributes:
        name: of the last operator of the file that was fused into it; its own if OpenVINO added it.
        operator: OpenVINO's name of its kind, such as `Convolution`.
        kernel: the primitive, such as `brgconv_avx512_I8`.
        precision: what it computes in, such as `u8`, `bf16`, `f32`.
        output_precisions: of its results.
        macs: multiply-accumulates of a convolution for one image; 0 of anything else.
        elsewhere: the device that it is bound to, if that is not the network's; else empty.
    """

    name: str
    operator: str
    kernel: str
    precision: str
    output_precisions: tuple[str, ...]
    macs: int
    elsewhere: str = ""

    @property
    def integer(self) -> bool:
        """Whether it computes in integers; anything but a convolution must also give integers."""
        given = () if self.operator == _CONVOLUTION else self.output_precisions
        return all(precision.startswith(("i", "u", "boolean")) for precision in (self.precision, *given))


def read_compiled(compiled: Any, macs: Mapping[str, int] = MappingProxyType({})) -> tuple[Executed, ...]:
    """The operators of an `openvino.CompiledModel`, in the order of execution, without constants and what depends only on them.

    Args:
        compiled: the model.
        macs: of the file's convolutions, for devices whose records leave out the weights.

    Returns:
        Nothing if the device keeps no such records, as an NPU's compiler may not.
    """
    with quiet():
        try:
            model = compiled.get_runtime_model()
        except RuntimeError:
            return ()
    used = {device_of(name) for name in execution_devices(compiled)}
    return tuple(_executed(model, macs, used))


def file_macs(model: Any) -> Mapping[str, int]:
    """Convolution's name -> multiply-accumulates for one image, of an `openvino.Model`; without those of a free height or width."""
    found = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == _CONVOLUTION and all(dim.is_static for dim in list(node.get_output_partial_shape(0))[1:])
    ]
    return {node.get_friendly_name(): _macs(node, node.inputs()[1].get_source_output().get_node()) for node in found}


def placement(records: Sequence[Executed], floats: FloatPart) -> Placement:
    """How many of the executed operators run in integers; `floats` is what the file means to compute in floating point."""
    operators = [
        PlacedOperator(f"{record.operator} {record.name}", record.integer, record.macs, record.elsewhere) for record in records
    ]
    source = "OpenVINO's runtime model: primitiveType, runtimePrecision and outputPrecisions of each operator"
    return place(operators, floats=floats, source=source)


def kernel_families(records: Sequence[Executed]) -> str:
    """The kernels of the convolutions, with their precision; those for 1x1 are counted with the others."""
    found = {record.kernel.replace("_1x1_", "_") for record in records if record.operator == _CONVOLUTION}
    return ", ".join(sorted(found)) or "no convolution"


def _executed(model: Any, macs: Mapping[str, int], used: Collection[str]) -> Iterator[Executed]:
    constant: set[str] = set()
    for node in model.get_ordered_ops():
        told = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        sources = [entry.get_source_output().get_node() for entry in node.inputs()]
        kind = told["layerType"]
        if kind == "Const" or (sources and all(source.get_friendly_name() in constant for source in sources)):
            constant.add(node.get_friendly_name())
        elif kind not in _NOT_EXECUTED:
            origins = told["originalLayersNames"].split(",")
            bound = device_of(told.get("affinity", ""))
            known = [macs[name] for name in origins if name in macs]
            weighted = kind == _CONVOLUTION and len(sources) > 1
            yield Executed(
                name=origins[-1] or node.get_friendly_name(),
                operator=kind,
                kernel=told["primitiveType"],
                precision=told["runtimePrecision"].lower(),
                output_precisions=tuple(told["outputPrecisions"].lower().split(",")),
                macs=_macs(node, sources[1]) if weighted else sum(known) if kind == _CONVOLUTION else 0,
                elsewhere=bound if bound and bound not in used else "",
            )


def _macs(node: Any, weight: Any) -> int:
    """For one image: the elements of the output without the batch, times the weights behind each, of (O, ...)."""
    output, weights = node.get_output_partial_shape(0), weight.get_output_partial_shape(0)
    return math.prod(dim.get_length() for dim in [*list(output)[1:], *list(weights)[1:]])
