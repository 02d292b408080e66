"""`weight.bin`, Core ML's blob storage file. A model refers to a blob by the offset of its metadata.

Layout, little-endian, every part aligned to 64 bytes:

    header      uint32 count, uint32 version (2), 56 bytes reserved
    metadata    uint32 sentinel (0xDEADBEEF), uint32 data type, uint64 bytes, uint64 offset of the data,
                uint64 unused bits of a sub-byte type's last byte, 32 bytes reserved
    data        ... further metadata and data in turns

Source: mlmodel/src/MILBlob/Blob/StorageFormat.hpp and StorageReader.cpp of github.com/apple/coremltools (BSD 3-clause).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_ALIGNMENT = 64
_VERSION = 2
_SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II56s")
_METADATA = struct.Struct("<IIQQQ32s")


@dataclass(frozen=True)
class Blob:
    """One piece of data.

    Attributes:
        code: its data type (`BlobDataType`).
        unused_bits: at the end of the last byte; 0 unless the type is smaller than a byte.
        data: its bytes.
    """

    code: int
    unused_bits: int
    data: memoryview


def blob_at(content: bytes, at: int) -> Blob:
    """The blob whose metadata begin at the offset `at` of a file's content.

    Raises:
        ValueError: there is no blob.
    """
    if not 0 <= at <= len(content) - _METADATA.size:
        raise ValueError(f"`weight.bin` has no blob at `{at}`, it has `{len(content)}` bytes")
    sentinel, code, size, start, unused_bits, _ = _METADATA.unpack_from(content, at)
    if sentinel != _SENTINEL or start != at + _METADATA.size or unused_bits > 7:
        raise ValueError(f"`weight.bin` has no blob at `{at}`, where one should be")
    if size > len(content) - start:
        raise ValueError(f"the blob at `{at}` claims `{size}` bytes, `weight.bin` has `{len(content) - start}` left")
    return Blob(code, unused_bits, memoryview(content)[start : start + size])


def check_blobs(content: bytes) -> None:
    """Checks every byte of a file outside the blobs' data. Reserved bytes must be zero, as the format requires since iOS 18.

    Raises:
        ValueError: the file is damaged.
    """
    if len(content) < _HEADER.size:
        raise ValueError(f"`weight.bin` has `{len(content)}` bytes, its header alone has `{_HEADER.size}`")
    count, version, reserved = _HEADER.unpack_from(content)
    if version != _VERSION or any(reserved):
        raise ValueError(f"`weight.bin` has no header of version `{_VERSION}`")
    at = _HEADER.size
    for found in range(count):
        if at + _METADATA.size > len(content):
            raise ValueError(f"`weight.bin` announces `{count}` blobs and ends after `{found}`")
        if any(_METADATA.unpack_from(content, at)[-1]):
            raise ValueError(f"`weight.bin` has no blob at `{at}`, where one should be")
        end = at + _METADATA.size + len(blob_at(content, at).data)
        at = end + -end % _ALIGNMENT
        if any(content[end:at]):
            raise ValueError(f"`weight.bin` has something behind the blob that ends at `{end}`")
    if at < len(content):
        raise ValueError(f"`weight.bin` announces `{count}` blobs and goes on behind the last")
