"""What is really inside a TFLite file, read from the file alone: nothing here knows how `tflite.py` writes one."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from squeeze_export.core import Audit, Dimension, TensorSpec, require
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import INT8_NPU
from squeeze_export.targets._kept_float import KEPT_FLOAT_KEY, declared_float
from squeeze_export.targets._kept_operators import Kept, Step, kept_operators

MAX_MODEL_BYTES = 512 << 20

_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL"})
_FLOAT_TAIL = frozenset({"DEQUANTIZE", "MEAN", "SOFTMAX"})
"""What may compute in float in an integer network: the logits' own pool, behind the last convolution."""
_PASSING, _BORDERS = ("RELU", "MAX_POOL_2D", "CONCATENATION", "ADD", "PAD"), ("QUANTIZE", "DEQUANTIZE")
"""What multiplies nothing, and computes in float where it is joined to a layer that was kept in float."""
_OWN_METADATA, _SCHEME_KEY = "squeeze_export", "squeeze_export.scheme"
"""Where a file of ours says what it is, and is held to it."""
_DAMAGE = (struct.error, LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError)
"""What the schema's classes and what reads them raise of a damaged file."""
_INTEGERS = ("INT4", "INT8", "UINT8", "INT16", "INT32", "INT64")


_Place: TypeAlias = tuple[int, int]
"""Of a tensor: its subgraph, and its number there. Names need not differ."""


@dataclass(frozen=True)
class _Tensor:
    place: _Place
    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    buffer: int
    constant_bytes: int

    @property
    def floating(self) -> bool:
        return "FLOAT" in self.dtype

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.lower()}{list(self.signature or self.shape)}"


@dataclass(frozen=True)
class _Operator:
    kind: str
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]

    @property
    def floating(self) -> bool:
        return any(t.floating for t in (*self.inputs, *self.outputs))

    def __str__(self) -> str:
        return f"{self.kind} {self.outputs[0].name if self.outputs else ''}".rstrip()


@dataclass(frozen=True)
class _Subgraph:
    tensors: tuple[_Tensor, ...]
    operators: tuple[_Operator, ...]
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]


@dataclass(frozen=True)
class _Model:
    """A file.

    Attributes:
        subgraphs: the main one first.
        scheme: that a file of ours says it is of; empty in others'.
        declared: convolutions of which it says that they were kept in float.
    """

    subgraphs: tuple[_Subgraph, ...]
    scheme: str
    declared: tuple[str, ...]


