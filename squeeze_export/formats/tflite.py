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
from typing import Any, TypeAlias

import numpy as np

from squeeze_export.core import require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import read_bounded
from squeeze_export.formats.audit import Arithmetic, Policy
from squeeze_export.formats.contents import UNKNOWN, Attribute, Contents, FileOperator, FileTensor

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
BUILTIN = "BUILTIN:"
"""Prefix of the kind of a builtin operator that the schema here does not have yet: `BUILTIN:230`."""

_FLOAT_KERNELS = frozenset({"CONV_3D", "CONV_3D_TRANSPOSE"})
_WEIGHTED = _FLOAT_KERNELS | {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}
_RECURRENT = frozenset({
    "LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_RNN",
})  # fmt: skip
_HYBRID = (_WEIGHTED - _FLOAT_KERNELS) | _RECURRENT
"""The products whose kernels take integer weights with float activations, and then quantize these while they run."""
_UNSEEN = {
    "STABLEHLO_CONVOLUTION": "its arithmetic is not read",
    "STABLEHLO_DOT_GENERAL": "its arithmetic is not read",
    "STABLEHLO_CUSTOM_CALL": "a foreign operator",
}
_UNPACKING = ("DEQUANTIZE", "DENSIFY")
_ORDERS = {"TRANSPOSE_CONV": (2, 1, 3, 0), "CONV_3D_TRANSPOSE": (2, 1, 3, 0), "SPLIT": (1, 0)}
"""The places of the operands in the file, in the order of `FileOperator.inputs`, where it is another one."""
_COUNTED = ("CONV_2D", "FULLY_CONNECTED")
"""The products whose weights are (O, ...), with one row per output channel."""
_FEWEST_INPUTS = (
    dict.fromkeys(_WEIGHTED | _RECURRENT | {"MEAN", "SPLIT"}, 2)
    | dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"), 3)
    | dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "DENSIFY", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION"), 1)
)
_INDEX_BYTES = {"int32": 4, "int64": 8}
_Scales: TypeAlias = tuple[tuple[float, ...], tuple[int, ...]]
_SCALES = {"float16": "<f2", "float32": "<f4"}
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
        found = [self._operand(tensor) for tensor in operator.inputs if tensor.floating]
        found += [f"its result `{tensor.name}` is {tensor}" for tensor in operator.outputs if tensor.floating]
        if _integer_weights(self.contents, operator):
            found.append("its weights alone are integers")
        return found + [f"its integers `{tensor.name}` have no scale" for tensor in _unscaled(operator)]

    def _operand(self, tensor: FileTensor) -> str:
        stored = _stored(self.contents, tensor)
        if stored != tensor:
            return f"its operand `{tensor.name}` is {tensor}, unpacked from {stored}"
        return f"its {'operand' if tensor.constant else 'input'} `{tensor.name}` is {tensor}"

    def takes_parameter(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`: what PADV2 pads with. A tensor's scales are attributes, not operands."""
        return self.contents.operators[place].kind == "PADV2" and index == 2


def _stored(contents: Contents, tensor: FileTensor) -> FileTensor:
    """The constant that a tensor is unpacked from; the tensor itself where it is not."""
    source = tensor
    for _ in _UNPACKING:  # at most one of each
        maker = contents.maker(source)
        source = maker.inputs[0] if maker is not None and maker.kind in _UNPACKING else source
    return source if source.constant else tensor


def _integer_weights(contents: Contents, operator: FileOperator) -> FileTensor | None:
    """The first of a product's weights that are stored as integers, where floats flow in, whatever the order of its operands."""
    stored = [_stored(contents, tensor) for tensor in operator.inputs]
    flowing = any(tensor.floating and not tensor.constant for tensor in stored)
    integers = (t for t in stored if t.constant and not t.floating and t.dtype not in _WIDE)
    return next(integers, None) if flowing else None


def _dynamic_weights(contents: Contents, operator: FileOperator) -> FileTensor | None:
    """The integer weights of a product whose kernel reads them directly, and so quantizes the activations while it runs."""
    weights = _integer_weights(contents, operator) if operator.kind in _HYBRID else None
    return weights if weights in operator.inputs else None


def _unscaled(operator: FileOperator) -> Iterator[FileTensor]:
    """The integers of a product that stand for nothing. Biases and shapes are wider and need no scale of their own."""
    yield from (t for t in (*operator.inputs, *operator.outputs) if not t.floating and not t.scales and t.dtype not in _WIDE)


def _faults(contents: Contents, place: int) -> Iterator[str]:
    operator = contents.operators[place]
    weights = _dynamic_weights(contents, operator)
    if weights is not None:
        what = f"its weights are {weights.dtype}, and its kernel quantizes the activations, which are floats, while it runs"
        yield f"{operator.kind} `{operator.name}`: dynamic-range quantization, {what}"
    elif operator.kind in _WEIGHTED and not Kernels(contents).is_float(place):
        yield from (f"{operator.kind} `{operator.name}`: its integers `{t.name}` have no scale" for t in _unscaled(operator))


def _kept_name(contents: Contents, place: int) -> str:
    """The name of the convolution's result, or of the integers that a QUANTIZE makes of it."""
    operator = contents.operators[place]
    readers = contents.readers_of(operator.outputs[0])
    rounded = readers[0][0].outputs if len(readers) == 1 and readers[0][0].kind == "QUANTIZE" else ()
    return (rounded or operator.outputs)[0].name


def _packed(contents: Contents, place: int) -> str:
    weights = _integer_weights(contents, contents.operators[place])
    return "" if weights is None else weights.dtype


POLICY = Policy(
    arithmetic=Kernels,
    products=_WEIGHTED | _RECURRENT,
    convolution="CONV_2D",
    passing=frozenset({"RELU", "MAX_POOL_2D", "CONCATENATION", "ADD", "PAD", "PADV2"}),
    borders=frozenset({"QUANTIZE", "DEQUANTIZE"}),
    preparing=frozenset({"QUANTIZE", "CAST", "SUB", "DIV", "MUL", "ADD", "TRANSPOSE", "RESHAPE"}),
    converting=frozenset({"DEQUANTIZE", "DENSIFY"}),
    tail=frozenset({"DEQUANTIZE", "MEAN", "RESHAPE", "SQUEEZE", "SOFTMAX", "LOG_SOFTMAX", "LOGISTIC"}),
    kept_name=_kept_name,
    faults=_faults,
    packed=_packed,
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
            "padding": _names(schema.Padding),  # numbers of newer schemas stay numbers
            "fusedActivationFunction": _names(schema.ActivationFunctionType),
        }

    def unread(self, tensor: Any) -> str:
        """Why a tensor's numbers cannot be told; empty where they can."""
        name, quantization = _text(tensor.name), tensor.quantization
        if tensor.type not in self.dtypes:
            return f"`{name}` has the type {tensor.type}, of a newer schema than this reader's"
        known = quantization is None or not quantization.detailsType or _in_blocks(quantization)
        return "" if known else f"`{name}` is quantized in a way of its own"


def _schema() -> Any:
    return require("ai_edge_litert.schema_py_generated", "tflite")


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _kind(code: Any, builtin: Mapping[int, str]) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number < 0:
        raise ValueError(f"builtin operator {number}")
    kind = builtin.get(number, f"{BUILTIN}{number}")
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
    named = {tensor.quantization.details.scales for tensor in graph.tensors if _in_blocks(tensor.quantization)}
    scales = {index: _block_scales(graph.tensors[index], buffers, words) for index in named}  # once, as many tensors may name them
    tensors = [_tensor(tensor, (number, index), scales, buffers, words) for index, tensor in enumerate(graph.tensors)]

    def at(chosen: tuple[int, ...]) -> tuple[FileTensor, ...]:
        if any(index < -1 for index in chosen):
            raise ValueError(f"tensor index {min(chosen)}")
        return tuple(tensors[index] for index in chosen if index != -1)  # -1: an optional input left out

    def operator(packed: Any) -> FileOperator:
        kind, read, made = words.kinds[packed.opcodeIndex], _integers(packed.inputs), _integers(packed.outputs)
        inputs, outputs, fewest = at(read), at(made), _FEWEST_INPUTS.get(kind, 0)
        if len(inputs) < fewest or (fewest and not outputs):
            raise ValueError(f"{kind} with {len(inputs)} inputs and {len(outputs)} outputs")
        if kind in _ORDERS:
            inputs = at(tuple(read[place] for place in _ORDERS[kind] if place < len(read)))
        unread = (words.unread(graph.tensors[index]) for index in (*read, *made) if index != -1)
        opaque = _opaque(kind) or next(filter(None, unread), "")
        attributes = _attributes(packed.builtinOptions, words)
        return FileOperator(kind, outputs[0].name if outputs else "", inputs, outputs, attributes, opaque)

    operators = tuple(operator(packed) for packed in graph.operators or ())
    constants = tuple(tensor for index, tensor in enumerate(tensors) if tensor.constant and index not in scales)
    return Contents(NAME, operators, at(graph.inputs), at(graph.outputs), constants)


def _opaque(kind: str) -> str:
    """Why the audit cannot judge an operator of this kind; empty where it can."""
    if kind.startswith(BUILTIN):
        return f"the builtin operator {kind.removeprefix(BUILTIN)} is of a newer schema than this reader's"
    return "a foreign operator" if kind.startswith(CUSTOM) else _UNSEEN.get(kind, "")


def _tensor(
    tensor: Any, place: tuple[int, int], block_scales: Mapping[int, _Scales], buffers: Sequence[Any], words: _Words
) -> FileTensor:
    if tensor.type < 0:
        raise ValueError(f"tensor type {tensor.type}")
    buffer, quantization, dtype = buffers[tensor.buffer], tensor.quantization, words.dtypes.get(tensor.type, UNKNOWN)
    scales = () if quantization is None or quantization.scale is None else tuple(float(s) for s in quantization.scale)
    zeros = _integers(None if quantization is None else quantization.zeroPoint) or (0,) * len(scales)
    if _in_blocks(quantization):
        scales, zeros = block_scales[quantization.details.scales]
    inside = 0 if buffer.data is None else len(buffer.data)
    size_bytes = inside or int(buffer.size)
    return FileTensor(
        name=_text(tensor.name),
        dtype=dtype,
        shape=_integers(tensor.shapeSignature) or _integers(tensor.shape),
        constant=size_bytes > 0,
        scales=scales,
        zero_points=zeros,
        values=_small(buffer.data, dtype),
        size_bytes=size_bytes,
        place=place,
        storage=Buffer(int(tensor.buffer), not inside and size_bytes > 0),
        load=lambda: bytes(buffer.data) if inside else b"",
    )


def _in_blocks(quantization: Any) -> bool:
    """Whether the scales stand in a tensor of their own: one a block, or along several axes."""
    return quantization is not None and hasattr(quantization.details, "scales")


def _block_scales(tensor: Any, buffers: Sequence[Any], words: _Words) -> _Scales:
    """A tensor's numbers as scales, and a zero point of 0 for each."""
    data, dtype = buffers[tensor.buffer].data, words.dtypes.get(tensor.type, UNKNOWN)
    if data is None or dtype not in _SCALES:
        return (), ()
    scales = tuple(float(scale) for scale in np.frombuffer(bytes(data), _SCALES[dtype]))
    return scales, (0,) * len(scales)


def _small(data: Any, dtype: str) -> tuple[int, ...]:
    """The values of a constant of few integers, such as the axes of a mean."""
    if data is None or dtype not in _INDEX_BYTES or len(data) > MAX_VALUES * _INDEX_BYTES[dtype]:
        return ()
    return tuple(int(value) for value in np.frombuffer(bytes(data), dtype))


def _attributes(options: Any, words: _Words) -> dict[str, Attribute]:
    """An operator's options that are numbers or enumerations."""
    return {
        key: words.attributes[key].get(int(value), value) if key in words.attributes else value
        for key, value in (vars(options).items() if options is not None else ())
        if isinstance(value, bool | int | float)
    }


def _integers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")
