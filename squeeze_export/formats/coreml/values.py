"""The types and constants of an ML program: `ValueType` and `Value` messages, and the data behind them.

Source of the numbers: mlmodel/format/MIL.proto and MILBlob/Blob/BlobDataType.hpp of github.com/apple/coremltools (BSD 3-clause).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.formats.coreml.blobs import Blob, blob_at
from squeeze_export.formats.coreml.wire import Message, Unread

Array: TypeAlias = NDArray[Any]

_FLOATS, _INTS, _BOOLS, _STRINGS, _LONGS, _BYTES = 1, 2, 3, 4, 5, 7
"""Fields of `TensorValue`."""


@dataclass(frozen=True)
class ElementType:
    """A tensor's element type.

    Attributes:
        name: MIL's, in lower case.
        bits: of one stored element.
        numpy: the dtype of unpacked elements; empty where numpy has none.
        blob: its code in a blob file, or 0.
        field: the field of `TensorValue` that holds immediate values, or 0.
    """

    name: str
    bits: int
    numpy: str = ""
    blob: int = 0
    field: int = 0


_BY_CODE: Mapping[int, ElementType] = {
    1: ElementType("bool", 8, "bool", 0, _BOOLS),
    2: ElementType("string", 0, "object", 0, _STRINGS),
    10: ElementType("float16", 16, "float16", 1, _BYTES),
    11: ElementType("float32", 32, "float32", 2, _FLOATS),
    12: ElementType("float64", 64),
    13: ElementType("bfloat16", 16),
    21: ElementType("int8", 8, "int8", 4, _BYTES),
    22: ElementType("int16", 16, "int16", 6, _INTS),
    23: ElementType("int32", 32, "int32", 14, _INTS),
    24: ElementType("int64", 64, "int64", 0, _LONGS),
    25: ElementType("int4", 4, "int8", 8, _BYTES),
    31: ElementType("uint8", 8, "uint8", 3, _BYTES),
    32: ElementType("uint16", 16, "uint16", 7, _INTS),
    33: ElementType("uint32", 32, "uint32", 15, _BYTES),
    34: ElementType("uint64", 64),
    35: ElementType("uint4", 4, "uint8", 11, _BYTES),
    36: ElementType("uint2", 2, "uint8", 10, _BYTES),
    37: ElementType("uint1", 1, "uint8", 9, _BYTES),
    38: ElementType("uint6", 6, "uint8", 13, _BYTES),
    39: ElementType("uint3", 3, "uint8", 12, _BYTES),
    40: ElementType("float8e4m3fn", 8),
    41: ElementType("float8e5m2", 8),
}
ELEMENTS: Mapping[str, ElementType] = {element.name: element for element in _BY_CODE.values()}


@dataclass(frozen=True)
class TensorType:
    """The declared type of a tensor.

    Attributes:
        element: the element type.
        shape: None for an open dimension.
    """

    element: ElementType
    shape: tuple[int | None, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the packed elements; 0 where a dimension is open."""
        return 0 if None in self.shape else -(-math.prod(size or 0 for size in self.shape) * self.element.bits // 8)

    def fits(self, array: Array) -> bool:
        """Whether an array is of this type."""
        return (
            array.dtype == self.element.numpy
            and array.ndim == len(self.shape)
            and all(size in (None, found) for size, found in zip(self.shape, array.shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.element.name}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of numbers or text, loaded at first use.

    Attributes:
        type: of the tensor; a list has the type of a vector.
        load: returns the values; raises ValueError where they are damaged.
    """

    type: TensorType
    load: Callable[[], Array]

    @cached_property
    def array(self) -> Array:
        """The values. Types smaller than a byte have one byte per element, text has the dtype `object`.

        Raises:
            ValueError: the values do not fit the type, or are not finite.
        """
        return self.load()

    @property
    def dtype(self) -> str:
        """MIL's name of the element type."""
        return self.type.element.name


def constant(array: Array, dtype: str = "") -> Constant:
    """A constant of these values. `dtype` is MIL's name of the element type where it differs from numpy's."""
    return Constant(TensorType(ELEMENTS[dtype or array.dtype.name], array.shape), lambda: array)


def read_type(message: Message) -> TensorType | None:
    """Reads a `ValueType`; None for what is no tensor, such as a classifier's dictionary or a state.

    Raises:
        Unread: the type or its rank is not known.
        ValueError: it is damaged.
    """
    if message.only(1, 2, 3, 4, 5) != 1:
        return None
    tensor = message.message(1, "TensorType", (1, 2, 3))
    code = tensor.integer(1)
    if code not in _BY_CODE:
        raise Unread(f"a tensor has the unknown data type `{code}`")
    shape: list[int | None] = []
    for dimension in tensor.messages(3, "Dimension", (1, 2)):
        known = dimension.only(1, 2) == 1
        shape.append(dimension.message(1, "ConstantDimension", (1,)).integer(1) if known else None)
        if not known and dimension.message(2, "UnknownDimension", (1,)).integer(1):
            raise Unread("a tensor of variable rank")
    if tensor.integer(2) != len(shape):
        raise ValueError(f"a tensor of rank `{tensor.integer(2)}` has `{len(shape)}` dimensions")
    if any(size is not None and size < 0 for size in shape):
        raise ValueError(f"a tensor of `{shape}` elements")
    return TensorType(_BY_CODE[code], tuple(shape))


def read_value(message: Message, files: Mapping[str, bytes]) -> Constant:
    """Reads a `Value` message: a tensor or a list of scalars.

    Args:
        message: the value with its type.
        files: a blob file's name in the model -> its bytes.

    Raises:
        Unread: it is neither.
        ValueError: it is damaged, or lies outside its file.
    """
    if message.message(2, "ValueType").only(1, 2) == 1:
        return _tensor(message, files)
    values = message.message(3, "ImmediateValue", (3,)).message(3, "ListValue", (1,)).messages(1, "Value", (1, 2, 3))
    items = [_tensor(value, files) for value in values]
    if len({item.dtype for item in items}) != 1 or any(item.type.shape for item in items):
        raise Unread("a list of other things than scalars of one type")
    element = items[0].type.element
    return Constant(TensorType(element, (len(items),)), lambda: np.array([item.array.item() for item in items], element.numpy))


def _tensor(message: Message, files: Mapping[str, bytes]) -> Constant:
    declared = read_type(message.message(2, "ValueType"))
    if declared is None or None in declared.shape:
        raise ValueError("a constant of no fixed size")
    if message.only(3, 5) == 5:
        place = message.message(5, "BlobFileValue", (1, 2))
        load = partial(_stored, declared, _blob(place, declared, files), place.integer(2))
    else:
        load = partial(_immediate, declared, message.message(3, "ImmediateValue", (1,)).message(1, "TensorValue"))
    return Constant(declared, lambda: _finite(declared, load()))


def _blob(place: Message, declared: TensorType, files: Mapping[str, bytes]) -> Blob:
    name, offset = place.text(1), place.integer(2)
    if name not in files:
        raise ValueError(f"a constant lies in `{name}`, which is no weight file that the manifest names")
    blob = blob_at(files[name], offset)
    if len(blob.data) != declared.size_bytes:
        raise ValueError(f"the blob at `{offset}` has `{len(blob.data)}` bytes, `{declared}` has `{declared.size_bytes}`")
    return blob


def _stored(declared: TensorType, blob: Blob, offset: int) -> Array:
    element, count = declared.element, _count(declared)
    if not element.blob or blob.code != element.blob:
        raise ValueError(f"the blob at `{offset}` has the data type `{blob.code}`, not that of `{element.name}`")
    if blob.unused_bits != (-count * element.bits % 8 if element.bits < 8 else 0):
        raise ValueError(f"the blob at `{offset}` leaves `{blob.unused_bits}` bits unused")
    return _unpacked(declared, blob.data)


def _immediate(declared: TensorType, message: Message) -> Array:
    element = declared.element
    if message.only(1, 2, 3, 4, 5, 6, 7) != element.field:
        raise ValueError(f"the values of a constant of `{element.name}` are of another type")
    if element.field == _BYTES:
        return _unpacked(declared, message.message(7, "RepeatedBytes", (1,)).content(1))
    found: Any
    if element.field == _FLOATS:
        found = message.message(1, "RepeatedFloats", (1,)).floats(1)
    elif element.field == _STRINGS:
        found = message.message(4, "RepeatedStrings", (1,)).texts(1)
    else:
        found = message.message(element.field, "RepeatedIntegers", (1,)).integers(1)
    if len(found) != _count(declared):
        raise ValueError(f"a constant of the type `{declared}` has `{len(found)}` elements")
    return np.array(found, element.numpy).reshape(_sizes(declared))


def _unpacked(declared: TensorType, data: memoryview) -> Array:
    """Bytes -> an array, with one byte per element of fewer than 8 bits."""
    element, count, shape = declared.element, _count(declared), _sizes(declared)
    if element.bits < 8:
        small = unpack_bits(data, element.bits, count).reshape(shape)
        if element.name == "int4":
            return ((small ^ 8).astype(np.int8) - np.int8(8)).astype(np.int8)  # two's complement of 4 bits
        return small
    if len(data) * 8 != count * element.bits:
        raise ValueError(f"`{count}` numbers of `{element.name}` in `{len(data)}` bytes")
    little = np.dtype(element.numpy).newbyteorder("<")
    return np.frombuffer(data, little).astype(element.numpy).reshape(shape)


def unpack_bits(data: bytes | memoryview, bits: int, count: int) -> NDArray[np.uint8]:
    """Unpacks numbers that lie without gaps, from each byte's lowest bit upwards.

    Args:
        data: the packed bytes.
        bits: per number, 1 to 8.
        count: of numbers.

    Returns:
        (count,) uint8.

    Raises:
        ValueError: the number of bytes is wrong, or bits behind the last number are set.
    """
    if len(data) != -(-count * bits // 8):
        raise ValueError(f"`{count}` numbers of `{bits}` bits in `{len(data)}` bytes")
    single = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if single[count * bits :].any():
        raise ValueError("bits behind the last number are set")
    weights = np.array([1 << place for place in range(bits)], np.uint8)
    return np.asarray(single[: count * bits].reshape(count, bits) @ weights, np.uint8)


def _sizes(declared: TensorType) -> tuple[int, ...]:
    return tuple(size for size in declared.shape if size is not None)


def _count(declared: TensorType) -> int:
    return math.prod(_sizes(declared))


def _finite(declared: TensorType, array: Array) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"a constant of type `{declared}` holds what is no finite number")
    return array
