"""Layers kept in float in ONNX files: what is written, what ONNX Runtime makes of it, and that the audit excuses nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from test_onnx import noise, tiny, vnni

from squeeze_export.core import Artifact, Audit, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused
from squeeze_export.formats import audited as audited_file
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Conv, Graph, QuantizedConv
from squeeze_export.graph.quantized import SCHEMES, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.measure.difference import first_layer_apart
from squeeze_export.quant.mixed import keep_float
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import onnxruntime as runtime
from squeeze_export.targets import onnx as target

EVERY, MOST = "every layer", "every layer but conv1"
KEPT = ["fire3/squeeze1x1", "conv1", "conv10", MOST]
exact = pytest.mark.skipif(not vnni(), reason="without VNNI, u8 x s8 sums saturate on x86")


@cache
def net(scheme: str = "int8") -> tuple[Graph, QuantizedGraph]:
    """Four Fire modules, two bypasses, a table."""
    graph = tiny("simple")
    return graph, quantize(graph, noise(graph, 4), FloatRunner(graph), SCHEMES[scheme])


def mixed(layer: str, scheme: str = "int8") -> QuantizedGraph:
    graph, quantized = net(scheme)
    every = [n.name for n in graph.nodes if isinstance(n, Conv | Add)]
    return keep_float(graph, quantized, {EVERY: every, MOST: every[1:]}.get(layer, [layer]))


def model(table: QuantizedGraph, declared: tuple[str, ...] | None = None, **options: Any) -> Any:
    names = json.dumps(table.kept_float if declared is None else declared)
    metadata = {"squeeze_export.scheme": table.scheme.name, "squeeze_export.kept_float": names}
    return onnx.load_model_from_string(target.emit(table, table.scheme, EmitOptions(**options), metadata))


def stored(folder: Path, changed: Any) -> Artifact:
    path, nothing = folder / "a.onnx", TensorSpec("", (), "", "")
    path.write_bytes(changed.SerializeToString())
    return Artifact(path, "onnx", "int8", "", 0, nothing, nothing)


@pytest.fixture
def audited(tmp_path: Path) -> Callable[[Any], Audit]:
    return lambda changed: audited_file("onnx", stored(tmp_path, changed).path)


def integer_share(table: QuantizedGraph) -> float:
    """Of the multiply-accumulates."""
    convs = [node for node in table.nodes if isinstance(node, Conv | QuantizedConv)]
    macs = {conv.name: conv.weight.size * int(np.prod(table.sizes[conv.name][:2])) for conv in convs}
    return sum(count for name, count in macs.items() if name not in table.kept_float) / sum(macs.values())


def off(expected: Any, found: Any) -> float:
    """Power of the difference over that of what was expected."""
    return float(np.square(expected - found).sum() / np.square(expected).sum())


def added(changed: Any, operator: str, source: str, *operands: np.ndarray[Any, Any], name: str = "planted", **how: Any) -> Any:
    """An operator of one's own behind `source`: whatever read that reads it now."""
    names = [f"operand{index}" for index in range(len(operands))]
    changed.graph.initializer.extend(numpy_helper.from_array(*pair) for pair in zip(operands, names, strict=True))
    node = helper.make_node(operator, [source, *names], [f"{source}/planted"], name=name, **how)
    place = next(index for index, other in enumerate(changed.graph.node) if source in other.output)
    for reader in changed.graph.node:
        reader.input[:] = [f"{source}/planted" if entry == source else entry for entry in reader.input]
    changed.graph.node.insert(place + 1, node)
    return changed


