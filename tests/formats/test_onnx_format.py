"""The audit of ONNX files. Each kind of file that only pretends to be int8 must be found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from squeeze_export.core import Audit, EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.formats import audited as audit_of
from squeeze_export.formats import format_named
from squeeze_export.formats import onnx as format_
from squeeze_export.graph.quantized import INT8, INT8_NPU, INT8_SYMMETRIC, Quantization, Scheme
from squeeze_export.targets import onnx as target
from tests.quantized_networks import five_convolutions


def model(**options: Any) -> Any:
    return onnx.load_model_from_string(target.emit(five_convolutions(), INT8, EmitOptions(**options), {}))


@pytest.fixture
def audited(tmp_path: Path) -> Callable[[Any], Audit]:
    def audit(changed: Any) -> Audit:
        (tmp_path / "a.onnx").write_bytes(changed.SerializeToString())
        return audit_of("onnx", tmp_path / "a.onnx")

    return audit


def node(changed: Any, name: str) -> Any:
    return next(found for found in changed.graph.node if found.name == name)


def without(changed: Any, *names: str) -> None:
    """Takes nodes out; their readers read the nodes' first input instead."""
    for name in names:
        gone = node(changed, name)
        for reader in changed.graph.node:
            reader.input[:] = [gone.input[0] if source == gone.output[0] else source for source in reader.input]
        changed.graph.node.remove(gone)


def constant(changed: Any, name: str) -> Any:
    return next(tensor for tensor in changed.graph.initializer if tensor.name == name)


def test_an_int8_file_passes(audited: Callable[[Any], Audit]) -> None:
    result = audited(model())
    assert result.violations == ()
    assert result.float_operators == ("DequantizeLinear conv10/real", "GlobalAveragePool logits/pool", "Flatten logits")
    assert result.float_tensors == (
        "conv10/real float32[1,5,9,9]",
        "logits/pool float32[1,5,1,1]",
        "logits float32[1,5]",
    )
    assert (result.operators["Conv"], result.operators["Relu"], result.operators["MaxPool"]) == (5, 2, 1)
    weights = sum(conv.weight.size for conv in five_convolutions().convs)
    assert result.weight_bytes["int8"] == weights + 4 + 5  # and the zero points, one per channel
    assert result.weight_bytes["int32"] == 4 * (4 + 5) * 2  # equal biases of four channels are stored once
    assert result.weight_bytes["uint8"] == 4


def test_float_input_and_softmax_are_listed_and_allowed(audited: Callable[[Any], Audit]) -> None:
    result = audited(model(input_dtype="float32", softmax=True, batch="dynamic"))
    assert result.violations == ()
    assert result.float_operators[:2] == ("Transpose pixels", "QuantizeLinear pixels_uint8/quantize")
    assert result.float_operators[-1] == "Softmax probabilities"
    assert result.float_tensors[:2] == ("input float32[N,20,20,3]", "pixels float32[N,3,20,20]")