def describe_file(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a file.

    Raises:
        BadInput: no such file, no TFLite file, or not one input and one output.
    """
    main = _read(path).subgraphs[0]
    if len(main.inputs) != 1 or len(main.outputs) != 1:
        count = (len(main.inputs), len(main.outputs))
        raise BadInput(f"`{path}` has `{count[0]}` inputs and `{count[1]}` outputs; a classifier has one of each")
    return _spec(main.inputs[0]), _spec(main.outputs[0])


def audit_file(path: Path) -> Audit:
    """Lists every float tensor and operator of a file, and why it is not an integer network.

    A violation is a convolution that reads, holds or makes floats (float, or hybrid: integer weights on float activations), a
    float constant, a float operator other than the logits' own tail, a way back from float into the network, and a file without
    any integer convolution. float32 pixels at the input and the float pool at the end are listed, but allowed; the pool not in a
    file that says that it is `int8-npu`. So are convolutions of which the file says that they were kept in float, with their
    constants and what is in float because of them; saying so of anything else is a violation.

    Raises:
        BadInput: no such file, or no TFLite file.
    """
    model = _read(path)
    subgraphs = model.subgraphs
    operators = [operator for subgraph in subgraphs for operator in subgraph.operators]
    tensors = [tensor for subgraph in subgraphs for tensor in subgraph.tensors]
    inputs = {tensor.place for subgraph in subgraphs for tensor in subgraph.inputs}
    constants = {tensor.buffer: tensor for tensor in tensors if tensor.constant_bytes}
    weight_bytes: Counter[str] = Counter()
    for tensor in constants.values():
        weight_bytes[tensor.dtype.lower()] += tensor.constant_bytes
    tail = frozenset[str]() if model.scheme == INT8_NPU.name else _FLOAT_TAIL
    kept = _kept(model, operators)
    violations = [
        text
        for number, operator in enumerate(operators)
        if number not in kept.operators
        for text in _operator_violations(operator, inputs, tail)
    ]
    constants_kept = _constants_kept(operators, kept)
    floating = [tensor for tensor in tensors if tensor.constant_bytes and tensor.floating]
    violations += [f"float constant: `{tensor}`" for tensor in floating if tensor.place not in constants_kept]
    violations += kept.violations
    if not any(operator.kind in _WEIGHTED and not operator.floating for operator in operators):
        violations.append("no convolution computes in integers")
    return Audit(
        operators=dict(sorted(Counter(operator.kind for operator in operators).items())),
        float_operators=tuple(str(operator) for operator in operators if operator.floating),
        float_tensors=tuple(str(tensor) for tensor in tensors if tensor.floating),
        violations=tuple(violations),
        weight_bytes=dict(sorted(weight_bytes.items())),
        kept_float=kept.names,
    )


def _kept(model: _Model, operators: Sequence[_Operator]) -> Kept:
    """What the file's declaration accounts for."""
    readers: dict[_Place, list[_Operator]] = {}
    for operator in operators:
        for tensor in operator.inputs:
            readers.setdefault(tensor.place, []).append(operator)

    def step(operator: _Operator) -> Step:
        reads, makes = (tuple(tensor.place for tensor in side if tensor.floating) for side in (operator.inputs, operator.outputs))
        return Step(reads, makes, _float_name(operator, readers), operator.kind in _PASSING, operator.kind in _BORDERS)

    return kept_operators([step(operator) for operator in operators], model.declared, model.scheme)


def _float_name(operator: _Operator, readers: Mapping[_Place, Sequence[_Operator]]) -> str:
    """The name of a convolution all in float: its result's, or that of the integers which it is rounded to at once."""
    tensors, constants = (*operator.inputs, *operator.outputs), operator.inputs[1:]
    whole = all(tensor.floating for tensor in tensors) and all(tensor.constant_bytes for tensor in constants)
    if operator.kind != "CONV_2D" or not operator.outputs or not whole:
        return ""
    found = readers.get(operator.outputs[0].place, [])
    rounded = found[0].outputs if len(found) == 1 and found[0].kind == "QUANTIZE" else ()
    return (rounded or operator.outputs)[0].name


def _constants_kept(operators: Sequence[_Operator], kept: Kept) -> frozenset[_Place]:
    """Places of the tensors that are weights or biases of kept convolutions, and read by nothing else."""
    weights = {t.place for number in kept.convolutions for t in operators[number].inputs[1:]}
    others = (operator.inputs for number, operator in enumerate(operators) if number not in kept.convolutions)
    return frozenset(weights - {tensor.place for inputs in others for tensor in inputs})


def _operator_violations(operator: _Operator, inputs: set[_Place], tail: frozenset[str]) -> Iterator[str]:
    if operator.kind in _WEIGHTED:
        integer_weights = any(t.constant_bytes and t.dtype in _INTEGERS for t in operator.inputs[1:])
        if operator.floating:
            hybrid = integer_weights and operator.inputs[0].floating
            yield f"{'hybrid (dynamic-range) convolution' if hybrid else 'float convolution'}: `{operator}`"
        for tensor in (*operator.inputs, *operator.outputs):
            if not tensor.floating and not tensor.scales:
                yield f"integers without a scale: `{tensor}` of `{operator}`"
    elif operator.kind == "QUANTIZE":
        if operator.inputs[0].floating and operator.inputs[0].place not in inputs:
            yield f"a float detour inside the network: `{operator}`"
    elif operator.floating and operator.kind not in tail:
        yield f"float operator: `{operator}`"


def _spec(tensor: _Tensor) -> TensorSpec:
    shape: tuple[Dimension, ...] = tuple("N" if size == -1 else size for size in tensor.signature or tensor.shape)
    layout = {4: "NHWC", 2: "NC"}.get(len(shape), "")
    scale, zero_point = (tensor.scales[0], tensor.zero_points[0]) if tensor.scales else (None, None)
    return TensorSpec(tensor.name, shape, tensor.dtype.lower(), layout, scale, zero_point)


def _read(path: Path) -> _Model:
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
        dtypes = _names(schema.TensorType)
        found = tuple(_subgraph(subgraph, number, model.buffers, codes, dtypes) for number, subgraph in enumerate(model.subgraphs))
        scheme, declared = _said(model)
    except _DAMAGE as err:
        raise BadInput(f"`{path}` is a damaged TFLite file: {err!r}") from err
    if not found:
        raise BadInput(f"`{path}` is a TFLite file without a graph")
    return _Model(found, scheme, declared)


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


def _subgraph(subgraph: Any, number: int, buffers: list[Any], codes: list[str], dtypes: dict[int, str]) -> _Subgraph:
    tensors = tuple(_tensor(tensor, (number, index), buffers, dtypes) for index, tensor in enumerate(subgraph.tensors))

    def at(indices: Any) -> tuple[_Tensor, ...]:
        chosen = _integers(indices)
        if any(index < -1 for index in chosen):
            raise ValueError(f"tensor index {min(chosen)}")
        return tuple(tensors[index] for index in chosen if index != -1)  # -1: an optional input left out

    operators = tuple(_Operator(codes[op.opcodeIndex], at(op.inputs), at(op.outputs)) for op in subgraph.operators or ())
    for operator in operators:
        if len(operator.inputs) < (2 if operator.kind in _WEIGHTED else 1 if operator.kind == "QUANTIZE" else 0):
            raise ValueError(f"{operator.kind} with {len(operator.inputs)} inputs")
    return _Subgraph(tensors, operators, at(subgraph.inputs), at(subgraph.outputs))


def _tensor(tensor: Any, place: _Place, buffers: list[Any], dtypes: dict[int, str]) -> _Tensor:
    buffer, quantization = buffers[tensor.buffer], tensor.quantization
    scales = () if quantization is None or quantization.scale is None else tuple(float(s) for s in quantization.scale)
    zeros = _integers(None if quantization is None else quantization.zeroPoint)
    inside = 0 if buffer.data is None else len(buffer.data)
    return _Tensor(
        place=place,
        name=(tensor.name or b"").decode("utf-8", "replace"),
        dtype=dtypes[tensor.type],
        shape=_integers(tensor.shape),
        signature=_integers(tensor.shapeSignature),
        scales=scales,
        zero_points=zeros or (0,) * len(scales),
        buffer=int(tensor.buffer),
        constant_bytes=inside or int(buffer.size),  # large files keep the data behind the flatbuffer
    )


def _integers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)