@exact
@pytest.mark.parametrize("scheme", ["int8", "int8-per-tensor"])
@pytest.mark.parametrize("layer", KEPT)
def test_onnx_runtime_gives_what_the_table_says(layer: str, scheme: str, tmp_path: Path) -> None:
    table = mixed(layer, scheme)
    artifact = stored(tmp_path, model(table))
    audit = audited_file("onnx", artifact.path)
    assert audit.violations == ()
    assert audit.kept_float == table.kept_float
    pixels, runner = noise(net()[0], 5), IntegerRunner(table)
    session = runtime.open_session(artifact, device="cpu", threads=1)
    assert off(runner(pixels), session.infer(pixels)) < 1e-4  # a sum on a rounding boundary may fall on the other side
    names = [node.name for node in table.nodes[:-1]]
    values = dict(runtime.inner_values(artifact, names, pixels[:1]))
    assert first_layer_apart(runner, pixels[:1], values) == ""
    values[table.kept_float[-1]] = values[table.kept_float[-1]] * np.float32(1.5)
    assert first_layer_apart(runner, pixels[:1], values) == table.kept_float[-1]


@pytest.mark.parametrize("layer", KEPT)
def test_only_what_is_kept_runs_in_float(layer: str, tmp_path: Path) -> None:
    table = mixed(layer)
    placement = runtime.open_session(stored(tmp_path, model(table)), device="cpu", threads=1).placement
    floats = [name.split()[1] for name in placement.float_operators if name.split()[0].endswith("Conv")]
    assert sorted(name.removesuffix("_nchwc").removesuffix("/conv") for name in floats) == sorted(table.kept_float)
    assert placement.integer_mac_share == pytest.approx(integer_share(table), abs=1e-12)


def test_the_float_parts_of_a_file() -> None:
    table = mixed("fire3/squeeze1x1")
    graph = model(table).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    assert {name for name in makers if makers[name].op_type == "QuantizeLinear"} == set(table.tensors) - {"input"}
    for conv in (node for node in table.nodes if isinstance(node, Conv)):
        node = next(node for node in graph.node if node.name == conv.name)
        np.testing.assert_array_equal(constants[node.input[1]], conv.weight)
        np.testing.assert_array_equal(constants[node.input[2]], conv.bias)
        relu = next(reader for reader in graph.node if node.output[0] in reader.input)
        assert relu.op_type == "Relu"
        assert conv.name in (relu.output[0], next(reader for reader in graph.node if relu.output[0] in reader.input).output[0])
    squeeze = next(node for node in graph.node if node.name == "fire3/squeeze1x1")
    assert makers[squeeze.input[0]].op_type == "DequantizeLinear"
    assert next(node for node in graph.node if node.name == "fire3/expand3x3").input[0] == "fire3/squeeze1x1"


@exact
@pytest.mark.parametrize("layer", ["conv1", "conv10"])
def test_outer_forms(layer: str, tmp_path: Path) -> None:
    table, pixels = mixed(layer), noise(net()[0], 5)
    expected = IntegerRunner(table)(pixels)
    artifact = stored(tmp_path, model(table, batch="dynamic", input_dtype="float32", softmax=True))
    assert audited_file("onnx", artifact.path).violations == ()
    found = runtime.open_session(artifact, device="cpu", threads=1).infer(pixels)
    chances = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, chances / chances.sum(axis=1, keepdims=True), atol=0.02)


def test_tensors_that_are_not_there(tmp_path: Path) -> None:
    artifact = stored(tmp_path, model(mixed("conv1")))
    for name in ("fire99", "conv1/weight", "logits"):
        with pytest.raises(Refused, match=f"has no tensor `{name}`"):
            runtime.inner_values(artifact, [name], noise(net()[0], 1))


# ------------------------------------------------------------------------------------------- a convolution between integers


def test_onnx_runtime_rounds_the_weights_of_a_convolution_between_integers(tmp_path: Path) -> None:
    """The reason of the refusal: it runs in integers, though its weights are floats."""
    changed = model(net()[1])
    conv = next(conv for conv in net()[0].convs if conv.name == "fire3/squeeze1x1")
    changed.graph.initializer.extend([numpy_helper.from_array(conv.weight, "w"), numpy_helper.from_array(conv.bias, "b")])
    next(node for node in changed.graph.node if node.name == conv.name).input[1:] = ["w", "b"]
    assert runtime.open_session(stored(tmp_path, changed), device="cpu", threads=1).placement.integer_mac_share == 1


