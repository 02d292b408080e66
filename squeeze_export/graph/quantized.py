"""The quantized graph, and the table file that holds it.

A table is a safetensors file: int8 weights, float32 weight scales and int32 biases as tensors, everything else as one JSON header.
It is all that an integer export needs: no image, no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from squeeze_export.core import Preprocess, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import (
    Add,
    Concat,
    GlobalAveragePool,
    MaxPool,
    QuantizedConv,
    QuantizedNode,
    consumers_of,
    tensor_sizes,
)

TABLE_VERSION = 1
MAX_TABLE_BYTES = 256_000_000
MAX_SIDE_PX = 4096
SMALLEST_SCALE, LARGEST_SCALE = 1e-16, 1e6
"""Between these, acc * (s_x * s_w) / s_y stays inside float32."""
_HEADER = "squeeze_export_table"


@dataclass(frozen=True)
class Scheme:
    """How numbers are carried.

    Attributes:
        name: part of the file name, the table and the report.
        integer: whether the convolutions compute in integers; False for fp32 and fp16.
        float_dtype: dtype of weights and compute where `integer` is False.
        activation_bits: of every activation tensor.
        weight_bits: of every convolution's weights; symmetric, one scale per output channel.
    """

    name: str
    integer: bool = False
    float_dtype: str = "float32"
    activation_bits: int = 0
    weight_bits: int = 0


FP32 = Scheme("fp32")
FP16 = Scheme("fp16", float_dtype="float16")
INT8 = Scheme("int8", integer=True, activation_bits=8, weight_bits=8)
SCHEMES: Mapping[str, Scheme] = {scheme.name: scheme for scheme in (FP32, FP16, INT8)}


def scheme_named(name: str) -> Scheme:
    """Looks a scheme up.

    Raises:
        BadInput: there is no such scheme.
    """
    if name not in SCHEMES:
        raise BadInput(f"no scheme is called `{name}`", hint=f"one of: {', '.join(SCHEMES)}")
    return SCHEMES[name]


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero_point); `scale` is an exact float32 value, integers are 0 to 255."""

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class QuantizedGraph:
    """The network in integers, ready to be written into a format.

    Attributes:
        name: the architecture's name.
        nodes: in topological order.
        input: raw pixels, uint8, scale 1, zero point 0.
        output: float32 logits: the average pool is carried in float.
        tensors: tensor name -> its quantization; every tensor but the logits.
        scheme: how numbers are carried.
        preprocess: what brings a photograph to `input`.
        labels: one per class, or empty.
        provenance: recipe, seed, checkpoint hash, image hashes: who made it from what.
    """

    name: str
    nodes: tuple[QuantizedNode, ...]
    input: TensorSpec
    output: TensorSpec
    tensors: Mapping[str, Quantization]
    scheme: Scheme
    preprocess: Preprocess
    labels: tuple[str, ...]
    provenance: Mapping[str, Any]

    @cached_property
    def convs(self) -> tuple[QuantizedConv, ...]:
        """The convolutions, in topological order."""
        return tuple(node for node in self.nodes if isinstance(node, QuantizedConv))

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int, int]]:
        """Tensor name -> (height, width, channels)."""
        return tensor_sizes(self.nodes, self.input)

    @cached_property
    def consumers(self) -> Mapping[str, tuple[QuantizedNode, ...]]:
        """Tensor name -> the nodes that read it."""
        return consumers_of(self.nodes)

    @property
    def checkpoint_sha256(self) -> str:
        """Of the checkpoint that the integers came from."""
        return str(self.provenance.get("checkpoint_sha256", ""))

    @cached_property
    def sha256(self) -> str:
        """Of the table's bytes: the same integers have the same hash."""
        return hashlib.sha256(table_bytes(self)).hexdigest()


def requantization(conv: QuantizedConv, tensors: Mapping[str, Quantization]) -> NDArray[np.float32]:
    """Per output channel (s_x * s_w) / s_y, in float32 arithmetic as the runtimes do it."""
    source, result = np.float32(tensors[conv.input].scale), np.float32(tensors[conv.name].scale)
    return (source * conv.weight_scale) / result


