"""A TFLite file read through its schema: what the audit and `lint` look at."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from squeeze_export.core import require
from squeeze_export.errors import BadInput
from squeeze_export.formats.contents import Attribute, Contents, FileOperator, FileTensor
from squeeze_export.targets._kept_float import KEPT_FLOAT_KEY, declared_float

MAX_MODEL_BYTES = 512 << 20
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL"})
MAX_VALUES = 16
_FEWEST_INPUTS = {"QUANTIZE": 1, "DEQUANTIZE": 1, "MEAN": 2, "MAX_POOL_2D": 1, "AVERAGE_POOL_2D": 1, "CONCATENATION": 1}
_INDEX_BYTES = {"INT32": 4, "INT64": 8}
_OWN_METADATA, _SCHEME_KEY = "squeeze_export", "squeeze_export.scheme"
"""Where a file of ours says what it is, and is held to it."""
_DAMAGE = (struct.error, LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError)
"""What the schema's classes and what reads them raise of a damaged file."""


Place: TypeAlias = tuple[int, int]
"""Of a tensor: its subgraph, and its number there. Names need not differ."""


@dataclass(frozen=True)
class Tensor:
    """A tensor.

    Attributes:
        place: where it stands.
        name: in the file.
        dtype: the schema's word: `INT8`.
        shape: sides.
        signature: sides, -1 for a free one; empty where none is free.
        scales: of its quantization; one, or one a channel, or none.
        zero_points: as many.
        buffer: the number of its data.
        constant_bytes: bytes of its data; 0 where it has none.
        values: its data, of a constant of few integers.
    """

    place: Place
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    buffer: int
    constant_bytes: int
    values: tuple[int, ...] = ()

    @property
    def floating(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return "FLOAT" in self.dtype

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.lower()}{list(self.signature or self.shape)}"


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
        kind: the schema's word: `CONV_2D`.
        inputs: without optional ones that are left out.
        outputs: what it makes.
        attributes: of its options, those that are numbers; padding and activation as the schema's words.
    """

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def floating(self) -> bool:
        """Whether it reads or makes floats."""
        return any(t.floating for t in (*self.inputs, *self.outputs))

    def __str__(self) -> str:
        return f"{self.kind} {self.outputs[0].name if self.outputs else ''}".rstrip()


@dataclass(frozen=True)
class Subgraph:
    """One of a file's graphs."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Model:
    """A file.

    Attributes:
        subgraphs: the main one first.
        scheme: that a file of ours says it is of; empty in others'.
        declared: convolutions of which it says that they were kept in float.
    """

    subgraphs: tuple[Subgraph, ...]
    scheme: str
    declared: tuple[str, ...]


@dataclass(frozen=True)
class _Words:
    """The schema's words for a file's numbers; of operators, by the place of their code in the file."""

    kinds: list[str]
    dtypes: dict[int, str]
    paddings: dict[int, str]
    activations: dict[int, str]


def contents(path: Path) -> Contents:
    """The operators of a file's main graph.

    Raises:
        BadInput: it cannot be read, is too large, or is no TFLite file.
    """
    main = read_file(path).subgraphs[0]
    operators = tuple(
        FileOperator(
            operator.kind,
            operator.outputs[0].name if operator.outputs else "",
            tuple(map(_plain, operator.inputs)),
            tuple(map(_plain, operator.outputs)),
            operator.attributes,
        )
        for operator in main.operators
    )
    return Contents("tflite", operators, tuple(map(_plain, main.inputs)), tuple(map(_plain, main.outputs)))


def _plain(tensor: Tensor) -> FileTensor:
    return FileTensor(
        tensor.name,
        tensor.dtype.lower(),
        tensor.signature or tensor.shape,
        tensor.constant_bytes > 0,
        tensor.scales,
        tensor.zero_points,
        tensor.values,
    )


