"""The authors' `.net` format: written here by its definition, and their own file."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import FAMILY, tensor_shapes
from squeeze_export.nets.checkpoints import MAX_BYTES, read_checkpoint
from squeeze_export.nets.net_reader import read_net

SHAPES = tensor_shapes(FAMILY["squeezenet1_0"])
LAYERS = [key.removesuffix(".weight") for key in SHAPES if key.endswith(".weight")]


def net_file(entries: dict[str, list[tuple[int, int]]]) -> bytes:
    """A `.net` file whose layers hold (gap 0 to 15, code) pairs; code c stands for c / 4, every bias is the layer's number."""
    head, body = b"", b""
    for number, key in enumerate(LAYERS):
        pairs = entries.get(key, [])
        head += struct.pack("<I", len(pairs))
        body += np.arange(256, dtype="<f4").__truediv__(4).tobytes()
        body += np.full(SHAPES[f"{key}.bias"], number, "<f4").tobytes()
        body += bytes(code for _, code in pairs)
        gaps = [gap for gap, _ in pairs] + [0] * (len(pairs) % 2)
        body += bytes(low | high << 4 for low, high in zip(gaps[::2], gaps[1::2], strict=True))
    return head + body


def test_one_layer_by_hand() -> None:
    """Gaps 0, 2, 15 put the entries at positions 0, 3 and 19 of conv1."""
    arch, tensors = read_net(net_file({"features.0": [(0, 4), (2, 8), (15, 255)]}), "x.net")
    flat = tensors["features.0.weight"].reshape(-1)
    assert np.flatnonzero(flat).tolist() == [0, 3, 19]
    assert flat[[0, 3, 19]].tolist() == [1.0, 2.0, 63.75]
    assert set(tensors["classifier.1.bias"].tolist()) == {25.0}
    assert {key: tensor.shape for key, tensor in tensors.items()} == SHAPES
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert arch == replace(FAMILY["squeezenet1_0"], conv10_pad=1)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 255)), max_size=80))
def test_every_gap_is_respected(pairs: list[tuple[int, int]]) -> None:
    flat = read_net(net_file({"features.3.squeeze": pairs}), "x.net")[1]["features.3.squeeze.weight"].reshape(-1)
    expected, at = np.zeros(96 * 16, np.float32), -1
    for gap, code in pairs:
        at += gap + 1
        expected[at] = code / 4
    assert np.array_equal(flat, expected)


def test_a_full_layer_and_an_overrun() -> None:
    size = math.prod(SHAPES["features.3.squeeze.weight"])
    full = [(15, 1)] * (size // 16)
    assert read_net(net_file({"features.3.squeeze": full}), "x.net")[1]["features.3.squeeze.weight"].reshape(-1)[-1] == 0.25
    with pytest.raises(BadInput, match=f"an entry of `features.3.squeeze` at `{size}`, past its {size}"):
        read_net(net_file({"features.3.squeeze": [*full, (0, 1)]}), "x.net")


def test_counts_are_bounded_before_anything_is_allocated() -> None:
    data = bytearray(net_file({}))
    data[:4] = b"\xff\xff\xff\xff"
    with pytest.raises(BadInput, match=r"claims `4294967295` entries for `features\.0`"):
        read_net(bytes(data), "x.net")


@pytest.mark.parametrize("cut", [0, 50, 103, 104, 5000, -1])
def test_truncated_files_are_refused(cut: int) -> None:
    data = net_file({"features.0": [(1, 1)] * 5})
    read_net(data, "x.net")
    with pytest.raises(BadInput):
        read_net(data[:cut], "x.net")


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(BadInput, match="its layer counts say"):
        read_net(net_file({}) + b"\0", "x.net")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.net"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadInput, match="larger than 512 MiB"):
        read_checkpoint(path)


def test_the_authors_file(assets: Path) -> None:
    found = read_checkpoint(assets / "weights" / "squeezenet1_0_deep_compression.net")
    assert (found.kind, found.architecture.name, found.architecture.conv10_pad) == ("net", "squeezenet1_0", 1)
    assert found.preprocess == CAFFE
    decoded = read_checkpoint(assets / "weights" / "squeezenet1_0.safetensors")
    assert list(found.tensors) == list(decoded.tensors)
    assert all(np.array_equal(found.tensors[key], decoded.tensors[key]) for key in decoded.tensors)
    stored = sum(np.count_nonzero(tensor) for key, tensor in found.tensors.items() if key.endswith("weight"))
    assert stored / 1_248_424 == pytest.approx(1 - 0.666, abs=0.002)
