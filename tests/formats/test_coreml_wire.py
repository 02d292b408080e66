"""Protobuf's wire format and packed bits: numbers worked by hand, and bytes that are neither."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze_export.formats.coreml import wire
from squeeze_export.formats.coreml.values import read_value, unpack_bits
from squeeze_export.formats.coreml.wire import Message


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
def test_bits_unpack_to_what_was_packed(bits: int, values: list[int]) -> None:
    numbers = [value % (1 << bits) for value in values]
    whole = sum(number << (bits * place) for place, number in enumerate(numbers))
    data = whole.to_bytes(-(-len(numbers) * bits // 8), "little")
    assert unpack_bits(data, bits, len(numbers)).tolist() == numbers


def test_bits_behind_the_last_number_are_refused() -> None:
    with pytest.raises(ValueError, match="bits behind the last number"):
        unpack_bits(b"\xff", 2, 3)
    with pytest.raises(ValueError, match="`3` numbers of `2` bits in `2` bytes"):
        unpack_bits(b"\x3f\x00", 2, 3)


def test_numbers_are_signed_and_packed_or_not() -> None:
    # Field 1: -2 as ten bytes; field 2: packed 1, 300; field 2 again: single 5; field 3: packed floats; field 4: one float.
    data = b"\x08" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\x12\x03\x01\xac\x02" + b"\x10\x05"
    data += b"\x1a\x08" + struct.pack("<2f", 1.5, -2) + b"\x1d" + struct.pack("<f", 3)
    message = Message(memoryview(data), "M")
    assert message.integer(1) == -2
    assert message.integers(2) == [1, 300, 5]
    assert message.floats(3).tolist() == [1.5, -2, 3]
    assert (message.integer(9, 7), message.text(9), message.texts(9), message.words(9)) == (7, "", [], {})


def test_a_map_of_words() -> None:
    """Field 4, twice: the key in field 1, the text in field 2, which may be absent."""
    data = b"\x22\x08\x0a\x01a\x12\x03b\xc3\xa9" + b"\x22\x03\x0a\x01c"
    assert Message(memoryview(data), "M").words(4) == {"a": "bé", "c": ""}


def test_the_number_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 3)
    assert Message(memoryview(b"\x08\x01" * 3), "M").integers(1) == [1, 1, 1]
    with pytest.raises(ValueError, match="more than `3` fields"):
        Message(memoryview(b"\x08\x01" * 4), "M")


@pytest.mark.parametrize(
    ("data", "asked", "reason"),
    [
        (b"\x08", None, "end inside a number"),
        (b"\x08" + b"\xff" * 10, None, "more than 64 bits"),
        (b"\x0a\x05ab", None, "`5` bytes, where `2` are left"),
        (b"\x00\x01", None, "the number 0"),
        (b"\x0b", None, "wire type `3`"),
        (b"\x30\x01", None, "`M` has a field `6`"),
        (b"\x08\x01\x08\x02", lambda m: m.integer(1), "is there `2` times"),
        (b"\x08\x01", lambda m: m.content(1), "is no bytes"),
        (b"\x08\x01", lambda m: m.message(1, "N"), "is no message"),
        (b"\x08\x01", lambda m: m.messages(1, "N"), "is an integer"),
        (b"\x0a\x01a", lambda m: m.integer(1), "is no integer"),
        (b"\x0a\x01\xff", lambda m: m.text(1), "utf-8"),
        (b"\x0a\x03\x0a\x01a" * 2, lambda m: m.entries(1, "N"), "`a` twice"),
        (b"\x08\x01", lambda m: m.only(2, 3), "`0` of the fields"),
    ],
)
def test_bytes_that_are_no_message(data: bytes, asked: Callable[[Message], Any] | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        (asked or Message.integer)(Message(memoryview(data), "M", (1, 2, 3)))  # type: ignore[call-arg]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = Message(memoryview(data), "M")
        message.messages(1, "N")
        read_value(message, {})
    except (ValueError, OverflowError):
        pass
