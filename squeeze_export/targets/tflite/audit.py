"""What is really inside a TFLite file, read from the file alone: nothing here knows how one is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from squeeze_export.core import Audit, Dimension, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.graph.quantized import INT8_NPU
from squeeze_export.targets._kept_operators import Kept, Step, kept_operators
from squeeze_export.targets.tflite.file import WEIGHTED, Model, Operator, Place, Tensor, read_file

_FLOAT_TAIL = frozenset({"DEQUANTIZE", "MEAN", "SOFTMAX"})
"""What may compute in float in an integer network: the logits' own pool, behind the last convolution."""
_PASSING, _BORDERS = ("RELU", "MAX_POOL_2D", "CONCATENATION", "ADD", "PAD"), ("QUANTIZE", "DEQUANTIZE")
"""What multiplies nothing, and computes in float where it is joined to a layer that was kept in float."""
_INTEGERS = ("INT4", "INT8", "UINT8", "INT16", "INT32", "INT64")


def describe_file(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a file.

    Raises:
        BadInput: no such file, no TFLite file, or not one input and one output.
    """
    main = read_file(path).subgraphs[0]
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
    model = read_file(path)
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
    if not any(operator.kind in WEIGHTED and not operator.floating for operator in operators):
        violations.append("no convolution computes in integers")
    return Audit(
        operators=dict(sorted(Counter(operator.kind for operator in operators).items())),
        float_operators=tuple(str(operator) for operator in operators if operator.floating),
        float_tensors=tuple(str(tensor) for tensor in tensors if tensor.floating),
        violations=tuple(violations),
        weight_bytes=dict(sorted(weight_bytes.items())),
        kept_float=kept.names,
    )


def _kept(model: Model, operators: Sequence[Operator]) -> Kept:
    """What the file's declaration accounts for."""
    readers: dict[Place, list[Operator]] = {}
    for operator in operators:
        for tensor in operator.inputs:
            readers.setdefault(tensor.place, []).append(operator)

    def step(operator: Operator) -> Step:
        reads, makes = (tuple(tensor.place for tensor in side if tensor.floating) for side in (operator.inputs, operator.outputs))
        return Step(reads, makes, _float_name(operator, readers), operator.kind in _PASSING, operator.kind in _BORDERS)

    return kept_operators([step(operator) for operator in operators], model.declared, model.scheme)


def _float_name(operator: Operator, readers: Mapping[Place, Sequence[Operator]]) -> str:
    """The name of a convolution all in float: its result's, or that of the integers which it is rounded to at once."""
    tensors, constants = (*operator.inputs, *operator.outputs), operator.inputs[1:]
    whole = all(tensor.floating for tensor in tensors) and all(tensor.constant_bytes for tensor in constants)
    if operator.kind != "CONV_2D" or not operator.outputs or not whole:
        return ""
    found = readers.get(operator.outputs[0].place, [])
    rounded = found[0].outputs if len(found) == 1 and found[0].kind == "QUANTIZE" else ()
    return (rounded or operator.outputs)[0].name


def _constants_kept(operators: Sequence[Operator], kept: Kept) -> frozenset[Place]:
    """Places of the tensors that are weights or biases of kept convolutions, and read by nothing else."""
    weights = {t.place for number in kept.convolutions for t in operators[number].inputs[1:]}
    others = (operator.inputs for number, operator in enumerate(operators) if number not in kept.convolutions)
    return frozenset(weights - {tensor.place for inputs in others for tensor in inputs})


def _operator_violations(operator: Operator, inputs: set[Place], tail: frozenset[str]) -> Iterator[str]:
    if operator.kind in WEIGHTED:
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


def _spec(tensor: Tensor) -> TensorSpec:
    shape: tuple[Dimension, ...] = tuple("N" if size == -1 else size for size in tensor.signature or tensor.shape)
    layout = {4: "NHWC", 2: "NC"}.get(len(shape), "")
    scale, zero_point = (tensor.scales[0], tensor.zero_points[0]) if tensor.scales else (None, None)
    return TensorSpec(tensor.name, shape, tensor.dtype.lower(), layout, scale, zero_point)
