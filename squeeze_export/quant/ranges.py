"""From observed values to scales: which tensors share one, and where to clip.

The clipping point is the one with the smallest mean squared error over all calibration images, every channel weighted by the
energy of the weights that read it (Banner et al., "Post training 4-bit quantization of convolutional networks", NeurIPS 2019,
use the plain form). Photographs that calibration never saw reach further than those it saw, so the point found is moved out by
`HEADROOM` and kept above `SMALLEST_SHARE` of the largest value (docs/quantization.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from squeeze_export.graph.nodes import Add, Concat, GlobalAveragePool, Graph, MaxPool, groups_of, signed_tensors
from squeeze_export.graph.pixels import whole_numbers
from squeeze_export.graph.quantized import INT8, Quantization, Scheme
from squeeze_export.quant.observations import Observation

Float = TypeVar("Float", np.float32, np.float64)

FLOAT32_BITS = 24
BIN_COUNT = 4096
THINNING = 2
"""The search for one number per tensor needs fewer samples than the second moments do."""
HEADROOM = 1.1
SMALLEST_SHARE = 0.85
CLIP_SHARES = np.linspace(1.0, SMALLEST_SHARE / HEADROOM, 46)
WIDE_HEADROOM = 2.0
"""With 16 bits a step is so small that the range may be twice what was seen: nothing is searched, and nothing clips."""


def scale_groups(graph: Graph) -> dict[str, str]:
    """Tensor name -> the name that stands for its scale group.

    A MaxPool keeps its input's scale, a Concat has one scale for all its inputs, and an Add of two ReLU outputs has one for both.
    """
    signed = signed_tensors(graph.nodes)
    pairs: list[tuple[str, str]] = []
    for node in graph.nodes:
        if isinstance(node, MaxPool | Concat):
            pairs += [(name, node.name) for name in node.inputs]
        elif isinstance(node, Add) and not signed & set(node.inputs):
            pairs.append(node.inputs)
    return groups_of(graph.sizes, pairs)


def search_ranges(graph: Graph, seen: Mapping[str, Observation], scheme: Scheme = INT8) -> dict[str, Quantization]:
    """Chooses scale and zero point of every tensor, the logits only where the scheme has them in integers.

    Args:
        graph: the (equalized) float graph.
        seen: its observations.
        scheme: an integer scheme.

    Returns:
        Tensor name -> quantization; one object for all tensors of a scale group.
    """
    groups = scale_groups(graph)
    chosen: dict[str, Quantization] = {groups[graph.input.name]: Quantization(1.0, 0)}
    if scheme.activation_bits == 8:
        chosen |= {groups[name]: Quantization(1.0, scheme.middle) for name in whole_numbers(graph)}
    for group in dict.fromkeys(groups.values()):
        members = [name for name in seen if groups[name] == group and name != graph.output.name]
        if group not in chosen and members:
            chosen[group] = _search([seen[name] for name in members], [_importance(graph, name) for name in members], scheme)
    if scheme.integer_output:
        # Not searched: a logit that clips is the best one, and two that do are one class.
        low, high = _reach([seen[graph.output.name]])
        chosen[groups[graph.output.name]] = quantization_of(low * HEADROOM, high * HEADROOM, scheme)
        return {name: chosen[group] for name, group in groups.items()}
    for node in graph.nodes:
        if isinstance(node, GlobalAveragePool):
            height, width, _ = graph.sizes[node.input]
            q = chosen[groups[node.input]]
            chosen[groups[node.input]] = replace(q, scale=summable(q.scale, height * width, scheme))
    return {name: chosen[group] for name, group in groups.items() if name != graph.output.name}


def summable(scale: float, count: int, scheme: Scheme = INT8) -> float:
    """Rounds a scale up to so few bits that `count` values add up exactly in float32, in any order.

    The average pool runs in float and every runtime adds in an order of its own: with such a scale two classes with equal
    integers have equal logits everywhere, and no order of adding changes the answer. At 13 x 13 that widens
    the scale by at most 0.8%. With 16-bit activations few bits are left, at times one: a step that is up to twice as large
    is still a small one.
    """
    largest = scheme.middle if scheme.symmetric else scheme.levels
    bits = max(FLOAT32_BITS - (largest * count).bit_length(), 1)
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(math.ceil(math.ldexp(mantissa, bits)), exponent - bits)


def _importance(graph: Graph, name: str) -> NDArray[np.float64]:
    """(C,) how much an error in each channel weighs: the energy of the weights that read it; 1 where an Add or the pool does."""
    total = np.zeros(graph.sizes[name][2])
    for node in graph.consumers[name]:
        total += np.square(node.weight, dtype=np.float64).sum(axis=(0, 2, 3)) if node in graph.convs else 1.0
    return total


def _reach(seen: list[Observation]) -> tuple[float, float]:
    """The smallest and the largest value seen, 0 included."""
    return min(0.0, min(float(o.lows.min()) for o in seen)), max(0.0, max(float(o.highs.max()) for o in seen))


def _search(seen: list[Observation], importance: list[NDArray[np.float64]], scheme: Scheme) -> Quantization:
    low, high = _reach(seen)
    if high - low < 1e-12:
        return quantization_of(low, high, scheme)
    if scheme.activation_bits > 8:
        return quantization_of(low * WIDE_HEADROOM, high * WIDE_HEADROOM, scheme)
    weight = np.zeros(BIN_COUNT)
    width = (high - low) / BIN_COUNT
    for observation, channel_weight in zip(seen, importance, strict=True):
        samples = observation.samples[::THINNING]
        bins = np.minimum((samples - np.float32(low)) * np.float32(1 / width), BIN_COUNT - 1).astype(np.intp)
        weights = np.broadcast_to(channel_weight / len(samples), bins.shape)
        weight += np.bincount(bins.ravel(), weights.ravel(), BIN_COUNT)
    centres = low + (np.arange(BIN_COUNT) + 0.5) * width
    # The bin of 0 holds mostly exact zeros of a ReLU, which every scale carries without error.
    centres[np.abs(centres) < width] = 0.0

    def error(share: float) -> float:
        candidate = quantization_of(low * share, high * share, scheme)
        return float((weight * np.square(fake_quantize(centres, candidate, scheme) - centres)).sum())

    share = min(1.0, HEADROOM * min(CLIP_SHARES, key=error))
    return quantization_of(low * share, high * share, scheme)


def quantization_of(low: float, high: float, scheme: Scheme = INT8) -> Quantization:
    """The quantization that covers [low, high], 0 included exactly; the scale is a float32 value, 1 where there is no range."""
    if high - low < 1e-12:
        return Quantization(1.0, scheme.middle if scheme.symmetric else 0)
    if scheme.symmetric:
        return Quantization(float(np.float32(max(-low, high) / (scheme.levels - scheme.middle))), scheme.middle)
    scale = np.float32((high - low) / scheme.levels)
    zero_point = int(np.clip(np.rint(-low / float(scale)), 0, scheme.levels))
    return Quantization(float(scale), zero_point)


def fake_quantize(values: NDArray[Float], q: Quantization, scheme: Scheme = INT8) -> NDArray[Float]:
    """Real values -> the real values that their integers stand for."""
    scale = values.dtype.type(q.scale)
    integers = np.clip(np.rint(values / scale) + q.zero_point, 0, scheme.levels)
    real: NDArray[Float] = (integers - q.zero_point) * scale
    return real
