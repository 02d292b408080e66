"""Graphs as files, written and read: the table, which holds a quantized graph, and the float graph.

Both are safetensors files: weights, scales and biases as tensors, everything else as one JSON header. A table is all that an
integer export needs: no image, no checkpoint. Nothing in a file is executed; sizes are bounded before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from squeeze_export.core import Preprocess, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.files import read_bounded, reading
from squeeze_export.graph.nodes import (
    Add,
    Concat,
    Conv,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Node,
    Pair,
    QuantizedConv,
    QuantizedNode,
)
from squeeze_export.graph.quantized import MIXED_SCHEMES, Quantization, QuantizedGraph, scheme_named

TABLE_VERSION = 1
MAX_TABLE_BYTES = 256_000_000
MAX_SIDE_PX = 4096
SMALLEST_SCALE, LARGEST_SCALE = 1e-16, 1e6
"""Between these, acc * (s_x * s_w) / s_y stays inside float32."""
ARRAYS_SHA256 = "arrays_sha256"
"""Key of the arrays' checksum in a table's header."""
SHA256 = "sha256"
"""Key of the whole table's checksum in its header: `QuantizedGraph.sha256`. Tables of earlier versions have none."""
_KEYS = {
    *("version", "name", "nodes", "input", "output", "preprocess", "labels", "scheme", "tensors", "provenance"),
    *(ARRAYS_SHA256, SHA256),
}
_MAKE_ONE = "make one with: squeeze-export calibrate --weights FILE --calib DIR"
_TABLE_HEADER = "squeeze_export_table"
_GRAPH_HEADER = "squeeze_export_graph"
T = TypeVar("T")


def table_bytes(quantized: QuantizedGraph, *, checksum: bool = True) -> bytes:
    """The table file's bytes. The same quantized graph always gives the same bytes.

    Args:
        quantized: the graph.
        checksum: whether the header has the SHA-256 of the bytes that the table has without it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    header = _header(quantized, arrays) | {
        "scheme": quantized.scheme.name,
        "tensors": {name: [q.scale, q.zero_point] for name, q in quantized.tensors.items()},
        "provenance": dict(quantized.provenance),
    }
    header[ARRAYS_SHA256] = arrays_sha256(arrays)
    if checksum:
        header[SHA256] = quantized.sha256
    return safetensors.numpy.save(arrays, {_TABLE_HEADER: json.dumps(header, sort_keys=True)})


def read_table(path: Path) -> QuantizedGraph:
    """Reads a table file. Nothing in it is executed; sizes are bounded before anything is allocated.

    Raises:
        BadInput: not a table, truncated, of a newer version, or its parts do not fit each other.
    """
    return _read(path, _TABLE_HEADER, "quantization table", _quantized_graph, _MAKE_ONE)


def table_difference(path: Path) -> tuple[str, str]:
    """What is wrong with a table file, and what it lacks; both are empty where every byte is as it was written.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        quantized = read_table(path)
    except BadInput as err:
        with reading(path):
            path.stat()
        return err.message, ""
    data = read_bounded(path, MAX_TABLE_BYTES, "a table")
    if data == table_bytes(quantized):
        return "", ""
    if data == table_bytes(quantized, checksum=False):
        return "", "an earlier version wrote it, without a checksum of its header"
    return f"`{path}` holds the integers that its checksum names, and its bytes are not those that this tool writes of them", ""


def graph_bytes(graph: Graph) -> bytes:
    """The float graph as a file: how one of our processes hands it to another. The same graph always gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    header = _header(graph, arrays) | {"checkpoint_sha256": graph.checkpoint_sha256}
    return safetensors.numpy.save(arrays, {_GRAPH_HEADER: json.dumps(header, sort_keys=True)})


def read_graph(path: Path) -> Graph:
    """Reads what `graph_bytes` wrote.

    Raises:
        BadInput: not such a file, truncated, or its parts do not fit each other.
    """
    return _read(path, _GRAPH_HEADER, "float graph", _float_graph, "write it again")


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the arrays in the order of their names: of each a line with name, dtype and shape, then its bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _header(graph: Graph | QuantizedGraph, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """What both kinds of graph have in their header; their arrays go into `arrays`."""
    return {
        "version": TABLE_VERSION,
        "name": graph.name,
        "nodes": [_saved_node(node, arrays) for node in graph.nodes],
        "input": asdict(graph.input),
        "output": asdict(graph.output),
        "preprocess": graph.preprocess.to_json(),
        "labels": list(graph.labels),
    }


def _saved_node(node: Node | QuantizedNode, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A node's fields as JSON has them; its arrays go into `arrays`, as `<node>.weight` and so on."""
    entry: dict[str, Any] = {"kind": type(node).__name__, "inputs": node.inputs}
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, np.ndarray):
            arrays[f"{node.name}.{field.name}"] = np.ascontiguousarray(value)  # safetensors takes memory as it lies
        elif field.name == "strides":
            entry["stride"] = _saved_pair(value)
        elif field.name == "kernel":
            entry["kernel"] = _saved_pair(value)
        elif value is not None and field.name != "input":
            entry[field.name] = value
    if isinstance(node, Add) and not node.relu:
        del entry["relu"]  # which tables of the first versions do not have
    return entry


