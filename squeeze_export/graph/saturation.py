"""What CPUs without VNNI make of u8 x s8 products: sums of two, saturated in int16. The emulation of such CPUs.

x86's `vpmaddubsw` multiplies neighbouring bytes and adds each two products with signed saturation before anything is widened
(Intel SDM, PMADDUBSW; oneDNN, "Nuances of int8 computations"):

    pair = clamp(x0 * w0 + x1 * w1, -32768, 32767)        acc = sum(pairs) - z_x * sum(w) + bias

The two are neighbouring input channels of one position of the kernel: (0, 1), (2, 3) ... oneDNN lays weights out in blocks of four
input channels and fills the last block up with zeros, so of conv1's three channels the third stands alone. `benchmarks/portability`
compares this with OpenVINO held to AVX2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import ByteArray
from squeeze_export.graph.nodes import QuantizedConv
from squeeze_export.graph.quantized import QuantizedGraph
from squeeze_export.graph.run import pad

LOWEST, HIGHEST = -(2**15), 2**15 - 1
LARGEST_INPUT = 255


@dataclass(frozen=True, eq=False)
class Slot:
    """Two neighbouring input channels at one position of a kernel, and the filters whose pair there can leave int16.

    Attributes:
        row: of the kernel.
        column: of the kernel.
        channel: the first of the two input channels.
        filters: (n,) output channels, n at least 1.
        weights: (2, n) int32, of the first and of the second channel.
        reach: (2,) int32, the largest magnitude of each row of `weights`.
    """

    row: int
    column: int
    channel: int
    filters: NDArray[np.int64]
    weights: NDArray[np.int32]
    reach: NDArray[np.int32]


def slots_at_risk(weight: NDArray[np.int8]) -> tuple[Slot, ...]:
    """Where a convolution's pairs can leave int16: two weights of one sign, with 255 times their sum beyond it.

    Args:
        weight: (O, I, k, k) int8.
    """
    even = weight.shape[1] // 2 * 2  # a last channel without a neighbour fits: 255 * 128 < 2^15
    first, second = weight[:, 0:even:2].astype(np.int32), weight[:, 1:even:2].astype(np.int32)
    total = LARGEST_INPUT * (first + second)
    risky = (first * second > 0) & ((total > HIGHEST) | (total < LOWEST))  # (O, I // 2, k, k)
    slots = []
    for pair, row, column in np.argwhere(risky.any(axis=0)):
        filters = np.flatnonzero(risky[:, pair, row, column])
        weights = np.stack([first[filters, pair, row, column], second[filters, pair, row, column]])
        slots.append(Slot(int(row), int(column), 2 * int(pair), filters, weights, np.abs(weights).max(axis=1)))
    return tuple(slots)


class SaturatingProducts:
    """A `ProductError` for `IntegerRunner`: what int16 saturation takes off the exact sums. Safe to call from several threads.

    Only slots whose channels reach far enough in an image, and of those only the positions that do, are looked at: with weights
    rounded by the recipe that is next to nothing, and the rest of the run is the exact one's matrix products.

    Args:
        quantized: the graph; its activations are 8-bit.
    """

    def __init__(self, quantized: QuantizedGraph) -> None:
        self._zero_points = {conv.name: quantized.tensors[conv.input].zero_point for conv in quantized.convs}
        self._slots = {conv.name: slots_at_risk(conv.weight) for conv in quantized.convs}
        self._counts = dict.fromkeys(self._slots, 0)
        self._lock = Lock()

    @property
    def saturated(self) -> Mapping[str, int]:
        """Convolution -> pairs that saturated, over all images so far; those without any are left out."""
        return {name: count for name, count in self._counts.items() if count}

    def __call__(self, conv: QuantizedConv, source: ByteArray) -> NDArray[np.int32]:
        """What saturation adds to the sums; arguments and result as `ProductError` says."""
        values = pad(source, conv.pads, np.uint8(self._zero_points[conv.name]))[0].astype(np.int32)
        down, right = conv.strides
        height = (values.shape[0] - conv.kernel[0]) // down + 1
        width = (values.shape[1] - conv.kernel[1]) // right + 1
        error = np.zeros((height * width, len(conv.bias)), np.int32)
        largest = values.max(axis=(0, 1))
        count = 0
        for slot in self._slots[conv.name]:
            if not _beyond(largest[slot.channel : slot.channel + 2], slot):
                continue
            rows = slice(slot.row, slot.row + (height - 1) * down + 1, down)
            columns = slice(slot.column, slot.column + (width - 1) * right + 1, right)
            pixels = values[rows, columns, slot.channel : slot.channel + 2].reshape(-1, 2)
            places = np.flatnonzero(_beyond(pixels, slot))
            pairs = pixels[places] @ slot.weights
            lost = np.clip(pairs, LOWEST, HIGHEST) - pairs
            error[np.ix_(places, slot.filters)] += lost
            count += int(np.count_nonzero(lost))
        with self._lock:
            self._counts[conv.name] += count
        return error.reshape(1, height, width, -1)


def _beyond(values: NDArray[np.int32], slot: Slot) -> NDArray[np.bool_]:
    """Of (..., 2) inputs, whether the largest weights of the slot could take them beyond int16."""
    reached: NDArray[np.bool_] = values @ slot.reach > HIGHEST
    return reached


def pair_count(quantized: QuantizedGraph) -> int:
    """Pairs of products in the convolutions of one image; a last channel without a neighbour counts as one."""
    total = 0
    for conv in quantized.convs:
        height, width, filters = quantized.sizes[conv.name]
        rows, columns = conv.kernel
        total += height * width * filters * rows * columns * ((conv.weight.shape[1] + 1) // 2)
    return total
