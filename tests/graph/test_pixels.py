"""Mean, std and channel order inside the graph: what it gives for raw pixels is what torch gives for normalized ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from squeeze_export.core import Preprocess, TensorSpec
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, Node
from squeeze_export.graph.pixels import NORMALIZE, on_pixels, whole_numbers
from squeeze_export.graph.run import FloatRunner

RGB = Preprocess(9, 9, "bilinear", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 11)
PREPROCESSES = {
    "rgb": RGB,
    "bgr": replace(RGB, channel_order="bgr"),
    "gray": replace(RGB, channel_order="gray", mean=(127.5,), std=(64.0,)),
    "no mean": replace(RGB, mean=(0.0, 0.0, 0.0), std=(255.0, 128.0, 64.0), channel_order="bgr"),
}


def conv(channels: int, pads: tuple[int, int, int, int]) -> Conv:
    draw = np.random.default_rng(3)
    weight, bias = draw.normal(size=(4, channels, 3, 3)), draw.normal(size=4)
    return Conv("conv1", "input", weight.astype(np.float32), bias.astype(np.float32), (2, 1), pads, True)


def network(preprocess: Preprocess, nodes: tuple[Node, ...]) -> Graph:
    taken = TensorSpec("input", ("N", *preprocess.input_size), "uint8", "NHWC", 1.0, 0)
    return Graph("hand", on_pixels(nodes, preprocess), taken, TensorSpec("logits", ("N", 4), "float32", "NC"), preprocess, (), "")


def normalized(pixels: Any, preprocess: Preprocess) -> Any:
    """As the network was trained: (N, C, H, W) float64, in its own order of channels."""
    ordered = pixels[..., ::-1] if preprocess.channel_order == "bgr" else pixels
    return torch.tensor(((ordered.astype(np.float64) - preprocess.mean) / preprocess.std).transpose(0, 3, 1, 2).copy())


def pixels_of(preprocess: Preprocess) -> Any:
    return np.random.default_rng(1).integers(0, 256, (2, *preprocess.input_size), np.uint8)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 2, 0, 1)], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", PREPROCESSES)
def test_a_first_convolution_answers_as_torchs(name: str, pads: tuple[int, int, int, int]) -> None:
    preprocess = PREPROCESSES[name]
    first, pixels = conv(preprocess.input_size[2], pads), pixels_of(preprocess)
    graph = network(preprocess, (first, GlobalAveragePool("logits", "conv1")))
    top, left, bottom, right = pads
    image = torch.nn.functional.pad(normalized(pixels, preprocess), (left, right, top, bottom))
    weight, bias = (torch.tensor(values, dtype=torch.float64) for values in (first.weight, first.bias))
    expected = torch.relu(torch.conv2d(image, weight, bias, (2, 1))).mean((2, 3)).numpy()
    np.testing.assert_allclose(FloatRunner(graph)(pixels), expected, rtol=1e-5, atol=1e-5)
    assert (graph.nodes[0].name == NORMALIZE) == (any(pads) and name != "no mean")


def test_padding_is_not_folded_where_it_would_matter() -> None:
    """Negative control: folded all the same, the padding would be black pixels instead of mean ones."""
    preprocess, pixels = PREPROCESSES["rgb"], pixels_of(RGB)
    nodes = (conv(3, (1, 1, 1, 1)), GlobalAveragePool("logits", "conv1"))
    right = FloatRunner(network(preprocess, nodes))(pixels)
    unpadded = on_pixels((replace(nodes[0], pads=(0, 0, 0, 0)), nodes[1]), preprocess)
    wrong = replace(network(preprocess, nodes), nodes=(replace(unpadded[0], pads=(1, 1, 1, 1)), unpadded[1]))
    assert np.abs(FloatRunner(wrong)(pixels) - right).max() > 0.05 * np.abs(right).max()


@pytest.mark.parametrize("name", ["rgb", "bgr", "no mean"])
def test_other_readers_of_the_input_get_normalized_values(name: str) -> None:
    preprocess = PREPROCESSES[name]
    nodes = (
        MaxPool("most", "input", (1, 1), (1, 1), (0, 0, 0, 0)),
        Add("sum", ("input", "most")),
        Concat("both", ("sum", "input")),
        GlobalAveragePool("logits", "both"),
    )
    graph, pixels = network(preprocess, nodes), pixels_of(preprocess)
    means = normalized(pixels, preprocess).mean((2, 3)).numpy()
    np.testing.assert_allclose(FloatRunner(graph)(pixels), np.concatenate([2 * means, means], axis=1), rtol=1e-4, atol=1e-4)


def test_pixels_that_need_nothing_stay_as_they_are() -> None:
    plain = replace(RGB, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    nodes = (MaxPool("most", "input", (2, 2), (1, 1), (0, 0, 0, 0)), GlobalAveragePool("logits", "most"))
    assert on_pixels(nodes, plain) == nodes


def test_a_name_that_is_taken_gets_another() -> None:
    nodes = (replace(conv(3, (1, 1, 1, 1)), name=NORMALIZE), GlobalAveragePool("logits", NORMALIZE))
    made = on_pixels(nodes, RGB)
    assert [node.name for node in made] == [f"{NORMALIZE}_", NORMALIZE, "logits"]
    assert made[1].inputs == (f"{NORMALIZE}_",)


@pytest.mark.parametrize("name", ["rgb", "bgr", "gray"])
def test_what_a_padded_convolution_reads_is_whole_numbers(name: str) -> None:
    preprocess = PREPROCESSES[name]
    graph = network(preprocess, (conv(preprocess.input_size[2], (1, 1, 1, 1)), GlobalAveragePool("logits", "conv1")))
    pixels = pixels_of(preprocess)
    seen: dict[str, Any] = {}
    FloatRunner(graph)(pixels[:1], lambda name, values: seen.update({name: values}))
    ordered = pixels[:1, ..., ::-1] if name == "bgr" else pixels[:1]
    further = np.full((*ordered.shape[:3], 1), 127)
    np.testing.assert_array_equal(seen[NORMALIZE], np.concatenate([ordered.astype(int) - 128, further], axis=3))
    assert whole_numbers(graph) == {NORMALIZE}


def test_what_is_not_whole_or_reaches_further_is_told_apart() -> None:
    graph = network(RGB, (conv(3, (1, 1, 1, 1)), GlobalAveragePool("logits", "conv1")))
    first, *rest = graph.nodes
    assert isinstance(first, Conv)
    for changed in (
        replace(first, bias=first.bias + np.float32(0.5)),
        replace(first, weight=first.weight / 2),
        replace(first, weight=first.weight * 2),
        replace(first, bias=first.bias + 1),
        replace(first, bias=first.bias - 1),
        replace(first, weight=-first.weight),
    ):
        assert whole_numbers(replace(graph, nodes=(changed, *rest))) == frozenset()
    negative = replace(first, weight=-first.weight, bias=np.array([127, 127, 127, 127], np.float32))
    assert whole_numbers(replace(graph, nodes=(negative, *rest))) == {NORMALIZE}
    pooled = (first, MaxPool("most", NORMALIZE, (2, 2), (1, 1), (0, 0, 0, 0)), GlobalAveragePool("logits", "most"))
    assert whole_numbers(replace(graph, nodes=pooled)) == frozenset()