def test_one_convolution_left_in_float(audited: Callable[[Any], Audit]) -> None:
    """`right` without a single pair: float weights, float activations in and out."""
    changed = model()
    without(changed, "add/quantize", "add/real", "left/quantize", "left/real", "right/quantize", "right/real")
    for part in ("weight", "bias"):
        tensor = constant(changed, node(changed, f"right/{part}/real").input[0])
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
        without(changed, f"right/{part}/real")
    result = audited(changed)
    assert "Conv right" in result.float_operators
    assert "right/weight float32[4,4,3,3]" in result.float_tensors
    found = next(line for line in result.violations if line.startswith("Conv `right`"))
    assert "its input `add/float` is not quantized" in found
    assert "its operand `right/weight` is stored as float32[4,4,3,3]" in found
    assert "its result `right/float` is not quantized" in found
    assert "the constant `right/weight` is stored as float32[4,4,3,3]" in result.violations


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_in_float_in_a_file_otherwise_integer(audited: Callable[[Any], Audit], dtype: type) -> None:
    changed = model()
    tensor = constant(changed, "right/weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), "right/weight"))
    without(changed, "right/weight/real")
    stored = f"{np.dtype(dtype).name}[4,4,3,3]"
    result = audited(changed)
    assert result.violations == (
        f"Conv `right` computes in float: its operand `right/weight` is stored as {stored}",
        "Relu `right/relu` computes in float before the last convolution",
        f"the constant `right/weight` is stored as {stored}",
    )
    assert f"right/weight {stored}" in result.float_tensors


def test_weights_stored_in_float_and_quantized_while_running(audited: Callable[[Any], Audit]) -> None:
    """Quantizers for training leave weight -> QuantizeLinear -> DequantizeLinear: ONNX Runtime makes integers of it when it opens
    the file. A file of ours holds these.
    """
    changed = model()
    position = list(changed.graph.node).index(node(changed, "right/weight/real"))
    pair = node(changed, "right/weight/real")
    quantize = helper.make_node("QuantizeLinear", ["floats", *pair.input[1:]], ["integers"], name="late", axis=0)
    changed.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "floats"))
    pair.input[0] = "integers"
    changed.graph.node.insert(position, quantize)
    others = audited(changed)
    assert (others.violations, others.untold) == ((), ())
    helper.set_model_props(changed, {"squeeze_export.scheme": "int8"})
    ours = audited(changed)
    assert ours.violations == ("the constant `floats` is stored as float32[4,4,3,3]",)
    assert all("floats float32[4,4,3,3]" in result.float_tensors for result in (others, ours))
    assert all("QuantizeLinear late" not in result.float_operators for result in (others, ours))


def test_float_bias(audited: Callable[[Any], Audit]) -> None:
    """TensorRT's files have no other, and ONNX Runtime turns it into integers when it opens the file: listed, and no fault."""
    changed = model()
    node(changed, "right").input[2] = "b"
    changed.graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.float32), "b"))
    result = audited(changed)
    assert result.violations == ()
    assert "b float32[4]" in result.float_tensors
    assert "Conv right" not in result.float_operators


def test_weight_only_file(audited: Callable[[Any], Audit]) -> None:
    """int8 weights dequantized into convolutions whose activations are floats."""
    changed = model()
    pairs = [found.name for found in changed.graph.node if found.name.endswith("/quantize")]
    without(changed, *pairs, *(name.replace("/quantize", "/real") for name in pairs))
    result = audited(changed)
    convs = [line for line in result.violations if line.startswith("Conv")]
    assert [line.split("`")[1] for line in convs] == ["conv1", "bypass", "left", "right", "conv10"]
    assert all("is not quantized, its weights alone are integers" in line for line in convs[1:])
    assert convs[0].endswith("its result `conv1/float` is not quantized")  # pixels are integers in any case
    assert "MaxPool `pool1` computes in float before the last convolution" in result.violations
    assert "DequantizeLinear right/weight/real" in result.float_operators


def test_dynamic_range_file(audited: Callable[[Any], Audit]) -> None:
    """DynamicQuantizeLinear -> ConvInteger: the integers are made while it runs, which is the one charge."""
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dynamic"),
            helper.make_node("ConvInteger", ["q", "w", "z"], ["acc"], name="conv"),
            helper.make_node("Cast", ["acc"], ["real"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["real", "s"], ["y"], name="rescale"),
        ],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.uint8), "w")],
    )
    result = audited(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]))
    assert result.violations == (
        "DynamicQuantizeLinear `dynamic`: a dynamic-range file, its activations are quantized while it runs",
    )


def test_result_not_quantized(audited: Callable[[Any], Audit]) -> None:
    """Quantized activations go in, but the sum is left in float: a runtime cannot rescale it in integers."""
    changed = model()
    without(changed, "conv10/quantize", "conv10/real")
    changed.graph.initializer.remove(constant(changed, "conv10/scale"))
    result = audited(changed)
    assert result.violations == ("Conv `conv10` computes in float: its result `conv10/float` is not quantized",)
    assert "DequantizeLinear conv10/weight/real" in result.float_operators


