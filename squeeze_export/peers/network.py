"""The network as the vendors' users have it: the mean is subtracted from the pixels, not folded into the first convolution.

With the mean in its bias, the first convolution's inputs lie around 110 instead of 0, and rounding its weights shifts every output.
Our own quantizer corrects for that; the vendors' tools do not, so they get the network that they expect. In float this is exact,
because the first convolution has no padding: sum(w x) + b = sum(w (x - m)) + (b + sum(w m)).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from squeeze_export.core import FloatArray
from squeeze_export.graph.nodes import Conv, Graph, Node, Pads, Pair
from squeeze_export.peers import Source


def with_mean_outside(source: Source) -> tuple[Graph, FloatArray]:
    """Takes the mean out of the convolutions that read the pixels.

    Returns:
        The graph, which now takes centred pixels, and the mean to subtract from the pixels: (3,) float32, RGB, in pixel units.
    """
    graph = source.graph
    mean = np.array(graph.preprocess.mean_rgb, np.float32)

    def centred(node: Node) -> Node:
        if not isinstance(node, Conv) or node.input != graph.input.name:
            return node
        offset = (node.weight.astype(np.float64) * mean[:, None, None]).sum(axis=(1, 2, 3))
        return replace(node, bias=(node.bias + offset).astype(np.float32))

    return replace(graph, nodes=tuple(centred(node) for node in graph.nodes)), mean


def same_pads(size: tuple[int, int, int], kernel: Pair, strides: Pair) -> Pads:
    """What TensorFlow calls SAME: ceil(size / stride) outputs, the odd pixel of padding at the bottom and right.

    Args:
        size: (height, width, channels) of the input.
    """
    windows = zip(size, kernel, strides, strict=False)  # of the channels there is no window
    height, width = (max((-(-side // stride) - 1) * stride + window - side, 0) for side, window, stride in windows)
    return (height // 2, width // 2, height - height // 2, width - width // 2)
