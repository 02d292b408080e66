"""The types and constants of an ML program: `ValueType` and `Value` messages, and the data behind them.

Source of the numbers: mlmodel/format/MIL.proto and MILBlob/Blob/BlobDataType.hpp of github.com/apple/coremltools (BSD 3-clause).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.formats.coreml.blobs import Blob
from squeeze_export.formats.coreml.wire import Message

Array: TypeAlias = NDArray[Any]

MAX_ELEMENTS = 2**27
"""Of one tensor; 500 MB in float32, far above any SqueezeNet's."""

_MAX_RANK = 6


@dataclass(frozen=True)
class ElementType:
    """What a tensor is made of.

    Attributes:
        name: as in MIL, in small letters.
        bits: of one element in storage.
        numpy: the dtype that holds it once it is unpacked.
        blob: its code in a blob file, 0 where it has none.
        field: of `TensorValue` that holds immediate values: 1 floats, 2 ints, 3 bools, 4 strings, 5 long ints, 7 bytes.
    """

    name: str
    bits: int
    numpy: str
    blob: int
    field: int


_ELEMENTS: Mapping[int, ElementType] = {
    1: ElementType("bool", 8, "bool", 0, 3),
    2: ElementType("string", 0, "object", 0, 4),
    10: ElementType("float16", 16, "float16", 1, 7),
    11: ElementType("float32", 32, "float32", 2, 1),
    21: ElementType("int8", 8, "int8", 4, 7),
    22: ElementType("int16", 16, "int16", 6, 2),
    23: ElementType("int32", 32, "int32", 14, 2),
    24: ElementType("int64", 64, "int64", 0, 5),
    25: ElementType("int4", 4, "int8", 8, 7),
    31: ElementType("uint8", 8, "uint8", 3, 7),
    32: ElementType("uint16", 16, "uint16", 7, 2),
    33: ElementType("uint32", 32, "uint32", 15, 7),
    35: ElementType("uint4", 4, "uint8", 11, 7),
    36: ElementType("uint2", 2, "uint8", 10, 7),
    37: ElementType("uint1", 1, "uint8", 9, 7),
    38: ElementType("uint6", 6, "uint8", 13, 7),
    39: ElementType("uint3", 3, "uint8", 12, 7),
}
_FIELD_FLOATS, _FIELD_INTS, _FIELD_BOOLS, _FIELD_STRINGS, _FIELD_LONGS, _FIELD_BYTES = 1, 2, 3, 4, 5, 7


@dataclass(frozen=True)
class TensorType:
    """The declared type of a tensor.

    Attributes:
        element: of what.
        shape: None where a dimension is left open.
    """

    element: ElementType
    shape: tuple[int | None, ...]

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
    """A constant: numbers, or text as an array of `object`.

    Attributes:
        dtype: MIL's name of the element type; the array of a sub-byte type has whole bytes.
        array: the values.
    """

    dtype: str
    array: Array


