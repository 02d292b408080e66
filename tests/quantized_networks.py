"""Small networks and their tables, made once: for the tests of quant, analyze and whatever else starts from a table."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from squeeze_export import demo
from squeeze_export.core import TORCHVISION
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph, QuantizedConv
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
