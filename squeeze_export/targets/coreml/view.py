"""A Core ML program asked by tensor name: what is a float, and what Core ML can compute in integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property

from squeeze_export.targets._kept_operators import Step
from squeeze_export.targets.coreml.operators import Operator, Program, Tensor

MULTIPLYING = ("conv", "conv_transpose", "linear", "matmul")
_FUSED = (*MULTIPLYING, "max_pool", "avg_pool", "concat", "add", "mul", "relu", "transpose", "reshape")
_INTEGER_DATA: Mapping[str, str] = {
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_blockwise_shift_scale": "data",
}
"""What unpacks integers -> its operand that holds them."""
_PASSING, _BORDERS = ("relu", "max_pool", "concat", "add"), ("quantize", "dequantize")
"""What multiplies nothing, and computes in float where it is joined to a layer that was kept in float."""
_PALETTE = "constexpr_lut_to_dense"
_PARAMETERS = ("int32", "uint32", "int64", "bool", "string")
"""Dtypes of strides, shapes, axes and names: no weights."""


class View:
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

    def belongs_to(self, name: str, convolutions: Collection[Operator]) -> bool:
        """Whether a constant is nothing but the weights or bias of some of these convolutions."""
        return self._read_as(
            name, lambda operator, operand: operand in ("weight", "bias") and any(operator is one for one in convolutions)
        )

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
                if not (operator.kind in MULTIPLYING and operand == "bias"):
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

    def step(self, operator: Operator) -> Step:
        """An operator, as far as its floats go."""
        reads = tuple(name for name in operator.sources if self._holds_float(name))
        makes = tuple(name for name, tensor in operator.outputs.items() if tensor.floating)
        return Step(reads, makes, self._float_name(operator), operator.kind in _PASSING, operator.kind in _BORDERS)

    def _holds_float(self, name: str) -> bool:
        tensor = self._types.get(name)
        return tensor is not None and tensor.floating

    def _float_name(self, operator: Operator) -> str:
        """The name of a convolution all in float: its result's, or what that becomes behind a ReLU and through integers."""
        operands = [next(iter(operator.inputs.get(operand, ())), "") for operand in ("x", "weight", "bias")]
        stored = [self._makers.get(name) for name in operands[1:]]
        whole = all(self._holds_float(name) for name in operands) and self.is_float(operator)
        if operator.kind != "conv" or not whole or not all(maker is not None and maker.kind == "const" for maker in stored):
            return ""
        name = operator.name
        for kind in ("relu", "quantize", "dequantize"):
            readers = self._readers.get(name, [])
            if len(readers) == 1 and readers[0][0].kind == kind:
                name = readers[0][0].name
        return name

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
    return operator.kind in MULTIPLYING and operand == "bias"
