"""Layers put back to float in a table: what then computes in float with them, and the table that says so.

A layer in float has its float weights, and its output is not rounded. An output that is not rounded has no integers, so whatever
reads it, and whatever else is joined with it (the other half of a Concat), computes in float too. Of these, only the named layers'
outputs are floats; the last layer on the way back to integers rounds its output as before. A tensor that only float layers touch
is never rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from squeeze_export.errors import BadInput, did_you_mean
from squeeze_export.graph.nodes import Add, Conv, Graph, QuantizedNode
from squeeze_export.graph.quantized import MIXED_SCHEMES, QuantizedGraph, Scheme
from squeeze_export.quant.equalize import twin
from squeeze_export.quant.ranges import scale_groups

KEEP_FLOAT = "keep_float"
"""Key of a table's provenance: the layers that were named."""


def keep_float(graph: Graph, quantized: QuantizedGraph, layers: Collection[str]) -> QuantizedGraph:
    """Puts layers back to float.

    Args:
        graph: the float graph that the table was made from.
        quantized: the table, all in integers.
        layers: names of convolutions, or of additions; of an addition only the output is kept in float.

    Returns:
        The table with a `Conv` for every convolution that computes in float (`QuantizedGraph.kept_float`), and no quantization for
        the tensors between them; the table itself where no layer is named.

    Raises:
        BadInput: no such layer, a scheme without floats, another network, or a table that does not store its factors.
    """
    if not layers:
        return quantized
    check_mixed_scheme(quantized.scheme)
    floats = twin(graph, quantized)
    convs, tensors = float_parts(floats, layers)
    of_name = {conv.name: conv for conv in floats.convs}
    nodes: list[QuantizedNode] = [of_name[node.name] if node.name in convs else node for node in quantized.nodes]
    return replace(
        quantized,
        nodes=tuple(nodes),
        tensors={name: q for name, q in quantized.tensors.items() if name not in tensors},
        provenance={**quantized.provenance, KEEP_FLOAT: sorted(set(layers))},
    )


def check_keepable(graph: Graph, layers: Collection[str]) -> None:
    """Refuses what cannot be kept in float, before any work is done for it.

    Raises:
        BadInput: no such layer, or no convolution would be left in integers.
    """
    if layers and len(float_parts(graph, layers)[0]) == len(graph.convs):
        raise BadInput("with these layers in float nothing is left in integers", hint="name fewer, or export with --scheme fp32")


def check_mixed_scheme(scheme: Scheme) -> None:
    """Refuses a scheme in which no layer can be kept in float.

    Raises:
        BadInput: it is one of floats, or for hardware that has none.
    """
    if not scheme.integer:
        raise BadInput(f"in the scheme `{scheme.name}` every layer is float already", hint="--int8")
    if scheme.name not in MIXED_SCHEMES:
        raise BadInput(f"the scheme `{scheme.name}` cannot keep layers in float", hint=f"--scheme {MIXED_SCHEMES[0]}")


def float_parts(graph: Graph, layers: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What computes in float where `layers` do.

    Args:
        graph: the network.
        layers: names of convolutions or additions.

    Returns:
        The convolutions in float, and the tensors that are not rounded.

    Raises:
        BadInput: no such layer.
    """
    known = [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
    for name in layers:
        if name not in known:
            raise BadInput(f"no layer is called `{name}`", hint=did_you_mean(name, known, otherwise=f"one of: {', '.join(known)}"))
    groups = scale_groups(graph)
    touching = _touching(graph, groups)
    named = {groups[name] for name in layers}
    convs = {conv.name for conv in graph.convs if conv.name in layers}.union(*(touching[group] for group in named))
    floats = {group for group, members in touching.items() if group in named or (members and members <= convs)}
    tensors = frozenset(name for name, group in groups.items() if group in floats)
    return frozenset(convs), tensors - {graph.output.name}


def _touching(graph: Graph, groups: Mapping[str, str]) -> dict[str, set[str]]:
    """Scale group -> the convolutions that read or make one of its tensors; without the group of the input, which is exact."""
    found: dict[str, set[str]] = {group: set() for group in groups.values()}
    for conv in graph.convs:
        found[groups[conv.name]].add(conv.name)
        found[groups[conv.input]].add(conv.name)
    del found[groups[graph.input.name]]
    return found