@pytest.mark.parametrize("name", ["fire3/squeeze1x1", "conv10"])
def test_a_convolution_between_integers_is_refused(name: str) -> None:
    graph, quantized = net()
    floats = {conv.name: conv for conv in graph.convs}
    table = replace(quantized, nodes=tuple(floats[n.name] if n.name == name else n for n in quantized.nodes))
    with pytest.raises(Refused, match=f"`{name}` is in float between integers"):
        model(table)


# ------------------------------------------------------------------------------------------------------------------ the audit


def test_a_file_without_integers_is_no_integer_network_whatever_it_says(audited: Callable[[Any], Audit]) -> None:
    assert audited(model(mixed(EVERY))).violations == ("no convolution computes in integers",)


def test_everything_in_float_is_listed(audited: Callable[[Any], Audit]) -> None:
    found = audited(model(mixed("fire3/squeeze1x1")))
    convs = [name for name in found.float_operators if name.startswith("Conv ")]
    assert convs == ["Conv fire3/squeeze1x1", "Conv fire3/expand1x1", "Conv fire3/expand3x3"]
    assert "Relu fire3/squeeze1x1/relu" in found.float_operators
    assert "fire3/squeeze1x1/bias float32[4]" in found.float_tensors
    assert "fire3/squeeze1x1 float32[1,4,15,15]" in found.float_tensors
    assert found.weight_bytes["float32"] > 4 * sum(n.weight.size for n in net()[0].convs if n.name.startswith("fire3/"))


@pytest.mark.parametrize("layer", KEPT)
def test_without_the_declaration_all_of_it_is_a_violation(audited: Callable[[Any], Audit], layer: str) -> None:
    table = mixed(layer)
    found = audited(model(table, ()))
    assert found.kept_float == ()
    for name in table.kept_float:
        assert any(text.startswith(f"Conv `{name}` computes in float") for text in found.violations)
        assert any(text.startswith(f"the constant `{name}/weight`") for text in found.violations)


def test_each_layer_must_be_declared(audited: Callable[[Any], Audit]) -> None:
    found = audited(model(mixed("fire3/squeeze1x1"), ("fire3/squeeze1x1", "fire3/expand1x1")))
    assert found.kept_float == ("fire3/squeeze1x1", "fire3/expand1x1")
    assert {text.split("`")[1] for text in found.violations} == {
        "fire3/expand3x3",
        "fire3/expand3x3/relu",
        "fire3/expand3x3/weight",
    }


@pytest.mark.parametrize("wrong", ["fire4/squeeze1x1", "fire99/squeeze1x1", "", "fire3/squeeze1x1/relu"])
def test_a_declaration_that_is_not_so(audited: Callable[[Any], Audit], wrong: str) -> None:
    """Of a layer in integers, of none, of something else than a convolution."""
    table = mixed("fire3/squeeze1x1")
    found = audited(model(table, (*table.kept_float, wrong)))
    assert found.violations == (f"the file says that `{wrong}` was kept in float, which is no convolution in float here",)
    assert found.kept_float == table.kept_float
    assert audited(model(net()[1], ("conv1",))).violations


@pytest.mark.parametrize("text", ["", "conv1", '{"conv1": 1}', "[1]", "[" * 5000])
def test_a_declaration_that_cannot_be_read_excuses_nothing(audited: Callable[[Any], Audit], text: str) -> None:
    changed = model(mixed("conv1"))
    next(entry for entry in changed.metadata_props if entry.key.endswith("kept_float")).value = text
    found = audited(changed)
    assert found.kept_float == ()
    assert any(line.startswith("Conv `conv1` computes in float") for line in found.violations)


def test_a_scheme_without_float_layers_excuses_nothing(audited: Callable[[Any], Audit]) -> None:
    changed = model(mixed("conv10"))
    next(entry for entry in changed.metadata_props if entry.key.endswith("scheme")).value = "int8-npu"
    found = audited(changed)
    assert found.kept_float == ()
    assert "the file says that `conv10` was kept in float, which is no convolution in float here" in found.violations
    assert any(line.startswith("Conv `conv10` computes in float") for line in found.violations)


