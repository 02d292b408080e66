"""The float run: the graph in numpy, float32, NHWC. This is the reference that every artifact is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray, FloatArray
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool, Node, Pads, Pair

Scalar = TypeVar("Scalar", bound=np.generic)

Layer: TypeAlias = tuple[FloatArray, FloatArray]
"""A convolution's weights as `weight_matrix` lays them out, and its bias."""

Tap: TypeAlias = Callable[[str, FloatArray], None]
"""Called with a tensor's name and its (n, H, W, C) float32 values, read-only by agreement."""


def one_blas_thread() -> AbstractContextManager[object]:
    """While open, a matrix product uses one core: the callers run images side by side instead, which is faster."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, "blas")
    return limits


class FloatRunner:
    """Runs a float graph. Weights are laid out once, for as many batches as follow.

    Args:
        graph: from `build_graph`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._layers = laid_out(graph)

    def __call__(self, batch: ByteArray | FloatArray, tap: Tap | None = None) -> FloatArray:
        """Runs a batch, image by image: one image's maps stay in the cache.

        Args:
            batch: (N, H, W, C) uint8 or float32, RGB or grey pixels or what else the graph reads, of its input size.
            tap: sees every node's output, once per image, n = 1.

        Returns:
            (N, classes) float32 logits.
        """
        expected = self.graph.input.shape[1:]
        if batch.shape[1:] != expected:
            raise ValueError(f"batch of shape {batch.shape}, the graph takes (N, {expected})")
        return np.concatenate([self._run(image[None].astype(np.float32), tap) for image in batch])

    def _run(self, image: FloatArray, tap: Tap | None) -> FloatArray:
        values: dict[str, FloatArray] = {self.graph.input.name: image}
        readers = {name: len(nodes) for name, nodes in self.graph.consumers.items()}
        for node in self.graph.nodes:
            result = float_step(node, values, self._layers)
            if tap is not None:
                tap(node.name, result)
            values[node.name] = result
            for name in node.inputs:
                readers[name] -= 1
                if readers[name] == 0:
                    del values[name]
        return values[self.graph.output.name]


def run_each(pool: Executor, run: Callable[[ByteArray], FloatArray], batch: ByteArray) -> FloatArray:
    """(N, classes) logits of (N, H, W, 3) images, which run side by side, one by one."""
    return np.concatenate(list(pool.map(run, np.split(batch, len(batch)))))


def laid_out(graph: Graph) -> dict[str, Layer]:
    """The weights of every convolution, by its name."""
    return {conv.name: (weight_matrix(conv.weight), conv.bias) for conv in graph.convs}


def float_step(node: Node, values: Mapping[str, FloatArray], layers: Mapping[str, Layer]) -> FloatArray:
    """What a node makes of its inputs, (n, H, W, C); the average pool makes (n, C). A fresh array."""
    if isinstance(node, Conv):
        matrix, bias = layers[node.name]
        result = convolve(values[node.input], matrix, node.kernel, node.strides, node.pads)
        result += bias
        return np.maximum(result, 0, out=result) if node.relu else result
    if isinstance(node, MaxPool):
        return max_pool(values[node.input], node.kernel, node.strides, node.pads, np.float32(-np.inf))
    if isinstance(node, Concat):
        return np.concatenate([values[name] for name in node.inputs], axis=3)
    if isinstance(node, Add):
        total = values[node.inputs[0]] + values[node.inputs[1]]
        return np.maximum(total, 0, out=total) if node.relu else total
    means: FloatArray = values[node.input].mean(axis=(1, 2), dtype=np.float32)
    return means


def weight_matrix(weight: NDArray[Scalar]) -> NDArray[Scalar]:
    """(O, I, rows, columns) weights as the (rows*columns*I, O) right-hand side of a convolution written as a matrix product."""
    out_channels = weight.shape[0]
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(-1, out_channels))


def convolve(values: NDArray[Scalar], matrix: NDArray[Scalar], kernel: Pair, strides: Pair, pads: Pads) -> NDArray[Scalar]:
    """Convolution as one matrix product over (rows, columns, I) patches; zero padding.

    Args:
        values: (n, H, W, I).
        matrix: (rows*columns*I, O), of the same dtype.

    Returns:
        (n, Ho, Wo, O).
    """
    if kernel == strides == (1, 1) and not any(pads):
        product: NDArray[Scalar] = values @ matrix  # type: ignore[operator]  # numpy types no product of a generic dtype
        return product
    padded = pad(values, pads, 0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, :: strides[0], :: strides[1]]
    n, height, width = windows.shape[:3]  # (n, Ho, Wo, I, rows, columns)
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * height * width, -1)
    result: NDArray[Scalar] = (patches @ matrix).reshape(n, height, width, -1)
    return result


def max_pool(values: NDArray[Scalar], kernel: Pair, strides: Pair, pads: Pads, lowest: object) -> NDArray[Scalar]:
    """Max-pool of (n, H, W, C); `lowest` fills the padding. Separable: rows first, then columns."""
    padded = pad(values, pads, lowest)
    down, right = strides
    height = (padded.shape[1] - kernel[0]) // down * down + 1
    width = (padded.shape[2] - kernel[1]) // right * right + 1
    rows = padded[:, 0:height:down]
    for i in range(1, kernel[0]):
        rows = np.maximum(rows, padded[:, i : i + height : down])
    result = rows[:, :, 0:width:right]
    for i in range(1, kernel[1]):
        result = np.maximum(result, rows[:, :, i : i + width : right])
    return result


def pad(values: NDArray[Scalar], pads: Pads, fill: object) -> NDArray[Scalar]:
    """Pads height and width of (n, H, W, C)."""
    top, left, bottom, right = pads
    if not any(pads):
        return values
    n, height, width, channels = values.shape
    padded = np.full((n, top + height + bottom, left + width + right, channels), fill, values.dtype)
    padded[:, top : top + height, left : left + width] = values
    return padded