def read_type(message: Message) -> TensorType | None:
    """A `ValueType`; None for what is no tensor (a classifier's dictionary).

    Raises:
        ValueError: the type is unknown, or too large.
    """
    if message.only(1, 2, 3, 4, 5) != 1:
        return None
    tensor = message.message(1, "TensorType", (1, 2, 3))
    code = tensor.integer(1)
    if code not in _ELEMENTS:
        raise ValueError(f"a tensor has the unknown data type `{code}`")
    shape: list[int | None] = []
    for dimension in tensor.messages(3, "Dimension", (1, 2)):
        known = dimension.only(1, 2) == 1
        shape.append(dimension.message(1, "ConstantDimension", (1,)).integer(1) if known else None)
        if not known and dimension.message(2, "UnknownDimension", (1,)).integer(1):
            raise ValueError("a tensor of variable rank")
    sizes = [size for size in shape if size is not None]
    if tensor.integer(2) != len(shape) or len(shape) > _MAX_RANK:
        raise ValueError(f"a tensor of rank `{tensor.integer(2)}` has `{len(shape)}` dimensions; `{_MAX_RANK}` are possible")
    if any(size < 1 for size in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        raise ValueError(f"a tensor of `{sizes}` elements; `1` to `{MAX_ELEMENTS}` are possible")
    return TensorType(_ELEMENTS[code], tuple(shape))


def read_value(message: Message, files: Mapping[str, Mapping[int, Blob]]) -> Constant:
    """A `Value` message: a tensor, or a list of scalars.

    Args:
        message: the value, with its type.
        files: name of a blob file as the model spells it -> its blobs.

    Raises:
        ValueError: the data are not what the type says, or not finite.
    """
    if message.message(2, "ValueType").only(1, 2) == 1:
        return _tensor(message, files)
    values = message.message(3, "ImmediateValue", (3,)).message(3, "ListValue", (1,)).messages(1, "Value", (1, 2, 3))
    items = [_tensor(value, files) for value in values]
    if len({item.dtype for item in items}) != 1 or any(item.array.ndim for item in items):
        raise ValueError("a list of other things than scalars of one type")
    return Constant(items[0].dtype, np.array([item.array.item() for item in items], items[0].array.dtype))


def _tensor(message: Message, files: Mapping[str, Mapping[int, Blob]]) -> Constant:
    declared = read_type(message.message(2, "ValueType"))
    if declared is None or None in declared.shape:
        raise ValueError("a constant of no fixed size")
    shape = tuple(size for size in declared.shape if size is not None)
    if message.only(3, 5) == 5:
        array = _stored(message.message(5, "BlobFileValue", (1, 2)), declared.element, shape, files)
    else:
        array = _immediate(message.message(3, "ImmediateValue", (1,)).message(1, "TensorValue"), declared.element, shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"a constant of type `{declared}` holds what is no finite number")
    return Constant(declared.element.name, array)


def unpack_bits(data: bytes | memoryview, bits: int, count: int) -> NDArray[np.uint8]:
    """Numbers of fewer than 8 bits, packed without gaps from each byte's lowest bit upwards.

    Args:
        data: the packed bytes.
        bits: of one number, 1 to 8.
        count: of numbers.

    Returns:
        (count,) uint8.

    Raises:
        ValueError: there are not exactly as many bytes as needed, or bits behind the last number are set.
    """
    if len(data) != -(-count * bits // 8):
        raise ValueError(f"`{count}` numbers of `{bits}` bits in `{len(data)}` bytes")
    single = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if single[count * bits :].any():
        raise ValueError("bits behind the last number are set")
    weights = np.array([1 << place for place in range(bits)], np.uint8)
    return np.asarray(single[: count * bits].reshape(count, bits) @ weights, np.uint8)


def _stored(message: Message, element: ElementType, shape: tuple[int, ...], files: Mapping[str, Mapping[int, Blob]]) -> Array:
    name, offset = message.text(1), message.integer(2)
    if name not in files:
        raise ValueError(f"a constant lies in `{name}`, which is no weight file that the manifest names")
    if offset not in files[name]:
        raise ValueError(f"`{name}` has no blob at `{offset}`")
    blob = files[name][offset]
    if not element.blob or blob.code != element.blob:
        raise ValueError(f"the blob at `{offset}` has the data type `{blob.code}`, not that of `{element.name}`")
    if blob.unused_bits != (-math.prod(shape) * element.bits % 8 if element.bits < 8 else 0):
        raise ValueError(f"the blob at `{offset}` leaves `{blob.unused_bits}` bits unused")
    return _unpacked(blob.data, element, shape)


def _immediate(message: Message, element: ElementType, shape: tuple[int, ...]) -> Array:
    if message.only(1, 2, 3, 4, 5, 6, 7) != element.field:
        raise ValueError(f"the values of a constant of `{element.name}` are of another type")
    if element.field == _FIELD_BYTES:
        return _unpacked(message.message(7, "RepeatedBytes", (1,)).content(1), element, shape)
    found: Any
    if element.field == _FIELD_FLOATS:
        found = message.message(1, "RepeatedFloats", (1,)).floats(1)
    elif element.field == _FIELD_STRINGS:
        found = message.message(4, "RepeatedStrings", (1,)).texts(1)
    else:
        found = message.message(element.field, "RepeatedIntegers", (1,)).integers(1)
    if len(found) != math.prod(shape):
        raise ValueError(f"a constant of `{list(shape)}` elements has `{len(found)}`")
    return np.array(found, element.numpy).reshape(shape)


def _unpacked(data: bytes | memoryview, element: ElementType, shape: tuple[int, ...]) -> Array:
    """Bytes -> an array; numbers of fewer than 8 bits become whole bytes."""
    count = math.prod(shape)
    if element.bits < 8:
        small = unpack_bits(data, element.bits, count).reshape(shape)
        if element.name == "int4":
            return ((small ^ 8).astype(np.int8) - np.int8(8)).astype(np.int8)  # two's complement of 4 bits
        return small
    if len(data) * 8 != count * element.bits:
        raise ValueError(f"`{count}` numbers of `{element.name}` in `{len(data)}` bytes")
    little = np.dtype(element.numpy).newbyteorder("<")
    return np.frombuffer(data, little).astype(element.numpy).reshape(shape)
