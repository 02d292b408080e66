"""QNN's own graph of a network, and the SoC that a context binary is for.

The compiler stores the graph's operators in its product, where the runtime reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export.errors import Refused

GRAPH_KEY = "squeeze_export.qnn_graph"
"""Metadata key of a compiled file: its graph as `graph_text` writes it."""
VERSION_HINT = "pip install onnxruntime-qnn==2.7.0"

_FLOATS = 0x0200  # high byte of the Qnn_DataType_t of floating point, QnnTypes.h
_KIND_MASK = 0xFF00
_SOC = re.compile(rb"soc_type=(\w{1,32});arch=(\d{1,3});")  # in the context binary's record of its compilation


@dataclass(frozen=True)
class QnnOperator:
    """An operator of QNN's graph.

    Attributes:
        name: of the ONNX node, as QNN spells it.
        kind: its type in QNN, such as `Conv2d`.
        integer: whether all its inputs and outputs are fixed-point or integers.
        macs: multiply-accumulates of a convolution; 0 for other operators.
    """

    name: str
    kind: str
    integer: bool
    macs: int


def read_graph(folder: Path) -> tuple[QnnOperator, ...]:
    """The operators of the graph that a session wrote into a folder.

    Raises:
        Refused: there is not exactly one graph: QNN split the network, or its version writes another form.
    """
    found = []
    for file in sorted(folder.glob("*.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        if "graph" in values and "nodes" in values["graph"]:
            found.append(values["graph"])
    if len(found) != 1:
        raise Refused(f"QNN made {len(found)} graphs of the network instead of one", hint=VERSION_HINT)
    tensors = found[0]["tensors"]
    return tuple(_operator(name, node, tensors) for name, node in found[0]["nodes"].items())


def _operator(name: str, node: Mapping[str, Any], tensors: Mapping[str, Any]) -> QnnOperator:
    data = [tensors[tensor] for tensor in (*node["input_names"], *node["output_names"])]
    macs = 0
    if node["type"] == "Conv2d":  # activations are NHWC, weights (k, k, I, O)
        macs = math.prod(data[-1]["dims"]) * math.prod(data[1]["dims"][:3])
    return QnnOperator(name, node["type"], all(tensor["data_type"] & _KIND_MASK != _FLOATS for tensor in data), macs)


def graph_text(operators: Sequence[QnnOperator]) -> str:
    """The operators as JSON, for a compiled file's metadata."""
    return json.dumps([[o.name, o.kind, o.integer, o.macs] for o in operators], separators=(",", ":"))


def graph_of_text(text: str) -> tuple[QnnOperator, ...]:
    """Reads what `graph_text` wrote.

    Raises:
        Refused: the text is damaged.
    """
    try:
        return tuple(QnnOperator(str(n), str(k), bool(i), int(m)) for n, k, i, m in json.loads(text))
    except (TypeError, ValueError) as err:
        raise Refused("the compiled file's own record of its operators is damaged", hint="compile it again") from err


def binary_facts(content: bytes) -> dict[str, str]:
    """`soc` and `htp_arch` that a context binary was compiled for; empty where the binary does not say."""
    found = sorted({(soc.decode(), f"v{arch.decode()}") for soc, arch in _SOC.findall(content)})
    return {"soc": found[0][0], "htp_arch": found[0][1]} if len(found) == 1 else {}
