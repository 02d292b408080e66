"""Small TFLite files for the tests of the runtimes that open them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, EmitOptions, Preprocess, TensorSpec
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.recipes import quantize
from squeeze_export.targets import tflite

ANY = TensorSpec("", (), "", "")


@cache
def small() -> tuple[Graph, Any]:
    """A random network of one Fire module, and 24 images of 48 px; tables are made of the first 16."""
    rng = np.random.default_rng(3)
    arch = Architecture("small", 8, 3, (Fire(4, 8, 8),), (0,), 10, 1)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    graph = build_graph(arch, tensors, Preprocess(48, 48, "bilinear", "rgb", (120.0,) * 3, (60.0,) * 3))
    return graph, rng.integers(0, 256, (24, 6, 6, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


@cache
def table(scheme: str) -> QuantizedGraph:
    graph, pixels = small()
    return quantize(graph, pixels[:16], FloatRunner(graph), scheme_named(scheme))


def artifact(folder: Path, content: bytes, scheme: str = "int8") -> Artifact:
    path = folder / f"net.{scheme}.tflite"
    path.write_bytes(content)
    return Artifact(path, "tflite", scheme, "", len(content), ANY, ANY)


def emitted(folder: Path, scheme: str = "int8", edit: Callable[[bytes], bytes] = bytes, **options: Any) -> Artifact:
    """The small network's file; `options` are those of `EmitOptions`, `edit` changes what was written."""
    chosen = scheme_named(scheme)
    network = table(scheme) if chosen.integer else small()[0]
    return artifact(folder, edit(tflite.emit(network, chosen, EmitOptions(**options), {})), scheme)
