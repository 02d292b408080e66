"""The audit of ONNX files as other tools write them: right, or that it cannot be told; never a false charge.

ONNX Runtime's own quantizer makes the files, in its formats QOperator and QDQ and dynamically, from one small network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from squeeze_export.core import Audit
from squeeze_export.formats import audited

SIDE_PX = 17
RANDOM = np.random.default_rng(0)


def values(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


class Network:
    """Nodes and constants of a graph from `x` to `y`."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, source: str, name: str, outputs: int, inputs: int, kernel: int, **attributes: Any) -> str:
        weight = self.constant(f"{name}.w", values(outputs, inputs, kernel, kernel))
        return self.add(
            "Relu",
            [self.add("Conv", [source, weight, self.constant(f"{name}.b", values(outputs))], name, **attributes)],
            f"{name}_relu",
        )

    def model(self, opset: int = 13) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "others",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, SIDE_PX, SIDE_PX))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 10))],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def squeezenet() -> Any:
    """A network of every kind of operator in the family, and those that ONNX Runtime's QOperator format has more of."""
    net = Network()
    pooled = net.add(
        "MaxPool", [net.conv("x", "conv1", 8, 3, 3, strides=[2, 2])], "pool1", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    )
    squeezed = net.conv(pooled, "squeeze", 4, 8, 1)
    joined = net.add(
        "Concat", [net.conv(squeezed, "left", 4, 4, 1), net.conv(squeezed, "right", 4, 4, 3, pads=[1] * 4)], "concat", axis=1
    )
    added = net.add("LeakyRelu", [net.add("Add", [joined, pooled], "add")], "leaky")
    pooled = net.add(
        "AveragePool", [net.add("Mul", [added, net.add("Sigmoid", [added], "sigmoid")], "mul")], "average", kernel_shape=[2, 2]
    )
    mean = net.add("GlobalAveragePool", [net.conv(pooled, "conv10", 10, 8, 1)], "mean")
    head = net.add(
        "Gemm",
        [net.add("Flatten", [mean], "flat"), net.constant("head.w", values(10, 10)), net.constant("head.b", values(10))],
        "head",
    )
    net.add("Softmax", [head], "y")
    return net.model()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """`float`, `QOperator`, `QDQ` and `dynamic`."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = tmp_path_factory.mktemp("others")
    found = {name: folder / f"{name}.onnx" for name in ("float", "QOperator", "QDQ", "dynamic")}
    onnx.save(squeezenet(), found["float"])

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Any]] = iter({"x": values(1, 3, SIDE_PX, SIDE_PX)} for _ in range(3))

        def get_next(self) -> Any:
            return next(self._left, None)

    logging.disable(logging.WARNING)  # the quantizer advises to preprocess the file first
    try:
        for form in ("QOperator", "QDQ"):
            quantization.quantize_static(found["float"], found[form], Images(), quant_format=quantization.QuantFormat[form])
        quantization.quantize_dynamic(found["float"], found["dynamic"])
    finally:
        logging.disable(logging.NOTSET)
    return found


def test_the_qoperator_format_is_integer(files: Mapping[str, Path]) -> None:
    result = audited("onnx", files["QOperator"])
    assert (result.violations, result.untold) == ((), ())
    found = {kind.removeprefix("com.microsoft:") for kind in result.operators if kind.startswith("com.microsoft")}
    assert found == {
        "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
        "QLinearSigmoid", "QLinearSoftmax",
    }  # fmt: skip
    assert result.operators["QLinearConv"] == 5
    assert result.operators["MaxPool"] == 1  # over uint8
    assert result.float_operators == ("QuantizeLinear x_QuantizeLinear", "DequantizeLinear y_DequantizeLinear")
    assert result.float_tensors == (f"x float32[N,3,{SIDE_PX},{SIDE_PX}]", "y float32[N,10]")


def test_its_qdq_format_is_integer_too(files: Mapping[str, Path]) -> None:
    result = audited("onnx", files["QDQ"])
    assert (result.violations, result.untold) == ((), ())
    assert result.float_operators == ("QuantizeLinear x_QuantizeLinear", "DequantizeLinear y_DequantizeLinear")


def test_a_dynamic_file_is_none_and_its_convolutions_are_not_denied(files: Mapping[str, Path]) -> None:
    result = audited("onnx", files["dynamic"])
    assert result.operators["ConvInteger"] == 5
    assert result.violations[0] == (
        "DynamicQuantizeLinear `x_QuantizeLinear`: a dynamic-range file, its activations are quantized while it runs"
    )
    assert "MaxPool `pool1` computes in float before the last convolution" in result.violations
    assert not any("no convolution" in line or "ConvInteger" in line for line in result.violations)


def test_the_float_file_is_none(files: Mapping[str, Path]) -> None:
    result = audited("onnx", files["float"])
    assert result.violations[0] == "no convolution computes in integers"
    assert result.untold == ()


def test_a_pool_in_float_inside_the_qoperator_format_is_found(files: Mapping[str, Path], tmp_path: Path) -> None:
    """The negative control: `pool1` reads and gives floats, and nothing else changes."""
    model = onnx.load(files["QOperator"])
    place, pool = next((index, node) for index, node in enumerate(model.graph.node) if node.op_type == "MaxPool")
    scale = next(node for node in model.graph.node if node.op_type == "QLinearConv").input[6:8]
    before = helper.make_node("DequantizeLinear", [pool.input[0], *scale], ["before"], name="before")
    after = helper.make_node("QuantizeLinear", ["after", *scale], [pool.output[0]], name="after")
    pool.input[0], pool.output[0] = "before", "rooted"
    root = helper.make_node("Sqrt", ["rooted"], ["after"], name="root")
    model.graph.node.insert(place + 1, after)
    model.graph.node.insert(place + 1, root)
    model.graph.node.insert(place, before)
    onnx.save(model, tmp_path / "pool.onnx")
    assert audited("onnx", tmp_path / "pool.onnx").violations == (
        "MaxPool `pool1` computes in float before the last convolution",
        "Sqrt `root` computes in float before the last convolution",
    )


@pytest.fixture
def audit_of(tmp_path: Path) -> Callable[[Network], Audit]:
    def audit(net: Network) -> Audit:
        model = net.model()
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        onnx.save(model, tmp_path / "a.onnx")
        return audited("onnx", tmp_path / "a.onnx")

    return audit


def quantized(net: Network, source: str, name: str) -> str:
    """`source` through QuantizeLinear and DequantizeLinear."""
    return net.add("DequantizeLinear", [net.add("QuantizeLinear", [source, "s", "z"], f"{name}_integers"), "s", "z"], name)


def with_pairs() -> Network:
    """A network so far: scale, zero point, and an 8-bit weight `w` of a 1x1 convolution."""
    net = Network()
    net.constant("s", np.array(0.02, np.float32))
    net.constant("z", np.array(0, np.uint8))
    net.constant("ws", np.array(0.01, np.float32))
    net.constant("wi", np.ones((10, 3, 1, 1), np.int8))
    net.add("DequantizeLinear", ["wi", "ws"], "w")
    return net


def test_pixels_are_normalized_in_front_and_clipped_behind(audit_of: Callable[[Network], Audit]) -> None:
    """Mean and deviation in the graph, a Clip in place of a ReLU, and a row of numbers in the float tail."""
    net = with_pairs()
    net.constant("mean", np.full((1, 3, 1, 1), 0.45, np.float32))
    net.constant("std", np.full((1, 3, 1, 1), 0.22, np.float32))
    net.constant("low", np.array(0, np.float32))
    net.constant("high", np.array(6, np.float32))
    source = quantized(net, net.add("Div", [net.add("Sub", ["x", "mean"], "centred"), "std"], "normalized"), "pixels")
    made = net.add("Clip", [net.add("Conv", [source, "w"], "conv"), "low", "high"], "clip")
    flat = net.add("Flatten", [net.add("GlobalAveragePool", [quantized(net, made, "real")], "mean_of_map")], "flat")
    net.add("Mul", [flat, net.constant("temperature", np.full((1, 10), 2, np.float32))], "y")
    result = audit_of(net)
    assert (result.violations, result.untold) == ((), ())
    assert "temperature float32[1,10]" in result.float_tensors


@pytest.mark.parametrize(("product", "charged"), [("FusedConv", True), ("Mystery", False)])
def test_a_product_that_is_known_is_charged_and_one_that_is_not_cannot_be_told(
    product: str, charged: bool, audit_of: Callable[[Network], Audit]
) -> None:
    net = with_pairs()
    conv = net.add("Conv", [quantized(net, "x", "pixels"), "w"], "conv")
    net.constant("float.w", values(10, 10, 1, 1))
    other = net.add(product, [conv, "float.w"], "other", domain="com.microsoft")
    net.add("Flatten", [net.add("GlobalAveragePool", [other], "mean")], "y")
    result = audit_of(net)
    assert bool(result.violations) == charged
    assert bool(result.untold) != charged
    if charged:
        assert any("its operand `float.w` is stored as float32[10,10,1,1]" in line for line in result.violations)


def test_integers_of_another_domain_are_a_pair_too(audit_of: Callable[[Network], Audit]) -> None:
    """ONNX Runtime writes 16-bit and 4-bit pairs with operators of its own in files of old opsets."""
    net = with_pairs()
    for node in net.nodes:
        node.domain = "com.microsoft"
    conv = net.add("Conv", [quantized(net, "x", "pixels"), "w"], "conv")
    net.add("Flatten", [net.add("GlobalAveragePool", [quantized(net, conv, "real")], "mean")], "y")
    for node in net.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = "com.microsoft"
    assert (audit_of(net).violations, audit_of(net).untold) == ((), ())


def test_the_last_product_may_give_floats(audit_of: Callable[[Network], Audit]) -> None:
    """QGemm without a scale for its result multiplies integers and gives floats."""
    net = Network()
    scale, zero = net.constant("s", np.array(0.02, np.float32)), net.constant("z", np.array(0, np.uint8))
    mean = net.add("GlobalAveragePool", ["x"], "mean")
    flat = net.add("Flatten", [net.add("QuantizeLinear", [mean, scale, zero], "q")], "flat")
    weight = [
        net.constant("w", np.ones((3, 10), np.int8)),
        net.constant("ws", np.array(0.01, np.float32)),
        net.constant("wz", np.array(0, np.int8)),
    ]
    bias = net.constant("b", np.zeros(10, np.int32))
    net.add("QGemm", [flat, scale, zero, *weight, bias], "y", domain="com.microsoft")
    result = audit_of(net)
    assert result.violations == ("GlobalAveragePool `mean` computes in float before the last convolution",)
    assert result.untold == ()
