"""Qualcomm's Hexagon (HTP), by the documentation of ONNX Runtime's QNN execution provider."""

from __future__ import annotations

from squeeze_export.formats.contents import FileOperator, FileTensor
from squeeze_export.lint import Rule, Rulebook
from squeeze_export.lint.rules import each_tensor, floats_among, known, no_floats, one_batch

SOURCE = (
    "ONNX Runtime documentation, QNN Execution Provider, https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
)
_KINDS = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat",
    "Conv", "ConvTranspose", "Cos", "DepthToSpace", "DequantizeLinear", "Div", "Elu", "Equal", "Exp", "Expand", "Flatten",
    "Floor", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "Greater", "GreaterOrEqual", "GridSample", "HardSwish",
    "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax",
    "LpNormalization", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize", "Round", "Sigmoid",
    "Sign", "Sin", "Slice", "Softmax", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile", "TopK", "Transpose",
    "Unsqueeze", "Where", "com.microsoft:DequantizeLinear", "com.microsoft:Gelu", "com.microsoft:QuantizeLinear",
})  # fmt: skip
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_BORDERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_CARRIERS = ("uint8", "uint16")
_INT8 = "export with `--int8`"


def _float_product(operator: FileOperator) -> str | None:
    return floats_among((*operator.inputs[:2], *operator.outputs[:1]))


@each_tensor
def _signed(tensor: FileTensor) -> str | None:
    return f"`{tensor.name}` is carried in {tensor.dtype}" if tensor.scales and tensor.dtype not in _CARRIERS else None


def _weights(operator: FileOperator) -> str | None:
    if len(operator.inputs) < 2:
        return "it has no weights"
    weight = operator.inputs[1]
    if not weight.constant or not weight.scales:
        return f"its weights `{weight.name}` are no quantized constant"
    if len(weight.scales) > 1 and any(weight.zero_points):
        return f"the zero points of its weights `{weight.name}` are not 0, with one scale a channel"
    if len(operator.inputs) > 2 and not (operator.inputs[2].constant and operator.inputs[2].dtype == "int32"):
        return f"its bias `{operator.inputs[2].name}` is {operator.inputs[2].dtype}"
    return None


RULEBOOK = Rulebook(
    "Qualcomm Hexagon",
    ("onnx",),
    (
        known(_KINDS, "the QNN execution provider", f"{SOURCE}, Supported ONNX operators", "replace the operator"),
        one_batch(f"{SOURCE}, Model requirements"),
        Rule(_float_product, _INT8, f"{SOURCE}: the HTP backend supports quantized models", _PRODUCTS),
        Rule(_weights, _INT8, f"{SOURCE}; HTP operator supplement of the QNN SDK, Conv2d", frozenset({"Conv"})),
        Rule(_signed, "carry activations in uint8: `--int8`, not `int8-symmetric`", f"{SOURCE}, Generating a quantized model"),
        no_floats(
            _BORDERS,
            f"{SOURCE}, enable_htp_fp16_precision",
            "`--scheme int8-npu` keeps it in integers; otherwise it runs in 16-bit floats, where the chip has them",
            severity="note",
        ),
    ),
)
