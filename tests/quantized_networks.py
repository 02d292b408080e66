"""Small networks and their tables, made once: for the tests of quant, analyze and whatever else starts from a table."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from squeeze_export import demo
from squeeze_export.core import TORCHVISION, TensorSpec
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Add, Concat, GlobalAveragePool, Graph, MaxPool, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import INT8, SCHEMES, Quantization, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import Architecture, Fire, architecture, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.ranges import scale_groups
from squeeze_export.quant.recipes import quantize

BYPASS = Architecture("bypass", 6, 3, (Fire(3, 4, 5, "complex"), Fire(3, 4, 5, "simple")), (0,), 5)


def images(count: int = 4, size_px: int = 48) -> Any:
    coarse = np.random.default_rng(1).integers(0, 256, (count, 6, 6, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)[:, :size_px, :size_px]


@cache
def net(name: str = "bypass", scheme: str = "int8") -> tuple[Graph, QuantizedGraph]:
    """A network whose output channels differ in loudness, so that there is something to equalize."""
    arch = BYPASS if name == "bypass" else architecture(name, class_count=9)
    rng = np.random.default_rng(0)
    tensors = {}
    for key, shape in tensor_shapes(arch).items():
        loudness = np.exp(rng.normal(0, 0.7, shape[0])).reshape(-1, *[1] * (len(shape) - 1))
        spread = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        tensors[key] = (loudness * rng.normal(0, spread, shape)).astype(np.float32)
    graph = build_graph(arch, tensors, replace(TORCHVISION, crop_px=48))
    return graph, quantize(graph, images(), FloatRunner(graph), SCHEMES[scheme])


def sqnr_db(reference: Any, values: Any) -> float:
    noise = np.square(reference.astype(np.float64) - values).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise)) if noise else float("inf")


def changed(quantized: QuantizedGraph, name: str, **fields: Any) -> QuantizedGraph:
    nodes = tuple(replace(n, **fields) if n.name == name and isinstance(n, QuantizedConv) else n for n in quantized.nodes)
    return replace(quantized, nodes=nodes)


@cache
def drawn() -> tuple[Graph, QuantizedGraph, Any]:
    """The demo network, its table from 24 images, and 3 others to look at."""
    checkpoint = read_checkpoint(demo.weights_path())
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, demo.PREPROCESS, labels=demo.labels())
    calib = sorted(demo.calibration_folder().glob("*.jpg"))[::5]
    seen = sorted(demo.evaluation_folder().glob("*/*.jpg"))[5::80]
    pixels, others = (np.stack([load_pixels(file, demo.PREPROCESS) for file in files]) for files in (calib, seen))
    return graph, quantize(graph, pixels, FloatRunner(graph), INT8, threads=2), others


def cut(quantized: QuantizedGraph, graph: Graph, name: str, by: int) -> QuantizedGraph:
    """The range of a layer (and of those that share its scale) cut to a part, with the biases that stand on its scale."""
    groups = scale_groups(graph)
    cut_off = {tensor for tensor in quantized.tensors if groups[tensor] == groups[name]}
    tensors = {t: Quantization(q.scale / by, q.zero_point) if t in cut_off else q for t, q in quantized.tensors.items()}
    nodes = tuple(
        replace(n, bias=n.bias * np.int32(by)) if isinstance(n, QuantizedConv) and n.input in cut_off else n
        for n in quantized.nodes
    )
    return replace(quantized, nodes=nodes, tensors=tensors)


def five_convolutions(channels: int = 4) -> QuantizedGraph:
    """Five convolutions, a padded pool, a bypass with zero points, a Concat: every kind of node, with no calibration."""
    rng = np.random.default_rng(1)

    def conv(name: str, source: str, shape: tuple[int, int, int, int], pad: int, relu: bool) -> QuantizedConv:
        weight = rng.integers(-127, 128, shape, np.int8)
        scale = np.full(shape[0], 0.01, np.float32)
        return QuantizedConv(name, source, weight, scale, np.arange(shape[0], dtype=np.int32), (1, 1), (pad,) * 4, relu)

    nodes: tuple[QuantizedNode, ...] = (
        conv("conv1", "input", (channels, 3, 3, 3), 0, True),
        MaxPool("pool1", "conv1", (3, 3), (2, 2), (0, 0, 1, 1)),
        conv("bypass", "pool1", (channels, channels, 1, 1), 0, False),
        Add("add", ("pool1", "bypass")),
        conv("left", "add", (channels, channels, 1, 1), 0, True),
        conv("right", "add", (channels, channels, 3, 3), 1, True),
        Concat("concat", ("left", "right")),
        conv("conv10", "concat", (5, 2 * channels, 1, 1), 0, True),
        GlobalAveragePool("logits", "conv10"),
    )
    tensors = dict.fromkeys(("conv1", "pool1"), Quantization(2.0, 0)) | {
        "input": Quantization(1.0, 0),
        "bypass": Quantization(3.0, 128),
        "add": Quantization(4.0, 100),
        **dict.fromkeys(("left", "right", "concat"), Quantization(5.0, 3)),  # a ReLU that must be written out
        "conv10": Quantization(6.0, 0),
    }
    taken = TensorSpec("input", ("N", 20, 20, 3), "uint8", "NHWC", 1.0, 0)
    return QuantizedGraph("tiny", nodes, taken, TensorSpec("logits", ("N", 5), "float32", "NC"), tensors, INT8, TORCHVISION, (), {})
