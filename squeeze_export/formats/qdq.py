"""Integers carried between pairs of operators (QDQ): QuantizeLinear, DequantizeLinear in ONNX; quantize, dequantize in Core ML.

In this form every operator is written on floats. It computes in integers where a runtime can fuse it with the pairs around it: all
its operands come out of the pair's second half and all its results go into the first half alone, a ReLU between included. Such a
group counts as integer; the notional floats inside it are no float tensors, nor are the scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from squeeze_export.formats.contents import Contents, FileOperator, FileTensor


@dataclass(frozen=True)
class Words:
    """What a format calls the parts of a group.

    Attributes:
        quantize: the operator that brings floats to integers: data, scale, zero point.
        dequantize: that which brings them back, with the same inputs.
        relu: the activation that may stand between an operator and the pair behind it.
        products: what multiplies activations and weights.
        fused: the other operators that a runtime fuses with the pairs around them.
        unpacking: operators that unpack stored weights when the file is opened: what they read first; then scales.
        integers: operators written on integers: data first; what they read in float besides are scales.
        unpacked: dtypes of stored integers that `unpacking` may make into weights.
        float_bias: whether a bias is always a float, and no reason against integers.
    """

    quantize: str
    dequantize: str
    relu: str
    products: frozenset[str]
    fused: frozenset[str]
    unpacking: frozenset[str] = frozenset()
    integers: frozenset[str] = frozenset()
    unpacked: frozenset[str] = frozenset()
    float_bias: bool = False


@dataclass(frozen=True)
class Groups:
    """The groups of a file: its `audit.Arithmetic`."""

    contents: Contents
    words: Words

    def is_float(self, place: int) -> bool:
        """See `audit.Arithmetic`."""
        operator, words = self.contents.operators[place], self.words
        if operator.kind in words.integers or operator.kind in words.unpacking:
            return False
        if operator.kind == words.dequantize:  # a part of the groups that read it, and of nothing else
            readers = self.contents.readers_of(operator.outputs[0])
            return self._is_given(operator) or not all(self._in_group(reader) for reader, _ in readers)
        if operator.kind == words.quantize:
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
        return index > 0 and (operator.kind in words.integers or operator.kind in words.unpacking)

    def _in_group(self, operator: FileOperator) -> bool:
        words = self.words
        if operator.kind == words.quantize:
            return True
        return (operator.kind in words.products or operator.kind in words.fused) and not self._reasons(operator)

    def _reasons(self, operator: FileOperator) -> list[str]:
        found: list[str] = []
        for index, tensor in enumerate(operator.inputs):
            if tensor.floating and not (self.words.float_bias and operator.kind in self.words.products and index == 2):
                found += self._reasons_of(operator, tensor)
        if not self._quantized_next(operator, through_relu=operator.kind != self.words.relu):
            made = operator.outputs[0].name if operator.outputs else operator.name
            found.append(f"its result `{made}` is not quantized")
        return found

    def _reasons_of(self, operator: FileOperator, tensor: FileTensor) -> Iterator[str]:
        """What is wrong with a float operand."""
        maker = self.contents.maker(tensor)
        if tensor.constant:
            yield f"its operand `{tensor.name}` is stored as {tensor}"
        elif maker is not None and maker.kind in self.words.unpacking:
            if not self._unpacks_integers(maker):
                yield f"its operand `{tensor.name}` comes from {maker.kind}, whose values are floats"
        elif maker is not None and maker.kind == self.words.dequantize:
            return
        elif not (operator.kind == self.words.relu and maker is not None and self._is_before_relu(maker)):
            yield f"its input `{tensor.name}` is not quantized"
            weights = self.contents.maker(operator.inputs[1]) if operator.kind in self.words.products else None
            if weights is not None and self._unpacks_integers(weights):
                yield "its weights alone are integers"

    def _unpacks_integers(self, operator: FileOperator) -> bool:
        stored = operator.inputs[0]
        if operator.kind in self.words.unpacking:
            return stored.dtype in self.words.unpacked
        return operator.kind == self.words.dequantize and stored.constant and not stored.floating

    def _is_before_relu(self, operator: FileOperator) -> bool:
        return operator.kind != self.words.relu and operator.kind != self.words.quantize and self._in_group(operator)

    def _quantized_next(self, operator: FileOperator, *, through_relu: bool) -> bool:
        """Whether quantizing is all that reads an operator's result, or a ReLU of which the same is true."""
        readers = self.contents.readers_of(operator.outputs[0]) if operator.outputs else []
        return (
            bool(readers)
            and not self._is_given(operator)
            and all(
                reader.kind == self.words.quantize
                or (through_relu and reader.kind == self.words.relu and self._quantized_next(reader, through_relu=False))
                for reader, _ in readers
            )
        )

    def _is_given(self, operator: FileOperator) -> bool:
        return any(tensor.key in self.contents.given for tensor in operator.outputs)