def test_result_also_read_in_float(audited: Callable[[Any], Audit]) -> None:
    changed = model()
    changed.graph.output.append(helper.make_tensor_value_info("right/float", TensorProto.FLOAT, (1, 4, 9, 9)))
    result = audited(changed)
    assert len(result.violations) == 2  # the convolution, and the ReLU behind it
    assert result.violations[0].startswith("Conv `right` computes in float: its result `right/float` is not quantized")


def test_float_operator_between_pairs(audited: Callable[[Any], Audit]) -> None:
    """A pool without its pair drags the next convolutions along; an exotic operator is named even inside a pair."""
    changed = model()
    without(changed, "pool1/quantize", "pool1/real")
    violations = audited(changed).violations
    assert "MaxPool `pool1` computes in float before the last convolution" in violations
    assert any(line.startswith("Conv `bypass`") and "`pool1/float` is not quantized" in line for line in violations)
    changed = model()
    node(changed, "pool1").op_type = "LpPool"
    assert audited(changed).violations == ("LpPool `pool1` computes in float before the last convolution",)


def test_what_cannot_be_seen_through(audited: Callable[[Any], Audit]) -> None:
    changed = model()
    node(changed, "right").domain = "com.example"
    changed.opset_import.append(helper.make_opsetid("com.example", 1))
    result = audited(changed)
    assert result.violations == ()
    assert result.untold == ("com.example:Conv `right` cannot be seen through: a foreign operator",)
    changed = model()
    changed.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    made = helper.make_tensor_value_info("e", TensorProto.FLOAT, ())
    branch = helper.make_graph([helper.make_node("Constant", [], ["e"], value_float=1.0)], "branch", [], [made])
    changed.graph.node.append(helper.make_node("If", ["c"], ["d"], name="if", then_branch=branch, else_branch=branch))
    assert audited(changed).untold == ("If `if` cannot be seen through: it has operators inside",)
    changed = model()
    changed.functions.append(helper.make_function("mine", "F", ["x"], ["y"], [], []))
    assert audited(changed).untold == ("the file defines functions of its own, which cannot be seen through",)
    without(changed, "conv10/quantize", "conv10/real")
    changed.graph.initializer.remove(constant(changed, "conv10/scale"))
    assert audited(changed).violations == ("Conv `conv10` computes in float: its result `conv10/float` is not quantized",)


def test_integer_operators_and_constant_nodes(audited: Callable[[Any], Audit]) -> None:
    """The QLinear form passes; scales may come from Constant nodes; names are optional; an unread constant is still stored."""
    scale = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.float32(0.5), "v"))
    nodes = [
        scale,
        helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.uint8(0), "z"),
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.uint8), "w"),
        helper.make_tensor("unread", TensorProto.BFLOAT16, (2,), [1.0, 2.0]),
        helper.make_tensor("packed", TensorProto.STRING, (1,), [b"text"]),
    ]
    graph = helper.make_graph(
        nodes,
        "integer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))],
        constants,
    )
    result = audited(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]))
    assert result.violations == ("the constant `unread` is stored as bfloat16[2]",)
    assert result.float_operators == ("DequantizeLinear y",)
    assert result.weight_bytes["bfloat16"] == 4


def test_a_pair_that_only_rescales_is_integer(audited: Callable[[Any], Audit]) -> None:
    changed = model()
    without(changed, "pool1")  # leaves DequantizeLinear -> QuantizeLinear
    assert audited(changed).violations == ()
    assert len(audited(changed).float_operators) == 3


