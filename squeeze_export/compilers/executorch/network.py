"""An ONNX file in integers as plain values and arrays, for a worker without ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from squeeze_export.errors import Refused
from squeeze_export.formats.onnx import opened


def read_network(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Reads operators and constants.

    Args:
        path: an ONNX file from the target `onnx`, for one image.

    Returns:
        Values: `input`, its `shape`, `output`, `nodes` in execution order (operator, name, inputs, output, attributes), and
        `constants`: tensor -> name of its array. And those arrays.

    Raises:
        BadInput: it is not a valid ONNX file.
        Refused: it does not take one image of uint8 pixels.
        Unavailable: `onnx` is not installed.
    """
    file = opened(path)
    graph = file.graph
    try:
        constants = {tensor.name: f"c{index}" for index, tensor in enumerate(graph.initializer)}
        arrays = {key: file.array(name) for name, key in constants.items()}
        (source,), (result,) = graph.input, graph.output
        shape = [int(side.dim_value) for side in source.type.tensor_type.shape.dim]
        if len(shape) != 4 or shape[0] != 1 or file.tensor(source.name).dtype != "uint8":
            raise ValueError("it does not take one image of bytes")
        nodes = [
            {
                "operator": node.op_type,
                "name": node.name,
                "inputs": list(node.input),
                "output": node.output[0],
                "attributes": file.attributes(node),
            }
            for node in graph.node
        ]
    except (ValueError, IndexError) as err:
        raise Refused(f"`{path}` cannot be lowered: {err}", hint="leave out --batch and --input") from err
    return {"input": source.name, "shape": shape, "output": result.name, "nodes": nodes, "constants": constants}, arrays
