"""Layers kept in float: what computes in float with them, what is rounded still, and what the exact run makes of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from squeeze_export.analyze.sensitivity import spared, subject_of
from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Conv
from squeeze_export.graph.quantized import INT8_NPU, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.quant.mixed import KEEP_FLOAT, float_parts, keep_float
from tests.quantized_networks import cut, drawn, images, net, sqnr_db


def off(quantized: QuantizedGraph) -> float:
    """Power of the logits' difference from the float network's, over their own."""
    graph, _, pixels = drawn()
    reference = FloatRunner(graph)(pixels)
    return float(np.square(IntegerRunner(quantized)(pixels) - reference).sum() / np.square(reference).sum())


def test_a_layer_in_float_takes_along_those_that_read_its_output() -> None:
    graph, quantized, _ = drawn()
    mixed = keep_float(graph, quantized, ["fire2/squeeze1x1"])
    assert mixed.kept_float == ("fire2/squeeze1x1", "fire2/expand1x1", "fire2/expand3x3")
    assert set(quantized.tensors) - set(mixed.tensors) == {"fire2/squeeze1x1"}
    assert mixed.provenance[KEEP_FLOAT] == ["fire2/squeeze1x1"]


def test_the_other_half_of_a_concat_goes_with_it() -> None:
    graph, quantized, _ = drawn()
    mixed = keep_float(graph, quantized, ["fire2/expand3x3"])
    assert mixed.kept_float == ("fire2/expand1x1", "fire2/expand3x3", "fire3/squeeze1x1")
    assert {"fire2/expand1x1", "fire2/expand3x3", "fire2/concat"} <= set(quantized.tensors) - set(mixed.tensors)


def test_a_tensor_between_float_layers_alone_is_not_rounded() -> None:
    graph, quantized, _ = drawn()
    mixed = keep_float(graph, quantized, ["fire2/squeeze1x1", "fire3/squeeze1x1"])
    assert not {"fire2/expand1x1", "fire2/concat"} & set(mixed.tensors)  # those that write and read it are float already
    assert "fire3/expand1x1" in mixed.tensors


@pytest.mark.parametrize("name", ["squeezenet1_1", "bypass"])
def test_all_layers_in_float_are_the_float_network(name: str) -> None:
    graph, quantized = net(name)
    layers = [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
    mixed = keep_float(graph, quantized, layers)
    assert set(mixed.tensors) == {graph.input.name}
    assert sqnr_db(FloatRunner(graph)(images()), IntegerRunner(mixed)(images())) > 100


@pytest.mark.parametrize("layer", ["conv1", "fire2/squeeze1x1", "fire3/expand3x3", "fire3/add", "conv10"])
def test_the_exact_run_is_the_simulated_one(layer: str) -> None:
    graph, quantized = net("bypass")
    subject = subject_of(graph, quantized)
    convs, tensors = float_parts(subject.graph, [layer])
    plan = spared(subject.full, weights=tuple(convs), outputs=tuple(tensors))
    expected = np.stack([subject.simulator.logits(subject.simulator(image, plan)) for image in images()])
    found = IntegerRunner(keep_float(graph, quantized, [layer]))(images())
    assert sqnr_db(expected, found) > 55  # a sum on a rounding boundary may fall on the other side


def test_it_mends_a_range_that_is_too_small() -> None:
    graph, quantized, _ = drawn()
    broken = cut(quantized, graph, "fire3/squeeze1x1", 4)
    mended = keep_float(graph, broken, ["fire3/squeeze1x1"])
    assert off(mended) < 2 * off(quantized) < off(broken) / 100


def test_the_tap_sees_floats_where_there_are_no_integers() -> None:
    graph, quantized, pixels = drawn()
    seen = {}
    IntegerRunner(keep_float(graph, quantized, ["fire2/squeeze1x1"]))(pixels[:1], lambda name, values: seen.update({name: values}))
    assert seen["fire2/squeeze1x1"].dtype == np.float32
    assert seen["fire2/expand1x1"].dtype == np.uint8


def test_the_table_survives_the_file(tmp_path: Path) -> None:
    graph, quantized, pixels = drawn()
    mixed = keep_float(graph, quantized, ["fire2/squeeze1x1"])
    (tmp_path / "mixed.table").write_bytes(table_bytes(mixed))
    read = read_table(tmp_path / "mixed.table")
    assert read.kept_float == mixed.kept_float
    assert read.sha256 == mixed.sha256 != quantized.sha256
    np.testing.assert_array_equal(IntegerRunner(read)(pixels), IntegerRunner(mixed)(pixels))


@pytest.mark.parametrize(
    "wrong", ["no scale for an integer layer", "half a concat", "a scale of nothing", "a scheme without floats"]
)
def test_a_table_that_contradicts_itself_is_refused(wrong: str, tmp_path: Path) -> None:
    graph, quantized, _ = drawn()
    mixed = keep_float(graph, quantized, ["fire2/squeeze1x1"])
    tensors = dict(mixed.tensors)
    if wrong == "no scale for an integer layer":
        del tensors["fire4/squeeze1x1"]
    elif wrong == "half a concat":
        del tensors["fire2/expand1x1"]
    elif wrong == "a scale of nothing":
        tensors["nothing"] = tensors["fire2/concat"]
    nodes = mixed.nodes
    if wrong == "a weight that is none":
        nodes = tuple(replace(n, bias=n.bias * np.float32(np.nan)) if isinstance(n, Conv) else n for n in nodes)
    scheme = INT8_NPU if wrong == "a scheme without floats" else mixed.scheme
    (tmp_path / "wrong.table").write_bytes(table_bytes(replace(mixed, nodes=nodes, tensors=tensors, scheme=scheme)))
    with pytest.raises(BadInput, match="damaged"):
        read_table(tmp_path / "wrong.table")


def test_no_layer_is_no_change() -> None:
    graph, quantized, _ = drawn()
    assert keep_float(graph, quantized, []) is quantized


def test_what_cannot_be_kept_in_float_is_refused() -> None:
    graph, quantized, _ = drawn()
    with pytest.raises(BadInput, match="no layer is called `fire99`"):
        keep_float(graph, quantized, ["fire99"])
    with pytest.raises(BadInput, match="cannot keep layers in float"):
        keep_float(*net("bypass", "int8-npu"), ["conv1"])
    with pytest.raises(BadInput, match="already"):
        keep_float(graph, keep_float(graph, quantized, ["conv1"]), ["conv10"])