def table_bytes(quantized: QuantizedGraph) -> bytes:
    """The table file's bytes. The same quantized graph always gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    nodes = []
    for node in quantized.nodes:
        entry: dict[str, Any] = {"kind": type(node).__name__, "name": node.name, "inputs": list(node.inputs)}
        if isinstance(node, QuantizedConv):
            arrays[f"{node.name}.weight"] = node.weight
            arrays[f"{node.name}.weight_scale"] = node.weight_scale
            arrays[f"{node.name}.bias"] = node.bias
            entry |= {"stride": node.stride, "pads": list(node.pads), "relu": node.relu}
        elif isinstance(node, MaxPool):
            entry |= {"kernel": node.kernel, "stride": node.stride, "pads": list(node.pads)}
        nodes.append(entry)
    header = {
        "version": TABLE_VERSION,
        "name": quantized.name,
        "scheme": quantized.scheme.name,
        "nodes": nodes,
        "input": asdict(quantized.input),
        "output": asdict(quantized.output),
        "tensors": {name: [q.scale, q.zero_point] for name, q in quantized.tensors.items()},
        "preprocess": asdict(quantized.preprocess),
        "labels": list(quantized.labels),
        "provenance": dict(quantized.provenance),
    }
    return safetensors.numpy.save(arrays, {_HEADER: json.dumps(header, sort_keys=True)})


def read_table(path: Path) -> QuantizedGraph:
    """Reads a table file. Nothing in it is executed; sizes are bounded before anything is allocated.

    Raises:
        BadInput: not a table, truncated, of a newer version, or its parts do not fit each other.
    """
    hint = "make one with: squeeze-export calibrate --weights FILE --calib DIR"
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise BadInput(f"`{path}` is larger than any table (`{MAX_TABLE_BYTES}` bytes)", hint=hint)
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if _HEADER not in metadata:
                raise BadInput(f"`{path}` is not a quantization table", hint=hint)
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a dict)
        header = json.loads(metadata[_HEADER])
        if header["version"] != TABLE_VERSION:
            raise BadInput(f"`{path}` is a table of version `{header['version']}`; this tool reads version {TABLE_VERSION}")
        return _quantized_graph(header, arrays)
    except OSError as err:
        raise BadInput(f"the table `{path}` cannot be read: {err.strerror or err}", hint=hint) from err
    except safetensors.SafetensorError as err:
        raise BadInput(f"`{path}` is not a quantization table: {err}", hint=hint) from err
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as err:
        raise BadInput(f"the table `{path}` is damaged: {err!r}", hint=hint) from err


def _quantized_graph(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> QuantizedGraph:
    nodes = tuple(_node(entry, arrays) for entry in header["nodes"])
    tensors = {name: Quantization(float(scale), int(zero)) for name, (scale, zero) in header["tensors"].items()}
    preprocess = header["preprocess"]
    quantized = QuantizedGraph(
        str(header["name"]),
        nodes,
        _spec(header["input"]),
        _spec(header["output"]),
        tensors,
        scheme_named(header["scheme"]),
        Preprocess(**preprocess | {"mean": tuple(preprocess["mean"]), "std": tuple(preprocess["std"])}),
        tuple(str(label) for label in header["labels"]),
        dict(header["provenance"]),
    )
    _check(quantized)
    return quantized


def _node(entry: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> QuantizedNode:
    name, inputs = str(entry["name"]), tuple(str(i) for i in entry["inputs"])
    match entry["kind"]:
        case "QuantizedConv":
            weight, scale, bias = (arrays[f"{name}.{part}"] for part in ("weight", "weight_scale", "bias"))
            if [a.dtype.name for a in (weight, scale, bias)] != ["int8", "float32", "int32"] or weight.ndim != 4:
                raise ValueError(f"the arrays of {name} have the wrong dtype or rank")
            return QuantizedConv(
                name, inputs[0], weight, scale, bias, int(entry["stride"]), _pads(entry["pads"]), bool(entry["relu"])
            )
        case "MaxPool":
            return MaxPool(name, inputs[0], int(entry["kernel"]), int(entry["stride"]), _pads(entry["pads"]))
        case "Concat":
            return Concat(name, inputs)
        case "Add":
            return Add(name, (inputs[0], inputs[1]))
        case "GlobalAveragePool":
            return GlobalAveragePool(name, inputs[0])
        case kind:
            raise ValueError(f"node kind {kind!r}")


def _pads(values: list[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(v) for v in values)
    return (top, left, bottom, right)


def _spec(values: Mapping[str, Any]) -> TensorSpec:
    return replace(TensorSpec(**values), shape=tuple(values["shape"]))


def _check(quantized: QuantizedGraph) -> None:
    """Raises ValueError where the parts of a table do not fit each other; a KeyError for a tensor that nothing makes."""
    _check_shapes(quantized)
    sizes = quantized.sizes
    for name, q in quantized.tensors.items():
        if not (SMALLEST_SCALE < q.scale < LARGEST_SCALE and float(np.float32(q.scale)) == q.scale and 0 <= q.zero_point <= 255):
            raise ValueError(f"scale {q.scale} or zero point {q.zero_point} of {name}")
    if quantized.tensors[quantized.input.name] != Quantization(1.0, 0):
        raise ValueError("the input is not raw pixels")
    for node in quantized.nodes:
        if isinstance(node, QuantizedConv):
            channels = sizes[node.input][2]
            if node.weight.shape[1:] != (channels, node.kernel, node.kernel):
                raise ValueError(f"{node.name} has weights {node.weight.shape} for {channels} input channels")
            if node.bias.shape != node.weight.shape[:1] or node.weight_scale.shape != node.weight.shape[:1]:
                raise ValueError(f"bias or scales of {node.name}")
            if not ((node.weight_scale > SMALLEST_SCALE) & (node.weight_scale < LARGEST_SCALE)).all():
                raise ValueError(f"a weight scale of {node.name}")
        if isinstance(node, MaxPool | Concat) and len({quantized.tensors[t] for t in (*node.inputs, node.name)}) != 1:
            raise ValueError(f"{node.name} joins tensors of different scales")
        if node.name != quantized.output.name and node.name not in quantized.tensors:
            raise ValueError(f"{node.name} has no scale")


def _check_shapes(quantized: QuantizedGraph) -> None:
    """Bounds every tensor, so that a hostile table cannot make a run allocate without end."""
    nodes, sizes = quantized.nodes, quantized.sizes
    if not quantized.scheme.integer:
        raise ValueError(f"scheme {quantized.scheme.name}")
    if len(sizes) != len(nodes) + 1:
        raise ValueError("two nodes of one name")
    for name, (height, width, channels) in sizes.items():
        if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX and channels >= 1):
            raise ValueError(f"{name} is {height} x {width} x {channels}")
    for node in nodes:
        if isinstance(node, QuantizedConv | MaxPool) and (node.stride < 1 or node.kernel < 1 or min(node.pads) < 0):
            raise ValueError(f"kernel, stride or pads of {node.name}")
        joined = {sizes[name] if isinstance(node, Add) else sizes[name][:2] for name in node.inputs}
        if len(joined) != 1:
            raise ValueError(f"{node.name} joins tensors of different sizes")
        if isinstance(node, GlobalAveragePool) != (node is nodes[-1]):
            raise ValueError("the average pool is not the last node")
    if sizes[quantized.input.name] != (quantized.preprocess.crop_px, quantized.preprocess.crop_px, 3):
        raise ValueError("the input is not the preprocessing's crop")
    class_count = sizes[quantized.output.name][2]
    if quantized.output.shape[1:] != (class_count,) or len(quantized.labels) not in (0, class_count):
        raise ValueError(f"output or labels of {class_count} classes")
