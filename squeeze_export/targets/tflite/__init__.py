"""TensorFlow Lite (LiteRT): the flatbuffer written directly, without TensorFlow.

The table's integers are unsigned. The format stores them as int8, 128 lower, or as int16, 32,768 lower, with zero points to match:
the real values are the same. The input is uint8 and the output float, as MediaPipe and LiteRT.js require. `int8-npu` has int8
logits, so nothing in the file is float. With int8 pixels, 128 lower than uint8 ones, the file needs no QUANTIZE.

    int8       uint8 -> QUANTIZE -> int8 network -> DEQUANTIZE -> MEAN -> float32 logits; `int8-per-tensor` too
               a layer kept in float: DEQUANTIZE -> float32 -> QUANTIZE, where its neighbours are in integers
    int8-npu   uint8 -> QUANTIZE -> int8 network -> MEAN -> int8 logits
    int16x8    uint8 -> CAST -> int16 network, int8 weights, int64 biases -> DEQUANTIZE -> MEAN -> float32 logits
    fp32       uint8 -> DEQUANTIZE (scale 1) -> float32 network -> MEAN -> float32 logits
    fp16       as fp32; weights are float16 and pass through a DEQUANTIZE, which XNNPACK folds away; biases stay float32
    w8         as fp16, with int8 weights and a scale per output channel
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from squeeze_export.core import EmitOptions
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, Scheme
from squeeze_export.targets.tflite.lowering import Lowering
from squeeze_export.targets.tflite.metadata import LABELS_FILE, METADATA_NAME, model_metadata, with_files

NAME = "tflite"
SUFFIX = ".tflite"
SCHEMES = ("fp32", "fp16", "int8", "int8-npu", "int8-per-tensor", "int16x8", "w8")
INPUTS = ("uint8", "float32", "int8")
RUNTIMES = ("litert", "litert-builtin", "tflite-runtime", "tensorflow-lite", "tflite-micro")
PACKAGES = ("ai-edge-litert", "flatbuffers")

PROVENANCE_NAME = "squeeze_export"
"""The metadata entry with the caller's metadata as JSON."""


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> bytes:
    """Writes the network; see `Target.emit`.

    Raises:
        Refused: a weight is too large for float16.
        Unavailable: `ai_edge_litert` or `flatbuffers` is not installed.
    """
    lowering = Lowering(network, scheme, options)
    source, result = lowering.run()
    height, width, channels = network.sizes[network.input.name]
    entries = {
        METADATA_NAME: model_metadata(
            name=network.name,
            description=f"{network.name}, {scheme.name}",
            size_px=(width, height),
            grey=channels == 1,
            output=lowering.output_name,
            labels=network.labels,
        ),
        PROVENANCE_NAME: json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False).encode(),
    }
    packed = lowering.writer.pack(source, result, entries)
    labels = {LABELS_FILE: "".join(f"{label}\n" for label in network.labels).encode()} if network.labels else {}
    return with_files(packed, labels)
