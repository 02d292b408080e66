"""XNNPACK, by the README of its TFLite delegate. TFLite's own kernels run unsupported operators on the same CPU."""

from __future__ import annotations

from dataclasses import replace

from squeeze_export.formats.contents import FileOperator
from squeeze_export.lint import Rule, Rulebook
from squeeze_export.lint.rules import (
    convolutions,
    fused_activation,
    integers,
    no_floats,
    number,
    quantized,
    same_steps,
    spatial_mean,
)

SOURCE = "README of LiteRT's XNNPACK delegate, tflite/delegates/xnnpack/README.md, Quantized Operators"
_QUANTIZED = frozenset({
    "ADD", "CONCATENATION", "CONV_2D", "DEPTH_TO_SPACE", "DEPTHWISE_CONV_2D", "DEQUANTIZE", "ELU", "FULLY_CONNECTED",
    "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "QUANTIZE", "RESHAPE", "RESIZE_BILINEAR", "SLICE",
    "SPACE_TO_DEPTH", "SPLIT", "SUB", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
})  # fmt: skip
_FLOAT_TAIL = frozenset({"MEAN", "SOFTMAX", "RESHAPE"})
"""Supported float operators with which a classifier may end, as `int8` files do."""
_BORDERS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_ACTIVATED = frozenset({"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "MUL", "SUB"})
_MOST_OPERANDS = 4
_LEAST_RATIO, _LARGEST_RATIO = 2.0**-8, 2.0**7


def _known(operator: FileOperator) -> str | None:
    return f"XNNPACK has no quantized {operator.kind}" if operator.kind not in _QUANTIZED | _FLOAT_TAIL else None


def _quantize(operator: FileOperator) -> str | None:
    source, result = operator.inputs[0], operator.outputs[0]
    if source.floating:
        return None
    if source.dtype[0] != result.dtype[0]:
        return f"it turns {source.dtype} into {result.dtype}; XNNPACK wants the same signedness"
    ratio = source.scales[0] / result.scales[0] if source.scales and result.scales else 1.0
    return None if _LEAST_RATIO <= ratio <= _LARGEST_RATIO else f"its scales are {ratio:.3g} apart"


def _dequantize(operator: FileOperator) -> str | None:
    source = operator.inputs[0]
    return f"it reads {source.dtype}" if source.dtype not in ("int8", "uint8") else None


def _concatenation(operator: FileOperator) -> str | None:
    count = len(operator.inputs)
    return None if 2 <= count <= _MOST_OPERANDS else f"it joins {count} operands"


def _pool(operator: FileOperator) -> str | None:
    window = (number(operator, "filterHeight"), number(operator, "filterWidth"))
    moves = max(number(operator, "strideH"), number(operator, "strideW")) > 1
    return "it is a 1 x 1 pool with a stride" if window == (1, 1) and moves else None


def _bias(operator: FileOperator) -> str | None:
    return "it has no bias" if len(operator.inputs) < 3 else None


def _but_scores(rule: Rule) -> Rule:
    """The rule for all but a sigmoid of float logits, which are a row for each image: one between the layers is none."""

    def broken(operator: FileOperator) -> str | None:
        scores = operator.kind == "LOGISTIC" and all(tensor.floating and len(tensor.shape) == 2 for tensor in operator.data)
        return None if scores else rule.broken(operator)

    return replace(rule, broken=broken)


_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
RULEBOOK = Rulebook(
    "XNNPACK",
    ("tflite",),
    (
        Rule(_known, "export with `--int8`; leave the operator to another delegate", SOURCE),
        _but_scores(no_floats(_BORDERS | _FLOAT_TAIL, SOURCE, "export with `--int8`, without `--keep-float`")),
        convolutions(),
        Rule(_dequantize, "export with `--int8`", SOURCE, frozenset({"DEQUANTIZE"})),
        _but_scores(
            replace(integers(("int8", "uint8"), SOURCE, "export with `--int8`"), kinds=_QUANTIZED - _BORDERS - _FLOAT_TAIL)
        ),
        _but_scores(quantized(SOURCE, _BORDERS | _FLOAT_TAIL | {"PAD"})),
        Rule(_bias, "give it a bias, of zeros if need be", SOURCE, _CONVOLUTIONS),
        fused_activation(_ACTIVATED, ("RELU", "RELU_N1_TO_1", "RELU6"), SOURCE),
        Rule(_concatenation, "join two to four operands at a time", SOURCE, frozenset({"CONCATENATION"})),
        Rule(_pool, "drop the pool, or give the convolution before it the stride", SOURCE, frozenset({"MAX_POOL_2D"})),
        spatial_mean(SOURCE),
        same_steps(),
        Rule(
            _quantize,
            "it is one pass over the pixels; `--input float32` lets XNNPACK do it",
            SOURCE,
            frozenset({"QUANTIZE"}),
            "note",
        ),
    ),
)
