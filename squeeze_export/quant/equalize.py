"""Exact equalization: per-channel factors moved from one convolution to the next, through whole Fire modules.

Conv, ReLU, Concat, MaxPool and Add all commute with a positive per-channel factor, so dividing a tensor's channels by s and
multiplying the weights that read them by s changes nothing in float (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.1; here carried through Concat and MaxPool). In integers it decides
where the error falls: s equal to a channel's range gives every channel all 256 levels but widens the weights' ranges; s = 1
leaves the weights alone. The square root of the range is the point between. A range seen in one image alone is not
reliable, so it is estimated from all images: mean + 6 standard deviations of the channel's largest value per image
(docs/quantization.md has the figures).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray
from squeeze_export.errors import BadInput
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool, Node, QuantizedConv, groups_of
from squeeze_export.graph.pixels import whole_numbers
from squeeze_export.graph.quantized import INT8, QuantizedGraph, Scheme
from squeeze_export.quant.observations import Observation

DEVIATIONS = 6.0
SMALLEST_SHARE = 1e-3
WEIGHT_NORM = 8.0
"""How much the largest weight of a column counts before its others: 2 is their root mean square, infinity it alone."""
ROUNDS = 10


def channel_groups(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """The tensors that share one vector of channel factors, group by group.

    Every tensor that may be equalized has its place. A Concat stands for its inputs: they share its factors
    (`with_concat_inputs`).
    """
    pairs = [(name, node.name) for node in graph.nodes if isinstance(node, MaxPool | Add) for name in node.inputs]
    groups = groups_of(graph.sizes, pairs)
    fixed = _fixed_groups(graph, groups)
    parts = {name for node in graph.nodes if isinstance(node, Concat) for name in node.inputs}
    found: dict[str, list[str]] = {}
    for name, group in groups.items():
        if group not in fixed and name not in parts:
            found.setdefault(group, []).append(name)
    return tuple(tuple(names) for names in found.values())


def _fixed_groups(graph: Graph, groups: Mapping[str, str]) -> set[str]:
    """The groups that keep their scale: those of the input, the output, what the average pool reads, and `whole_numbers`. With them
    those of a Concat, and of its inputs, one of which is tied to more than that Concat: pooled, added or concatenated elsewhere
    too.
    """
    members = Counter(groups.values())
    concats = [node for node in graph.nodes if isinstance(node, Concat)]
    uses = Counter(name for node in concats for name in node.inputs)
    made = {node.name for node in graph.nodes if isinstance(node, Conv | Concat)}
    fixed = {groups[name] for name in (graph.input.name, graph.output.name, *graph.nodes[-1].inputs, *whole_numbers(graph))}
    for _ in range(len(concats) + 1):  # each round but the last fixes one more
        for node in concats:
            tied = any(name not in made or uses[name] > 1 or members[groups[name]] > 1 for name in node.inputs)
            joined = {groups[name] for name in (node.name, *node.inputs)}
            if tied or joined & fixed:
                fixed |= joined
    return fixed


def with_concat_inputs(graph: Graph, factors: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Tensor name -> its factors (C,), those of every Concat handed on to its inputs."""
    found = dict(factors)
    for node in reversed(graph.nodes):  # a Concat may itself be a part of one
        if isinstance(node, Concat) and node.name in found:
            ends = np.cumsum([graph.sizes[name][2] for name in node.inputs])
            found |= zip(node.inputs, np.split(found[node.name], ends[:-1]), strict=True)
    return found


def equalize(
    graph: Graph, seen: Mapping[str, Observation], factors: Mapping[str, FloatArray]
) -> tuple[Graph, dict[str, Observation]]:
    """Moves channel factors between the convolutions.

    Args:
        graph: the float graph.
        seen: what calibration observed of it.
        factors: from `channel_factors`.

    Returns:
        A float graph that computes the same function, and the observations as that graph would have given them.
    """
    return rescale(graph, factors), {name: o.divided(factors[name]) if name in factors else o for name, o in seen.items()}


def channel_factors(graph: Graph, seen: Mapping[str, Observation], scheme: Scheme = INT8) -> dict[str, FloatArray]:
    """Tensor name -> (C,) what `equalize` divides its channels by; tensors that it leaves alone are not among them.

    With 16-bit activations the factors serve the weights alone.
    """
    factors: dict[str, FloatArray] = {}
    for group in channel_groups(graph):
        chosen = _factors(group, seen) if scheme.activation_bits == 8 else _weight_factors(group, graph)
        factors |= dict.fromkeys(group, chosen)
    return with_concat_inputs(graph, factors)


