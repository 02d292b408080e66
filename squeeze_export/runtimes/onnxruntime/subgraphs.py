"""The operators inside the subgraphs that a provider compiles. The profiler shows one event for each subgraph, and ONNX Runtime's
graph assignment lists its nodes.

Neither tells in what numbers the provider computes. The file does: an operator between DequantizeLinear and QuantizeLinear is meant
to run in integers. So such a placement takes the device from ONNX Runtime, and the numbers from the file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from squeeze_export.formats.contents import FREE, FileOperator
from squeeze_export.formats.onnx import parsed
from squeeze_export.runtimes.onnxruntime.records import PROFILER, Record, is_fused, name_in_file

SOURCE = f"{PROFILER}; inside of compiled subgraphs its graph assignment, and the file's Q/DQ pairs for the numbers"
ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""The session's entry that makes ONNX Runtime remember which node went where; since 1.24."""

_PAIRS = ("QuantizeLinear", "DequantizeLinear")


def expanded(records: Sequence[Record], session: Any, model: bytes) -> tuple[Record, ...]:
    """The records with each provider's compiled subgraphs replaced by the operators in them, quantization pairs left out.

    Args:
        records: of a profile.
        session: that was profiled, opened with `ASSIGNMENT`.
        model: the ONNX file that it was opened from.
    """
    providers = {record.provider for record in records if is_fused(record)}
    if not providers or not hasattr(session, "get_provider_graph_assignment_info"):
        return tuple(records)
    inside = _file_operators(model)
    alone = {name_in_file(record.name) for record in records if not is_fused(record)}
    found: list[Record] = []
    done: set[str] = set()
    for record in records:
        if not is_fused(record):
            found.append(record)
        elif record.provider not in done:
            done.add(record.provider)
            found += _assigned(session, record.provider, inside, alone) or [record]
    return tuple(found)


def _assigned(session: Any, provider: str, inside: Mapping[str, tuple[bool, int]], alone: Collection[str]) -> list[Record]:
    """A provider's operators that have no record of their own: those that it compiled, even an operator alone."""
    return [
        Record(name, node.op_type, *inside.get(name, (False, 0)), provider)
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name == provider
        for node in subgraph.get_nodes()
        if node.op_type not in _PAIRS and (name := name_in_file(node.name)) not in alone
    ]


def _file_operators(content: bytes) -> dict[str, tuple[bool, int]]:
    """Node's name -> whether it stands between Q/DQ pairs or has only integers anyway, and its multiply-accumulates."""
    file = parsed(content, "the model").contents

    def in_integers(operator: FileOperator) -> bool:
        makers = [file.maker(tensor) for tensor in operator.inputs if tensor.floating and not tensor.constant]
        readers = [file.readers_of(tensor) for tensor in operator.outputs if tensor.floating]
        given = all(maker is not None and maker.kind == "DequantizeLinear" for maker in makers)
        return given and all({reader.kind for reader, _ in others} == {"QuantizeLinear"} for others in readers)

    def macs(operator: FileOperator) -> int:
        if operator.kind != "Conv":
            return 0
        unpacking = file.maker(operator.inputs[1])
        weight = operator.inputs[1] if unpacking is None else unpacking.inputs[0]
        made = [1 if side == FREE else side for side in operator.outputs[0].shape]
        return math.prod(made) * math.prod(weight.shape[1:]) if weight.constant else 0

    return {operator.name: (in_integers(operator), macs(operator)) for operator in file.operators}
