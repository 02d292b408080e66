"""The paper's Table 1 for any member of the family, with what a roofline needs: multiply-accumulates and bytes moved.

Source of the rows: arXiv:1602.07360, Table 1. Sizes are computed from the architecture at the input size that is asked for; the
paper prints 111x111 after conv1 for a 224 px image, which 227 px give.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import Architecture, Fire

BIAS_BYTES = 4
"""float32, or the int32 of an integer network."""


@dataclass(frozen=True)
class LayerCost:
    """One row of the table.

    Every operator is taken to read its operands from memory once and to write its result once: each convolution reads its own
    input (so both expands read the squeeze's map), ReLU and Concat cost nothing (they are part of the write), an Add reads both
    operands and writes their sum. Batch 1.

    Attributes:
        name: the paper's, with `pool4` for maxpool4.
        output_px: height and width of its output map.
        channels: of its output map.
        depth: convolutions on the longest path through it, bypass aside: 1, a Fire module 2, a pool 0.
        s1x1: filters of the squeeze, as `e1x1` and `e3x3` of the expands; None where the layer is no Fire module.
        parameter_count: weights and biases, with those of its bypass.
        mac_count: multiply-accumulates of its convolutions; comparisons and additions of pools and bypasses are not counted.
        bytes_read: activations, weights and biases read.
        bytes_written: activations written.
    """

    name: str
    output_px: int
    channels: int
    depth: int
    s1x1: int | None
    e1x1: int | None
    e3x3: int | None
    parameter_count: int
    mac_count: int
    bytes_read: int
    bytes_written: int

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per byte moved (read or written)."""
        return self.mac_count / (self.bytes_read + self.bytes_written)


def table(arch: Architecture, input_px: int, weight_bytes: int = 4, activation_bytes: int = 4) -> tuple[LayerCost, ...]:
    """Costs of every layer of the paper's table, in order: conv1, pool1, fire2 ... conv10, avgpool10.

    Args:
        arch: the description.
        input_px: side of the input image.
        weight_bytes: of one stored weight: 4 float32, 2 fp16, 1 int8. Biases always have 4.
        activation_bytes: of one value of a map, the image included.

    Raises:
        BadInput: the image is too small: a map would have no pixel left.
    """
    rows: list[LayerCost] = []
    px = input_px
    for layer in arch.layers():
        tally = _Tally(weight_bytes, activation_bytes)
        source = (px, layer.in_channels)
        fire, depth = layer.fire, 0
        if layer.kind == "conv1":
            px = (px + 2 * arch.conv1_pad - arch.conv1_kernel) // arch.conv1_stride + 1
            tally.conv(source, (px, arch.conv1_channels), arch.conv1_kernel)
            channels, depth = arch.conv1_channels, 1
        elif fire is None:
            px = px // 2 if arch.ceil_pools else (px - 1) // 2  # kernel 3, stride 2: ceil((px - 3) / 2) + 1, or floor
            channels = layer.in_channels
            tally.move(source, (px, channels))
        else:
            _add_fire(tally, fire, source)
            channels, depth = fire.channels, 2
        if px < 1:
            raise BadInput(f"an input of `{input_px}` px leaves nothing after `{layer.name}`")
        rows.append(_row(layer.name, px, channels, depth, tally, fire))
    tally = _Tally(weight_bytes, activation_bytes)
    source = (px, arch.feature_channels)
    px += 2 * arch.conv10_pad
    tally.conv(source, (px, arch.class_count), 1)
    rows.append(_row("conv10", px, arch.class_count, 1, tally))
    tally = _Tally(weight_bytes, activation_bytes)
    tally.move((px, arch.class_count), (1, arch.class_count))
    rows.append(_row("avgpool10", 1, arch.class_count, 0, tally))
    return tuple(rows)


def total(rows: Iterable[LayerCost]) -> LayerCost:
    """The sums of a table's rows, as a row called `total` with the last row's output."""
    rows = tuple(rows)
    summed = ("depth", "parameter_count", "mac_count", "bytes_read", "bytes_written")
    return replace(rows[-1], name="total", **{key: sum(getattr(row, key) for row in rows) for key in summed})


Map = tuple[int, int]
"""Side in pixels, channels."""


class _Tally:
    """Adds up the operators of one layer."""

    def __init__(self, weight_bytes: int, activation_bytes: int) -> None:
        self.weight_bytes, self.activation_bytes = weight_bytes, activation_bytes
        self.parameters = self.macs = self.read = self.written = 0

    def move(self, *maps: Map) -> None:
        """Reads all but the last map, and writes the last."""
        sizes = [px * px * channels * self.activation_bytes for px, channels in maps]
        self.read += sum(sizes[:-1])
        self.written += sizes[-1]

    def conv(self, source: Map, target: Map, kernel: int) -> None:
        """A convolution with bias."""
        weights = kernel * kernel * source[1] * target[1]
        self.parameters += weights + target[1]
        self.macs += weights * target[0] ** 2
        self.read += weights * self.weight_bytes + target[1] * BIAS_BYTES
        self.move(source, target)


def _add_fire(tally: _Tally, fire: Fire, source: Map) -> None:
    px = source[0]
    squeezed, joined = (px, fire.squeeze), (px, fire.channels)
    tally.conv(source, squeezed, 1)
    tally.conv(squeezed, (px, fire.expand1x1), 1)
    tally.conv(squeezed, (px, fire.expand3x3), 3)
    if fire.bypass == "complex":
        tally.conv(source, joined, 1)
    if fire.bypass != "none":
        tally.move(joined, joined, joined)


def _row(name: str, px: int, channels: int, depth: int, tally: _Tally, fire: Fire | None = None) -> LayerCost:
    s1x1, e1x1, e3x3 = (fire.squeeze, fire.expand1x1, fire.expand3x3) if fire is not None else (None, None, None)
    return LayerCost(name, px, channels, depth, s1x1, e1x1, e3x3, tally.parameters, tally.macs, tally.read, tally.written)
