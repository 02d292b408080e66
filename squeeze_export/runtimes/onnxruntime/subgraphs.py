"""What is inside the subgraphs that a provider compiles: the profiler shows one event each, ONNX Runtime's assignment their nodes.

In what numbers a provider computes inside, neither tells. The file does: an operator between DequantizeLinear and QuantizeLinear is
one of integers. So such a placement is the file's word on the numbers, and ONNX Runtime's on the device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from squeeze_export.core import require
from squeeze_export.runtimes.onnxruntime.records import PROFILER, Record, is_fused

SOURCE = f"{PROFILER}; inside of compiled subgraphs its graph assignment, and the file's Q/DQ pairs for the numbers"
ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""The session's entry that makes ONNX Runtime remember which node went where; since 1.24."""

_PAIRS = ("QuantizeLinear", "DequantizeLinear")
_RENAMED = re.compile(r"_token_\d+$")  # what layout transformation puts behind a node's name


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
    alone = {_RENAMED.sub("", record.name) for record in records if not is_fused(record)}
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
    """A provider's operators that no record names by themselves: what it compiled, even an operator alone."""
    nodes = [
        node
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name == provider
        for node in subgraph.get_nodes()
        if node.op_type not in _PAIRS and _RENAMED.sub("", node.name) not in alone
    ]
    names = [_RENAMED.sub("", node.name) for node in nodes]
    return [Record(name, node.op_type, *inside.get(name, (False, 0)), provider) for name, node in zip(names, nodes, strict=True)]


def _file_operators(content: bytes) -> dict[str, tuple[bool, int]]:
    """Node's name -> whether it stands between Q/DQ pairs or carries integers anyway, and its multiply-accumulates."""
    onnx = require("onnx", "onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    weights = {constant.name: list(constant.dims) for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}

    def of_integers(name: str, *, read: bool) -> bool:
        if kinds.get(name) is not None and kinds[name] not in floats:
            return True
        if read:
            return name in makers and makers[name].op_type == "DequantizeLinear"
        return set(readers.get(name, ())) == {"QuantizeLinear"}

    found = {}
    for node in graph.node:
        data = [name for name in node.input if name and name not in weights]
        integer = all(of_integers(n, read=True) for n in data) and all(of_integers(n, read=False) for n in node.output)
        macs = 0
        if node.op_type == "Conv":
            maker = makers.get(node.input[1])
            shape = weights.get(node.input[1]) or weights.get(maker.input[0] if maker is not None else "", [])
            macs = math.prod(shapes.get(node.output[0], [0])) * math.prod(shape[1:])
        found[node.name] = (integer, macs)
    return found
