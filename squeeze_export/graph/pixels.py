"""Mean, standard deviation and channel order go into the graph, so that every file takes raw pixels.

They are folded into the convolutions that read the input, which is exact where these have no padding:
sum_k w_k (x_k - mean_k) / std_k + b  =  sum_k (w_k / std_k) x_k + (b - sum_k w_k mean_k / std_k).

Padding with zeros is padding with normalized zeros, which as a pixel is the mean, and no format pads with that. So where a padded
convolution reads the input, a 1x1 convolution `normalize` is put in front. It takes 128 off the pixels and adds a channel of 127:
sum_k w_k (x_k - mean_k) / std_k  =  sum_k (w_k / std_k) (x_k - 128) + 127 sum_k w_k (128 - mean_k) / (127 std_k).
All its channels are whole numbers, so 8 bits hold them without error, and padding is 0 in each. Where anything else than a
convolution reads the input, `normalize` gives (x - mean) / std itself. Where the mean is 0 the two zeros are one, and the fold is
exact with padding too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from squeeze_export.core import Preprocess
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, Node

NORMALIZE = "normalize"
MIDDLE, ONE = 128, 127
"""What `normalize` takes off the pixels, and the value of its further channel."""


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
    if all(isinstance(node, Conv) for node in readers):
        weight, bias = np.eye(len(mean) + 1, len(mean)), np.array([*(-MIDDLE for _ in mean), ONE], np.float64)
        nodes = tuple(_centred(node, preprocess) if isinstance(node, Conv) and node.input == source else node for node in nodes)
    else:
        weight, bias = np.diag(1 / std), -mean / std
    if preprocess.channel_order == "bgr":
        weight[: len(mean)] = weight[: len(mean), ::-1]
    weight = weight[:, :, None, None]  # (channels of the network and a further one, channels of the pixels, 1, 1)
    first = Conv(name, source, weight.astype(np.float32), bias.astype(np.float32), (1, 1), (0, 0, 0, 0), False)
    return (first, *(_reading(node, source, name) for node in nodes))


def whole_numbers(graph: Graph) -> frozenset[str]:
    """Tensors that only convolutions read and that are whole numbers from -128 to 127 whatever the pixels, as `normalize` is.

    Every scheme of 8 bits holds them without error, at a scale of 1 and a zero point of 128.
    """
    found = set[str]()
    for conv in graph.convs:
        if conv.input != graph.input.name or not all(isinstance(node, Conv) for node in graph.consumers[conv.name]):
            continue
        rows = conv.weight.reshape(len(conv.weight), -1).astype(np.float64)
        low, high = (conv.bias + 255 * part.sum(axis=1) for part in (np.minimum(rows, 0), np.maximum(rows, 0)))
        whole = all((values == np.rint(values)).all() for values in (rows, conv.bias))
        if whole and (low >= -MIDDLE).all() and (high < MIDDLE).all():
            found.add(conv.name)
    return frozenset(found)


def _centred(conv: Conv, preprocess: Preprocess) -> Conv:
    """The convolution for pixels without their middle, in the network's order of channels, and a further channel of `ONE`."""
    mean, std = (np.asarray(values, np.float64)[:, None, None] for values in (preprocess.mean, preprocess.std))
    scaled = conv.weight.astype(np.float64) / std
    further = (scaled * (MIDDLE - mean) / ONE).sum(axis=1, keepdims=True)
    return replace(conv, weight=np.concatenate([scaled, further], axis=1).astype(np.float32))


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
