"""The operators of an ML program that compute something, in numpy.

Sources: the operators' documentation in coremltools/converters/mil/mil/ops/defs of github.com/apple/coremltools, and for padding
`aggregated_pad` and `spatial_dimensions_out_shape` in `_utils.py` there, written anew. float32 is computed in float32. A float16
result is computed in float32 from its float16 operands and rounded once, half to even: our reading of what the hardware does, which
Apple does not document.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from squeeze_export.formats.coreml.values import Array
from squeeze_export.runtimes.coreml.arguments import MAX_RESULT_ELEMENTS, Arguments, Kernel, Values
from squeeze_export.runtimes.coreml.constants import along_axis

_Float = TypeVar("_Float", np.float32, np.float64)

_MAX_WINDOW = 64
"""Largest kernel, stride or padding; `Arguments.afford` bounds the sizes that follow."""
_Wide: TypeAlias = NDArray[np.float32]


def _wide(array: Array) -> _Wide:
    return array.astype(np.float32, copy=False)


def _floats(given: Arguments, array: Array) -> Array:
    if array.dtype.kind != "f":
        given.refuse(f"takes a {array.dtype}{list(array.shape)}, where floats are needed")
    return array


# windows over an image (N, C, H, W)


def _conv(given: Arguments) -> Kernel:
    """`conv`: groups 1, dilations 1, constant weights.

    Products and sums are float64, so that their order does not matter; the sum with its bias is rounded once to the tensor's type.
    Apple does not document in which type and order a Neural Engine, GPU or CPU adds.
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
            columns = window.over(_padded(image.astype(np.float64), pads, 0)).reshape(matrix.shape[1], -1)
            result[index] = (matrix @ columns + bias[:, None]).reshape(shape[1:])
        return result

    return run


