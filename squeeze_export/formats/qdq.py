"""Integers in QDQ form, between QuantizeLinear and DequantizeLinear in ONNX, quantize and dequantize in Core ML and Core AI.

In this form every operator is written on floats. It computes in integers where a runtime can fuse it with its neighbours: all its
operands come from a dequantize, and only a quantize reads its result, directly or behind an activation. The audit counts such a
group as integer: the floats inside it and the scales are no float tensors. What an opaque operator makes or reads may be part of a
group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from squeeze_export.formats.audit import Arithmetic
from squeeze_export.formats.contents import MOST_UNPACKING, Contents, FileOperator, FileTensor


@dataclass(frozen=True)
class Words:
    """The kinds of operators in a format's groups.

    Attributes:
        quantize: makes integers of floats; its inputs are data, scale, zero point.
        dequantize: makes floats of integers, with the same inputs.
        activations: may stand between an operator and quantize; their inputs are data, then bounds.
        products: multiply activations and weights.
        fused: the other operators that a runtime fuses with the pairs around them.
        unpacking: unpack stored weights when a runtime opens the file -> the place of the input whose numbers become weights.
        integers: are written on integers; any float input is a scale.
        unpacked: dtypes of stored integers that `unpacking` may turn into weights of an integer product.
        float_bias: whether biases may be float, also in integer operators.
        rounding: whether a runtime quantizes constants when it opens the file.
        steps: with a constant row as one operand, may stand between a product and quantize, one behind the other: they add a bias
            and rescale sums, in a format whose products do neither.
    """

    quantize: str
    dequantize: str
    activations: frozenset[str]
    products: frozenset[str]
    fused: frozenset[str]
    unpacking: Mapping[str, int] = field(default_factory=dict)
    unpacked: frozenset[str] = frozenset()
    integers: frozenset[str] = frozenset()
    float_bias: bool = False
    rounding: bool = False
    steps: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Groups(Arithmetic):
    """The groups of a file: its `audit.Arithmetic`."""

    contents: Contents
    words: Words
    _grouped: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By identity of the operator: many others may ask."""

    def is_float(self, place: int) -> bool:
        """See `audit.Arithmetic`."""
        operator, words = self.contents.operators[place], self.words
        if operator.kind in words.integers or operator.kind in words.unpacking:
            return False
        if operator.kind == words.dequantize:  # belongs to the groups that read it
            readers = self.contents.readers_of(operator.outputs[0])
            return self._is_given(operator) or not all(self._in_group(reader) for reader, _ in readers)
        if operator.kind == words.quantize:
            if words.rounding and operator.inputs[0].constant:
                return False
            maker = self.contents.maker(operator.inputs[0])
            return maker is None or not (maker.kind == words.dequantize or self._in_group(maker))
        return any(tensor.floating for tensor in (*operator.inputs, *operator.outputs)) and not self._in_group(operator)

    def reasons(self, place: int) -> list[str]:
        """See `audit.Arithmetic`."""
        return self._reasons(self.contents.operators[place])

    def takes_parameter(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`."""
        operator, words = self.contents.operators[place], self.words
        if operator.kind in (words.quantize, words.dequantize):
            return index == 1
        if self._is_step(operator):
            return self._in_group(operator)
        return operator.kind in words.integers or (index > 0 and operator.kind in {*words.unpacking, *words.activations})

    def rounds(self, place: int, index: int) -> bool:
        """See `audit.Arithmetic`."""
        return self.words.rounding and index == 0 and self.contents.operators[place].kind == self.words.quantize

    def _in_group(self, operator: FileOperator) -> bool:
        words = self.words
        if operator.kind == words.quantize:
            return True
        if id(operator) not in self._grouped:
            fits = operator.kind in words.products or operator.kind in words.fused
            self._grouped[id(operator)] = fits and not self._reasons(operator)
        return self._grouped[id(operator)]

    def _reasons(self, operator: FileOperator) -> list[str]:
        words, found = self.words, list[str]()
        for index, tensor in enumerate(operator.inputs):
            given = operator.kind in words.activations and index > 0
            given = given or (words.float_bias and operator.kind in words.products and index == 2)
            given = given or (tensor.constant and self._is_step(operator))
            if tensor.floating and not given:
                found += self._reasons_of(operator, tensor)
        if not self._quantized_next(operator, through=operator.kind not in words.activations):
            made = operator.outputs[0].name if operator.outputs else operator.name
            found.append(f"its result `{made}` is not quantized")
        return found

    def _reasons_of(self, operator: FileOperator, tensor: FileTensor) -> Iterator[str]:
        """Why an operator with this float operand cannot compute in integers."""
        maker = self.contents.maker(tensor)
        if maker is not None and maker.opaque:
            return
        if tensor.constant:
            yield f"its operand `{tensor.name}` is stored as {tensor}"
        elif maker is not None and maker.kind in self.words.unpacking:
            if not self._unpacks_integers(maker):
                yield f"its operand `{tensor.name}` comes from {maker.kind}, whose values are floats"
        elif maker is not None and maker.kind == self.words.dequantize:
            return
        elif not (self._follows(operator) and maker is not None and self._is_before_activation(maker)):
            yield f"its input `{tensor.name}` is not quantized"
            weights = self.contents.maker(operator.inputs[1]) if operator.kind in self.words.products else None
            if weights is not None and self._unpacks_integers(weights):
                yield "its weights alone are integers"

    def _unpacks_integers(self, operator: FileOperator) -> bool:
        if operator.kind in self.words.unpacking:
            return self.stored(operator.outputs[0]).dtype in self.words.unpacked
        stored = operator.inputs[0]
        return operator.kind == self.words.dequantize and stored.constant and not stored.floating

    def stored(self, tensor: FileTensor) -> FileTensor:
        """The constant with the numbers that a tensor is unpacked from; the tensor itself where it is not."""
        places = self.words.unpacking
        for _ in range(MOST_UNPACKING):
            maker = self.contents.maker(tensor)
            if maker is None or len(maker.inputs) <= places.get(maker.kind, len(maker.inputs)):
                break
            tensor = maker.inputs[places[maker.kind]]
        return tensor

    def _is_step(self, operator: FileOperator) -> bool:
        rows = [tensor.is_row for tensor in operator.inputs if tensor.constant]
        return operator.kind in self.words.steps and len(operator.inputs) == 2 and rows == [True]

    def _follows(self, operator: FileOperator) -> bool:
        """Whether an operator may stand between another one and quantize."""
        return operator.kind in self.words.activations or self._is_step(operator)

    def _is_before_activation(self, operator: FileOperator) -> bool:
        return operator.kind not in {*self.words.activations, self.words.quantize} and self._in_group(operator)

    def _quantized_next(self, operator: FileOperator, *, through: bool) -> bool:
        """Whether only quantize reads an operator's result, directly or, if `through`, behind an activation."""
        readers = self.contents.readers_of(operator.outputs[0]) if operator.outputs else []
        return (
            bool(readers)
            and not self._is_given(operator)
            and all(
                reader.kind == self.words.quantize
                or reader.opaque
                or (through and self._follows(reader) and self._quantized_next(reader, through=self._is_step(reader)))
                for reader, _ in readers
            )
        )

    def _is_given(self, operator: FileOperator) -> bool:
        return any(tensor.key in self.contents.given for tensor in operator.outputs)
