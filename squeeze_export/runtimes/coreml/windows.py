"""The two operators that slide a window over an image: `conv` and `max_pool`, on (N, C, H, W).

Padding as in coremltools/converters/mil/mil/ops/defs/_utils.py of github.com/apple/coremltools (`aggregated_pad`,
`spatial_dimensions_out_shape`), written anew from it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from squeeze_export.formats.coreml.values import Array
from squeeze_export.runtimes.coreml.arguments import MAX_RESULT_ELEMENTS, Arguments, Kernel, Values

_Float = TypeVar("_Float", np.float32, np.float64)

_MAX_WINDOW = 64
"""Largest kernel, stride or padding. What they make of an image is bounded by `Arguments.afford`."""


def conv(given: Arguments) -> Kernel:
    """`conv`: groups 1, dilations 1, constant weights.

    Products and sums are float64, so they do not depend on their order, and the sum with its bias is rounded to the tensor's type
    once. In which type and order a Neural Engine, GPU or CPU adds, Apple does not document.
    """
    x = given.operand("x")
    weight = given.constant("weight", "float32", "float16").array
    if weight.ndim != 4:
        given.refuse(f"has weights of the shape `{list(weight.shape)}`")
    count, channels, height, width = weight.shape
    bias = np.zeros(count, np.float32)
    if "bias" in given:
        bias = given.constant("bias", weight.dtype.name).array.astype(np.float32)
        if bias.shape != (count,):
            given.refuse(f"has `{list(bias.shape)}` biases for `{count}` filters")
    if "groups" in given and given.integer("groups") != 1:
        given.refuse(f"has `{given.integer('groups')}` groups; the evaluator handles 1")
    if "dilations" in given and set(given.integers("dilations", 2)) != {1}:
        given.refuse(f"has the dilations `{list(given.integers('dilations', 2))}`; the evaluator handles 1")
    window = _Window(given, (height, width))
    matrix = weight.astype(np.float64).reshape(count, -1)

    def run(values: Values) -> Array:
        source = x(values)
        if source.dtype != weight.dtype or source.ndim != 4 or source.shape[1] != channels:
            given.refuse(f"takes a {source.dtype}{list(source.shape)} with {weight.dtype}{list(weight.shape)} weights")
        pads, sizes = window.fit(source.shape[2:])
        shape = (len(source), count, *sizes)
        given.expect(shape)
        given.afford("a padded image", _padded_shape(source.shape[1:], pads))
        given.afford("a matrix", (channels * height * width, *sizes))
        result = np.empty(shape, source.dtype)
        for index, image in enumerate(source):  # one at a time: the columns are nine times as large as the image
            columns = _columns(image.astype(np.float64, copy=False), window, pads, sizes)
            result[index] = (matrix @ columns + bias[:, None]).reshape(shape[1:])
        return result

    return run


def max_pool(given: Arguments) -> Kernel:
    """`max_pool`: padding never wins."""
    x = given.operand("x")
    window = _Window(given, given.integers("kernel_sizes", 2), pool=True, ceil=given.flag("ceil_mode", False))

    def run(values: Values) -> Array:
        source = x(values)
        if source.ndim != 4 or source.dtype.kind != "f":
            given.refuse(f"takes a {source.dtype}{list(source.shape)}")
        pads, (height, width) = window.fit(source.shape[2:])
        given.expect((*source.shape[:2], height, width))
        given.afford("a padded image", _padded_shape(source.shape, pads), MAX_RESULT_ELEMENTS)
        padded = _padded(source.astype(np.float32, copy=False), pads, -np.inf)
        (rows, columns), (down, right) = window.kernel, window.strides
        # The maximum over a rectangle is that over its rows of those over its columns.
        tall = padded[:, :, : (height - 1) * down + 1 : down]
        for row in range(1, rows):
            tall = np.maximum(tall, padded[:, :, row : row + (height - 1) * down + 1 : down])
        result = tall[..., : (width - 1) * right + 1 : right]
        for column in range(1, columns):
            result = np.maximum(result, tall[..., column : column + (width - 1) * right + 1 : right])
        return result.astype(source.dtype)

    return run


class _Window:
    """A window's size, stride and padding.

    Attributes:
        kernel: height and width.
        strides: down and right.
    """

    def __init__(self, given: Arguments, kernel: tuple[int, ...], *, pool: bool = False, ceil: bool = False) -> None:
        self._given, self._pool, self._ceil = given, pool, ceil
        self.kernel = kernel
        self.strides = given.integers("strides", 2) if "strides" in given else (1, 1)
        self._kind = given.text("pad_type") if "pad_type" in given else "valid"
        self._pads = given.integers("pad", 4) if "pad" in given else (0, 0, 0, 0)
        if self._kind not in ("valid", "same", "same_lower", "custom"):
            given.refuse(f"has the padding `{self._kind}`")
        if self._kind != "custom":
            self._pads = (0, 0, 0, 0)  # as MIL says: `pad` counts with `custom` only
        if ceil and (self._kind.startswith("same") or self._pads[::2] != self._pads[1::2]):
            given.refuse("rounds its size up with padding that differs at the two ends")
        least, most = min(*self.kernel, *self.strides), max(*self.kernel, *self.strides, *self._pads)
        if least < 1 or min(self._pads) < 0 or most > _MAX_WINDOW:
            given.refuse(f"has the window `{list(self.kernel)}`, strides `{list(self.strides)}`, pads `{list(self._pads)}`")

    def fit(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Lays the window over an image.

        Args:
            shape: the image's height and width.

        Returns:
            Pads (top, bottom, left, right) with what rounding up adds, and the result's height and width.
        """
        top, bottom, height = self._along(0, shape[0])
        left, right, width = self._along(1, shape[1])
        return (top, bottom, left, right), (height, width)

    def _along(self, axis: int, size: int) -> tuple[int, int, int]:
        kernel, stride = self.kernel[axis], self.strides[axis]
        before, after = self._pads[2 * axis : 2 * axis + 2]
        if self._kind.startswith("same"):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            before = total // 2 if self._kind == "same" else -(-total // 2)
            after = total - before
        room = size + before + after - kernel
        count = (-(-room // stride) if self._ceil else room // stride) + 1
        if self._ceil and before + after > 0 and (count - 1) * stride >= size + before:
            count -= 1  # a window that would lie in the padding alone
        after = max(after, (count - 1) * stride + kernel - size - before)
        if room < 0 or (self._pool and max(before, after) >= kernel):  # the maximum over nothing
            self._given.refuse(f"has a window of `{kernel}` and pads of `{before}` and `{after}` over `{size}` pixels")
        return before, after, count


def _columns(image: NDArray[np.float64], window: _Window, pads: tuple[int, ...], sizes: tuple[int, int]) -> NDArray[np.float64]:
    """(C, H, W) -> (C * kernel height * kernel width, places of the window): what each place covers, as a column."""
    (rows, columns), (down, right), (height, width) = window.kernel, window.strides, sizes
    padded = _padded(image, pads, 0)
    if (rows, columns, down, right) == (1, 1, 1, 1):
        return padded.reshape(len(image), -1)
    covered = np.empty((len(image), rows, columns, height, width))
    for row in range(rows):
        for column in range(columns):
            covered[:, row, column] = padded[
                :, row : row + (height - 1) * down + 1 : down, column : column + (width - 1) * right + 1 : right
            ]
    return covered.reshape(-1, height * width)


def _padded(array: NDArray[_Float], pads: tuple[int, ...], value: float) -> NDArray[_Float]:
    """Pads the last two dimensions."""
    if not any(pads):
        return array
    top, _, left, _ = pads
    height, width = array.shape[-2:]
    padded = np.full(_padded_shape(array.shape, pads), value, array.dtype)
    padded[..., top : top + height, left : left + width] = array
    return padded


def _padded_shape(shape: tuple[int, ...], pads: tuple[int, ...]) -> tuple[int, ...]:
    top, bottom, left, right = pads
    return (*shape[:-2], shape[-2] + top + bottom, shape[-1] + left + right)
