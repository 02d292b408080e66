"""Rules that several chips share: first for all files, then for TFLite's operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from squeeze_export.formats.contents import FREE, FileOperator, FileTensor
from squeeze_export.lint import Rule, Severity, Test

SPECIFICATION = "TensorFlow Lite 8-bit quantization specification, https://ai.google.dev/edge/litert/models/quantization_spec"
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
SAME_STEPS = frozenset({"CONCATENATION", "MAX_POOL_2D", "PAD", "RESHAPE"})
"""The specification requires one scale and zero point for all inputs and outputs of these operators."""
NPU_SCHEME = "export with `--scheme int8-npu`, which has no float operator"
INTEGERS = "quantize it: export with `--int8` or `--scheme int8-npu`"


def known(kinds: frozenset[str], chip: str, source: str, change: str = NPU_SCHEME) -> Rule:
    """The chip supports the operator."""
    return Rule(lambda operator: f"{chip} has no {operator.kind}" if operator.kind not in kinds else None, change, source)


def each_tensor(broken: Callable[[FileTensor], str | None]) -> Test:
    """Tests every tensor that an operator reads or makes, except constants, and reports the first that fails."""
    return lambda operator: next(filter(None, map(broken, operator.data)), None)


def one_batch(source: str, *, batch_may_be_free: bool = False) -> Rule:
    """Every side of a shape is fixed."""

    def broken(tensor: FileTensor) -> str | None:
        fixed = tensor.shape[1:] if batch_may_be_free else tensor.shape
        return f"`{tensor.name}` has no fixed shape: {tensor}" if FREE in fixed else None

    return Rule(each_tensor(broken), "export with `--batch 1`", source)


def no_floats(exceptions: frozenset[str], source: str, change: str, severity: Severity = "fall-back") -> Rule:
    """No tensor is a float, except at a few kinds of operators."""

    def broken(operator: FileOperator) -> str | None:
        return floats_among(operator.data) if operator.kind not in exceptions else None

    return Rule(broken, change, source, severity=severity)


def floats_among(tensors: Iterable[FileTensor]) -> str | None:
    """What is wrong with an operator on these tensors if one is a float, else None."""
    found = next((tensor for tensor in tensors if tensor.floating), None)
    return f"it computes in floats: `{found.name}` is {found.dtype}" if found is not None else None


def integers(dtypes: tuple[str, ...], source: str, change: str = INTEGERS) -> Rule:
    """Every tensor except constants has one of the dtypes."""
    broken = each_tensor(lambda tensor: f"`{tensor.name}` is {tensor.dtype}" if tensor.dtype not in dtypes else None)
    return Rule(broken, change, source)


def quantized(source: str, exceptions: frozenset[str] = frozenset()) -> Rule:
    """Every tensor and every weight has a positive scale."""

    def broken(operator: FileOperator) -> str | None:
        weights = operator.inputs[1:2] if operator.kind in WEIGHTED else ()
        for tensor in (*operator.data, *weights):
            if operator.kind not in exceptions and not (tensor.scales and min(tensor.scales) > 0):
                return f"`{tensor.name}` has no positive scale"
        return None

    return Rule(broken, INTEGERS, source)


def same_steps(source: str = SPECIFICATION, severity: Severity = "fall-back") -> Rule:
    """An operator that only moves numbers has one scale and zero point."""

    def broken(operator: FileOperator) -> str | None:
        steps = {(tensor.scales[:1], tensor.zero_points[:1]) for tensor in operator.data if tensor.scales}
        return f"it reads and makes {len(steps)} scales" if len(steps) > 1 else None

    return Rule(broken, "put its operands and its result on one scale: exports of this tool are", source, SAME_STEPS, severity)


def convolutions(source: str = SPECIFICATION) -> Rule:
    """Weights and bias are constants. Weights are int8 with zero point 0, or uint8 for uint8 inputs; the bias is int32, or int64
    for 16-bit inputs, and its scale is the product of those of input and weights.
    """
    return Rule(_convolution, INTEGERS, source, WEIGHTED)


def _convolution(operator: FileOperator) -> str | None:
    if len(operator.inputs) < 2:
        return "it has no weights"
    weight = operator.inputs[1]
    if not weight.constant:
        return f"its weights `{weight.name}` are computed"
    unsigned = weight.dtype == "uint8" == operator.inputs[0].dtype  # as TensorFlow's older tools quantized
    if weight.dtype != "int8" and not unsigned:
        return f"its weights `{weight.name}` are {weight.dtype}"
    if any(weight.zero_points) and not unsigned:
        return f"the zero point of its weights `{weight.name}` is not 0"
    return _bias(operator.inputs[0], weight, operator.inputs[2]) if len(operator.inputs) > 2 else None


_SCALE_TOLERANCE = 1e-3
"""Relative. Writers round the product of two float32 scales differently."""


def _bias(source: FileTensor, weight: FileTensor, bias: FileTensor) -> str | None:
    wanted = "int64" if source.dtype == "int16" else "int32"
    if not bias.constant or bias.dtype not in ("int32", wanted):
        return f"its bias `{bias.name}` is {'' if bias.constant else 'computed '}{bias.dtype}"
    if not (source.scales and bias.scales):
        return None
    products = [source.scales[0] * scale for scale in weight.scales]
    found = bias.scales if len(bias.scales) == len(products) else bias.scales[:1] * len(products)
    apart = any(abs(a - b) > _SCALE_TOLERANCE * b for a, b in zip(found, products, strict=True))
    return f"the scale of its bias `{bias.name}` is not the product of those of its input and weights" if apart else None


def fused_activation(kinds: frozenset[str], allowed: tuple[str, ...], source: str) -> Rule:
    """No activation is fused, or one of those allowed."""

    def broken(operator: FileOperator) -> str | None:
        found = operator.attributes.get("fusedActivationFunction", "NONE")
        return f"{found} is fused into it" if found not in ("NONE", *allowed) else None

    return Rule(broken, "give the activation an operator of its own", source, kinds)


def spatial_mean(source: str) -> Rule:
    """A mean is over height and width."""

    def broken(operator: FileOperator) -> str | None:
        if not operator.inputs[1].constant:
            return "its axes are computed"
        axes = averaged(operator)
        return f"it is a mean over the axes {list(axes)}" if sorted(axes) not in ([1, 2], [2]) else None

    return Rule(broken, "average over height and width", source, frozenset({"MEAN"}))


def averaged(operator: FileOperator) -> tuple[int, ...]:
    """The axes of a mean, counted from the front. An axis out of range is left as it is."""
    rank = len(operator.inputs[0].shape)
    return tuple(axis + rank if -rank <= axis < 0 else axis for axis in operator.inputs[1].values)


def number(operator: FileOperator, name: str) -> int:
    """An integer attribute; 1 where the operator has none."""
    found = operator.attributes.get(name)
    return found if isinstance(found, int) else 1
