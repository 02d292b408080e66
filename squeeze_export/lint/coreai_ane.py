"""Apple's Neural Engine for Core AI files (iOS 27, macOS 27): Apple's own rules, and wrong results that users have reported.

None of it was run here: Core AI's runtime on Linux is an interpreter, which has none of the engine's limits.
"""

from __future__ import annotations

from squeeze_export.formats.contents import FREE, FileOperator, FileTensor
from squeeze_export.lint import Rule, Rulebook
from squeeze_export.lint.rules import each_tensor

SOURCE = "apple/coreai-models, its skill for model authoring, Neural Engine, https://github.com/apple/coreai-models"
_ISSUE = "https://github.com/apple/%s"
_DTYPES = ("float16", "int8", "uint8", "int16", "uint16", "bool")
_MOST_SIDES = 5
_ALIGNED_BYTES = 64
_SIZES = {"float16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1}
_FLOAT16 = "export with `--coreai-form qdq --coreai-compute float16`, or `--fp16`"
_MULTIPLY = "quantize the product with the scale of one of them, or compare it on the device"


def _multiplied(operator: FileOperator) -> str | None:
    if any(tensor.constant for tensor in operator.inputs):
        return None
    return "it multiplies two results: a product that was quantized with another scale than they came out wrong"


def _grouped(operator: FileOperator) -> str | None:
    scale = operator.inputs[1] if len(operator.inputs) > 1 else None
    groups = scale.shape[1] if scale is not None and len(scale.shape) > 1 else 1
    return f"its weights have {groups} scales for each output channel" if groups > 1 else None


def _chosen(operator: FileOperator) -> str | None:
    return "it came out wrong at the end of a network, with the default specialization"


def _gathered(operator: FileOperator) -> str | None:
    return "in float16 one network that ends in it came out wrong, with the default specialization, and another did not"


@each_tensor
def _wide(tensor: FileTensor) -> str | None:
    return f"`{tensor.name}` is {tensor.dtype}" if tensor.dtype not in _DTYPES else None


def _cast(operator: FileOperator) -> str | None:
    return "it casts to or from float32 outside the engine" if _wide(operator) else None


@each_tensor
def _free(tensor: FileTensor) -> str | None:
    return f"`{tensor.name}` has no fixed shape: {tensor}" if FREE in tensor.shape else None


@each_tensor
def _deep(tensor: FileTensor) -> str | None:
    sides = len(tensor.shape)
    return f"`{tensor.name}` has {sides} sides" if sides > _MOST_SIDES else None


def _unaligned(operator: FileOperator) -> str | None:
    tensor = operator.outputs[0]
    size = tensor.shape[-1] * _SIZES.get(tensor.dtype, 0) if tensor.shape else 0
    if size % _ALIGNED_BYTES == 0:
        return None
    return f"the last side of `{tensor.name}` takes {size} bytes, which is padded to {-(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES}"


RULEBOOK = Rulebook(
    "Apple's Neural Engine",
    ("coreai",),
    (
        Rule(_free, "export with `--batch 1`", f"{SOURCE}, static shapes"),
        Rule(_deep, "split or merge sides", f"{SOURCE}, rank"),
        Rule(_cast, "nothing: it takes little time", SOURCE, frozenset({"cast"}), severity="note"),
        Rule(_wide, _FLOAT16, f"{SOURCE}: float32 runs on GPU or CPU; the engine takes float16 and integers of 8 and 16 bits"),
        Rule(_multiplied, _MULTIPLY, _ISSUE % "coreai-torch/issues/112", frozenset({"mul", "broadcasting_mul"}), severity="note"),
        Rule(
            _grouped,
            "one scale for each output channel, as exports of this tool have",
            f"{_ISSUE % 'coreai-models/issues/279'}, {_ISSUE % 'coreai-torch/issues/93'}",
            frozenset({"blockwise_shift_scale"}),
            severity="wrong",
        ),
        Rule(
            _chosen,
            "give logits alone, and choose in the app",
            _ISSUE % "coreai-torch/issues/116",
            frozenset({"argmax"}),
            severity="wrong",
        ),
        Rule(
            _gathered,
            "compare it on the device with the golden outputs",
            _ISSUE % "coreai-torch/issues/115",
            frozenset({"argsort", "gather_along_axis", "gather_nd"}),
            severity="note",
        ),
        Rule(_unaligned, "nothing, unless memory is short", f"{SOURCE}, last axis", frozenset({"conv2d"}), severity="note"),
    ),
)
