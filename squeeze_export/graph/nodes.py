"""The float graph: five kinds of node over numpy arrays. A node's name is the name of the tensor it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Preprocess, TensorSpec

Pads = tuple[int, int, int, int]
"""Zero padding in pixels: top, left, bottom, right (ONNX's order)."""

Pair = tuple[int, int]
"""Rows and columns of a window, or its steps down and to the right."""


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution, with its ReLU where it has one.

    Attributes:
        weight: (out, in, rows, columns) float32.
        bias: (out,) float32.
        relu: whether max(x, 0) follows.
    """

    name: str
    input: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strides: Pair
    pads: Pads
    relu: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def kernel(self) -> Pair:
        return kernel_of(self.weight)


@dataclass(frozen=True, eq=False)
class QuantizedConv:
    """A convolution in integers: acc = sum((x - x_zero_point) * weight) + bias, then rescaled to the output's scale.

    Attributes:
        weight: (out, in, rows, columns) int8, symmetric.
        weight_scale: (out,) float32, above 0.
        bias: (out,) int32, at scale input_scale * weight_scale.
        relu: whether the output is clamped at real 0.
        factor: (out,) float32, above 0: equalization divided the output's channels by it, so real * factor is the float
            network's value. None where nobody kept it. No runtime needs it.
    """

    name: str
    input: str
    weight: NDArray[np.int8]
    weight_scale: NDArray[np.float32]
    bias: NDArray[np.int32]
    strides: Pair
    pads: Pads
    relu: bool
    factor: NDArray[np.float32] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    @property
    def kernel(self) -> Pair:
        return kernel_of(self.weight)


@dataclass(frozen=True)
class MaxPool:
    """A max-pool. Ceil mode is written out as padding at the bottom and right; padding never wins a maximum."""

    name: str
    input: str
    kernel: Pair
    strides: Pair
    pads: Pads

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True)
class Concat:
    """Concatenation of two or more tensors along the channels."""

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Add:
    """Element-wise sum of two tensors of one shape (bypass).

    Attributes:
        relu: whether max(x, 0) follows.
    """

    name: str
    inputs: tuple[str, str]
    relu: bool = False


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over height and width; gives (N, C)."""

    name: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


Node = Conv | MaxPool | Concat | Add | GlobalAveragePool
QuantizedNode = QuantizedConv | Node
"""A `Conv` in a quantized graph is a layer kept in float."""
N = TypeVar("N", bound=QuantizedNode)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network, ready to run or to be written into a format.

    Attributes:
        name: the architecture's name.
        nodes: in topological order.
        input: raw pixels, (N, H, W, 3) uint8 RGB; mean, std and channel order are inside conv1.
        output: logits, (N, classes) float32.
        preprocess: what brings a photograph to `input`.
        labels: one per class in index order, or empty.
        checkpoint_sha256: of the file that the tensors came from.
    """

    name: str
    nodes: tuple[Node, ...]
    input: TensorSpec
    output: TensorSpec
    preprocess: Preprocess
    labels: tuple[str, ...]
    checkpoint_sha256: str

    @cached_property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions, in topological order."""
        return tuple(node for node in self.nodes if isinstance(node, Conv))

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int, int]]:
        """Tensor name -> (height, width, channels). The pooled output is (1, 1, classes)."""
        return tensor_sizes(self.nodes, self.input)

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Tensor name -> the nodes that read it."""
        return consumers_of(self.nodes)


def consumers_of(nodes: Sequence[N]) -> dict[str, tuple[N, ...]]:
    """Tensor name -> the nodes that read it."""
    found: dict[str, tuple[N, ...]] = {}
    for node in nodes:
        for name in node.inputs:
            found[name] = (*found.get(name, ()), node)
    return found


def signed_tensors(nodes: Iterable[QuantizedNode]) -> set[str]:
    """Tensors that can be negative: what a convolution without ReLU makes, and what follows from it up to the next ReLU."""
    signed: set[str] = set()
    for node in nodes:
        clamped = isinstance(node, Conv | QuantizedConv | Add) and node.relu
        if not clamped and (isinstance(node, Conv | QuantizedConv) or signed & set(node.inputs)):
            signed.add(node.name)
    return signed


def groups_of(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> the name that stands for its group; a pair joins the groups of its two names, and the second's name stays."""
    groups = {name: name for name in names}
    for one, other in pairs:
        old, new = groups[one], groups[other]
        groups |= {name: new for name, group in groups.items() if group == old}
    return groups


def kernel_of(weight: NDArray[np.generic]) -> Pair:
    """Rows and columns of (out, in, rows, columns) weights."""
    return int(weight.shape[2]), int(weight.shape[3])


def output_px(size_px: int, kernel: int, stride: int, pad_px: int) -> int:
    """Output side of a convolution or pool whose padding (both sides together) is `pad_px`."""
    return (size_px + pad_px - kernel) // stride + 1


def tensor_sizes(nodes: Sequence[Node] | Sequence[QuantizedNode], spec: TensorSpec) -> dict[str, tuple[int, int, int]]:
    """Tensor name -> (height, width, channels), the input included."""
    height, width, channels = (int(d) for d in spec.shape[1:])
    sizes = {spec.name: (height, width, channels)}
    for node in nodes:
        h, w, c = sizes[node.inputs[0]]
        if isinstance(node, Conv | QuantizedConv | MaxPool):
            top, left, bottom, right = node.pads
            (rows, columns), (down, right_by) = node.kernel, node.strides
            h = output_px(h, rows, down, top + bottom)
            w = output_px(w, columns, right_by, left + right)
            c = c if isinstance(node, MaxPool) else int(node.weight.shape[0])
        elif isinstance(node, Concat):
            c = sum(sizes[name][2] for name in node.inputs)
        elif isinstance(node, GlobalAveragePool):
            h = w = 1
        sizes[node.name] = (h, w, c)
    return sizes
