"""Protobuf's wire format, as far as a Core ML model needs it: bytes -> fields by number.

Source: https://protobuf.dev/programming-guides/encoding. The message classes exist only inside coremltools, which takes most of a
second to import, supports few platforms, and is the code that wrote the file. This reader runs wherever numpy does, and is stricter
with files of unknown origin: it refuses unknown fields and repeated single fields instead of skipping or merging them. The tests
compare it with coremltools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
MAX_FIELDS = 1 << 20
"""Of one message. No network has nearly as many operators."""


class Unread(ValueError):
    """What may be valid, but has a form that this reader does not know."""


class Message:
    """One message: its fields by number, in the order of the wire.

    Args:
        data: the message's bytes.
        kind: the message's name, for errors.
        known: the numbers of the fields that are allowed; None allows any.

    Raises:
        ValueError: the bytes are no message.
        Unread: it has a field that is not allowed.
    """

    def __init__(self, data: memoryview, kind: str, known: Sequence[int] | None = None) -> None:
        self._kind = kind
        self._fields: dict[int, list[int | memoryview]] = {}
        for count, (number, value) in enumerate(_fields(data)):
            if count == MAX_FIELDS:
                raise ValueError(f"`{kind}` has more than `{MAX_FIELDS}` fields")
            self._fields.setdefault(number, []).append(value)
        if known is not None:
            self.check(known)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def check(self, known: Sequence[int]) -> None:
        """Checks that the message has no other fields than these.

        Raises:
            Unread: it has one.
        """
        for number in self._fields:
            if number not in known:
                raise Unread(f"`{self._kind}` has a field `{number}` that this reader does not know")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the fields that it has."""
        return tuple(self._fields)

    def size_bytes(self, number: int) -> int:
        """Of a bytes field, or a repeated field of floats."""
        return sum(len(chunk) for chunk in self._chunks(number))

    def integer(self, number: int, default: int = 0) -> int:
        """An int64, int32, bool or enum field."""
        value = self._single(number)
        if value is None:
            return default
        if not isinstance(value, int):
            raise ValueError(f"field `{number}` of `{self._kind}` is no integer")
        return _signed(value)

    def integers(self, number: int) -> list[int]:
        """A repeated integer field, packed or not."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            found.extend([_signed(value)] if isinstance(value, int) else map(_signed, _varints(value)))
        return found

    def floats(self, number: int) -> NDArray[np.float32]:
        """A repeated float field, packed or not: (count,) float32."""
        return np.frombuffer(b"".join(self._chunks(number)), "<f4").astype(np.float32)

    def content(self, number: int, what: str = "bytes") -> memoryview:
        """A bytes field; empty where it is absent."""
        value = self._single(number)
        if isinstance(value, int):
            raise ValueError(f"field `{number}` of `{self._kind}` is no {what}")
        return memoryview(b"") if value is None else value

    def text(self, number: int) -> str:
        """A string field, which must be UTF-8."""
        return str(self.content(number), "utf-8")

    def texts(self, number: int) -> list[str]:
        """A repeated string field."""
        return [str(chunk, "utf-8") for chunk in self._chunks(number)]

    def messages(self, number: int, kind: str, known: Sequence[int] | None = None) -> list[Message]:
        """A repeated message field."""
        return [Message(chunk, kind, known) for chunk in self._chunks(number)]

    def message(self, number: int, kind: str, known: Sequence[int] | None = None) -> Message:
        """A message field; empty where it is absent."""
        return Message(self.content(number, "message"), kind, known)

    def entries(self, number: int, kind: str, known: Sequence[int] | None = None) -> dict[str, Message]:
        """A map field with strings as keys: key -> message."""
        return {key: Message(value, kind, known) for key, value in self._pairs(number)}

    def words(self, number: int) -> dict[str, str]:
        """A map field of strings: key -> text."""
        return {key: str(value, "utf-8") for key, value in self._pairs(number)}

    def only(self, *numbers: int) -> int:
        """The one of these fields that is present.

        Raises:
            ValueError: none is, or more than one.
        """
        present = [number for number in numbers if number in self._fields]
        if len(present) != 1:
            raise ValueError(f"`{self._kind}` has `{len(present)}` of the fields `{list(numbers)}`, where one is needed")
        return present[0]

    def _pairs(self, number: int) -> Iterator[tuple[str, memoryview]]:
        """The entries of a map with strings as keys. Each entry is a message: field 1 is the key, field 2 the value."""
        found: set[str] = set()
        for entry in self.messages(number, self._kind, (1, 2)):
            key = entry.text(1)
            if key in found:
                raise ValueError(f"`{self._kind}` has `{key}` twice")
            found.add(key)
            yield key, entry.content(2)

    def _single(self, number: int) -> int | memoryview | None:
        values = self._fields.get(number, [])
        if len(values) > 1:
            raise ValueError(f"field `{number}` of `{self._kind}` is there `{len(values)}` times")
        return values[0] if values else None

    def _chunks(self, number: int) -> Iterator[memoryview]:
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                raise ValueError(f"field `{number}` of `{self._kind}` is an integer")
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if not number:
            raise ValueError("a field has the number 0")
        if form == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if form == _BYTES:
            size, at = _varint(data, at)
        elif form in (_FIXED32, _FIXED64):
            size = 4 if form == _FIXED32 else 8
        else:
            raise ValueError(f"a field has the unknown wire type `{form}`")
        if size > len(data) - at:
            raise ValueError(f"a field of `{size}` bytes, where `{len(data) - at}` are left")
        yield number, data[at : at + size]
        at += size


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number at `at`, seven bits per byte and lowest first, and the offset behind it."""
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        if at + place >= len(data):
            raise ValueError("the data end inside a number")
        byte: Any = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number of more than 64 bits")


def _signed(value: int) -> int:
    """Unsigned -> signed: the wire has 64-bit two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value
