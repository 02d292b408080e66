"""Arm Ethos-U, by Vela's list of constraints: an operator that breaks one runs on the CPU.

The constraints are those of Ethos-U55 and U65; a file that meets them suits Ethos-U85 as well.
"""

from __future__ import annotations

import math

from squeeze_export.formats.contents import FileOperator, FileTensor
from squeeze_export.lint import Rule, Rulebook
from squeeze_export.lint.rules import (
    INTEGERS,
    NPU_SCHEME,
    averaged,
    convolutions,
    each_tensor,
    integers,
    known,
    number,
    one_batch,
    quantized,
    same_steps,
)

SOURCE = "ethos-u-vela 5.2.0, SUPPORTED_OPS.md (`vela --supported-ops-report`), Ethos-U55 and Ethos-U65"
_KINDS = frozenset({
    "ABS", "ADD", "ARG_MAX", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "ELU", "EXP",
    "EXPAND_DIMS", "FULLY_CONNECTED", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN",
    "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "PACK", "PAD", "PADV2", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU",
    "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "RSQRT",
    "SLICE", "SOFTMAX", "SPLIT", "SPLIT_V", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE",
    "TRANSPOSE", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNPACK",
})  # fmt: skip
_UNSCALED = frozenset({"ARG_MAX", "EXPAND_DIMS", "MIRROR_PAD", "PAD", "PADV2", "QUANTIZE", "TRANSPOSE"})
_WIDE = frozenset({"ADD", "EXPAND_DIMS", "MUL", "NEG", "PACK", "RESHAPE", "SQUEEZE", "SUB", "UNPACK"})
"""Operators whose entry allows feature maps of 32 bits."""
_MAX_SIDE, _MAX_PRODUCT, _MAX_STRIDE, _MAX_AXIS = 256, 256 * 256, 3, 4096
_MAX_MEAN = {"int8": 16_777_216, "uint8": 8_388_608, "int16": 65_536}


def _wide(operator: FileOperator) -> str | None:
    if operator.kind == "ARG_MAX":
        return None
    wide = ("int64",) if operator.kind in _WIDE else ("int32", "int64")
    found = next((tensor for tensor in operator.data if tensor.dtype in wide), None)
    return f"`{found.name}` is {found.dtype}" if found is not None else None


@each_tensor
def _scales(tensor: FileTensor) -> str | None:
    return f"`{tensor.name}` has {len(tensor.scales)} scales" if len(tensor.scales) > 1 else None


@each_tensor
def _zero_point(tensor: FileTensor) -> str | None:
    negative = tensor.dtype.startswith("u") and min(tensor.zero_points, default=0) < 0
    wrong = negative or (tensor.dtype == "int32" and any(tensor.zero_points))
    return f"the zero point of `{tensor.name}` is {tensor.zero_points[0]}" if wrong else None


def _stride(operator: FileOperator) -> str | None:
    steps = (number(operator, "strideH"), number(operator, "strideW"))
    dilated = max(number(operator, "dilationHFactor"), number(operator, "dilationWFactor")) > 1
    free = not dilated and operator.attributes.get("padding") == "VALID"
    return f"its stride is {max(steps)}" if max(steps) > _MAX_STRIDE and not free else None


def _pool(operator: FileOperator) -> str | None:
    height, width = number(operator, "filterHeight"), number(operator, "filterWidth")
    small = operator.kind == "AVERAGE_POOL_2D" and operator.attributes.get("padding") == "SAME"
    fits = max(height, width) <= 8 if small else height <= _MAX_SIDE and height * width <= _MAX_PRODUCT
    return None if fits else f"its window is {height} x {width}"


def _mean(operator: FileOperator) -> str | None:
    source = operator.inputs[0]
    if len(source.shape) == 4 and source.shape[0] > 1:
        return f"its batch is {source.shape[0]}"
    if not operator.inputs[1].constant:
        return "its axes are computed"
    axes = averaged(operator)
    if any(not 0 <= axis < len(source.shape) for axis in axes):
        return f"its axes {list(axes)} are none of its input's"
    sides = [source.shape[axis] for axis in axes]
    if max(sides, default=0) >= _MAX_AXIS or math.prod(sides) > _MAX_MEAN.get(source.dtype, 0):
        return f"it averages {' x '.join(map(str, sides))} elements of {source.dtype}"
    return "it averages over the channels" if len(source.shape) - 1 in axes and 1 not in source.shape[1:] else None


_POOLS = frozenset({"AVERAGE_POOL_2D", "MAX_POOL_2D"})
_STRIDED = _POOLS | {"CONV_2D", "DEPTHWISE_CONV_2D"}
RULEBOOK = Rulebook(
    "Arm Ethos-U",
    ("tflite",),
    (
        known(_KINDS, "Ethos-U", SOURCE),
        convolutions(f"{SOURCE}; bias and zero points: the 8-bit quantization specification"),
        one_batch(SOURCE, batch_may_be_free=True),
        integers(("int8", "uint8", "int16", "int32", "int64"), SOURCE, NPU_SCHEME),
        Rule(_mean, "export with `--batch 1`; average over height and width", SOURCE, frozenset({"MEAN"})),
        quantized(SOURCE, _UNSCALED),
        Rule(_wide, INTEGERS, SOURCE),
        Rule(_scales, "give activations one scale", SOURCE),
        Rule(_zero_point, INTEGERS, SOURCE),
        Rule(_stride, "use strides of up to 3", SOURCE, _STRIDED),
        Rule(_pool, "use a smaller window", SOURCE, _POOLS),
        same_steps(severity="note"),  # Vela rescales the tensors that differ in a separate pass
    ),
)
