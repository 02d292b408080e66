"""The nodes: sizes against torch, who reads what, and that nothing can be changed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TensorSpec
from squeeze_export.graph.nodes import (
    Add,
    Concat,
    Conv,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Node,
    QuantizedConv,
    output_px,
    tensor_sizes,
)


def conv(name: str, source: str, out_channels: int, in_channels: int, kernel: int = 1, stride: int = 1, pad: int = 0) -> Conv:
    shape = (out_channels, in_channels, kernel, kernel)
    return Conv(name, source, np.zeros(shape, np.float32), np.zeros(out_channels, np.float32), (stride, stride), (pad,) * 4, True)


NODES: tuple[Node, ...] = (
    conv("a", "input", 4, 3, kernel=3, stride=2),
    MaxPool("pool", "a", (3, 3), (2, 2), (0, 0, 1, 1)),
    conv("b", "pool", 2, 4),
    conv("c", "pool", 5, 4, kernel=3, pad=1),
    Concat("joined", ("b", "c")),
    Add("sum", ("joined", "joined")),
    GlobalAveragePool("logits", "sum"),
)
INPUT = TensorSpec("input", ("N", 21, 23, 3), "uint8", "NHWC", 1.0, 0)
GRAPH = Graph("hand", NODES, INPUT, TensorSpec("logits", ("N", 7), "float32", "NC"), CAFFE, (), "")


def test_sizes_by_hand() -> None:
    assert GRAPH.sizes == {
        "input": (21, 23, 3),
        "a": (10, 11, 4),
        "pool": (5, 5, 4),
        "b": (5, 5, 2),
        "c": (5, 5, 5),
        "joined": (5, 5, 7),
        "sum": (5, 5, 7),
        "logits": (1, 1, 7),
    }


def test_windows_need_not_be_square() -> None:
    weight = np.zeros((4, 3, 3, 2), np.float32)
    first = Conv("a", "input", weight, np.zeros(4, np.float32), (2, 1), (1, 0, 0, 2), True)
    sizes = tensor_sizes([first, MaxPool("pool", "a", (1, 3), (1, 2), (0, 1, 0, 0))], INPUT)
    assert first.kernel == (3, 2)
    assert sizes["a"] == (10, 24, 4)  # (21 + 1 - 3) // 2 + 1, 23 + 2 - 2 + 1
    assert sizes["pool"] == (10, 12, 4)


def test_quantized_convolutions_have_the_sizes_of_float_ones() -> None:
    def in_integers(node: Node) -> QuantizedConv:
        assert isinstance(node, Conv)
        weight, scale, bias = node.weight.astype(np.int8), np.ones(4, np.float32), np.zeros(4, np.int32)
        return QuantizedConv(node.name, node.input, weight, scale, bias, node.strides, node.pads, node.relu)

    first = in_integers(NODES[0])
    assert (first.kernel, first.inputs) == ((3, 3), ("input",))
    assert tensor_sizes([first], INPUT)["a"] == GRAPH.sizes["a"]


def test_every_reader_is_found() -> None:
    readers = {name: [node.name for node in nodes] for name, nodes in GRAPH.consumers.items()}
    assert readers == {
        "input": ["a"],
        "a": ["pool"],
        "pool": ["b", "c"],
        "b": ["joined"],
        "c": ["joined"],
        "joined": ["sum", "sum"],
        "sum": ["logits"],
    }


def test_convs_are_in_order() -> None:
    assert [node.name for node in GRAPH.convs] == ["a", "b", "c"]


@settings(max_examples=60)
@given(st.integers(7, 60), st.integers(1, 7), st.integers(1, 3), st.integers(0, 3))
def test_output_px_is_torchs(size_px: int, kernel: int, stride: int, pad: int) -> None:
    result = torch.conv2d(torch.zeros(1, 1, size_px, size_px), torch.zeros(1, 1, kernel, kernel), stride=stride, padding=pad)
    assert output_px(size_px, kernel, stride, 2 * pad) == result.shape[2]


@pytest.mark.parametrize("node", [*NODES, GRAPH], ids=lambda node: type(node).__name__)
def test_nothing_can_be_changed(node: object) -> None:
    with pytest.raises(FrozenInstanceError):
        node.name = "other"  # type: ignore[attr-defined]
