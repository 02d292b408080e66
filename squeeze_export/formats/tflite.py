"""TFLite files: one flatbuffer of limited size, read with the classes of its schema.
https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import read_bounded
from squeeze_export.formats.audit import Arithmetic, Policy
from squeeze_export.formats.contents import Attribute, Contents, FileOperator, FileTensor

NAME = "tflite"
SUFFIX = ".tflite"

MAX_BYTES = 512 << 20
MAX_VALUES = 16
"""The most elements of a constant that `FileTensor.values` holds."""
CUSTOM = "CUSTOM:"
"""Prefix of the kind of a custom operator."""

_IDENTIFIER = b"TFL3"
_OWN_METADATA = "squeeze_export"
"""The metadata entry of files of ours: a JSON object of texts."""
_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL"})
_COUNTED = ("CONV_2D", "FULLY_CONNECTED")
"""The products whose weights are (O, ...), with one row per output channel."""
_FEWEST_INPUTS = dict.fromkeys(_WEIGHTED | {"MEAN"}, 2) | dict.fromkeys(
    ("QUANTIZE", "DEQUANTIZE", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION"), 1
)
_INDEX_BYTES = {"int32": 4, "int64": 8}
_WIDE = ("int32", "int64")
_DAMAGE = (struct.error, LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError)
"""What the schema's classes and this module may raise for a damaged file."""


