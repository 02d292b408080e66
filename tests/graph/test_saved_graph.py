"""The float graph as a file, which one process hands to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from squeeze_export.core import CAFFE
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph
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
        (lambda conv: replace(conv, stride=0), "division|kernel, stride or pads"),
    ],
)
def test_parts_that_do_not_fit_are_damage(graph: Graph, tmp_path: Path, change: object, message: str) -> None:
    first, *rest = graph.nodes
    path = tmp_path / "graph"
    path.write_bytes(graph_bytes(replace(graph, nodes=(change(first), *rest))))  # type: ignore[operator]
    with pytest.raises(BadInput, match=rf"is damaged: .*({message})"):
        read_graph(path)
