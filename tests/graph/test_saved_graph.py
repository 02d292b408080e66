"""The float graph as a file, which one process hands to another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors

from squeeze_export.core import CAFFE
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Graph, MaxPool, Node
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import graph_bytes, read_graph, read_table, table_bytes
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.recipes import quantize

FIELDS = ("name", "input", "output", "preprocess", "labels", "checkpoint_sha256")
PIXELS = np.random.default_rng(1).integers(0, 256, (16, 34, 34, 3), np.uint8)


@pytest.fixture(scope="module")
def graph() -> Graph:
    arch = Architecture("small", 4, 3, (Fire(2, 3, 5, "complex"), Fire(2, 3, 5)), (0,), 6)
    rng = np.random.default_rng(0)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    labels = tuple(f"étiquette {i}" for i in range(6))
    return build_graph(arch, tensors, replace(CAFFE, resize_px=36, crop_px=34), labels=labels, checkpoint_sha256="c0ffee")


def test_what_is_written_is_read(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "graph"
    path.write_bytes(graph_bytes(graph))
    again = read_graph(path)
    assert graph_bytes(again) == graph_bytes(graph)
    assert [getattr(again, name) for name in FIELDS] == [getattr(graph, name) for name in FIELDS]
    np.testing.assert_array_equal(FloatRunner(again)(PIXELS[:2]), FloatRunner(graph)(PIXELS[:2]))


def test_windows_that_are_not_square_and_an_add_with_a_relu_come_back(graph: Graph, tmp_path: Path) -> None:
    def other(node: Node) -> Node:
        if isinstance(node, Add):
            return replace(node, relu=True)
        if isinstance(node, MaxPool):
            return replace(node, kernel=(3, 2), strides=(1, 2))
        return replace(node, weight=node.weight[..., :2], strides=(2, 1)) if node is graph.convs[0] else node

    changed = replace(graph, nodes=tuple(map(other, graph.nodes)))
    path, table = tmp_path / "graph", tmp_path / "table"
    path.write_bytes(graph_bytes(changed))
    again = read_graph(path)
    assert [getattr(node, "strides", getattr(node, "relu", None)) for node in again.nodes] == [
        getattr(node, "strides", getattr(node, "relu", None)) for node in changed.nodes
    ]
    np.testing.assert_array_equal(FloatRunner(again)(PIXELS[:2]), FloatRunner(changed)(PIXELS[:2]))
    assert (FloatRunner(again)(PIXELS[:2]) != FloatRunner(graph)(PIXELS[:2])).any()
    quantized = quantize(changed, PIXELS, FloatRunner(changed), scheme_named("int8"))
    table.write_bytes(table_bytes(quantized))
    assert table_bytes(read_table(table)) == table_bytes(quantized)
    np.testing.assert_array_equal(IntegerRunner(read_table(table))(PIXELS[:2]), IntegerRunner(quantized)(PIXELS[:2]))


def test_a_square_window_is_one_number_as_in_the_first_versions(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "graph"
    path.write_bytes(graph_bytes(graph))
    with safetensors.safe_open(path, "numpy") as file:
        (header,) = (json.loads(value) for value in file.metadata().values())
    kinds = {node["kind"]: node for node in header["nodes"]}
    assert kinds["MaxPool"]["kernel"] == 3
    assert kinds["MaxPool"]["stride"] == 2
    assert "relu" not in kinds["Add"]


def test_a_table_is_no_float_graph_and_the_other_way_round(graph: Graph, tmp_path: Path) -> None:
    table, floats = tmp_path / "table", tmp_path / "graph"
    table.write_bytes(table_bytes(quantize(graph, PIXELS, FloatRunner(graph), scheme_named("int8"))))
    floats.write_bytes(graph_bytes(graph))
    with pytest.raises(BadInput, match="is not a float graph"):
        read_graph(table)
    with pytest.raises(BadInput, match="is not a quantization table"):
        read_table(floats)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda conv: replace(conv, bias=conv.bias[1:]), "bias of conv1"),
        (lambda conv: replace(conv, weight=conv.weight[:, 1:]), "conv1 has weights"),
        (lambda conv: replace(conv, weight=conv.weight.astype(np.float64)), "wrong dtype"),
        (lambda conv: replace(conv, strides=(0, 0)), "division|kernel, stride or pads"),
    ],
)
def test_parts_that_do_not_fit_are_damage(graph: Graph, tmp_path: Path, change: object, message: str) -> None:
    first, *rest = graph.nodes
    path = tmp_path / "graph"
    path.write_bytes(graph_bytes(replace(graph, nodes=(change(first), *rest))))  # type: ignore[operator]
    with pytest.raises(BadInput, match=rf"is damaged: .*({message})"):
        read_graph(path)
