"""The network that the vendors' tools get: the same in float, with the mean outside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import CAFFE, TORCHVISION, Preprocess
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.peers import Source
from squeeze_export.peers.network import same_pads, with_mean_outside
from squeeze_export.targets.tflite.writer import padding_word

PREPROCESSES = {"rgb": TORCHVISION, "bgr": CAFFE}


def drawn(side_px: int) -> Any:
    """(16, side, side, 3) uint8: noise, each image in a colour of its own."""
    draw = np.random.default_rng(1)
    return np.clip(draw.uniform(0, 256, (16, 1, 1, 3)) + draw.normal(0, 40, (16, side_px, side_px, 3)), 0, 255).astype(np.uint8)


def small(preprocess: Preprocess, side_px: int = 32) -> Graph:
    arch = Architecture("squeezenet_custom", 8, 3, (Fire(4, 8, 8),), (0,), 5)
    draw = np.random.default_rng(3)
    tensors = {
        key: draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    return build_graph(arch, tensors, replace(preprocess, crop_px=side_px))


def run_centred(graph: Graph, pixels: Any, mean: Any) -> Any:
    return np.concatenate([FloatRunner(graph)._run(image[None] - mean, None) for image in pixels.astype(np.float32)])


@pytest.mark.parametrize("preprocess", PREPROCESSES.values(), ids=PREPROCESSES)
def test_the_network_with_its_mean_outside_is_the_same(preprocess: Preprocess) -> None:
    graph, pixels = small(preprocess), np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    centred, mean = with_mean_outside(Source(graph, Path("f"), pixels))
    expected = FloatRunner(graph)(pixels)
    found = run_centred(centred, pixels, mean)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    # Negative control: the channels' means are not interchangeable.
    wrong = run_centred(centred, pixels, mean[::-1])
    assert np.abs(wrong - expected).max() > 1e-3 * np.abs(expected).max()


def test_only_the_first_bias_differs() -> None:
    graph = small(TORCHVISION)
    centred, mean = with_mean_outside(Source(graph, Path("f"), np.zeros((1, 32, 32, 3), np.uint8)))
    assert mean.dtype == np.float32
    assert [node.name for node in centred.nodes] == [node.name for node in graph.nodes]
    changed = [ours.name for ours, theirs in zip(graph.convs, centred.convs, strict=True) if ours is not theirs]
    assert changed == ["conv1"]
    np.testing.assert_array_equal(centred.convs[0].weight, graph.convs[0].weight)


@pytest.mark.parametrize("side", range(5, 12))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (1, 1), (7, 2)])
def test_same_pads_is_what_the_format_calls_same(side: int, kernel: int, stride: int) -> None:
    size, window, strides = (side, side + 3, 4), (kernel, max(kernel - 2, 1)), (stride, 1)
    pads = same_pads(size, window, strides)
    assert padding_word(size, window, strides, pads) == ("SAME" if any(pads) else "VALID")
    assert padding_word(size, window, strides, (pads[0], pads[1], pads[2] + 1, pads[3])) is None