def _max_pool(given: Arguments) -> Kernel:
    """`max_pool`: padding never wins."""
    x = given.operand("x")
    window = _Window(given, given.integers("kernel_sizes", 2), pool=True, ceil=given.flag("ceil_mode", False))

    def run(values: Values) -> Array:
        source = x(values)
        if source.ndim != 4 or source.dtype.kind != "f":
            given.refuse(f"takes a {source.dtype}{list(source.shape)}")
        pads, sizes = window.fit(source.shape[2:])
        given.expect((*source.shape[:2], *sizes))
        given.afford("a padded image", _padded_shape(source.shape, pads), MAX_RESULT_ELEMENTS)
        covered = window.over(_padded(_wide(source), pads, -np.inf))
        parts = (covered[:, :, row, column] for row, column in np.ndindex(*window.kernel))
        return functools.reduce(np.maximum, parts).astype(source.dtype)

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
            Pads (top, bottom, left, right), including what rounding up adds; and the result's height and width.
        """
        top, bottom, height = self._along(0, shape[0])
        left, right, width = self._along(1, shape[1])
        return (top, bottom, left, right), (height, width)

    def over(self, padded: NDArray[_Float]) -> NDArray[_Float]:
        """What the window covers of a padded image: (..., H, W) -> (..., kernel H, kernel W, result H, result W)."""
        down, right = self.strides
        covered = np.lib.stride_tricks.sliding_window_view(padded, self.kernel, axis=(-2, -1))[..., ::down, ::right, :, :]
        return np.moveaxis(covered, (-2, -1), (-4, -3))

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


# integers and element by element


def _quantize(given: Arguments) -> Kernel:
    """clip(round(input / scale) + zero_point), halves to the even number."""
    x, scale, dtype = given.operand("input"), given.constant("scale", "float32", "float16").array, given.text("output_dtype")
    if dtype not in ("uint8", "int8") or not (scale > 0).all():
        given.refuse(f"has the output type `{dtype}`, or a scale that is not above 0")
    zero, axis = _zero_and_axis(given, dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

    def run(values: Values) -> Array:
        source = _floats(given, x(values))
        if source.dtype != scale.dtype:
            given.refuse(f"divides {source.dtype} by {scale.dtype}")
        steps = np.rint(_wide(source) / _wide(along_axis(given, scale, source.shape, axis)))
        if zero is not None:
            steps += _wide(along_axis(given, zero, source.shape, axis))
        return np.asarray(np.clip(steps, low, high, out=steps), dtype)

    return run


def _dequantize(given: Arguments) -> Kernel:
    """scale * (input - zero_point)."""
    x, scale = given.operand("input"), given.constant("scale", "float32", "float16").array
    zero, axis = _zero_and_axis(given, "uint8", "int8")

    def compute(source: Array) -> Array:
        centred = _wide(source)
        if zero is not None:
            centred = centred - _wide(along_axis(given, zero, source.shape, axis))
        return (centred * _wide(along_axis(given, scale, source.shape, axis))).astype(scale.dtype, copy=False)

    def run(values: Values) -> Array:
        source = x(values)
        if source.dtype.name not in ("uint8", "int8"):
            given.refuse(f"takes a {source.dtype}{list(source.shape)}")
        if axis is None and scale.dtype == np.float16:
            # Rounding to halves is slow: the 256 results are computed once and looked up.
            return compute(np.arange(256, dtype=np.uint8).view(source.dtype))[source.view(np.uint8)]
        return compute(source)

    return run


def _zero_and_axis(given: Arguments, *dtypes: str) -> tuple[Array | None, int | None]:
    zero = given.constant("zero_point", *dtypes).array if "zero_point" in given else None
    return zero, given.integer("axis") if "axis" in given else None


def _relu(given: Arguments) -> Kernel:
    x = given.operand("x")

    def run(values: Values) -> Array:
        source = _floats(given, x(values))
        if source.dtype == np.float16:
            # As integers of their bits, the negative halves are the negative ones; numpy has no fast maximum of halves.
            return np.asarray(np.maximum(source.view(np.int16), 0)).view(np.float16)
        return np.maximum(source, np.float32(0))

    return run


def _clip(given: Arguments) -> Kernel:
    x, low, high = given.operand("x"), given.number("alpha"), given.number("beta")

    def run(values: Values) -> Array:
        source = _floats(given, x(values))
        return np.clip(_wide(source), np.float32(low), np.float32(high)).astype(source.dtype)

    return run


def _binary(compute: Callable[[_Wide, _Wide], _Wide]) -> Callable[[Arguments], Kernel]:
    def build(given: Arguments) -> Kernel:
        x, y = given.operand("x"), given.operand("y")

        def run(values: Values) -> Array:
            first, second = _floats(given, x(values)), _floats(given, y(values))
            if first.dtype != second.dtype:
                given.refuse(f"takes {first.dtype} and {second.dtype}")
            given.expect(np.broadcast_shapes(first.shape, second.shape))
            return compute(_wide(first), _wide(second)).astype(first.dtype, copy=False)

        return run

    return build


def _concat(given: Arguments) -> Kernel:
    parts, axis = given.operands("values"), given.integer("axis")
    if given.flag("interleave", False):
        given.refuse("interleaves, which the evaluator does not handle")

    def run(values: Values) -> Array:
        found = [part(values) for part in parts]
        shape = list(found[0].shape)
        shape[axis] = sum(part.shape[axis] for part in found)
        given.expect(shape)
        return np.concatenate(found, axis)

    return run


def _reduce_mean(given: Arguments) -> Kernel:
    x, keep = given.operand("x"), given.flag("keep_dims", False)
    axes = given.integers("axes") if "axes" in given else None

    def run(values: Values) -> Array:
        source = _floats(given, x(values))
        return np.asarray(_wide(source).mean(axes, keepdims=keep), source.dtype)

    return run


def _softmax(given: Arguments) -> Kernel:
    x, axis = given.operand("x"), given.integer("axis") if "axis" in given else -1

    def run(values: Values) -> Array:
        source = _floats(given, x(values))
        powers = np.exp(_wide(source) - _wide(source).max(axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis, keepdims=True), source.dtype)

    return run


def _sigmoid(given: Arguments) -> Kernel:
    x = given.operand("x")

    def run(values: Values) -> Array:
        source = _floats(given, x(values))
        return np.asarray(np.exp(-np.logaddexp(0, -_wide(source))), source.dtype)

    return run


def _cast(given: Arguments) -> Kernel:
    x, name = given.operand("x"), given.text("dtype")
    wanted: Any = {"fp32": np.float32, "fp16": np.float16}.get(name)
    if wanted is None:
        given.refuse(f"casts to `{name}`; the evaluator handles fp32 and fp16")
    return lambda values: x(values).astype(wanted)


def _transpose(given: Arguments) -> Kernel:
    x, order = given.operand("x"), given.integers("perm")
    return lambda values: np.ascontiguousarray(x(values).transpose(order))


def _reshape(given: Arguments) -> Kernel:
    x, shape = given.operand("x"), given.integers("shape")
    if any(size < 1 and size != -1 for size in shape):
        given.refuse(f"has the shape `{list(shape)}`; the evaluator handles sizes and -1")
    return lambda values: x(values).reshape(shape)


def _squeeze(given: Arguments) -> Kernel:
    x, axes = given.operand("x"), given.integers("axes") if "axes" in given else None
    return lambda values: np.squeeze(x(values), axes)


def _expand_dims(given: Arguments) -> Kernel:
    x, axes = given.operand("x"), given.integers("axes")
    return lambda values: np.expand_dims(x(values), axes)


def _classify(given: Arguments) -> Kernel:
    """The row of numbers, one for each class; Core ML makes a dictionary of it, with the classes as keys."""
    x, classes = given.operand("probabilities"), given.constant("classes", "string", "int64").array

    def run(values: Values) -> Array:
        source = x(values)
        if math.prod(source.shape) != classes.size:
            given.refuse(f"takes a row of `{list(source.shape)}` for `{classes.size}` classes")
        return source.reshape(1, -1)

    return run


OPERATORS: Mapping[str, Callable[[Arguments], Kernel]] = {
    "add": _binary(np.add),
    "cast": _cast,
    "classify": _classify,
    "clip": _clip,
    "concat": _concat,
    "conv": _conv,
    "dequantize": _dequantize,
    "expand_dims": _expand_dims,
    "max_pool": _max_pool,
    "mul": _binary(np.multiply),
    "quantize": _quantize,
    "reduce_mean": _reduce_mean,
    "relu": _relu,
    "reshape": _reshape,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
"""Operator -> the function that reads its arguments and returns its kernel."""
