"""The other operators of an ML program, in numpy. Operator -> the kernel that computes it.

Source: the operators' documentation in coremltools/converters/mil/mil/ops/defs of github.com/apple/coremltools. float32 is computed
in float32. A float16 result is computed in float32 from its float16 operands and rounded once, to the nearest and ties to even:
our reading of what the hardware does, which Apple does not document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.formats.coreml.values import Array
from squeeze_export.runtimes.coreml.arguments import Arguments, Kernel, Values
from squeeze_export.runtimes.coreml.constants import along_axis
from squeeze_export.runtimes.coreml.windows import conv, max_pool

_Wide: TypeAlias = NDArray[np.float32]


def _wide(array: Array) -> _Wide:
    return array.astype(np.float32, copy=False)


def _floats(given: Arguments, array: Array) -> Array:
    if array.dtype.kind != "f":
        given.refuse(f"takes a {array.dtype}{list(array.shape)}, where floats are needed")
    return array


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
    """The row that the classes are taken from; Core ML makes a dictionary of it, with the classes as keys."""
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
    "conv": conv,
    "dequantize": _dequantize,
    "expand_dims": _expand_dims,
    "max_pool": max_pool,
    "mul": _binary(np.multiply),
    "quantize": _quantize,
    "reduce_mean": _reduce_mean,
    "relu": _relu,
    "reshape": _reshape,
    "softmax": _softmax,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
"""Operator -> what reads its arguments and gives its kernel."""