@dataclass(frozen=True)
class Kernels(Arithmetic):
    """A file's `audit.Arithmetic`: an operator computes in the dtypes of its tensors."""

    contents: Contents

    def is_float(self, place: int) -> bool:
        """See `audit.Arithmetic`."""
        operator = self.contents.operators[place]
        return any(tensor.floating for tensor in (*operator.inputs, *operator.outputs))

    def reasons(self, place: int) -> list[str]:
        """See `audit.Arithmetic`."""
        operator = self.contents.operators[place]
        data, weights = operator.inputs[:2]
        found = [f"its {'operand' if t.constant else 'input'} `{t.name}` is {t}" for t in operator.inputs if t.floating]
        found += [f"its result `{tensor.name}` is {tensor}" for tensor in operator.outputs if tensor.floating]
        if data.floating and weights.constant and not weights.floating:
            found.append("its weights alone are integers")
        return found + [f"its integers `{tensor.name}` have no scale" for tensor in _unscaled(operator)]

    def takes_parameter(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`: what PADV2 pads with. A tensor's scales are attributes, not operands."""
        return self.contents.operators[place].kind == "PADV2" and index == 2


def _unscaled(operator: FileOperator) -> Iterator[FileTensor]:
    """The integers of a product that stand for nothing. Biases and shapes are wider and need no scale of their own."""
    yield from (t for t in (*operator.inputs, *operator.outputs) if not t.floating and not t.scales and t.dtype not in _WIDE)


def _faults(contents: Contents, place: int) -> Iterator[str]:
    operator = contents.operators[place]
    if operator.kind in _WEIGHTED and not Kernels(contents).is_float(place):
        yield from (f"{operator.kind} `{operator.name}`: its integers `{t.name}` have no scale" for t in _unscaled(operator))


def _kept_name(contents: Contents, place: int) -> str:
    """The name of the convolution's result, or of the integers that a QUANTIZE makes of it."""
    operator = contents.operators[place]
    readers = contents.readers_of(operator.outputs[0])
    rounded = readers[0][0].outputs if len(readers) == 1 and readers[0][0].kind == "QUANTIZE" else ()
    return (rounded or operator.outputs)[0].name


POLICY = Policy(
    arithmetic=Kernels,
    products=_WEIGHTED,
    convolution="CONV_2D",
    passing=frozenset({"RELU", "MAX_POOL_2D", "CONCATENATION", "ADD", "PAD", "PADV2"}),
    borders=frozenset({"QUANTIZE", "DEQUANTIZE"}),
    preparing=frozenset({"QUANTIZE", "CAST", "SUB", "DIV", "MUL", "ADD", "TRANSPOSE", "RESHAPE"}),
    converting=frozenset({"DEQUANTIZE"}),
    tail=frozenset({"DEQUANTIZE", "MEAN", "RESHAPE", "SQUEEZE", "SOFTMAX", "LOG_SOFTMAX", "LOGISTIC"}),
    kept_name=_kept_name,
    faults=_faults,
)


def read(path: Path) -> Contents:
    """Everything in a TFLite file; see `Format.read`."""
    return read_bytes(read_bounded(path, MAX_BYTES, "a TFLite file"), str(path))


def read_bytes(data: bytes, name: str) -> Contents:
    """Everything in a TFLite file. Further subgraphs are its bodies; a tensor's place is (subgraph, index). `name` is for messages.

    Raises:
        BadInput: it is no TFLite file.
        Unavailable: `ai_edge_litert` is not installed.
    """
    schema = _schema()
    if data[4:8] != _IDENTIFIER:
        raise BadInput(f"`{name}` is no TFLite file: bytes 4 to 7 are `{data[4:8]!r}`, not `TFL3`")
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        words = _Words(model, schema)
        graphs = [_graph(graph, number, model.buffers, words) for number, graph in enumerate(model.subgraphs)]
        metadata = _metadata(model)
    except _DAMAGE as err:
        raise BadInput(f"`{name}` is a damaged TFLite file: {err!r}") from err
    if not graphs:
        raise BadInput(f"`{name}` is a TFLite file without a graph")
    main, *bodies = graphs
    return Contents(NAME, main.operators, main.inputs, main.outputs, main.constants, metadata, bodies=tuple(bodies))


def with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """The content of a valid file with further outputs: quantized or float32 tensors, by name.

    Raises:
        Refused: the file has no such tensor.
        Unavailable: `ai_edge_litert` or `flatbuffers` is not installed.
    """
    schema = _schema()
    builder = require("flatbuffers", "tflite").Builder(1024)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    graph = model.subgraphs[0]
    numbers = {
        tensor.name.decode(): number
        for number, tensor in enumerate(graph.tensors)
        if tensor.quantization is not None or tensor.type == schema.TensorType.FLOAT32
    }
    missing = [name for name in names if name not in numbers]
    if missing:
        raise Refused(f"`{path}` has no tensor `{missing[0]}`")
    # A signature lists its own outputs and would hide the new ones.
    graph.outputs, model.signatureDefs = [*graph.outputs, *(numbers[name] for name in names)], []
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def macs_of(operator: FileOperator) -> int:
    """An operator's multiply-accumulates, for one image where the batch is open: elements of the result x weights per element."""
    if operator.kind not in _COUNTED:
        return 0
    return math.prod(max(side, 1) for side in (*operator.outputs[0].shape, *operator.inputs[1].shape[1:]))


@dataclass(frozen=True)
class Buffer:
    """`FileTensor.storage`: where a constant's values are.

    Attributes:
        number: index among the file's buffers.
        behind: whether the data follow the flatbuffer, as in large files.
    """

    number: int
    behind: bool


class _Words:
    """Names for the numbers in a file.

    Attributes:
        kinds: operator codes' kinds, by their index in the file.
        dtypes: type number -> numpy's name.
        attributes: option -> number -> name, for the options that are enumerations.
    """

    def __init__(self, model: Any, schema: Any) -> None:
        builtin = _names(schema.BuiltinOperator)
        self.kinds = [_kind(code, builtin) for code in model.operatorCodes]
        self.dtypes = {number: name.lower() for number, name in _names(schema.TensorType).items()}
        self.attributes: Mapping[str, Mapping[int, str]] = {
            "padding": _names(schema.Padding),
            "fusedActivationFunction": _names(schema.ActivationFunctionType),
        }


def _schema() -> Any:
    return require("ai_edge_litert.schema_py_generated", "tflite")


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _kind(code: Any, builtin: Mapping[int, str]) -> str:
    kind = builtin[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return CUSTOM + _text(code.customCode) if kind == "CUSTOM" else kind


def _metadata(model: Any) -> dict[str, str]:
    """The metadata of a file of ours.

    Raises:
        ValueError, AttributeError: the metadata are damaged.
    """
    for entry in model.metadata or ():
        if _text(entry.name) == _OWN_METADATA:
            data = model.buffers[entry.buffer].data
            said = json.loads(bytes(data)) if data is not None else {}
            return {key: value for key, value in said.items() if isinstance(value, str)}
    return {}


def _graph(graph: Any, number: int, buffers: Sequence[Any], words: _Words) -> Contents:
    tensors = [_tensor(tensor, (number, index), buffers, words) for index, tensor in enumerate(graph.tensors)]

    def at(indices: Any) -> tuple[FileTensor, ...]:
        chosen = _integers(indices)
        if any(index < -1 for index in chosen):
            raise ValueError(f"tensor index {min(chosen)}")
        return tuple(tensors[index] for index in chosen if index != -1)  # -1: an optional input left out

    def operator(packed: Any) -> FileOperator:
        kind, inputs, outputs = words.kinds[packed.opcodeIndex], at(packed.inputs), at(packed.outputs)
        fewest = _FEWEST_INPUTS.get(kind, 0)
        if len(inputs) < fewest or (fewest and not outputs):
            raise ValueError(f"{kind} with {len(inputs)} inputs and {len(outputs)} outputs")
        attributes = _attributes(packed.builtinOptions, words)
        opaque = "a foreign operator" if kind.startswith(CUSTOM) else ""
        return FileOperator(kind, outputs[0].name if outputs else "", inputs, outputs, attributes, opaque)

    operators = tuple(operator(packed) for packed in graph.operators or ())
    constants = tuple(tensor for tensor in tensors if tensor.constant)
    return Contents(NAME, operators, at(graph.inputs), at(graph.outputs), constants)


def _tensor(tensor: Any, place: tuple[int, int], buffers: Sequence[Any], words: _Words) -> FileTensor:
    buffer, quantization, dtype = buffers[tensor.buffer], tensor.quantization, words.dtypes[tensor.type]
    scales = () if quantization is None or quantization.scale is None else tuple(float(s) for s in quantization.scale)
    zeros = _integers(None if quantization is None else quantization.zeroPoint)
    inside = 0 if buffer.data is None else len(buffer.data)
    size_bytes = inside or int(buffer.size)
    return FileTensor(
        name=_text(tensor.name),
        dtype=dtype,
        shape=_integers(tensor.shapeSignature) or _integers(tensor.shape),
        constant=size_bytes > 0,
        scales=scales,
        zero_points=zeros or (0,) * len(scales),
        values=_small(buffer.data, dtype),
        size_bytes=size_bytes,
        place=place,
        storage=Buffer(int(tensor.buffer), not inside and size_bytes > 0),
    )


def _small(data: Any, dtype: str) -> tuple[int, ...]:
    """The values of a constant of few integers, such as the axes of a mean."""
    if data is None or dtype not in _INDEX_BYTES or len(data) > MAX_VALUES * _INDEX_BYTES[dtype]:
        return ()
    return tuple(int(value) for value in np.frombuffer(bytes(data), dtype))


def _attributes(options: Any, words: _Words) -> dict[str, Attribute]:
    """An operator's options that are numbers or enumerations."""
    return {
        key: words.attributes[key][int(value)] if key in words.attributes else value
        for key, value in (vars(options).items() if options is not None else ())
        if isinstance(value, bool | int | float)
    }


def _integers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")
