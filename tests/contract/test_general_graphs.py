"""Graphs that no SqueezeNet has: the float file answers as the reference, the int8 file as the exact integer run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import TORCHVISION, TensorSpec
from squeeze_export.errors import Unavailable
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, Node, Pads, Pair
from squeeze_export.graph.pixels import on_pixels
from squeeze_export.graph.quantized import FP32, INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.pipeline.export import export
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named
from tests.contract.conftest import drawn_images

SIZE_PX = 32
EVEN = (1, 1, 1, 1)


def conv(name: str, source: str, channels: Pair, *, kernel: int = 3, stride: int = 1, pads: Pads = EVEN, relu: bool = True) -> Conv:
    draw = np.random.default_rng(sum(name.encode()))
    out_channels, in_channels = channels
    weight = draw.normal(0, (2 / (in_channels * kernel**2)) ** 0.5, (out_channels, in_channels, kernel, kernel))
    bias = draw.normal(0, 0.1, out_channels)
    return Conv(name, source, weight.astype(np.float32), bias.astype(np.float32), (stride, stride), pads, relu)


def pool(name: str, source: str, stride: int = 2) -> MaxPool:
    return MaxPool(name, source, (3, 3), (stride, stride), EVEN)


BODIES: dict[str, tuple[Node, ...]] = {
    "concats of concats, and of what is pooled too": (
        conv("first", "input", (4, 3)),
        pool("pool", "first", 1),
        Concat("pooled", ("first", "pool")),
        conv("b", "pooled", (5, 8)),
        Concat("dense", ("pooled", "b")),
        conv("last", "dense", (5, 13)),
    ),
    "two readers of the pixels": (
        conv("x", "input", (4, 3), pads=(0, 0, 0, 0)),
        conv("y", "input", (4, 3), pads=(0, 0, 0, 0), relu=False),
        Add("sum", ("x", "y"), relu=True),
        conv("last", "sum", (5, 4)),
    ),
    "a pool and a concat of pixels": (
        pool("pool", "input"),
        conv("x", "pool", (4, 3)),
        Concat("both", ("pool", "x")),
        conv("last", "both", (5, 7)),
    ),
    "a tensor added to itself, and joined with itself": (
        conv("x", "input", (4, 3)),
        Add("twice", ("x", "x")),
        Concat("both", ("twice", "twice")),
        conv("last", "both", (5, 8)),
    ),
    "nothing behind an addition": (conv("x", "input", (5, 3)), conv("y", "x", (5, 5), relu=False), Add("last", ("x", "y"))),
    "nothing behind a pool": (conv("x", "input", (5, 3), relu=False), pool("last", "x")),
    "residual blocks": (
        conv("conv1", "input", (8, 3), kernel=7, stride=2, pads=(3, 3, 3, 3)),
        pool("pool", "conv1"),
        conv("a", "pool", (8, 8)),
        conv("b", "a", (8, 8), relu=False),
        Add("sum", ("b", "pool"), relu=True),
        conv("c", "sum", (12, 8), stride=2),
        conv("shortcut", "sum", (12, 8), kernel=1, stride=2, pads=(0, 0, 0, 0), relu=False),
        Add("next", ("c", "shortcut"), relu=True),
        conv("last", "next", (5, 12), kernel=1, pads=(0, 0, 0, 0), relu=False),
    ),
}


def answers(network: Graph | QuantizedGraph, target: str, folder: Path, pixels: Any) -> Any:
    module = target_named(target)
    artifact, audit = export(network, target, INT8 if isinstance(network, QuantizedGraph) else FP32, folder, name="net")
    assert not isinstance(network, QuantizedGraph) or audit.violations == ()
    session = runtime_named(module.RUNTIMES[0]).open_session(artifact, device="cpu", threads=1)
    try:
        return session.infer(pixels)
    finally:
        session.close()


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize("name", BODIES)
def test_a_graph_is_written_as_it_is(name: str, target: str, tmp_path: Path, sums_are_exact: bool) -> None:
    preprocess = replace(TORCHVISION, crop_px=SIZE_PX)
    pixels = drawn_images(np.random.default_rng(1), 20, (SIZE_PX, SIZE_PX, 3))
    nodes = (*on_pixels(BODIES[name], preprocess), GlobalAveragePool("logits", "last"))
    taken = TensorSpec("input", ("N", SIZE_PX, SIZE_PX, 3), "uint8", "NHWC", 1.0, 0)
    graph = Graph("general", nodes, taken, TensorSpec("logits", ("N", 5), "float32", "NC"), preprocess, (), "c0ffee")
    expected = FloatRunner(graph)(pixels)
    quantized = quantize(graph, pixels, FloatRunner(graph), INT8)
    integers = IntegerRunner(quantized)(pixels)
    try:
        found = answers(graph, target, tmp_path, pixels)
        exact = answers(quantized, target, tmp_path, pixels)
    except Unavailable as err:
        pytest.skip(err.message)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(np.roll(found, 1, axis=0) - expected).max() > 0.05 * np.abs(expected).max()  # the images do differ
    assert np.abs(integers - expected).max() < 0.05 * np.abs(expected).max()
    if sums_are_exact:  # but for the additions of XNNPACK, in fixed point, which may round to the neighbour
        step = quantized.tensors["last"].scale if any(isinstance(node, Add) for node in nodes) else 0
        np.testing.assert_allclose(exact, integers, rtol=0, atol=1.001 * step + 1e-5 * np.abs(integers).max())
