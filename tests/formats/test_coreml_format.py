"""Core ML packages audited and described. Each kind of package that only pretends to be int8 must be found and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import SPEC, WEIGHTS, bind, block_of, message_of, operation_named

from squeeze_export.core import Audit, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.files import write_draft
from squeeze_export.formats import audited as audit_of
from squeeze_export.formats import coreml as format_
from squeeze_export.graph.nodes import Conv, Graph, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.targets import coreml as target
from tests.quantized_networks import five_convolutions


def floats() -> Graph:
    """The same network in float."""
    quantized = five_convolutions(16)

    def real(node: QuantizedNode) -> Any:
        if not isinstance(node, QuantizedConv):
            return node
        weight = node.weight * node.weight_scale[:, None, None, None]
        return Conv(node.name, node.input, weight, node.bias.astype(np.float32), node.strides, node.pads, node.relu)

    nodes = tuple(real(node) for node in quantized.nodes)
    return Graph("tiny", nodes, quantized.input, quantized.output, quantized.preprocess, (), "")


def package(scheme: str = "int8", **options: Any) -> dict[str, bytes]:
    return target.emit(five_convolutions(16) if scheme == "int8" else floats(), scheme_named(scheme), EmitOptions(**options), {})


Audited = Callable[..., Audit]


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    """Audits an int8 package after a change to its model."""

    def audit(change: Callable[[Any], None] = lambda model: None, content: Mapping[str, bytes] | None = None) -> Audit:
        content = dict(content or package())
        model = message_of(content[SPEC])
        change(model)
        write_draft(tmp_path / "a.mlpackage", {**content, SPEC: model.SerializeToString()})
        return audit_of("coreml", tmp_path / "a.mlpackage")

    return audit


@pytest.mark.parametrize("ios", [17, 18])
def test_an_int8_package_passes(ios: int, audited: Audited) -> None:
    result = audited(content=package(ios=ios))
    unpacker = {17: "constexpr_affine_dequantize", 18: "constexpr_blockwise_shift_scale"}[ios]
    assert result.violations == ()
    assert result.operators == {
        "add": 1,
        "concat": 1,
        unpacker: 5,
        "conv": 5,
        "dequantize": 9,
        "max_pool": 1,
        "quantize": 9,
        "reduce_mean": 1,
        "relu": 4,
    }
    assert result.float_operators == ("quantize pixels_uint8", "dequantize conv10", "reduce_mean logits")
    assert result.float_tensors == (
        "image float32[1,3,20,20]",
        *(f"{name}_bias float32[{16 if name != 'conv10' else 5}]" for name in ("conv1", "bypass", "left", "right", "conv10")),
        "conv10 float32[1,5,9,9]",
        "logits float32[1,5]",
    )
    assert result.weight_bytes["int8"] >= sum(conv.weight.size for conv in five_convolutions(16).convs)
    assert set(result.weight_bytes) == {"int8", "float32", "uint8"}  # uint8: zero points
    assert result.weight_bytes["float32"] < 1000


@pytest.mark.parametrize(
    "options",
    [
        {"coreml_compute": "float16"},
        {"input_dtype": "float32", "softmax": True, "batch": "dynamic"},
        {"input_dtype": "float32", "coreml_compute": "float16"},
    ],
)
def test_other_forms_are_listed_and_allowed(options: dict[str, Any], audited: Audited) -> None:
    result = audited(content=package(**options))
    assert result.violations == ()
    if "softmax" in options:
        assert result.float_operators[-1] == "softmax probabilities"
        assert result.float_tensors[0] == "input float32[N,20,20,3]"


@pytest.mark.parametrize(("scheme", "dtype"), [("fp32", "float32"), ("fp16", "float16")])
def test_a_float_package(scheme: str, dtype: str, audited: Audited) -> None:
    result = audited(content=package(scheme))
    for name in ("conv1_conv", "bypass", "conv10_conv"):
        assert any(line.startswith(f"conv `{name}` computes in float") for line in result.violations)
    assert any(line.startswith(f"the constant `right_weight` is stored as {dtype}[16,16,3,3]") for line in result.violations)
    assert "max_pool `pool1` computes in float before the last convolution" in result.violations
    assert set(result.weight_bytes) == {dtype}


def test_integers_only_in_the_weights(audited: Audited) -> None:
    result = audited(content=package("w8"))
    found = next(line for line in result.violations if line.startswith("conv `right_conv`"))
    assert "its input `add` is not quantized, its weights alone are integers" in found
    assert "its result `right_conv` is not quantized" in found
    assert result.weight_bytes["int8"] >= sum(conv.weight.size for conv in five_convolutions(16).convs)


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize("bits", [4, 6])
def test_palettes(bits: int, ios: int, audited: Audited) -> None:
    result = audited(content=package(f"palette{bits}", ios=ios))
    found = next(line for line in result.violations if line.startswith("conv `left_conv`"))
    assert "its operand `left_weight` comes from constexpr_lut_to_dense, whose values are floats" in found
    weights = sum(-(-conv.weight.size * bits // 8) for conv in five_convolutions(16).convs)
    assert result.weight_bytes[f"uint{bits}"] == weights
    assert "uint8" not in result.weight_bytes


# ------------------------------------------------------------------------------------------------- packages that were tampered with


def test_one_convolution_with_float_weights(audited: Audited) -> None:
    def change(model: Any) -> None:
        unpacked, stored = operation_named(model, "right_weight"), operation_named(model, "right_bias")
        kind = unpacked.outputs[0].type
        unpacked.Clear()
        unpacked.CopyFrom(stored)
        unpacked.outputs[0].name = "right_weight"
        unpacked.outputs[0].type.CopyFrom(kind)

    result = audited(change)
    assert "conv right_conv" in result.float_operators
    assert "right_weight float32[16,16,3,3]" in result.float_tensors
    assert "conv `right_conv` computes in float: its operand `right_weight` is stored as float32[16,16,3,3]" in result.violations
    assert "the constant `right_weight` is stored as float32[16,16,3,3]" in result.violations


def test_one_convolution_whose_input_is_not_quantized(audited: Audited) -> None:
    result = audited(lambda model: bind(model, "right_conv", "x", "add_float"))
    assert "conv `right_conv` computes in float: its input `add_float` is not quantized, its weights alone are integers" in (
        result.violations
    )
    assert "add `add_float` computes in float before the last convolution" in result.violations


def test_one_convolution_whose_result_is_not_quantized(audited: Audited) -> None:
    result = audited(lambda model: bind(model, "concat_float", "values", "left_float"))
    assert "conv `left_conv` computes in float: its result `left_conv` is not quantized" in result.violations
    assert "relu `left_float` computes in float before the last convolution" in result.violations
    assert "concat `concat_float` computes in float before the last convolution" in result.violations


def test_an_operator_in_float_between_two_convolutions(audited: Audited) -> None:
    def change(model: Any) -> None:
        operation_named(model, "pool1_float").type = "avg_pool_of_a_kind"

    result = audited(change)
    assert "avg_pool_of_a_kind `pool1_float` computes in float before the last convolution" in result.violations


def test_a_constant_that_is_no_bias_and_no_scale(audited: Audited) -> None:
    result = audited(lambda model: bind(model, "add_float", "y", "bypass_bias"))
    assert "the constant `bypass_bias` is stored as float32[16]" in result.violations
    assert "add `add_float` computes in float before the last convolution" in result.violations


def test_a_result_that_leaves_in_float(audited: Audited) -> None:
    """A convolution that is an output as well cannot stay in integers."""
    result = audited(lambda model: block_of(model).outputs.append("bypass_float"))
    assert "conv `bypass_float` computes in float: its result `bypass_float` is not quantized" in result.violations


def test_operators_inside_operators(audited: Audited) -> None:
    result = audited(lambda model: operation_named(model, "left_conv").blocks.add())
    assert "conv `left_conv` cannot be seen through: it has operators inside" in result.untold


def test_no_convolution_at_all(audited: Audited) -> None:
    def change(model: Any) -> None:
        for entry in block_of(model).operations:
            entry.type = entry.type.replace("conv", "other")

    assert "the file holds no convolution" in audited(change).violations


def test_float_weights_written_on_the_spot(audited: Audited) -> None:
    """In the convolution itself, where neither a name nor a `const` tells of them."""

    def change(model: Any) -> None:
        bound = operation_named(model, "right_conv").inputs["weight"].arguments[0]
        bound.value.CopyFrom(operation_named(model, "right_bias").attributes["val"])

    result = audited(change)
    assert "conv `right_conv` computes in float: its operand `right_conv.weight` is stored as float32[16]" in result.violations
    assert "the constant `right_conv.weight` is stored as float32[16]" in result.violations


def test_operands_that_nobody_knows(audited: Audited) -> None:
    """Negative control: of a convolution with more operands than it has in Core ML, nothing is taken for granted."""

    def change(model: Any) -> None:
        conv = operation_named(model, "right_conv")
        conv.inputs["shift"].arguments.add().name = "right_bias"
        del conv.inputs["bias"]

    assert "conv `right_conv` cannot be seen through: it reads `x`, `weight`, `shift`" in audited(change).untold


def test_of_other_integers_it_cannot_be_told(audited: Audited) -> None:
    """Apple promises integer arithmetic of int8 weights alone."""

    def change(model: Any) -> None:
        operation_named(model, "left_weight").attributes["quantized_data"].type.tensorType.dataType = 31  # UINT8

    assert audited(change).untold == (
        "conv `left_conv` computes in integers or in float: its weights are uint8, and Apple promises integer arithmetic of int8 "
        "alone",
    )


# -------------------------------------------------------------------------------------------------------------- damaged packages


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("Manifest.json", b"{", "Expecting property name"),
        (SPEC, b"no protobuf", "wire type"),
        (SPEC, b"", "no ML program"),
        (WEIGHTS, b"", "no blob at `64`"),
        (WEIGHTS, b"\0" * 1000, "no blob at `64`"),
    ],
)
def test_a_damaged_package_is_bad_input(name: str, data: bytes, reason: str, tmp_path: Path) -> None:
    """In one line; see `test_coreml_package.py` for all kinds of damage."""
    path = tmp_path / "a.mlpackage"
    write_draft(path, {**package(), name: data})
    with pytest.raises(BadInput, match=f"is no Core ML package that can be read: .*{reason}"):
        audit_of("coreml", path)
    with pytest.raises(BadInput, match=f"is not a file of this tool: .*{reason}"):
        format_.describe(path)


def test_what_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        audit_of("coreml", tmp_path / "absent.mlpackage")
    (tmp_path / "file.mlpackage").write_bytes(b"")
    with pytest.raises(BadInput, match="it is a file, a package is a folder"):
        format_.describe(tmp_path / "file.mlpackage")
    write_draft(tmp_path / "a.mlpackage", package())
    (tmp_path / "a.mlpackage" / "link").symlink_to("/etc/passwd")
    with pytest.raises(BadInput, match="no plain file"):
        audit_of("coreml", tmp_path / "a.mlpackage")


def test_reserved_bytes_of_old_tools_are_no_damage_to_the_audit(tmp_path: Path) -> None:
    """Up to iOS 17, tools left anything in them. A file of ours, which is described, has zeros there."""
    content = package()
    weights = bytearray(content[WEIGHTS])
    weights[100] = 1
    write_draft(tmp_path / "a.mlpackage", {**content, WEIGHTS: bytes(weights)})
    assert audit_of("coreml", tmp_path / "a.mlpackage").violations == ()
    with pytest.raises(BadInput, match="no blob at `64`"):
        format_.describe(tmp_path / "a.mlpackage")


def described(change: Callable[[Any], None], folder: Path) -> tuple[TensorSpec, TensorSpec]:
    content = package(input_dtype="float32")
    model = message_of(content[SPEC])
    change(model)
    write_draft(folder / "a.mlpackage", {**content, SPEC: model.SerializeToString()})
    return format_.describe(folder / "a.mlpackage")


def test_what_describes_itself(tmp_path: Path) -> None:
    assert described(lambda model: None, tmp_path) == (
        TensorSpec("input", (1, 20, 20, 3), "float32", "NHWC"),
        TensorSpec("logits", (1, 5), "float32", "NC"),
    )


def _dictionary(model: Any) -> None:
    model.description.output[0].type.dictionaryType.stringKeyType.SetInParent()


def _half(model: Any) -> None:
    operation_named(model, "logits").outputs[0].type.tensorType.dataType = 10  # FLOAT16


def _four_channels(model: Any) -> None:
    model.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[3].constant.size = 4


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.description.input.add(),
        lambda model: setattr(model.description.output[0], "name", "elsewhere"),
        lambda model: setattr(model.description.input[0], "name", "elsewhere"),
        _dictionary,
        _half,
        _four_channels,
    ],
)
def test_what_describes_something_else(change: Callable[[Any], None], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file of this tool"):
        described(change, tmp_path)


def test_the_manifest_names_the_model(tmp_path: Path) -> None:
    """Also where another tool put it."""
    content = package()
    manifest = json.loads(content["Manifest.json"])
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "com.apple.CoreML/other.mlmodel"
    moved = {
        "Manifest.json": json.dumps(manifest).encode(),
        SPEC.replace("model.", "other."): content[SPEC],
        WEIGHTS: content[WEIGHTS],
    }
    write_draft(tmp_path / "a.mlpackage", moved)
    assert audit_of("coreml", tmp_path / "a.mlpackage").violations == ()
