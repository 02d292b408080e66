"""Exact equalization: per-channel factors moved from one convolution to the next, through whole Fire modules.

Conv, ReLU, Concat, MaxPool and Add all commute with a positive per-channel factor, so dividing a tensor's channels by s and multiplying
the weights that read them by s changes nothing in float (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, section 4.1; here carried through Concat and MaxPool). In integers it decides where the error falls:

    activations   Delta_a^2 / 12 * sum_c s_c^2 ||W_c||^2,              Delta_a = max_c(high_c / s_c) / 255
    weights       sum_o Delta_o^2 / 12 * sum_c k^2 E[x_c^2] / s_c^2,   Delta_o = max_c |W_oc| s_c / 127

s is taken from the family high_c^a / reach_c^b that contains "do nothing" (a = b = 0), equal activation ranges (1, 0) and equal weight
ranges (0, 1), at the point where the sum of both errors is smallest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from squeeze_export.core import FloatArray
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool
from squeeze_export.quant.observations import Observation

EXPONENTS = tuple(np.linspace(0, 1, 9))


@dataclass(frozen=True)
class ChannelGroup:
    """Tensors that share one vector of channel factors.

    Attributes:
        tensors: their names; all have the same channel count.
        slices: tensor that is concatenated into this group -> its first channel there.
    """

    tensors: tuple[str, ...]
    slices: Mapping[str, int]


def channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    """Partitions the tensors that may be equalized: all but the input, conv10's output and the logits."""
    parent: dict[str, str] = {node.name: node.name for node in graph.nodes}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    fixed = {graph.output.name, *graph.nodes[-1].inputs}
    parts: set[str] = set()
    for node in graph.nodes:
        if isinstance(node, MaxPool | Add):
            for name in node.inputs:
                parent[find(name)] = find(node.name)
        elif isinstance(node, Concat):
            parts |= set(node.inputs)
    groups: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.name not in parts and node.name not in fixed:
            groups.setdefault(find(node.name), []).append(node.name)
    found = []
    for tensors in groups.values():
        slices = {}
        for node in graph.nodes:
            if isinstance(node, Concat) and node.name in tensors:
                start = 0
                for name in node.inputs:
                    slices[name] = start
                    start += graph.sizes[name][2]
        found.append(ChannelGroup(tuple(tensors), slices))
    return tuple(found)


def equalize(graph: Graph, seen: Mapping[str, Observation]) -> tuple[Graph, dict[str, Observation]]:
    """Moves channel factors between the convolutions so that the predicted integer error is smallest.

    Args:
        graph: the float graph.
        seen: what calibration observed of it.

    Returns:
        A float graph that computes the same function, and the observations as that graph would have given them.
    """
    factors: dict[str, FloatArray] = {}
    for group in channel_groups(graph):
        chosen = _factors(group, graph, seen)
        factors |= dict.fromkeys(group.tensors, chosen)
        factors |= {name: chosen[start : start + graph.sizes[name][2]] for name, start in group.slices.items()}
    return rescale(graph, factors), {name: o.divided(factors[name]) if name in factors else o for name, o in seen.items()}


def rescale(graph: Graph, factors: Mapping[str, FloatArray]) -> Graph:
    """Divides each named tensor's channels by its factors (C,) and makes up for it in the weights that read it.

    The caller keeps the factors consistent over MaxPool, Add and Concat.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            weight, bias = node.weight, node.bias
            if node.input in factors:
                weight = weight * factors[node.input][:, None, None]
            if node.name in factors:
                weight = weight / factors[node.name][:, None, None, None]
                bias = bias / factors[node.name]
            nodes.append(replace(node, weight=weight, bias=bias))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _factors(group: ChannelGroup, graph: Graph, seen: Mapping[str, Observation]) -> FloatArray:
    observed = [seen[name] for name in group.tensors if name in seen]
    high = np.max([np.maximum(-o.lows, o.highs).max(axis=0) for o in observed], axis=0).astype(np.float64)
    readers = [node for node in graph.convs if node.input in group.tensors]
    energy = np.zeros_like(high)  # (C,) sum of squared weights that read the channel
    reach = np.zeros_like(high)  # (C,) the largest weight that reads the channel, each output filter measured by its own range
    tables = []
    for conv in readers:
        largest = np.abs(conv.weight).max(axis=(2, 3)).astype(np.float64)  # (O, C)
        power = np.square(seen[conv.input].samples, dtype=np.float64).mean(axis=0) * conv.kernel**2
        energy += np.square(conv.weight, dtype=np.float64).sum(axis=(0, 2, 3))
        reach = np.maximum(reach, (largest / np.maximum(largest.max(axis=1, keepdims=True), 1e-30)).max(axis=0))
        tables.append((largest, power))
    # Channels that are dead on either side carry nothing: they must not drag the others.
    alive = (high > 1e-6 * high.max()) & (reach > 1e-6)
    if not alive.any():
        return np.ones(len(high), np.float32)
    high, reach = np.where(alive, high, high[alive].mean()), np.where(alive, reach, reach[alive].mean())

    def error(factors: np.ndarray) -> float:
        step = np.where(alive, high / factors, 0).max() / 255
        total = step**2 / 12 * (factors**2 * energy).sum()
        for largest, power in tables:
            total += np.square((largest * factors).max(axis=1) / 127).sum() / 12 * (power / factors**2).sum()
        return float(total)

    candidates = [high**a / reach**b for a in EXPONENTS for b in EXPONENTS]
    best = min(candidates, key=error)
    return (best / np.exp(np.log(best).mean())).astype(np.float32)
