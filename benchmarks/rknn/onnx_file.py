"""Our ONNX file as RKNN-Toolkit2 takes it: float NCHW pixels in, the pooled logits out. The integers in between are not touched.

The toolkit knows no uint8 input of a model; the `.rknn` takes bytes all the same, as its input has scale 1. Behind the pool it
would run what only reshapes on the chip's CPU, so the file ends with the pool.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Refused


def onnx_for_rknn(path: Path) -> bytes:
    """Rewrites both ends of an ONNX file of the scheme `int8-npu`.

    Args:
        path: the file, as the target `onnx` writes it with one image a batch and uint8 pixels.

    Returns:
        The file: (1, 3, H, W) float32 pixels 0 to 255 in, (1, classes, 1, 1) float32 logits out.

    Raises:
        Refused: the file begins or ends otherwise.
        Unavailable: `onnx` is not installed.
    """
    onnx = require("onnx", "onnx")
    try:
        model = onnx.load_from_string(path.read_bytes())
        _rewrite_input(onnx, model.graph)
        _cut_behind_pool(onnx, model.graph)
        onnx.checker.check_model(model, full_check=True)
    except (OSError, ValueError, IndexError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise Refused(f"`{path}` is not written as RKNN-Toolkit2 needs it: {err}", hint="leave out --batch and --input") from err
    return bytes(model.SerializeToString(deterministic=True))


def _rewrite_input(onnx: Any, graph: Any) -> None:
    """Transpose, DequantizeLinear -> QuantizeLinear, DequantizeLinear: the same integers, from floats of another layout."""
    source, transpose, dequantize = graph.input[0], graph.node[0], graph.node[1]
    sides = [int(side.dim_value) for side in source.type.tensor_type.shape.dim]
    kinds = (transpose.op_type, dequantize.op_type, source.type.tensor_type.elem_type)
    if kinds != ("Transpose", "DequantizeLinear", onnx.TensorProto.UINT8) or len(sides) != 4 or sides[0] != 1:
        raise ValueError("it does not begin with one image of bytes")
    batch, height, width, channels = sides
    parameters = list(dequantize.input[1:])
    first = onnx.helper.make_node("QuantizeLinear", [source.name, *parameters], [transpose.output[0]], name="pixels/quantize")
    graph.node[0].CopyFrom(first)
    shape = (batch, channels, height, width)
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(source.name, onnx.TensorProto.FLOAT, shape))


def _cut_behind_pool(onnx: Any, graph: Any) -> None:
    """Leaves out Flatten and what follows: it moves nothing, and the integers behind it are those before it."""
    flatten = [index for index, node in enumerate(graph.node) if node.op_type == "Flatten"]
    if len(flatten) != 1 or graph.node[flatten[0] - 1].op_type != "DequantizeLinear":
        raise ValueError("its pool does not end in integers")
    pooled = graph.node[flatten[0]].input[0]
    classes = int(graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    del graph.node[flatten[0] :]
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, (1, classes, 1, 1)))
