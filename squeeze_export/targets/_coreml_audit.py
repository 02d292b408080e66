"""What is inside a Core ML package: which operators compute in integers, and what was left in float.

An ML program has no integer convolution. An operator may run in integers where all its operands come from `dequantize` (and a
convolution's weights from integers) and all its results go to `quantize`, a ReLU between included. Such a group counts as integer
here; the notional floats inside it do not count as float tensors, nor do the scales. A convolution's bias has no other form than
float: it is listed, and allowed. Nothing here knows how `coreml.py` writes a package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from squeeze_export.core import Audit, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.targets._coreml_operators import Operator, Program, Tensor, read_program
from squeeze_export.targets._coreml_package import Package, read_package

_MULTIPLYING = ("conv", "conv_transpose", "linear", "matmul")
_FUSED = (*_MULTIPLYING, "max_pool", "avg_pool", "concat", "add", "mul", "relu", "transpose", "reshape")
_PREPARING = ("quantize", "dequantize", "cast", "transpose", "reshape", "mul", "add", "sub")
"""May stand in float before the first convolution: they bring the input to integers."""
_INTEGER_DATA: Mapping[str, str] = {
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_blockwise_shift_scale": "data",
}
"""What unpacks integers -> its operand that holds them."""
_PALETTE = "constexpr_lut_to_dense"
_PARAMETERS = ("int32", "uint32", "int64", "bool", "string")
"""Dtypes of strides, shapes, axes and names: no weights."""


def describe_package(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a package; of a classifier, the output is the row of numbers that it gives beside its labels.

    Raises:
        BadInput: no such package, or not one image or float tensor in and one row of numbers out.
        Unavailable: coremltools is not installed.
    """
    package = read_package(path)
    program, description = _program(package, path), package.model.description
    made = {name: tensor for operator in program.operators for name, tensor in operator.outputs.items()}
    arrays = [entry.name for entry in description.output if entry.type.WhichOneof("Type") == "multiArrayType"]
    refusal = BadInput(f"`{path}` is none of ours: it does not take pixels alone, or gives something else than one row of float32")
    if len(description.input) != 1 or len(arrays) != 1 or arrays[0] not in made:
        raise refusal
    taken, result = description.input[0], made[arrays[0]]
    if taken.type.WhichOneof("Type") == "imageType":
        image = taken.type.imageType
        source = TensorSpec(taken.name, (1, image.height, image.width, 3), "uint8", "NHWC", 1.0, 0)
    else:
        declared = program.inputs.get(taken.name, Tensor("", ()))
        source = TensorSpec(taken.name, tuple("N" if size == "?" else size for size in declared.shape), declared.dtype, "NHWC")
    if source.dtype not in ("uint8", "float32") or len(source.shape) != 4 or source.shape[3] != 3:
        raise refusal
    if result.dtype != "float32" or len(result.shape) != 2:
        raise refusal
    return source, TensorSpec(arrays[0], (source.shape[0], result.shape[1]), "float32", "NC")


def audit_package(path: Path) -> Audit:
    """Takes stock of a package.

    Returns:
        The audit. `violations` name each convolution or product that computes in float and why, each constant stored in float,
        each float operator before the last convolution, and what cannot be seen through. `weight_bytes` counts the indices of a
        palette as integers of their bits.

    Raises:
        BadInput: no such package, or it is damaged.
        Unavailable: coremltools is not installed.
    """
    program = _program(read_package(path), path)
    view = _View(program)
    running = [operator for operator in program.operators if operator.kind != "const"]
    floating = [operator for operator in running if view.is_float(operator)]
    taken = [f"{name} {tensor}" for name, tensor in program.inputs.items() if tensor.floating]
    stored = [f"{operator.name} {operator.outputs[operator.name]}" for operator in view.float_constants]
    computed = [f"{name} {tensor}" for operator in floating for name, tensor in operator.outputs.items() if tensor.floating]
    return Audit(
        dict(sorted(Counter(operator.kind for operator in running).items())),
        tuple(f"{operator.kind} {operator.name}" for operator in floating),
        (*taken, *stored, *computed),
        tuple(_violations(view, program)),
        dict(sorted(view.weight_bytes.items())),
    )


