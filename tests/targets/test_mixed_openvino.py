"""Layers kept in float in OpenVINO folders: what is written, what OpenVINO makes of it, and that the audit excuses nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_openvino import noise, tiny, vnni

from squeeze_export.core import Artifact, Audit, EmitOptions, TensorSpec, require
from squeeze_export.formats import audited as audited_file
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Conv, Graph, QuantizedConv
from squeeze_export.graph.quantized import SCHEMES, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.measure.difference import first_layer_apart
from squeeze_export.quant.mixed import keep_float
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import openvino as runtime
from squeeze_export.targets import openvino as target

openvino = require("openvino", "openvino", without=("openvino_telemetry",))
op = openvino.opset8
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


def written(folder: Path, table: QuantizedGraph, declared: tuple[str, ...] | None = None, **options: Any) -> Artifact:
    names = json.dumps(table.kept_float if declared is None else declared)
    metadata = {"squeeze_export.scheme": table.scheme.name, "squeeze_export.kept_float": names}
    path, nothing = folder / "net.openvino", TensorSpec("", (), "", "")
    path.mkdir(exist_ok=True)
    for name, data in target.emit(table, table.scheme, EmitOptions(**options), metadata).items():
        (path / name).write_bytes(data)
    return Artifact(path, "openvino", table.scheme.name, "", 0, nothing, nothing)


def edited(artifact: Artifact, edit: Callable[[dict[str, Any]], None]) -> Audit:
    """The audit of a network in which something was changed."""
    files = artifact.path / "model.xml", artifact.path / "model.bin"
    model = openvino.Core().read_model(*(file.read_bytes() for file in files))
    edit({node.get_friendly_name(): node for node in model.get_ops()})
    model.validate_nodes_and_infer_types()
    openvino.serialize(model, *files)
    return audited_file("openvino", artifact.path)


def reworded(artifact: Artifact, old: str, new: str) -> Audit:
    """The audit of a network with a piece of its XML replaced."""
    file = artifact.path / "model.xml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return audited_file("openvino", artifact.path)


def put_before(nodes: dict[str, Any], name: str, make: Callable[[Any], Any]) -> None:
    """Puts an operator between a node and its first operand."""
    made = make(nodes[name].input_value(0))
    nodes[name].input(0).replace_source_output(made.output(0))


def planted(source: Any, channels: int = 4, name: str = "planted") -> Any:
    weight = op.constant(np.ones((channels, channels, 1, 1), np.float32), name="weight")
    return op.convolution(source, weight, [1, 1], [0, 0], [0, 0], [1, 1], name=name)


def integer_share(table: QuantizedGraph) -> float:
    """Of the multiply-accumulates."""
    convs = [node for node in table.nodes if isinstance(node, Conv | QuantizedConv)]
    macs = {conv.name: conv.weight.size * int(np.prod(table.sizes[conv.name][:2])) for conv in convs}
    return sum(count for name, count in macs.items() if name not in table.kept_float) / sum(macs.values())


def off(expected: Any, found: Any) -> float:
    """Power of the difference over that of what was expected."""
    return float(np.square(expected - found).sum() / np.square(expected).sum())


@exact
@pytest.mark.parametrize(
    ("layer", "scheme"),
    [*((layer, "int8") for layer in KEPT), ("fire3/squeeze1x1", "int8-per-tensor"), ("conv1", "int8-per-tensor")],
)
def test_openvino_gives_what_the_table_says(layer: str, scheme: str, tmp_path: Path) -> None:
    table = mixed(layer, scheme)
    artifact = written(tmp_path, table)
    audit = audited_file("openvino", artifact.path)
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
    placement = runtime.open_session(written(tmp_path, table), device="cpu", threads=1).placement
    floats = [name.split()[1] for name in placement.float_operators if name.startswith("Convolution ")]
    assert sorted(floats) == sorted(table.kept_float)
    assert placement.integer_mac_share == pytest.approx(integer_share(table), abs=1e-12)


def test_the_float_parts_of_a_network(tmp_path: Path) -> None:
    table = mixed("fire3/squeeze1x1")
    path = written(tmp_path, table).path
    model = openvino.Core().read_model(path / "model.xml")
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    steps = {name for name, node in nodes.items() if node.get_type_name() == "FakeQuantize"}
    assert {"input" if name == "input/steps" else name for name in steps} == {
        name for name in table.tensors if not name.startswith("pool") and not name.endswith("concat")
    }  # pools and concatenations only move what was rounded before
    for conv in (node for node in table.nodes if isinstance(node, Conv)):
        product, total = nodes[f"{conv.name}/product"], nodes[f"{conv.name}/sum"]
        np.testing.assert_array_equal(product.input_value(1).get_node().data, conv.weight)
        np.testing.assert_array_equal(total.input_value(1).get_node().data.ravel(), conv.bias)
    assert nodes["fire3/expand3x3/product"].input_value(0).get_node().get_friendly_name() == "fire3/squeeze1x1"
    assert nodes["fire3/squeeze1x1"].get_type_name() == "Relu"


def test_pixels_need_no_steps_where_no_integers_read_them(tmp_path: Path) -> None:
    artifact = written(tmp_path, mixed("conv1"))
    assert "input/steps" not in (artifact.path / "model.xml").read_text()
    assert audited_file("openvino", artifact.path).violations == ()


@exact
@pytest.mark.parametrize("layer", ["conv1", "conv10"])
def test_outer_forms(layer: str, tmp_path: Path) -> None:
    table, pixels = mixed(layer), noise(net()[0], 5)
    expected = IntegerRunner(table)(pixels)
    artifact = written(tmp_path, table, batch="dynamic", input_dtype="float32", softmax=True)
    assert audited_file("openvino", artifact.path).violations == ()
    found = runtime.open_session(artifact, device="cpu", threads=1).infer(pixels)
    chances = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, chances / chances.sum(axis=1, keepdims=True), atol=0.02)


# ------------------------------------------------------------------------------------------------------------------ the audit


def test_a_file_without_integers_is_no_integer_network_whatever_it_says(tmp_path: Path) -> None:
    assert audited_file("openvino", written(tmp_path, mixed(EVERY)).path).violations == ("no convolution computes in integers",)


def test_everything_in_float_is_listed(tmp_path: Path) -> None:
    found = audited_file("openvino", written(tmp_path, mixed("fire3/squeeze1x1")).path)
    convs = [name.split()[1] for name in found.float_operators if name.startswith("Convolution ")]
    assert convs == [f"fire3/{part}/product" for part in ("squeeze1x1", "expand1x1", "expand3x3")]
    assert {"ReLU fire3/squeeze1x1", "FakeQuantize fire3/expand1x1"} <= set(found.float_operators)
    assert {"fire3/squeeze1x1/weight float32[4,16,1,1]", "fire3/squeeze1x1 float32[1,4,15,15]"} <= set(found.float_tensors)
    assert found.weight_bytes["float32"] > 4 * sum(n.weight.size for n in net()[0].convs if n.name.startswith("fire3/"))


@pytest.mark.parametrize("layer", KEPT)
def test_without_the_declaration_all_of_it_is_a_violation(tmp_path: Path, layer: str) -> None:
    table = mixed(layer)
    found = audited_file("openvino", written(tmp_path, table, ()).path)
    assert found.kept_float == ()
    for name in table.kept_float:
        assert any(text.startswith(f"Convolution `{name}/product` computes in float") for text in found.violations)
        assert any(text.startswith(f"the constant `{name}/weight`") for text in found.violations)


def test_each_layer_must_be_declared(tmp_path: Path) -> None:
    found = audited_file("openvino", written(tmp_path, mixed("fire3/squeeze1x1"), ("fire3/squeeze1x1", "fire3/expand1x1")).path)
    assert found.kept_float == ("fire3/squeeze1x1", "fire3/expand1x1")
    assert {text.split("`")[1].removeprefix("fire3/expand3x3") for text in found.violations} == {
        "/product",
        "/weight",
        "/bias",
        "/sum",
        "/relu",
        "",  # the FakeQuantize behind it
    }


@pytest.mark.parametrize("wrong", ["fire4/squeeze1x1", "fire99/squeeze1x1", "", "fire3/squeeze1x1/product"])
def test_a_declaration_that_is_not_so(tmp_path: Path, wrong: str) -> None:
    """Of a layer in integers, of none, of something that no layer of a network is called."""
    table = mixed("fire3/squeeze1x1")
    found = audited_file("openvino", written(tmp_path, table, (*table.kept_float, wrong)).path)
    assert found.violations == (f"the file says that `{wrong}` was kept in float, which is no convolution in float here",)
    assert found.kept_float == table.kept_float
    assert audited_file("openvino", written(tmp_path, net()[1], ("conv1",)).path).violations


@pytest.mark.parametrize("new", ['<kept_float value="conv1" />', "<kept_float />", None])
def test_a_declaration_that_cannot_be_read_excuses_nothing(tmp_path: Path, new: str | None) -> None:
    old = '<kept_float value="[&quot;conv10&quot;]" />'
    found = reworded(written(tmp_path, mixed("conv10")), old, new or old + old)  # None: it is there twice
    assert found.kept_float == ()
    assert any(text.startswith("Convolution `conv10/product` computes in float") for text in found.violations)


def test_a_scheme_without_float_layers_excuses_nothing(tmp_path: Path) -> None:
    found = reworded(written(tmp_path, mixed("conv10")), '<scheme value="int8" />', '<scheme value="int8-symmetric" />')
    assert found.kept_float == ()
    assert found.violations[0] == "the file says that `conv10` was kept in float, which is no convolution in float here"
    assert any(text.startswith("Convolution `conv10/product` computes in float") for text in found.violations)


@pytest.mark.parametrize("name", ["planted", "fire3/squeeze1x1", "fire3/squeeze1x1/product"])
def test_another_float_convolution_is_a_violation(tmp_path: Path, name: str) -> None:
    """Between layers that are kept, and under their name too: then neither is excused."""
    artifact = written(tmp_path, mixed("fire3/squeeze1x1"))
    found = edited(artifact, lambda nodes: put_before(nodes, "fire3/expand3x3/product", lambda source: planted(source, 4, name)))
    assert any(line.startswith(f"Convolution `{name}` computes in float") for line in found.violations)
    assert "the constant `weight` is stored as float32[4,4,1,1]" in found.violations
    assert ("fire3/squeeze1x1" in found.kept_float) == (name == "planted")


def test_a_float_convolution_elsewhere_is_a_violation(tmp_path: Path) -> None:
    channels = net()[1].sizes["fire4/concat"][2]
    artifact = written(tmp_path, mixed("conv10"))
    found = edited(artifact, lambda nodes: put_before(nodes, "fire5/squeeze1x1/product", lambda source: planted(source, channels)))
    assert any(line.startswith("Convolution `planted` computes in float") for line in found.violations)
    assert any(line.startswith("Convolution `fire5/squeeze1x1/product` computes in float") for line in found.violations)


@pytest.mark.parametrize("kind", ["Sigmoid", "Multiply", "Add", "ReLU"])
def test_operators_between_layers_that_are_kept(tmp_path: Path, kind: str) -> None:
    """What multiplies or bends is named; a constant that is added is, too; a ReLU changes nothing that anybody promised."""
    floats = op.constant(np.ones((1, 4, 15, 15), np.float32), name="floats")
    make: dict[str, Callable[[Any], Any]] = {
        "Sigmoid": lambda source: op.sigmoid(source, name="planted"),
        "Multiply": lambda source: op.multiply(source, floats, name="planted"),
        "Add": lambda source: op.add(source, floats, name="planted"),
        "ReLU": lambda source: op.relu(source, name="planted"),
    }
    artifact = written(tmp_path, mixed("fire3/squeeze1x1"))
    found = edited(artifact, lambda nodes: put_before(nodes, "fire3/expand3x3/product", make[kind])).violations
    expected = []
    if kind in ("Sigmoid", "Multiply"):
        expected.append(f"{kind} `planted` computes in float before the last convolution")
    if kind in ("Add", "Multiply"):
        expected.append("the constant `floats` is stored as float32[1,4,15,15]")
    assert found == tuple(expected)


def test_what_is_rounded_again_ends_the_excuse(tmp_path: Path) -> None:
    """Behind the FakeQuantize of a layer that is kept, floats are nobody's."""
    artifact = written(tmp_path, mixed("fire3/squeeze1x1"))
    found = edited(
        artifact,
        lambda nodes: put_before(nodes, "fire3/concat", lambda source: op.add(source, op.constant(np.float32(1)), name="planted")),
    )
    assert "Add `planted` computes in float before the last convolution" in found.violations
    assert "Concat `fire3/concat` computes in float before the last convolution" in found.violations