def test_where_types_are_unknown_they_count_as_float(audited: Callable[[Any], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    changed = model()
    constant(changed, "zero_point_3").data_type = 99
    assert audited(changed).violations == ("the constant `zero_point_3` is stored as unknown",)

    def fails(_: Any) -> Any:
        raise onnx.shape_inference.InferenceError("no")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fails)
    result = audited(model())
    assert result.violations == ()
    assert result.float_operators[0] == "Transpose pixels"
    assert result.float_tensors[0] == "pixels unknown"


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        audit_of("onnx", path)
    path.write_bytes(b"\xff\xff no protobuf")
    with pytest.raises(BadInput, match="is not a sound ONNX file: Error parsing"):
        audit_of("onnx", path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="is not a sound ONNX file"):
        format_named("onnx").describe(path)
    monkeypatch.setattr(format_, "MAX_BYTES", 1 << 20)
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(BadInput, match="larger than 1 MiB"):
        audit_of("onnx", path)


def of_scheme(scheme: Scheme, **tensors: Quantization) -> Any:
    """The same network as a file that says it is of `scheme`; every zero point is the scheme's where it has only one."""
    plain = five_convolutions()
    steps = {**plain.tensors, **tensors}
    if scheme.symmetric:
        steps = {name: q if name == "input" else replace(q, zero_point=scheme.middle) for name, q in steps.items()}
    written = replace(plain, scheme=scheme, tensors=steps)
    return onnx.load_model_from_string(target.emit(written, scheme, EmitOptions(), {"squeeze_export.scheme": scheme.name}))


def test_int8_npu_has_one_float_operator_at_its_end(audited: Callable[[Any], Audit]) -> None:
    found = audited(of_scheme(INT8_NPU, logits=Quantization(2.0, 0)))
    assert (found.violations, found.float_operators) == ((), ("DequantizeLinear logits",))


def test_a_float_pool_breaks_the_promise_of_int8_npu(audited: Callable[[Any], Audit]) -> None:
    changed = model()
    assert audited(changed).violations == ()
    onnx.helper.set_model_props(changed, {"squeeze_export.scheme": "int8-npu"})
    violations = audited(changed).violations
    assert "GlobalAveragePool `logits/pool` computes in float, in a file of the scheme `int8-npu`" in violations


def test_int8_symmetric_has_no_zero_point_but_0(audited: Callable[[Any], Audit]) -> None:
    written = of_scheme(INT8_SYMMETRIC)
    assert audited(written).violations == ()
    zeros = [tensor for tensor in written.graph.initializer if tensor.name.startswith("zero_point")]
    assert zeros
    assert not any(numpy_helper.to_array(tensor).any() for tensor in zeros)
    assert {numpy_helper.to_array(tensor).dtype.name for tensor in zeros} == {"int8", "int32"}
    (conv1,) = [conv for conv in five_convolutions().convs if conv.name == "conv1"]
    folded = conv1.bias + 128 * conv1.weight.astype(int).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(numpy_helper.to_array(constant(written, "conv1/bias")), folded)


def test_a_subtraction_inside_the_network_is_found(audited: Callable[[Any], Audit]) -> None:
    """What brings pixels to int8 is allowed in front, and nowhere else."""
    changed = of_scheme(INT8_SYMMETRIC)
    relu = node(changed, "left/relu")
    changed.graph.node.insert(
        list(changed.graph.node).index(relu), helper.make_node("Sub", [relu.input[0], "pixels/middle"], ["less"], name="less")
    )
    relu.input[0] = "less"
    violations = audited(changed).violations
    assert any(text.startswith("Sub `less` computes in float before the last convolution") for text in violations)
    assert any(text.startswith("the constant `pixels/middle` is stored as float32") for text in violations)


def test_pixels_of_a_padded_first_convolution_are_padded_in_front_in_int8_symmetric(audited: Callable[[Any], Audit]) -> None:
    plain = five_convolutions()
    padded = replace(plain.convs[0], pads=(1, 1, 1, 1))
    network = replace(plain, scheme=INT8_SYMMETRIC, nodes=(padded, *plain.nodes[1:]))
    changed = onnx.load_model_from_string(target.emit(network, INT8_SYMMETRIC, EmitOptions(), {}))
    assert audited(changed).violations == ()
    relu = node(changed, "left/relu")
    changed.graph.node.insert(
        list(changed.graph.node).index(relu), helper.make_node("Pad", [relu.input[0], "pixels/pads"], ["wider"], name="wider")
    )
    relu.input[0] = "wider"
    assert "Pad `wider` computes in float before the last convolution" in audited(changed).violations