def _program(package: Package, path: Path) -> Program:
    try:
        return read_program(package)
    except ValueError as err:
        raise BadInput(f"`{path}` cannot be read as a Core ML package: {err}") from err


def _violations(view: _View, program: Program) -> Iterator[str]:
    products = [operator for operator in program.operators if operator.kind in _MULTIPLYING]
    if not products:
        yield "the package holds no convolution"
    before, after = view.ancestors(products), view.descendants(products)
    preparing = {o.name for o in program.operators if o.kind in _PREPARING and o.name not in after}
    for operator in program.operators:
        if not operator.plain:
            yield f"{operator.kind} `{operator.name}` cannot be seen through: it has operators inside"
        elif operator.kind in _MULTIPLYING and view.is_float(operator):
            yield f"{operator.kind} `{operator.name}` computes in float: {', '.join(view.reasons(operator))}"
        elif operator.name in before - preparing and view.is_float(operator):
            yield f"{operator.kind} `{operator.name}` computes in float before the last convolution"
    for operator in view.float_constants:
        if not view.is_bias(operator.name) and not view.read_by(operator.name, preparing):
            yield f"the constant `{operator.name}` is stored as {operator.outputs[operator.name]}"


class _View:
    """A program, asked by tensor name."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._makers = {name: operator for operator in program.operators for name in operator.outputs}
        self._types = {**program.inputs, **{name: maker.outputs[name] for name, maker in self._makers.items()}}
        self._readers: dict[str, list[tuple[Operator, str]]] = {}
        for operator in program.operators:
            for operand, names in operator.inputs.items():
                for name in names:
                    self._readers.setdefault(name, []).append((operator, operand))

    @cached_property
    def weight_bytes(self) -> Counter[str]:
        """Bytes of constant data, by dtype."""
        found: Counter[str] = Counter()
        for operator in self._program.operators:
            for operand, tensor in operator.constants.items():
                dtype = _index_dtype(operator) if operator.kind == _PALETTE and operand == "indices" else tensor.dtype
                if dtype not in _PARAMETERS and tensor.size_bytes:
                    found[dtype] += tensor.size_bytes
        return found

    @cached_property
    def float_constants(self) -> list[Operator]:
        """The constants in float that are no scale and no palette."""
        constants = [operator for operator in self._program.operators if operator.kind == "const"]
        return [c for c in constants if c.outputs and c.outputs[c.name].floating and not self._read_as(c.name, _is_scale)]

    def is_bias(self, name: str) -> bool:
        """Whether a constant is nothing but the bias of convolutions."""
        return self._read_as(name, _is_bias)

    def read_by(self, name: str, operators: Collection[str]) -> bool:
        """Whether a constant is read by the named operators alone."""
        return self._read_as(name, lambda operator, _: operator.name in operators)

    def _read_as(self, name: str, role: Callable[[Operator, str], bool]) -> bool:
        readers = self._readers.get(name, [])
        return bool(readers) and all(role(operator, operand) for operator, operand in readers)

    def is_float(self, operator: Operator) -> bool:
        """Whether an operator computes in floating point."""
        if operator.kind == "const" or operator.kind.startswith("constexpr_"):
            return False
        if operator.kind == "dequantize":  # a part of the groups that read it, and of nothing else
            readers = self._readers.get(operator.name, [])
            return operator.name in self._program.outputs or not all(self._in_group(reader) for reader, _ in readers)
        if operator.kind == "quantize":
            maker = self._makers.get(operator.inputs.get("input", ("",))[0])
            return maker is None or not (maker.kind == "dequantize" or self._in_group(maker))
        touched = (self._types.get(name) for name in (*operator.sources, *operator.outputs))
        return any(tensor is not None and tensor.floating for tensor in touched) and not self._in_group(operator)

    def _in_group(self, operator: Operator) -> bool:
        return operator.kind == "quantize" or (operator.kind in _FUSED and not self.reasons(operator))

    def reasons(self, operator: Operator) -> list[str]:
        """Why Core ML cannot run an operator in integers; empty where it can."""
        found: list[str] = []
        for operand, names in operator.inputs.items():
            for name in names:
                if not (operator.kind in _MULTIPLYING and operand == "bias"):
                    found += self._reasons_of(operator, name)
        if not self._quantized_next(operator, through_relu=operator.kind != "relu"):
            found.append(f"its result `{operator.name}` is not quantized")
        return found

    def _reasons_of(self, operator: Operator, name: str) -> Iterator[str]:
        """What is wrong with one operand."""
        tensor, maker = self._types.get(name), self._makers.get(name)
        if tensor is not None and not tensor.floating:
            return
        kind = "" if maker is None else maker.kind
        if kind == "const":
            yield f"its operand `{name}` is stored as {tensor}"
        elif kind.startswith("constexpr_"):
            if not self._unpacks_integers(maker):
                yield f"its operand `{name}` comes from {kind}, whose values are floats"
        elif kind != "dequantize" and not (operator.kind == "relu" and self._is_before_relu(maker)):
            yield f"its input `{name}` is not quantized"
            if self._unpacks_integers(self._makers.get(operator.inputs.get("weight", ("",))[0])):
                yield "its weights alone are integers"

    def _unpacks_integers(self, maker: Operator | None) -> bool:
        """Whether an operator unpacks int8: stored in itself (iOS 17), or in a constant (iOS 18)."""
        operand = "" if maker is None else _INTEGER_DATA.get(maker.kind, "")
        if maker is None or not operand:
            return False
        data = maker.constants.get(operand) or self._types.get(maker.inputs.get(operand, ("",))[0])
        return data is not None and data.dtype == "int8"

    def _is_before_relu(self, maker: Operator | None) -> bool:
        return maker is not None and maker.kind in _FUSED and maker.kind != "relu" and not self.reasons(maker)

    def _quantized_next(self, operator: Operator, *, through_relu: bool) -> bool:
        """Whether `quantize` is all that reads an operator's result, or a ReLU of which the same is true."""
        readers = [reader for reader, _ in self._readers.get(operator.name, [])]
        return (
            bool(readers)
            and operator.name not in self._program.outputs
            and all(
                reader.kind == "quantize"
                or (through_relu and reader.kind == "relu" and self._quantized_next(reader, through_relu=False))
                for reader in readers
            )
        )

    def ancestors(self, operators: list[Operator]) -> frozenset[str]:
        """Names of the operators whose results reach one of `operators`."""
        found: set[str] = set()
        waiting = [name for operator in operators for name in operator.sources]
        while waiting:
            maker = self._makers.get(waiting.pop())
            if maker is not None and maker.name not in found:
                found.add(maker.name)
                waiting += maker.sources
        return frozenset(found)

    def descendants(self, operators: list[Operator]) -> frozenset[str]:
        """Names of the operators that depend on one of `operators`, these included."""
        tensors: set[str] = set()
        found: set[str] = set()
        for operator in self._program.operators:
            if operator in operators or not tensors.isdisjoint(operator.sources):
                found.add(operator.name)
                tensors.update(operator.outputs)
        return frozenset(found)


def _index_dtype(palette: Operator) -> str:
    """iOS 16 and 17 store indices of any bits as packed bytes, beside a plain list of values: its length tells how many bits."""
    indices, table = palette.constants["indices"], palette.constants.get("lut", Tensor("", ()))
    length = table.shape[0] if len(table.shape) == 1 else 0
    return f"uint{(length - 1).bit_length()}" if isinstance(length, int) and length > 1 else indices.dtype


def _is_scale(operator: Operator, operand: str) -> bool:
    if operand == "scale":
        return operator.kind in ("quantize", "dequantize", *_INTEGER_DATA)
    return operator.kind == _PALETTE and operand == "lut"


def _is_bias(operator: Operator, operand: str) -> bool:
    return operator.kind in _MULTIPLYING and operand == "bias"
