"""What a TFLite file says of itself, read with the schema that TFLite Micro brings: it tells nothing of the operators it runs."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Refused

_DTYPES: Mapping[int, str] = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float64",
}  # fmt: skip
"""`TensorType` of the TFLite schema -> numpy's name."""


@dataclass(frozen=True)
class FileRecords:
    """A file's operators, as an interpreter's node list has them.

    Attributes:
        nodes: `op_name`, `inputs`, `outputs`.
        tensors: `index`, `name`, `shape`, `dtype`, `scale`, `zero_point`.
        inputs: indices of the network's own.
    """

    nodes: Sequence[Mapping[str, Any]]
    tensors: Sequence[Mapping[str, Any]]
    inputs: Sequence[int]

    @property
    def tensor_bytes(self) -> int:
        """Of all tensors together, were each kept apart."""
        return sum(math.prod(t["shape"]) * 8 for t in self.tensors)


def read_file(content: bytes, path: Path) -> FileRecords:
    """Reads a file that TFLite Micro has opened.

    Args:
        content: the file's bytes.
        path: for the error message.

    Raises:
        Refused: several subgraphs, tensors of a dtype that is not known here, or weights outside the flatbuffer, which TFLite
            Micro would read as nothing without saying so.
    """
    schema = require("tflite_micro.tensorflow.lite.micro.python.schema_py_generated", "micro")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        if len(model.subgraphs) != 1:
            raise Refused(f"`{path}` has {len(model.subgraphs)} subgraphs, not one")
        if any((buffer.offset or 0) > 1 or (buffer.size or 0) > 1 for buffer in model.buffers):
            raise Refused(
                f"`{path}` keeps its weights behind the flatbuffer, where TFLite Micro does not read them",
                hint="export the file with this tool",
            )
        return _records(schema, model)
    except (LookupError, ValueError, TypeError, AttributeError, struct.error) as err:
        raise Refused(f"`{path}` is a damaged TFLite file: {err}", hint="export the file again") from err


def _records(schema: Any, model: Any) -> FileRecords:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    (graph,) = model.subgraphs
    tensors = []
    for index, tensor in enumerate(graph.tensors):
        steps = tensor.quantization
        scales = steps.scale if steps is not None and steps.scale is not None else []
        single = len(scales) == 1
        tensors.append(
            {
                "index": index,
                "name": (tensor.name or b"").decode("utf-8", "replace"),
                "shape": [int(side) for side in (tensor.shape if tensor.shape is not None else [])],
                "dtype": _DTYPES[tensor.type],
                "scale": float(scales[0]) if single else 0.0,
                "zero_point": int(steps.zeroPoint[0]) if single and steps.zeroPoint is not None else 0,
            }
        )
    nodes = [
        {
            "op_name": codes[operator.opcodeIndex],
            "inputs": [int(i) for i in operator.inputs],
            "outputs": [int(i) for i in operator.outputs],
        }
        for operator in graph.operators
    ]
    return FileRecords(nodes, tensors, [int(index) for index in graph.inputs])
