"""Coral's Edge TPU, by its documentation. Its compiler splits a file once: everything behind the first unsupported operator runs on
the CPU.
"""

from __future__ import annotations

from squeeze_export.formats.contents import FileOperator, FileTensor
from squeeze_export.lint import Rule, Rulebook
from squeeze_export.lint.rules import (
    NPU_SCHEME,
    averaged,
    convolutions,
    each_tensor,
    fused_activation,
    integers,
    known,
    number,
    one_batch,
    quantized,
    same_steps,
)

SOURCE = "TensorFlow models on the Edge TPU, https://coral.ai/docs/edgetpu/models-intro/ (Model requirements, Supported operations)"
_KINDS = frozenset({
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "FULLY_CONNECTED",
    "L2_NORMALIZATION", "LOGISTIC", "LSTM", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PACK", "PAD", "PRELU",
    "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "SUB",
    "SUM", "SQUARED_DIFFERENCE", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
})  # fmt: skip
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_CLOSED = frozenset({"AVERAGE_POOL_2D", "CONCATENATION", "MAX_POOL_2D"})
_INNER_SIDES, _Z_MULTIPLE = 3, 4


@each_tensor
def _dimensions(tensor: FileTensor) -> str | None:
    large = max(tensor.shape[:-_INNER_SIDES], default=1) > 1
    return f"`{tensor.name}` is {tensor}: only its three innermost sides may be above 1" if large else None


def _dilation(operator: FileOperator) -> str | None:
    height, width = number(operator, "dilationHFactor"), number(operator, "dilationWFactor")
    return f"it is dilated by {height} and {width}" if height != width else None


def _concatenation(operator: FileOperator) -> str | None:
    constant = any(tensor.constant for tensor in operator.inputs)
    return f"it joins a constant and {len(operator.inputs) - 1} operands" if constant and len(operator.inputs) != 2 else None


def _mean(operator: FileOperator) -> str | None:
    source, axes = operator.inputs[0], averaged(operator)
    if 0 in axes:
        return "it averages over the batch"
    if len(source.shape) - 1 in axes and source.shape[-1] % _Z_MULTIPLE:
        return f"it averages over {source.shape[-1]} channels, no multiple of {_Z_MULTIPLE}"
    return None


RULEBOOK = Rulebook(
    "Coral Edge TPU",
    ("tflite",),
    (
        known(_KINDS, "the Edge TPU", SOURCE),
        convolutions(f"{SOURCE}; the 8-bit quantization specification"),
        one_batch(SOURCE),
        integers(("int8", "uint8"), SOURCE, NPU_SCHEME),
        quantized(SOURCE),
        Rule(_dimensions, "export with `--batch 1`", SOURCE),
        Rule(_dilation, "dilate both ways alike", SOURCE, _CONVOLUTIONS),
        fused_activation(_CLOSED, (), SOURCE),
        Rule(_concatenation, "join two operands, of which the constant one is zero", SOURCE, frozenset({"CONCATENATION"})),
        Rule(_mean, "average over height and width", SOURCE, frozenset({"MEAN"})),
        same_steps(),
    ),
)
