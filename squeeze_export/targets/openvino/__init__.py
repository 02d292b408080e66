"""OpenVINO: a folder with `model.xml` and `model.bin`, built with operators that every release since 2022 reads.

    int8   uint8 -> Transpose -> Convert -> FakeQuantize -> int8 network -> ReduceMean -> float32 logits
    fp32   uint8 -> Transpose -> Convert -> float32 network -> ReduceMean -> float32 logits
    fp16   as fp32; weights are float16 and pass through a Convert, which the runtime folds away; biases stay float32
    w8     as fp32; weights are int8 times a scale per output channel, which the runtime folds into floats when it opens the file

An integer network is written on floats: FakeQuantize says which 256 values a tensor may take, and the weights are int8 times a
scale. The runtime turns both into integers. Without the FakeQuantize on the pixels it leaves the first convolution in float. A
layer kept in float has float weights, and no FakeQuantize where the table does not quantize its result: the runtime then runs this
layer in float and its neighbours in integers. Max-pools have version 8 and explicit pads, because the runtime computes those of
version 14 with torch's rounding mode in float.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.core import EmitOptions, require
from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.targets.openvino.lowering import Lowering
from squeeze_export.targets.openvino.metadata import labels_file, runtime_info

NAME = "openvino"
SUFFIX = ".openvino"
SCHEMES = ("fp32", "fp16", "int8", "int8-symmetric", "int8-per-tensor", "w8")
RUNTIMES = ("openvino", "openvino-bf16")
PACKAGES = ("openvino",)

MODEL_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"
LABELS_FILE = "labels.txt"


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> dict[str, bytes]:
    """Writes the network; see `Target.emit`. The operator and the tensor that hold the result of a node, rounded in an integer
    network, have the node's name.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: one of `SCHEMES`.
        options: the outer form. A dynamic batch is the dimension -1.
        metadata: into `rt_info`, under `squeeze_export`, beside the keys that OpenVINO's Model API reads.

    Returns:
        `model.xml`, `model.bin` and, where the network has labels, `labels.txt`, one a line.

    Raises:
        Refused: a weight is too large for float16, or this version of OpenVINO lays out its XML differently.
        Unavailable: `openvino` is not installed.
    """
    # `openvino` reports its own import through this package, and works without it.
    openvino = require("openvino", "openvino", without=("openvino_telemetry",))
    model = Lowering(openvino, network, scheme, options).run()
    for path, text in runtime_info(network, metadata):
        model.set_rt_info(text, list(path))
    files = _serialized(openvino, model)
    return files | ({LABELS_FILE: labels_file(network.labels)} if network.labels else {})


def _serialized(openvino: Any, model: Any) -> dict[str, bytes]:
    """The two files. OpenVINO writes only to paths."""
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
        paths = [Path(folder) / name for name in (MODEL_FILE, WEIGHTS_FILE)]
        openvino.serialize(model, *paths)
        xml, weights = (path.read_bytes() for path in paths)
    # OpenVINO writes the edges of one tensor in the order of addresses in memory.
    parts = re.split(rb"(?<=\t<edges>\n)|(?=\t</edges>)", xml)
    if len(parts) != 3:
        hint = "install the version of `openvino` that `constraints.txt` names"
        raise Refused("this version of `openvino` lays its XML out in a way that is not known here", hint=hint)
    before, edges, after = parts
    lines = sorted(edges.splitlines(keepends=True), key=lambda line: [int(number) for number in re.findall(rb'"(\d+)"', line)])
    return {MODEL_FILE: before + b"".join(lines) + after, WEIGHTS_FILE: weights}