def rescale(graph: Graph, factors: Mapping[str, FloatArray]) -> Graph:
    """Divides each named tensor's channels by its factors (C,) and makes up for it in the weights that read it.

    The caller keeps the factors consistent over MaxPool, Add and Concat.
    """
    nodes: list[Node] = []
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


def twin(graph: Graph, quantized: QuantizedGraph) -> Graph:
    """The float network in a table's coordinates: its logits are those of `graph`, its tensors those that the integers stand for.

    Args:
        graph: the float graph that the table was made from.
        quantized: the table.

    Raises:
        BadInput: the table does not store its factors, they contradict each other, or it is of another network.
    """
    if quantized.kept_float:
        raise BadInput("the table already keeps layers in float", hint="use the all-integer table that it was made from")
    if [(type(node).__name__.removeprefix("Quantized"), node.name, node.inputs) for node in quantized.nodes] != [
        (type(node).__name__, node.name, node.inputs) for node in graph.nodes
    ]:
        raise BadInput(f"the table is of another network than `{graph.name}`", hint="name its checkpoint with --weights")
    factors: dict[str, FloatArray] = {graph.input.name: np.ones(graph.sizes[graph.input.name][2], np.float32)}
    for node in quantized.nodes:
        if isinstance(node, QuantizedConv):
            if node.factor is None:
                raise BadInput("the table does not store its equalization factors", hint="calibrate again")
            factors[node.name] = node.factor
        elif isinstance(node, Concat):
            factors[node.name] = np.concatenate([factors[name] for name in node.inputs])
        else:
            first, *others = (factors[name] for name in node.inputs)
            if not all(np.array_equal(first, other) for other in others):
                raise BadInput(f"the table is damaged: `{node.name}` adds channels of different factors", hint="calibrate again")
            factors[node.name] = first
    if (factors[quantized.output.name] != 1).any():
        raise BadInput("the table is damaged: the logits have factors", hint="calibrate again")
    return rescale(graph, factors)


def _factors(group: tuple[str, ...], seen: Mapping[str, Observation]) -> FloatArray:
    ranges = []
    for name in group:
        if name in seen:
            largest = np.maximum(-seen[name].lows, seen[name].highs)  # (N, C)
            ranges.append(largest.mean(axis=0) + DEVIATIONS * largest.std(axis=0))
    expected = np.max(ranges, axis=0).astype(np.float64)
    if not expected.max() > 0:
        return np.ones(len(expected), np.float32)
    # A channel that is dead on the calibration images must not become arbitrarily loud on others.
    factors = np.sqrt(np.maximum(expected, SMALLEST_SHARE * expected.max()))
    return _centred(factors)


def _weight_factors(group: tuple[str, ...], graph: Graph) -> FloatArray:
    """Factors that give the weights that read each channel the same share of their filters' largest weight.

    The error of a rounded weight is a share of its filter's step, whatever its own size; so a column of small weights gains where
    it is made larger, as long as no filter's step grows. In turns, every filter is divided by its largest weight, then every
    column by its `WEIGHT_NORM`.
    """
    readers = [node for name in group for node in graph.consumers.get(name, ()) if isinstance(node, Conv)]
    # (O, k * k, I) each
    weights = [np.abs(conv.weight.reshape(*conv.weight.shape[:2], -1)).transpose(0, 2, 1).astype(np.float64) for conv in readers]
    factors = np.ones(graph.sizes[group[0]][2])
    for _ in range(ROUNDS):
        columns = []
        for weight in weights:
            scaled = weight * factors
            relative = weight / np.maximum(scaled.max(axis=(1, 2), keepdims=True), 1e-30)
            columns.append(np.mean(relative**WEIGHT_NORM, axis=(0, 1)) ** (1 / WEIGHT_NORM))
        loudest = np.max(columns, axis=0)
        if not loudest.max() > 0:
            return np.ones(len(factors), np.float32)
        factors = _centred(1 / np.maximum(loudest, SMALLEST_SHARE * loudest.max())).astype(np.float64)
    return factors.astype(np.float32)


def _centred(factors: NDArray[np.float64]) -> FloatArray:
    """Factors with a geometric mean of 1."""
    centred: FloatArray = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return centred
