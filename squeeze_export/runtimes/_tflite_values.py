"""The inner values of a TFLite file: its own tensors made outputs, so that the delegate has to hand them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, FloatArray, require
from squeeze_export.errors import Refused
from squeeze_export.runtimes._tflite_interpreter import interpreting, pixels_as


def inner_values(
    artifact: Artifact,
    names: Sequence[str],
    pixels: ByteArray,
    *,
    runtime: str,
    load: Callable[[], Any],
    delegates: bool = True,
) -> Mapping[str, FloatArray]:
    """See `Runtime.inner_values`; the further arguments are those of `interpreting`.

    Raises:
        Refused: the file has no such tensors, or cannot be run with them as outputs.
        Unavailable: a package is missing.
    """
    content = _with_outputs(artifact, names)
    options = {"runtime": runtime, "threads": 1, "load": load, "delegates": delegates}
    with interpreting(content, artifact.path, **options) as interpreter:  # type: ignore[arg-type]
        source = interpreter.get_input_details()[0]
        batch = np.zeros(source["shape"], source["dtype"])
        batch[:1] = pixels_as(pixels, batch.dtype)
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        details = {detail["name"]: detail for detail in interpreter.get_output_details()}
        found = {}
        for name in names:
            scale, zero_point = details[name]["quantization"]
            made = interpreter.get_tensor(details[name]["index"])[:1]
            real = made.astype(np.float32)
            found[name] = real if made.dtype == np.float32 else (real - np.float32(zero_point)) * np.float32(scale)
    return found


def _with_outputs(artifact: Artifact, names: Sequence[str]) -> bytes:
    """The file with the named tensors among its outputs."""
    schema = require("ai_edge_litert.schema_py_generated", "tflite")
    builder = require("flatbuffers", "tflite").Builder(1024)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.path.read_bytes(), 0))
    graph = model.subgraphs[0]
    numbers = {
        tensor.name.decode(): number
        for number, tensor in enumerate(graph.tensors)
        if tensor.quantization is not None or tensor.type == schema.TensorType.FLOAT32
    }
    missing = [name for name in names if name not in numbers]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor `{missing[0]}`")
    # A signature names its own outputs, which would no longer be all.
    graph.outputs, model.signatureDefs = [*graph.outputs, *(numbers[name] for name in names)], []
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