@pytest.mark.parametrize("name", ["planted", "fire3/squeeze1x1", ""])
def test_another_float_convolution_is_a_violation(audited: Callable[[Any], Audit], name: str) -> None:
    """Between layers that are kept, and under their name too: then neither is excused."""
    table = mixed("fire3/squeeze1x1")
    weight = np.ones((4, 4, 1, 1), np.float32)
    found = audited(added(model(table), "Conv", "fire3/squeeze1x1", weight, name=name))
    planted = name or "fire3/squeeze1x1/planted"
    assert any(line.startswith(f"Conv `{planted}` computes in float") for line in found.violations)
    assert "the constant `operand0` is stored as float32[4,4,1,1]" in found.violations
    assert ("fire3/squeeze1x1" in found.kept_float) == (name != "fire3/squeeze1x1")


def test_a_float_convolution_elsewhere_is_a_violation(audited: Callable[[Any], Audit]) -> None:
    """Between a DequantizeLinear and what reads it, among integers."""
    channels = net()[1].sizes["fire4/concat"][2]
    weight = np.ones((channels, 1, 1, 1), np.float32)
    changed = added(model(mixed("conv10")), "Conv", "fire4/concat/real", weight, group=channels)
    found = audited(changed).violations
    assert any(line.startswith("Conv `planted` computes in float") for line in found)
    assert any(line.startswith("Conv `fire5/squeeze1x1` computes in float") for line in found)


@pytest.mark.parametrize("operator", ["Sigmoid", "Mul", "Add", "Relu"])
def test_operators_between_layers_that_are_kept(audited: Callable[[Any], Audit], operator: str) -> None:
    """What multiplies or bends is named; a constant that is added is, too; a ReLU changes nothing that anybody promised."""
    operands = [np.ones((1, 4, 15, 15), np.float32)] if operator in ("Mul", "Add") else []
    found = audited(added(model(mixed("fire3/squeeze1x1")), operator, "fire3/squeeze1x1", *operands)).violations
    expected = []
    if operator in ("Sigmoid", "Mul"):
        expected.append(f"{operator} `planted` computes in float before the last convolution")
    if operands:
        expected.append("the constant `operand0` is stored as float32[1,4,15,15]")
    assert found == tuple(expected)


def test_a_pool_in_float_far_from_what_is_kept(audited: Callable[[Any], Audit]) -> None:
    changed = model(mixed("conv10"))
    quantizer, pair = (next(n for n in changed.graph.node if n.name == name) for name in ("pool1/quantize", "pool1/real"))
    for reader in changed.graph.node:
        reader.input[:] = ["pool1/float" if name == "pool1/real" else name for name in reader.input]
    for gone in (quantizer, pair):
        changed.graph.node.remove(gone)
    found = audited(changed).violations
    assert "MaxPool `pool1` computes in float before the last convolution" in found
    assert any(line.startswith("Conv `fire2/squeeze1x1` computes in float") for line in found)


def test_a_constant_that_others_read_too(audited: Callable[[Any], Audit]) -> None:
    changed = model(mixed("conv10"))
    changed.graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, (10, 32)))
    changed.graph.node.append(helper.make_node("Flatten", ["conv10/weight"], ["more"], name="leak"))
    assert audited(changed).violations == ("the constant `conv10/weight` is stored as float32[10,32,1,1]",)


@pytest.mark.parametrize("operator", ["Relu", "DequantizeLinear", "Conv"])
def test_a_foreign_operator_without_operands_or_results(audited: Callable[[Any], Audit], operator: str) -> None:
    changed = model(mixed("conv10"))
    given = [] if operator == "Relu" else ["nothing"]
    changed.graph.node.append(helper.make_node(operator, ["conv10/weight"], given, name="odd", domain="elsewhere"))
    changed.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(BadInput, match="`odd` lacks operands or results"):
        audited(changed)
