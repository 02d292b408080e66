"""The authors' `.net` file (Deep Compression of SqueezeNet 1.0: github.com/songhan/SqueezeNet-Deep-Compression).

Little-endian. One uint32 count of stored entries per layer, for all 26 (conv1; squeeze1x1, expand1x1, expand3x3 of fire2 to
fire9; conv10). Then per layer: a codebook of 256 float32, the bias (float32), one uint8 code per entry, and a 4-bit relative
index per entry, two a byte, low nibble first. An entry's position in the flattened OIHW weight is the sum of (index + 1) up to
it, minus 1.
Han et al., "Deep Compression", arXiv:1510.00149, section 2 (relative indices) and 3 (codebooks).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import FAMILY, Architecture, tensor_shapes

CODEBOOK_COUNT = 256
_SHAPES = tensor_shapes(FAMILY["squeezenet1_0"])
_KEYS = tuple(key.removesuffix(".weight") for key in _SHAPES if key.endswith(".weight"))
MIN_NET_BYTES = 4 * len(_KEYS)
MAX_NET_BYTES = 4 * 1024 * 1024
"""A file with every weight of v1.0 stored would have 1.9 MB."""


def is_net(data: bytes) -> bool:
    """Whether the layer counts at the start account for every byte of a file: `.net` files have no other mark."""
    return MIN_NET_BYTES <= len(data) <= MAX_NET_BYTES and _size_bytes(_entry_counts(data)) == len(data)


def read_net(data: bytes, name: str) -> tuple[Architecture, dict[str, NDArray[np.float32]]]:
    """Decodes a `.net` file.

    Args:
        data: the file's bytes.
        name: of the file, for messages.

    Returns:
        SqueezeNet 1.0 with conv10_pad 1, as its authors trained it, and its tensors under torchvision's keys, float32 OIHW.
        conv1 takes BGR.

    Raises:
        BadInput: a layer claims more entries than it has weights, an entry lies outside its layer, or the file is shorter or
            longer than its counts say.
    """
    arch = replace(FAMILY["squeezenet1_0"], conv10_pad=1)
    shapes, keys = _SHAPES, _KEYS
    if len(data) < MIN_NET_BYTES:
        raise BadInput(f"`{name}` is cut short: its `{len(data)}` bytes do not hold the {len(keys)} layer counts of a .net file")
    counts = _entry_counts(data)
    for key, count in zip(keys, counts, strict=True):
        weight_count = math.prod(shapes[f"{key}.weight"])
        if count > weight_count:
            raise BadInput(f"`{name}` claims `{count}` entries for `{key}`, which has {weight_count} weights")
    size = _size_bytes(counts)
    if size != len(data):
        raise BadInput(f"`{name}` has `{len(data)}` bytes; its layer counts say {size}", hint="the download may be incomplete")
    tensors: dict[str, NDArray[np.float32]] = {}
    at = 4 * len(keys)
    for key, count in zip(keys, counts, strict=True):
        shape, bias_count = shapes[f"{key}.weight"], shapes[f"{key}.bias"][0]
        codebook = np.frombuffer(data, "<f4", CODEBOOK_COUNT, at)
        bias = np.frombuffer(data, "<f4", bias_count, at + 4 * CODEBOOK_COUNT)
        codes_at = at + 4 * (CODEBOOK_COUNT + bias_count)
        codes = np.frombuffer(data, np.uint8, count, codes_at)
        nibbles = np.frombuffer(data, np.uint8, (count + 1) // 2, codes_at + count)
        at += _layer_bytes(count, bias_count)
        gaps = np.stack([nibbles & 15, nibbles >> 4], axis=1).reshape(-1)[:count]  # low nibble first
        positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
        flat = np.zeros(math.prod(shape), np.float32)
        if count and positions[-1] >= flat.size:
            raise BadInput(f"`{name}` places an entry of `{key}` at `{positions[-1]}`, past its {flat.size} weights")
        flat[positions] = codebook[codes]
        tensors[f"{key}.weight"] = flat.reshape(shape)
        tensors[f"{key}.bias"] = bias.astype(np.float32)
    return arch, tensors


def _entry_counts(data: bytes) -> list[int]:
    return [int(count) for count in np.frombuffer(data, "<u4", len(_KEYS))]


def _size_bytes(counts: list[int]) -> int:
    """Of the whole file, by its layer counts."""
    layers = zip(_KEYS, counts, strict=True)
    return MIN_NET_BYTES + sum(_layer_bytes(count, _SHAPES[f"{key}.bias"][0]) for key, count in layers)


def _layer_bytes(entry_count: int, bias_count: int) -> int:
    return 4 * (CODEBOOK_COUNT + bias_count) + entry_count + (entry_count + 1) // 2