def test_a_bias_is_one_number_a_channel(tmp_path: Path) -> None:
    """More than that beside a layer that is kept is a constant like any other."""

    def edit(nodes: dict[str, Any]) -> None:
        floats = op.constant(np.ones((1, 4, 15, 15), np.float32), name="floats")
        nodes["fire3/squeeze1x1/sum"].input(1).replace_source_output(floats.output(0))

    found = edited(written(tmp_path, mixed("fire3/squeeze1x1")), edit).violations
    assert found == ("the constant `floats` is stored as float32[1,4,15,15]",)


def test_a_tensor_that_is_not_quantized_far_from_what_is_kept(tmp_path: Path) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        nodes["fire2/expand1x1/product"].input(0).replace_source_output(nodes["fire2/squeeze1x1/relu"].output(0))

    found = edited(written(tmp_path, mixed("conv10")), edit).violations
    assert any(line.startswith("Convolution `fire2/expand1x1/product` computes in float") for line in found)


def test_a_constant_that_others_read_too(tmp_path: Path) -> None:
    def edit(nodes: dict[str, Any]) -> None:
        total = op.reduce_sum(nodes["conv10/weight"], op.constant(np.array([0, 1, 2, 3])), keep_dims=True)
        put_before(nodes, "logits", lambda source: op.add(source, total, name="leak"))

    found = edited(written(tmp_path, mixed("conv10")), edit).violations
    assert found == ("the constant `conv10/weight` is stored as float32[10,32,1,1]",)
