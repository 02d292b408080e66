"""Operators that only unpack constants: `const` and `constexpr_*` of iOS 16 and iOS 18, computed once when a package is opened.

Source: the operator definitions in coremltools/converters/mil/mil/ops/defs/iOS16/constexpr_ops.py and iOS18/compression.py of
github.com/apple/coremltools, written anew from their documentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from squeeze_export.formats.coreml.values import Array, Constant, constant, unpack_bits
from squeeze_export.runtimes.coreml.arguments import Arguments

_FLOATS = ("float32", "float16")


def along_axis(given: Arguments, array: Array, shape: tuple[int, ...], axis: int | None) -> Array:
    """A scale or zero point, reshaped so that it broadcasts over a tensor of `shape`.

    Args:
        given: the operation's arguments, for a refusal.
        array: a scalar, or a vector along `axis`.
        shape: of the tensor.
        axis: the dimension that a vector runs along; may be negative.
    """
    if not array.ndim:
        return array
    rank = len(shape)
    if array.ndim != 1 or axis is None or not -rank <= axis < rank or array.size not in (1, shape[axis]):
        given.refuse(f"has `{list(array.shape)}` scales or zero points along axis `{axis}` of `{list(shape)}`")
    return array.reshape([-1 if place == axis % rank else 1 for place in range(rank)])


def _const(given: Arguments) -> Constant:
    return given.constant("val")


def _affine(given: Arguments) -> Constant:
    """iOS 16: scale * (quantized_data - zero_point), scale and zero point scalars or along one axis."""
    data, scale = given.constant("quantized_data", "int8", "uint8").array, given.constant("scale", *_FLOATS)
    zero, axis = given.constant("zero_point", "int8", "uint8", "float32").array, given.integer("axis")
    step = along_axis(given, scale.array, data.shape, axis).astype(np.float32)
    centred = data.astype(np.float32) - along_axis(given, zero, data.shape, axis).astype(np.float32)
    return constant((centred * step).astype(scale.array.dtype))


def _blockwise(given: Arguments) -> Constant:
    """iOS 18: scale * (data - offset), one scale for each block; a block's size is the ratio of the two shapes."""
    data, scale = given.constant("data"), given.constant("scale", *_FLOATS)
    if not data.dtype.startswith(("int", "uint")):
        given.refuse(f"has `data` of `{data.dtype}`")
    shape, blocks = data.array.shape, scale.array.shape
    if len(shape) != len(blocks) or any(size % count for size, count in zip(shape, blocks, strict=True)):
        given.refuse(f"has `{list(blocks)}` scales for `{list(shape)}` numbers")
    centred = data.array.astype(np.float32)
    if "offset" in given:
        offset = given.constant("offset", data.dtype, *_FLOATS).array
        if offset.shape != blocks:
            given.refuse(f"has `{list(offset.shape)}` offsets for `{list(blocks)}` scales")
        centred -= _stretched(offset.astype(np.float32), shape)
    return constant((centred * _stretched(scale.array.astype(np.float32), shape)).astype(scale.array.dtype))


def _palette(given: Arguments) -> Constant:
    """A lookup table and its indices: packed bytes in iOS 16, a tensor of small integers in iOS 18."""
    return _packed_palette(given) if "shape" in given else _typed_palette(given)


def _packed_palette(given: Arguments) -> Constant:
    lut, packed = given.constant("lut"), given.constant("indices", "uint8").array
    shape = [int(size) for size in given.constant("shape", "uint32").array.ravel()]
    bits = _bits(given, lut.array.size)
    if lut.array.ndim != 1 or packed.ndim != 1:
        given.refuse(f"has `{list(lut.array.shape)}` colours and `{list(packed.shape)}` bytes of indices, not a vector of each")
    given.expect(shape)
    return constant(lut.array[unpack_bits(packed.tobytes(), bits, math.prod(shape))].reshape(shape), lut.dtype)


def _typed_palette(given: Arguments) -> Constant:
    indices, lut = given.constant("indices"), given.constant("lut")
    shape, colours = indices.array.shape, lut.array.shape
    fits = len(colours) == len(shape) + 2 and not any(size % count for size, count in zip(shape, colours, strict=False))
    if not fits or colours[-1] != 1:
        given.refuse(f"has a palette of `{list(colours)}` for `{list(shape)}` indices; one colour an index is handled")
    if indices.dtype != f"uint{_bits(given, colours[-2])}":
        given.refuse(f"has indices of `{indices.dtype}` into `{colours[-2]}` colours")
    given.expect(shape)
    # Each block has its own palette: the number of an index's block says which.
    blocks = np.arange(math.prod(colours[:-2])).reshape(colours[:-2])
    tables = lut.array.reshape(-1, colours[-2])
    return constant(tables[_stretched(blocks, shape), indices.array], lut.dtype)


def _cast(given: Arguments) -> Constant:
    source, wanted = given.constant("source_val", "float16"), given.text("output_dtype")
    if wanted != "fp32":
        given.refuse(f"casts to `{wanted}`")
    return constant(source.array.astype(np.float32))


UNPACKERS: Mapping[str, Callable[[Arguments], Constant]] = {
    "const": _const,
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _palette,
}
"""Operator -> the function that unpacks it."""


def _stretched(array: Array, shape: tuple[int, ...]) -> Array:
    """Repeats every entry over its block."""
    for axis, size in enumerate(shape):
        if array.shape[axis] not in (1, size):
            array = np.repeat(array, size // array.shape[axis], axis)
    return array


def _bits(given: Arguments, colours: int) -> int:
    bits = colours.bit_length() - 1
    if colours != 1 << bits or not 1 <= bits <= 8:
        given.refuse(f"has a palette of `{colours}` colours")
    return bits
