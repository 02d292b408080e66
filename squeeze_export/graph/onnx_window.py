"""Windows that go over a map: how an ONNX operator tells their strides and padding, and what size they make of the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from squeeze_export.graph.nodes import Pads, Pair
from squeeze_export.graph.onnx_operator import Operator

MAX_PAD_PX = 2048


@dataclass(frozen=True)
class Window:
    """Of a convolution or a pool.

    Attributes:
        sides: height and width of the map.
        kernel: rows and columns.
        strides: down and right.
        told: the padding that the operator has.
        pads: the same, and what hangs over in ceil mode.
        size: height and width of what it makes.
    """

    sides: Pair
    kernel: Pair
    strides: Pair
    told: Pads
    pads: Pads
    size: Pair

    def averaged(self, *, padding_counts: bool) -> list[set[int]]:
        """For height and width, by how many pixels an average pool divides: one number where it is the same for every window.

        What hangs over in ceil mode never counts, padding where it is told to: torch's rule, and ONNX Runtime's in every opset.
        """
        found = []
        for place, (side, kernel, step, count) in enumerate(zip(self.sides, self.kernel, self.strides, self.size, strict=True)):
            before, after = self.told[place], self.told[place + 2]
            first, end = (-before, side + after) if padding_counts else (0, side)
            starts = range(-before, count * step - before, step)
            found.append({max(min(start + kernel, end) - max(start, first), 0) for start in starts})
        return found


def pool_kernel(op: Operator) -> Pair:
    """Rows and columns of a pool's window.

    Raises:
        BadInput: it has none.
    """
    kernel = op.attributes.get("kernel_shape")
    if not isinstance(kernel, list) or len(kernel) != 2 or min(kernel) < 1:
        op.refuse(f"has kernel_shape {kernel}; height and width are needed")
    return kernel[0], kernel[1]


def window_of(op: Operator, kernel: Pair, sides: Pair) -> Window:
    """The windows of an operator on a map of so many pixels.

    Raises:
        BadInput: attributes that are damaged or not carried, or a window larger than the map.
    """
    strides, dilations = op.attributes.get("strides", [1, 1]), op.attributes.get("dilations", [1, 1])
    if not isinstance(strides, list) or len(strides) != 2 or min(strides) < 1:
        op.refuse(f"has strides {strides}")
    if any(step != 1 and rows > 1 for step, rows in zip(dilations, kernel, strict=False)):
        op.refuse(f"has dilations {dilations}; [1, 1] is needed")
    told = _told_pads(op, kernel, (strides[0], strides[1]), sides)
    pads, size = list(told), []
    for place, (side, rows, step) in enumerate(zip(sides, kernel, strides, strict=True)):
        before, after = pads[place], pads[place + 2]
        room = side + before + after - rows
        count = room // step + 1
        if op.attributes.get("ceil_mode", 0) and room % step and count * step < side + before:  # torch's rule, and ONNX Runtime's
            count, pads[place + 2] = count + 1, after + count * step - room
        if room < 0 or count < 1:
            op.refuse(f"has a window of {by(kernel)} on a map of {by(sides)}")
        size.append(count)
    return Window(sides, kernel, (strides[0], strides[1]), told, (pads[0], pads[1], pads[2], pads[3]), (size[0], size[1]))


def _told_pads(op: Operator, kernel: Pair, strides: Pair, sides: Pair) -> Pads:
    automatic = op.attributes.get("auto_pad", "NOTSET")
    pads = op.attributes.get("pads", [0, 0, 0, 0])
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for side, rows, step in zip(sides, kernel, strides, strict=True):
            both = max((-(-side // step) - 1) * step + rows - side, 0)
            less, more = both // 2, both - both // 2
            before.append(less if automatic == "SAME_UPPER" else more)
            after.append(more if automatic == "SAME_UPPER" else less)
        pads = [*before, *after]
    elif automatic == "VALID":
        pads = [0, 0, 0, 0]
    elif automatic not in ("NOTSET", ""):
        op.refuse(f"has auto_pad {automatic}")
    if not isinstance(pads, list) or len(pads) != 4 or not all(type(pad) is int and 0 <= pad <= MAX_PAD_PX for pad in pads):
        op.refuse(f"has pads {pads}; four numbers from 0 on are needed")
    return pads[0], pads[1], pads[2], pads[3]


def by(sides: Sequence[int | None]) -> str:
    """Sides as a message has them: `3x3`."""
    return "x".join("?" if side is None else str(side) for side in sides)
