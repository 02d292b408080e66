"""Mean, standard deviation and channel order go into the graph, so that every file takes raw pixels.

They are folded into the convolutions that read the input, which is exact where these have no padding:
sum_k w_k (x_k - mean_k) / std_k + b  =  sum_k (w_k / std_k) x_k + (b - sum_k w_k mean_k / std_k).

Padding with zeros is padding with normalized zeros, which as a pixel is the mean, and no format pads with that. So where a padded
convolution, or anything else than a convolution, reads the input, a 1x1 convolution `normalize` is put in front. Where the mean is
0 the two zeros are one, and the fold is exact with padding too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from squeeze_export.core import Preprocess
from squeeze_export.graph.nodes import Add, Concat, Conv, Node

NORMALIZE = "normalize"


def on_pixels(nodes: Iterable[Node], preprocess: Preprocess, source: str = "input") -> tuple[Node, ...]:
    """Rewrites a graph that reads normalized values, in the network's order of channels, to read pixels.

    Args:
        nodes: in topological order.
        preprocess: `mean`, `std` and `channel_order` are used.
        source: the input's name.

    Returns:
        Nodes that give the same for raw pixels, 0 to 255, RGB or grey; a `normalize` in front where nothing can be folded.
    """
    nodes = tuple(nodes)
    readers = [node for node in nodes if source in node.inputs]
    centred = not any(preprocess.mean)
    if all(isinstance(node, Conv) and (centred or not any(node.pads)) for node in readers):
        return tuple(_folded(node, preprocess) if isinstance(node, Conv) and node.input == source else node for node in nodes)
    if centred and set(preprocess.std) == {1.0} and preprocess.channel_order != "bgr":
        return nodes
    name = NORMALIZE
    while any(node.name == name for node in nodes):
        name += "_"
    mean, std = np.asarray(preprocess.mean, np.float64), np.asarray(preprocess.std, np.float64)
    weight = np.diag(1 / std)  # (channels of the network, channels of the pixels)
    if preprocess.channel_order == "bgr":
        weight = weight[:, ::-1]
    first = Conv(
        name,
        source,
        np.ascontiguousarray(weight[:, :, None, None], np.float32),
        (-mean / std).astype(np.float32),
        (1, 1),
        (0, 0, 0, 0),
        False,
    )
    return (first, *(_reading(node, source, name) for node in nodes))


def _folded(conv: Conv, preprocess: Preprocess) -> Conv:
    mean, std = (np.asarray(values, np.float64)[:, None, None] for values in (preprocess.mean, preprocess.std))
    scaled = conv.weight.astype(np.float64) / std  # (O, C, rows, columns), channels in the network's order
    bias = conv.bias.astype(np.float64) - (scaled * mean).sum(axis=(1, 2, 3))
    if preprocess.channel_order == "bgr":
        scaled = scaled[:, ::-1]
    return replace(conv, weight=np.ascontiguousarray(scaled, np.float32), bias=bias.astype(np.float32))


def _reading(node: Node, source: str, name: str) -> Node:
    """The node with another input in place of the source."""
    if source not in node.inputs:
        return node
    if isinstance(node, Concat):
        return replace(node, inputs=tuple(name if one == source else one for one in node.inputs))
    if isinstance(node, Add):
        first, second = (name if one == source else one for one in node.inputs)
        return replace(node, inputs=(first, second))
    return replace(node, input=name)
