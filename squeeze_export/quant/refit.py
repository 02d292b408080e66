"""Layer by layer on what the integers before it really give: weights refitted by least squares, then rounded.

A layer of the integer network reads values that are rounded, and shifted by every layer before. The weights that come closest to
the float layer's output on those values differ a little from the float weights: they average rounding noise out, and take back
errors that depend on the input. So the layers are taken in order, each sees the integers' values of all images beside the float
values, solves for its weights, is rounded with error compensation, and gives its own integers' values to the next. Li et al.,
"GPTAQ", ICML 2025, have the same aim within the rounding; here it is a damped least squares problem before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray
from squeeze_export.graph.nodes import Add, Conv, Graph, Node, QuantizedConv
from squeeze_export.graph.quantized import Quantization
from squeeze_export.graph.run import Layer, float_step, laid_out, one_blas_thread, weight_matrix
from squeeze_export.graph.weights import real_layer
from squeeze_export.quant.material import Material
from squeeze_export.quant.observations import draw_patches
from squeeze_export.quant.ranges import fake_quantize
from squeeze_export.quant.rounding import Inputs, weight_rows

POSITIONS = 512
"""Positions of each image at which a layer's input is looked at, for each time that the image counts."""
DAMPINGS = (0.0001, 0.001, 0.01, 0.1)
"""Of the normal equations, as shares of the mean input power. The one is taken that holds best on images that the solution was
not found on, or none: then the weights stay."""

Rounding: TypeAlias = Callable[[Conv, FloatArray, Inputs], QuantizedConv]
"""Rounds a layer: the float layer, the weights wanted (O, K), and what it reads."""
Values: TypeAlias = list[dict[str, FloatArray]]
"""Of each image: tensor -> (1, H, W, C) float32."""


def refit(material: Material, graph: Graph, tensors: Mapping[str, Quantization], rounding: Rounding) -> dict[str, QuantizedConv]:
    """Quantizes every convolution, in order.

    Args:
        material: the calibration images, and how to quantize.
        graph: the (equalized) float graph.
        tensors: tensor -> its quantization.
        rounding: makes the integers of one layer.

    Returns:
        The convolutions' names -> their integers.
    """
    exact: Values = [{graph.input.name: image[None].astype(np.float32)} for image in material.pixels]
    given = [dict(values) for values in exact]
    layers, real_layers = laid_out(graph), dict[str, Layer]()
    readers = {name: len(nodes) for name, nodes in graph.consumers.items()}
    made: dict[str, QuantizedConv] = {}
    material.progress("refitting", 0, len(graph.convs))
    with ThreadPoolExecutor(material.threads) as pool:
        for place, node in enumerate(graph.nodes[:-1]):
            if isinstance(node, Conv):
                halves = _inputs(node, exact, given, material.weights, (material.seed, place), pool)
                made[node.name] = rounding(node, *_refitted(weight_rows(node.weight), halves))
                weight, bias = real_layer(made[node.name], tensors[node.input].scale)
                real_layers[node.name] = weight_matrix(weight), bias
            _run(node, exact, layers, pool)
            _run(node, given, real_layers, pool)
            if isinstance(node, Conv | Add):
                for values in given:
                    values[node.name] = fake_quantize(values[node.name], tensors[node.name], material.scheme)
            if isinstance(node, Conv):
                material.progress("refitting", len(made), len(graph.convs))
            for name in node.inputs:
                readers[name] -= 1
                if readers[name] == 0:
                    for values in (*exact, *given):
                        del values[name]
    return made


@dataclass(frozen=True, eq=False)
class _Halves:
    """What a layer reads in every other image, and in the rest; `share` of the positions are the first's."""

    first: Inputs
    second: Inputs
    share: float


def _inputs(conv: Conv, exact: Values, given: Values, weights: Sequence[int], seed: tuple[int, int], pool: Executor) -> _Halves:
    def drawn(index: int) -> list[FloatArray]:
        count = POSITIONS * weights[index]
        maps = [values[index][conv.input][0] for values in (exact, given)]
        return [draw_patches(m, conv, np.random.default_rng([*seed, index]), count).reshape(count, -1) for m in maps]

    pairs = list(pool.map(drawn, range(len(exact))))
    parts = [[np.concatenate(side) for side in zip(*pairs[start::2], strict=True)] for start in (0, 1)]
    first, second = (Inputs.of(*part, with_error=True) for part in parts)
    return _Halves(first, second, len(parts[0][0]) / sum(len(part[0]) for part in parts))


def _refitted(weight: FloatArray, halves: _Halves) -> tuple[FloatArray, Inputs]:
    """(O, K) argmin over V of E|W (x - mean) - V (x_q - mean)|^2, damped towards W, and what all images show."""
    crossed = ((halves.first, halves.second), (halves.second, halves.first))
    lost = {damping: sum(_change(weight, _moved(weight, one, damping), other) for one, other in crossed) for damping in DAMPINGS}
    damping = min(lost, key=lambda candidate: lost[candidate])
    whole = halves.first.merged(halves.second, halves.share)
    if lost[damping] >= 0:
        return weight, whole
    return (weight + _moved(weight, whole, damping)).astype(np.float32), whole


def _moved(weight: FloatArray, inputs: Inputs, damping: float) -> NDArray[np.float64]:
    """(O, K) V - W."""
    assert inputs.error_moment is not None
    floor = max(damping * float(np.diag(inputs.moment).mean()), 1e-12)
    normal = inputs.moment + np.eye(len(inputs.moment)) * floor
    return np.asarray(np.linalg.solve(normal, (weight @ inputs.error_moment).T).T, np.float64)


def _change(weight: FloatArray, moved: NDArray[np.float64], inputs: Inputs) -> float:
    """By how much the layer's squared error on these inputs is larger with the weights moved than without."""
    assert inputs.error_moment is not None
    return float(((moved @ inputs.moment - 2 * weight @ inputs.error_moment) * moved).sum())


def _run(node: Node, values: Values, layers: Mapping[str, Layer], pool: Executor) -> None:
    """Adds what the node makes of each image's values."""

    def one(image: dict[str, FloatArray]) -> None:
        image[node.name] = float_step(node, image, layers)

    with one_blas_thread():
        list(pool.map(one, values))
