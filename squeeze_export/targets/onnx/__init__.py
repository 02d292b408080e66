"""ONNX. Floats as Conv and Relu; integers as QuantizeLinear / DequantizeLinear pairs around each operator (QDQ).

A layer kept in float has float weights, and no pair behind it where the table does not quantize its result. A float layer between
two pairs is refused, because ONNX Runtime would round its weights to 8 bits and run it in integers.

Activations are uint8, because ONNX Runtime leaves every convolution with int8 activations in float on x86. `int8-symmetric` has
int8 ones, as TensorRT requires. Max-pools have explicit pads, which all runtimes read alike; with `ceil_mode` they differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from squeeze_export.core import OUTPUT_NAMES, EmitOptions, require
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP32, QuantizedGraph, Scheme
from squeeze_export.targets.onnx.lowering import write_nodes
from squeeze_export.targets.onnx.writer import Writer

NAME = "onnx"
SUFFIX = ".onnx"
SCHEMES = ("fp32", "fp16", "int8", "int8-npu", "int8-symmetric", "int8-per-tensor", "w8")
RUNTIMES = ("onnxruntime", "torch")
PACKAGES = ("onnx",)


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> bytes:
    """Writes the network as an ONNX model: (N, H, W, 3) pixels 0 to 255 in, (N, classes) float32 out.

    Args:
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: one of `SCHEMES`.
        options: the outer form. A dynamic batch is the symbolic dimension `N`.
        metadata: into `metadata_props`, sorted; `labels` is added as a JSON list where the network has labels.

    Returns:
        The file's bytes; the same arguments give the same bytes.

    Raises:
        Refused: a weight is too large for float16, convolutions pad the pixels differently in a scheme without zero points, or a
            layer kept in float is between integers.
        Unavailable: `onnx` is not installed.
    """
    writer = Writer(require("onnx", "onnx"), signed=scheme.symmetric)
    logits = write_nodes(writer, network, scheme, options.input_dtype)
    if options.softmax:
        logits = writer.add("Softmax", [logits], OUTPUT_NAMES["softmax"], axis=1)
    if options.sigmoid:
        logits = writer.add("Sigmoid", [logits], OUTPUT_NAMES["sigmoid"])
    return writer.model(network, options, {logits: (network.output.shape[1],)}, metadata)


def emit_with_taps(graph: Graph, names: Collection[str], *, input_dtype: Literal["uint8", "float32"] = "uint8") -> bytes:
    """Writes the float network for calibration: batch 1, fp32, with the results of the named nodes as further outputs.

    Returns:
        An ONNX model whose first output is the logits, followed by the named tensors in the graph's order, (1, H, W, C) each.
    """
    writer = Writer(require("onnx", "onnx"))
    logits = write_nodes(writer, graph, FP32, input_dtype, names)
    taps = {node.name: graph.sizes[node.name] for node in graph.nodes if node.name in names}
    return writer.model(graph, EmitOptions(input_dtype=input_dtype), {logits: (graph.output.shape[1],), **taps}, {})
