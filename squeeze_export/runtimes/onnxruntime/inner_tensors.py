"""An ONNX file's inner tensors, made outputs of it: an integer file's to compare them, a float file's to calibrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from squeeze_export.core import Artifact, ByteArray, FloatArray, require
from squeeze_export.errors import Refused
from squeeze_export.formats import onnx as onnx_files
from squeeze_export.runtimes.onnxruntime.calls import answered, opened, session_options
from squeeze_export.runtimes.onnxruntime.providers import CPU

Tap: TypeAlias = Callable[[str, FloatArray], None]
TappedRun: TypeAlias = Callable[[ByteArray | FloatArray, Tap | None], FloatArray]
_FLOAT_MAKERS = ("Add", "Concat", "Conv", "MaxPool", "Relu")


def inner_values(
    artifact: Artifact, names: Sequence[str], pixels: ByteArray, open_model: Callable[[bytes], Any]
) -> Mapping[str, FloatArray]:
    """See `Runtime.inner_values`; `open_model` makes an ONNX file a session of ONNX Runtime on the device in question."""
    onnx = require("onnx", "onnx")
    file = onnx_files.opened(artifact.path)
    makers = {name: node for name, node in file.makers.items() if node.op_type in ("QuantizeLinear", *_FLOAT_MAKERS)}
    missing = [name for name in names if name not in makers]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor `{missing[0]}`")
    steps = {
        name: tuple(file.array(operand) for operand in makers[name].input[1:])
        for name in names
        if makers[name].op_type == "QuantizeLinear"
    }
    for name in names:
        carrier = steps[name][1].dtype if name in steps else np.dtype(np.float32)
        dtype = onnx.helper.np_dtype_to_tensor_dtype(carrier)
        file.graph.output.append(onnx.helper.make_tensor_value_info(name, dtype, None))
    session = open_model(file.model.SerializeToString())
    source = session.get_inputs()[0]
    size = source.shape[0] if isinstance(source.shape[0], int) else 1
    batch = np.zeros((size, *pixels.shape[1:]), np.uint8 if source.type == "tensor(uint8)" else np.float32)
    batch[:1] = pixels
    found = answered(session, artifact.path, list(names), {source.name: batch})
    result = {}
    for name, real in zip(names, (value[:1].astype(np.float32) for value in found), strict=True):  # (1, C, H, W)
        if name in steps:
            scale, zero_point = steps[name]
            real = (real - np.float32(zero_point)) * scale
        result[name] = np.ascontiguousarray(real.transpose(0, 2, 3, 1))
    return result


def tapped_run(model: bytes, names: Sequence[str]) -> TappedRun:
    """A float run that shows inner tensors, for calibration. Several threads may call it; each call uses one thread.

    Args:
        model: an ONNX file of batch 1 whose first output is the logits and which also outputs each of `names` as (1, H, W, C).
        names: the tensors to show, in the order in which they are shown.

    Returns:
        `run(batch, tap=None)`: takes `batch` (N, H, W, C) of the type that the file takes, calls `tap(name, values)` with
        (1, H, W, C) float32 for each image and name, and returns (N, classes) float32 logits.

    Raises:
        Refused: ONNX Runtime cannot open the model.
        Unavailable: `onnxruntime` is not installed.
    """
    session = opened(model, Path("calibration.onnx"), session_options(1), [CPU])
    source, logits = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(batch: ByteArray | FloatArray, tap: Tap | None = None) -> FloatArray:
        shown = list(names) if tap is not None else []
        rows = []
        for image in batch:
            row, *values = session.run([logits, *shown], {source: image[None]})
            rows.append(row)
            if tap is not None:
                for name, value in zip(shown, values, strict=True):
                    tap(name, value)
        return np.concatenate(rows)

    return run