def read_file(path: Path) -> Model:
    """The file's content.

    Raises:
        BadInput: it cannot be read, is too large, or is no TFLite file.
    """
    schema: Any = require("ai_edge_litert.schema_py_generated", "tflite")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_MODEL_BYTES + 1)
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror or err}") from err
    if len(data) > MAX_MODEL_BYTES:
        raise BadInput(f"`{path}` is larger than {MAX_MODEL_BYTES >> 20} MiB, the most that is read of a TFLite file")
    if data[4:8] != b"TFL3":
        raise BadInput(f"`{path}` is no TFLite file: bytes 4 to 7 are `{data[4:8]!r}`, not `TFL3`")
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        kinds = _names(schema.BuiltinOperator)
        codes = [kinds[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
        words = _Words(codes, _names(schema.TensorType), _names(schema.Padding), _names(schema.ActivationFunctionType))
        found = tuple(_subgraph(subgraph, number, model.buffers, words) for number, subgraph in enumerate(model.subgraphs))
        scheme, declared = _said(model)
    except _DAMAGE as err:
        raise BadInput(f"`{path}` is a damaged TFLite file: {err!r}") from err
    if not found:
        raise BadInput(f"`{path}` is a TFLite file without a graph")
    return Model(found, scheme, declared)


def _said(model: Any) -> tuple[str, tuple[str, ...]]:
    """What the file says of itself: its scheme, and the layers kept in float; nothing where it is not ours.

    Raises:
        ValueError: what it says is damaged; an AttributeError likewise.
    """
    for entry in model.metadata or ():
        if (entry.name or b"").decode("utf-8", "replace") == _OWN_METADATA:
            data = model.buffers[entry.buffer].data
            said = json.loads(bytes(data)) if data is not None else {}
            kept = said.get(KEPT_FLOAT_KEY)
            return str(said.get(_SCHEME_KEY, "")), declared_float(kept if isinstance(kept, str) else None)
    return "", ()


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _subgraph(subgraph: Any, number: int, buffers: list[Any], words: _Words) -> Subgraph:
    tensors = tuple(_tensor(tensor, (number, index), buffers, words.dtypes) for index, tensor in enumerate(subgraph.tensors))

    def at(indices: Any) -> tuple[Tensor, ...]:
        chosen = _integers(indices)
        if any(index < -1 for index in chosen):
            raise ValueError(f"tensor index {min(chosen)}")
        return tuple(tensors[index] for index in chosen if index != -1)  # -1: an optional input left out

    operators = tuple(
        Operator(words.kinds[op.opcodeIndex], at(op.inputs), at(op.outputs), _attributes(op.builtinOptions, words))
        for op in subgraph.operators or ()
    )
    for operator in operators:
        fewest = 2 if operator.kind in WEIGHTED else _FEWEST_INPUTS.get(operator.kind, 0)
        if len(operator.inputs) < fewest or (fewest and not operator.outputs):
            raise ValueError(f"{operator.kind} with {len(operator.inputs)} inputs and {len(operator.outputs)} outputs")
    return Subgraph(tensors, operators, at(subgraph.inputs), at(subgraph.outputs))


def _tensor(tensor: Any, place: Place, buffers: list[Any], dtypes: dict[int, str]) -> Tensor:
    buffer, quantization = buffers[tensor.buffer], tensor.quantization
    scales = () if quantization is None or quantization.scale is None else tuple(float(s) for s in quantization.scale)
    zeros = _integers(None if quantization is None else quantization.zeroPoint)
    inside = 0 if buffer.data is None else len(buffer.data)
    return Tensor(
        place=place,
        name=(tensor.name or b"").decode("utf-8", "replace"),
        dtype=dtypes[tensor.type],
        shape=_integers(tensor.shape),
        signature=_integers(tensor.shapeSignature),
        scales=scales,
        zero_points=zeros or (0,) * len(scales),
        buffer=int(tensor.buffer),
        constant_bytes=inside or int(buffer.size),  # large files keep the data behind the flatbuffer
        values=_small(buffer.data, dtypes[tensor.type]),
    )


def _small(data: Any, dtype: str) -> tuple[int, ...]:
    """The values of a constant of few integers, such as the axes of a mean."""
    if data is None or dtype not in _INDEX_BYTES or len(data) > MAX_VALUES * _INDEX_BYTES[dtype]:
        return ()
    return tuple(int(value) for value in np.frombuffer(bytes(data), dtype.lower()))


def _attributes(options: Any, words: _Words) -> dict[str, Attribute]:
    named = {"padding": words.paddings, "fusedActivationFunction": words.activations}
    found: dict[str, Attribute] = {}
    for key, value in vars(options).items() if options is not None else ():
        if isinstance(value, bool | int | float):
            found[key] = named[key][value] if key in named else value  # type: ignore[index]
    return found


def _integers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)
