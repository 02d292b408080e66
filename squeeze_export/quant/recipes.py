"""How integers are made: graph + images -> quantized graph. A quantizer is a plain function; `QUANTIZERS` is the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from squeeze_export import __version__
from squeeze_export.core import ByteArray, FloatArray, Progress, silent
from squeeze_export.graph.nodes import Conv, Graph, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import INT8, Quantization, QuantizedGraph, Scheme
from squeeze_export.graph.run import one_blas_thread
from squeeze_export.quant.distill import distill
from squeeze_export.quant.equalize import channel_factors, equalize
from squeeze_export.quant.material import Material
from squeeze_export.quant.observations import Observation, TappedRun, observe
from squeeze_export.quant.ranges import fake_quantize, search_ranges
from squeeze_export.quant.refit import refit
from squeeze_export.quant.rounding import Inputs, compensated, corrected_bias, weight_rows, weight_scales

FAST, BEST = "fast", "best"
WEIGHT_LIMIT = 127
FIRST_WEIGHT_LIMIT = 64
"""conv1 alone sees integers up to 255 in every position: with 7 bits its u8 x s8 pair sums fit int16 on CPUs without VNNI. So do
those behind a `normalize`."""


Quantizer: TypeAlias = Callable[[Material], QuantizedGraph]


def quantize(
    graph: Graph,
    pixels: ByteArray,
    run: TappedRun,
    scheme: Scheme,
    *,
    recipe: str = FAST,
    seed: int = 0,
    threads: int = 1,
    weights: Sequence[int] | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> QuantizedGraph:
    """Calibrates and quantizes a network.

    Args:
        graph: the float graph.
        pixels: (N, H, W, 3) uint8 calibration images.
        run: the float run of `graph`, safe to call from several threads.
        scheme: an integer scheme.
        recipe: a key of `QUANTIZERS`.
        seed: of everything random; the same seed and images give the same integers.
        threads: calibration images in flight.
        weights: N, how often each image counts; None for once each.
        provenance: added to the table's own.
        progress: told of the images and steps.

    Raises:
        Unavailable: `best` without torch.
    """
    found = observe(graph, run, pixels, seed=seed, threads=threads, weights=weights, progress=progress)
    material = Material(graph, found.of(), pixels, found.weights, seed, threads, scheme, progress)
    return quantize_observed(material, recipe=recipe, provenance=provenance)


def quantize_observed(material: Material, *, recipe: str = FAST, provenance: Mapping[str, Any] | None = None) -> QuantizedGraph:
    """As `quantize`, from observations that are there already.

    Raises:
        Unavailable: `best` without torch.
    """
    graph = material.graph
    made = QUANTIZERS[recipe](material)
    made_by = {
        "recipe": recipe,
        "seed": material.seed,
        "image_count": len(material.pixels),
        "checkpoint_sha256": graph.checkpoint_sha256,
        "squeeze_export": __version__,
    }
    return replace(made, provenance={**made.provenance, **made_by, **dict(provenance or {})})


def weight_limits(graph: Graph | QuantizedGraph, scheme: Scheme = INT8) -> dict[str, int]:
    """Convolution -> the largest magnitude of its integer weights."""
    first = FIRST_WEIGHT_LIMIT if scheme.activation_bits == 8 else WEIGHT_LIMIT
    pixels = {graph.input.name} | {conv.name for conv in graph.convs if conv.input == graph.input.name and not conv.relu}
    return {conv.name: first if conv.input in pixels else WEIGHT_LIMIT for conv in graph.convs}


def fast(material: Material) -> QuantizedGraph:
    """Equalization, MSE ranges, rounding with error compensation and bias correction, from one pass over the images."""
    ranged = _ranged(material)
    tensors = ranged.tensors

    def quantized(conv: Conv) -> QuantizedConv:
        patches = ranged.seen[conv.input].patches_for(conv.kernel).reshape(-1, conv.weight[0].size)
        inputs = Inputs.of(patches, fake_quantize(patches, tensors[conv.input], material.scheme))
        return _rounded(conv, weight_rows(conv.weight), inputs, tensors[conv.input], material)

    with one_blas_thread(), ThreadPoolExecutor(material.threads) as pool:
        largest_first = sorted(ranged.graph.convs, key=lambda conv: -conv.weight.size)  # so that no core waits for conv10
        convs = {made.name: made for made in pool.map(quantized, largest_first)}
    return _table(convs, ranged, material)


def best(material: Material) -> QuantizedGraph:
    """As `fast`, but layer by layer: each layer's weights are refitted to what the integers before it really give; then biases
    and ranges are trained together on the error of the logits. With 16-bit activations, whose ranges clip nothing, they are not.
    """
    ranged = _ranged(material)

    def rounded(conv: Conv, wanted: FloatArray, inputs: Inputs) -> QuantizedConv:
        return _rounded(conv, wanted, inputs, ranged.tensors[conv.input], material)

    refitted = _table(refit(material, ranged.graph, ranged.tensors, rounded), ranged, material)
    return distill(refitted, material) if material.scheme.activation_bits == 8 else refitted


QUANTIZERS: Mapping[str, Quantizer] = {FAST: fast, BEST: best}


@dataclass(frozen=True, eq=False)
class _Ranged:
    """The equalized graph, its observations and ranges, and the factors that equalized it."""

    graph: Graph
    seen: Mapping[str, Observation]
    tensors: Mapping[str, Quantization]
    factors: Mapping[str, FloatArray]


def _ranged(material: Material) -> _Ranged:
    factors = channel_factors(material.graph, material.seen, material.scheme)
    equalized, seen = equalize(material.graph, material.seen, factors)
    return _Ranged(equalized, seen, search_ranges(equalized, seen, material.scheme), factors)


def _table(convs: Mapping[str, QuantizedConv], ranged: _Ranged, material: Material) -> QuantizedGraph:
    """The integers together, each convolution with its factors."""
    graph = material.graph
    nodes: list[QuantizedNode] = []
    for node in ranged.graph.nodes:
        if isinstance(node, Conv):
            ones = np.ones(len(node.weight), np.float32)
            nodes.append(replace(convs[node.name], factor=ranged.factors.get(node.name, ones)))
        else:
            nodes.append(node)
    return QuantizedGraph(
        graph.name, tuple(nodes), graph.input, graph.output, ranged.tensors, material.scheme, graph.preprocess, graph.labels, {}
    )


def _rounded(conv: Conv, wanted: FloatArray, inputs: Inputs, source: Quantization, material: Material) -> QuantizedConv:
    """Integers of one layer: `wanted` (O, K) rounded; the bias makes up for the mean difference to the float layer."""
    scheme = material.scheme
    limit = weight_limits(material.graph, scheme)[conv.name]
    scale = weight_scales(wanted, conv.bias, inputs.power, source.scale, limit, shared=scheme.per_tensor)
    integers = compensated(wanted, scale, limit, inputs.moment)
    weight = weight_rows(conv.weight)
    bias = corrected_bias(conv.bias, weight, integers * scale[:, None], inputs.mean, inputs.given_mean)
    out_channels, in_channels, rows, columns = conv.weight.shape
    return QuantizedConv(
        conv.name,
        conv.input,
        np.ascontiguousarray(integers.reshape(out_channels, rows, columns, in_channels).transpose(0, 3, 1, 2), np.int8),
        scale,
        np.rint(bias / (np.float64(source.scale) * scale)).astype(np.int32),
        conv.strides,
        conv.pads,
        conv.relu,
    )