def _saved_pair(pair: Pair) -> int | Pair:
    """One number where both are the same: the form of the first versions."""
    return pair[0] if pair[0] == pair[1] else pair


def _read(path: Path, key: str, what: str, build: Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]]], T], hint: str) -> T:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise BadInput(f"`{path}` is larger than any table (`{MAX_TABLE_BYTES}` bytes)", hint=hint)
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if key not in metadata:
                raise BadInput(f"`{path}` is not a {what}", hint=hint)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a handle, not a dict)
        header = json.loads(metadata[key])
        if header["version"] != TABLE_VERSION:
            raise BadInput(f"`{path}` is a table of version `{header['version']}`; this tool reads version {TABLE_VERSION}")
        return build(header, arrays)
    except OSError as err:
        raise BadInput(f"the table `{path}` cannot be read: {err.strerror or err}", hint=hint) from err
    except safetensors.SafetensorError as err:
        raise BadInput(f"`{path}` is not a {what}: {err}", hint=hint) from err
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as err:
        raise BadInput(f"the table `{path}` is damaged: {err!r}", hint=hint) from err


def _quantized_graph(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> QuantizedGraph:
    if header.get(ARRAYS_SHA256) != arrays_sha256(arrays):  # nothing else tells one int8 weight from another
        raise ValueError("the arrays do not match their checksum" if ARRAYS_SHA256 in header else "it has no checksum")
    unknown = sorted(set(header) - _KEYS)
    if unknown:
        raise ValueError(f"its header holds {unknown[0]!r}")
    quantized = QuantizedGraph(
        **_parts(header),
        nodes=tuple(_node(entry, arrays) for entry in header["nodes"]),
        tensors={name: Quantization(float(scale), int(zero)) for name, (scale, zero) in header["tensors"].items()},
        scheme=scheme_named(header["scheme"]),
        provenance=dict(header["provenance"]),
    )
    _check(quantized)
    if header.get(SHA256, quantized.sha256) != quantized.sha256:
        raise ValueError("the header does not match its checksum")
    return quantized


def _float_graph(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Graph:
    nodes = tuple(_float_node(_node(entry, arrays)) for entry in header["nodes"])
    graph = Graph(**_parts(header), nodes=nodes, checkpoint_sha256=str(header["checkpoint_sha256"]))
    _check_shapes(graph)
    return graph


def _node(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> QuantizedNode:
    name, inputs = str(entry["name"]), tuple(str(i) for i in entry["inputs"])
    match entry["kind"]:
        case "QuantizedConv":
            weight, scale, bias = (arrays[f"{name}.{part}"] for part in ("weight", "weight_scale", "bias"))
            if [a.dtype.name for a in (weight, scale, bias)] != ["int8", "float32", "int32"] or weight.ndim != 4:
                raise ValueError(f"the arrays of {name} have the wrong dtype or rank")
            factor = arrays.get(f"{name}.factor")  # absent from tables of the first versions
            if factor is not None and factor.dtype.name != "float32":
                raise ValueError(f"the factors of {name} have the wrong dtype")
            return QuantizedConv(
                name, inputs[0], weight, scale, bias, _pair(entry["stride"]), _pads(entry["pads"]), bool(entry["relu"]), factor
            )
        case "Conv":
            weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
            if [weight.dtype.name, bias.dtype.name] != ["float32", "float32"] or weight.ndim != 4:
                raise ValueError(f"the arrays of {name} have the wrong dtype or rank")
            return Conv(name, inputs[0], weight, bias, _pair(entry["stride"]), _pads(entry["pads"]), bool(entry["relu"]))
        case "MaxPool":
            return MaxPool(name, inputs[0], _pair(entry["kernel"]), _pair(entry["stride"]), _pads(entry["pads"]))
        case "Concat":
            return Concat(name, inputs)
        case "Add":
            return Add(name, (inputs[0], inputs[1]), bool(entry.get("relu", False)))
        case "GlobalAveragePool":
            return GlobalAveragePool(name, inputs[0])
        case kind:
            raise ValueError(f"node kind {kind!r}")


def _pads(values: list[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return (top, left, bottom, right)


def _pair(value: int | list[int]) -> Pair:
    down, right = value if isinstance(value, list) else (value, value)
    return int(down), int(right)


def _float_node(node: QuantizedNode) -> Node:
    if isinstance(node, QuantizedConv):
        raise ValueError(f"{node.name} is a {type(node).__name__}")
    return node


def _parts(header: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds of graph read of `_header` in the same way."""
    preprocess = header["preprocess"]
    return {
        "name": str(header["name"]),
        "input": _spec(header["input"]),
        "output": _spec(header["output"]),
        "preprocess": Preprocess(**dict(preprocess) | {"mean": tuple(preprocess["mean"]), "std": tuple(preprocess["std"])}),
        "labels": tuple(str(label) for label in header["labels"]),
    }


def _spec(values: Mapping[str, Any]) -> TensorSpec:
    return replace(TensorSpec(**values), shape=tuple(values["shape"]))


def _check(quantized: QuantizedGraph) -> None:
    """Raises ValueError where the parts of a table do not fit each other; a KeyError for a tensor that nothing makes."""
    scheme, source = quantized.scheme, quantized.input.name
    if not scheme.integer:
        raise ValueError(f"scheme {scheme.name}")
    _check_shapes(quantized)
    for name, q in quantized.tensors.items():
        steps = 0 <= q.zero_point <= scheme.levels and (not scheme.symmetric or name == source or q.zero_point == scheme.middle)
        if not (SMALLEST_SCALE < q.scale < LARGEST_SCALE and float(np.float32(q.scale)) == q.scale and steps):
            raise ValueError(f"scale {q.scale} or zero point {q.zero_point} of {name}")
    if quantized.tensors[source] != Quantization(1.0, 0):
        raise ValueError("the input is not raw pixels")
    for node in quantized.nodes:
        if isinstance(node, QuantizedConv):
            if node.weight_scale.shape != node.weight.shape[:1]:
                raise ValueError(f"scales of {node.name}")
            if not _is_scale(node.weight_scale):
                raise ValueError(f"a weight scale of {node.name}")
            if scheme.per_tensor and len(set(node.weight_scale.tolist())) != 1:
                raise ValueError(f"{node.name} has more than one weight scale")
            if node.factor is not None and (node.factor.shape != node.weight.shape[:1] or not _is_scale(node.factor)):
                raise ValueError(f"factors of {node.name}")
            if not {node.input, node.name} <= set(quantized.tensors):
                raise ValueError(f"{node.name} has no scale")
        if isinstance(node, MaxPool | Concat) and len({quantized.tensors.get(t) for t in (*node.inputs, node.name)}) != 1:
            raise ValueError(f"{node.name} joins tensors of different scales")
    if (quantized.output.name in quantized.tensors) != scheme.integer_output:
        raise ValueError(f"{quantized.output.name} has {'no' if scheme.integer_output else 'a'} scale")
    if quantized.kept_float and scheme.name not in MIXED_SCHEMES:
        raise ValueError(f"float layers in the scheme {scheme.name}")
    if not quantized.kept_float and len(quantized.tensors) < len(quantized.sizes) - (not scheme.integer_output):
        raise ValueError("a tensor has no scale")
    if not set(quantized.tensors) <= set(quantized.sizes):
        raise ValueError("a scale of no tensor")


def _is_scale(values: NDArray[np.float32]) -> bool:
    return bool(((values > SMALLEST_SCALE) & (values < LARGEST_SCALE)).all())


def _check_shapes(graph: Graph | QuantizedGraph) -> None:
    """Bounds every tensor, so that a hostile table cannot make a run allocate without end."""
    nodes, sizes = graph.nodes, graph.sizes
    if len(sizes) != len(nodes) + 1:
        raise ValueError("two nodes of one name")
    for name, (height, width, channels) in sizes.items():
        if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX and channels >= 1):
            raise ValueError(f"{name} is {height} x {width} x {channels}")
    for node in nodes:
        if isinstance(node, Conv | QuantizedConv):
            channels = sizes[node.input][2]
            if node.weight.shape[1] != channels:
                raise ValueError(f"{node.name} has weights {node.weight.shape} for {channels} input channels")
            if isinstance(node, Conv) and not (np.isfinite(node.weight).all() and np.isfinite(node.bias).all()):
                raise ValueError(f"a weight or bias of {node.name} is no number")
            if node.bias.shape != node.weight.shape[:1]:
                raise ValueError(f"bias of {node.name}")
        if isinstance(node, Conv | QuantizedConv | MaxPool) and min(*node.strides, *node.kernel, *(n + 1 for n in node.pads)) < 1:
            raise ValueError(f"kernel, stride or pads of {node.name}")
        joined = {sizes[name] if isinstance(node, Add) else sizes[name][:2] for name in node.inputs}
        if len(joined) != 1:
            raise ValueError(f"{node.name} joins tensors of different sizes")
        if isinstance(node, GlobalAveragePool) != (node is nodes[-1]):
            raise ValueError("the average pool is not the last node")
    if sizes[graph.input.name] != graph.preprocess.input_size:
        raise ValueError("the input is not the preprocessing's crop")
    class_count = sizes[graph.output.name][2]
    if graph.output.shape[1:] != (class_count,) or len(graph.labels) not in (0, class_count):
        raise ValueError(f"output or labels of {class_count} classes")
