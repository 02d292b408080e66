"""Files of torch.save, read value by value and compared with what torch itself has."""

from __future__ import annotations

import argparse
import collections
import io
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from squeeze_export.errors import BadInput
from squeeze_export.nets.pickled import Unbuilt
from squeeze_export.nets.stored import StoredTensor
from squeeze_export.nets.torch_reader import read_torch

GRID = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "plain": GRID,
    "transposed": GRID.t(),
    "part": GRID[1:3, ::2],
    "flipped part": GRID[3, 2:5],
    "channels last": torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last),
    "repeated once": GRID[:1].expand(1, 6),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "float64": torch.tensor([1.1, -2.0], dtype=torch.float64),
    "float16": torch.tensor([1.1, 6e4], dtype=torch.float16),
    "bfloat16": torch.tensor([1.1, -3e38], dtype=torch.bfloat16),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "buffer": torch.nn.Buffer(torch.ones(3)),
}


def saved(value: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_layout_has_torchs_values(form: str, protocol: int) -> None:
    found = read_torch(saved(TENSORS, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip"), "x")
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        values = found[name].read()
        assert (values.dtype, values.shape, found[name].shape) == (np.float32, tuple(tensor.shape), tuple(tensor.shape))
        assert np.array_equal(values, tensor.detach().to(torch.float32).numpy()), name
        assert values.flags.c_contiguous


def test_a_big_endian_file() -> None:
    """As a machine of that order writes it: the same pickle, the storages' bytes swapped, and an entry that says so."""
    data, stream = saved({"a": GRID, "b": TENSORS["bfloat16"], "c": TENSORS["float64"]}), io.BytesIO()
    widths = {"archive/data/0": "<u4", "archive/data/1": "<u2", "archive/data/2": "<u8"}
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stream, "w") as swapped:
        for entry in archive.namelist():
            content = archive.read(entry)
            if entry in widths:
                content = np.frombuffer(content, widths[entry]).byteswap().tobytes()
            swapped.writestr(entry, b"big" if entry.endswith("byteorder") else content)
    found = read_torch(stream.getvalue(), "x")
    assert np.array_equal(found["a"].read(), GRID.numpy())
    assert np.array_equal(found["b"].read(), TENSORS["bfloat16"].float().numpy())
    assert np.array_equal(found["c"].read(), TENSORS["float64"].float().numpy())


def test_what_is_no_tensor() -> None:
    value = {
        "dict": collections.OrderedDict(a=1, b=(2.5, "x")),
        "default": collections.defaultdict(list, {"k": [None, True]}),
        "count": collections.Counter("aab"),
        "set": {3},
        "size": torch.Size([1, 2]),
        "bytes": b"\0",
        "long": 2**70,
        7: "number as key",
        "args": argparse.Namespace(lr=0.1),
        "numpy": np.float64(1.5),
    }
    for protocol in (2, 4):
        found = read_torch(saved(value, pickle_protocol=protocol), "x")
        assert found["dict"] == {"a": 1, "b": (2.5, "x")}
        assert (found["default"], found["count"], found["set"]) == ({"k": [None, True]}, {"a": 2, "b": 1}, [3])
        assert (found["size"], found["long"], found["7"]) == ((1, 2), 2**70, "number as key")
        assert isinstance(found["args"], Unbuilt)
        assert (found["args"].name, found["args"].state) == ("argparse.Namespace", {"lr": 0.1})
        assert isinstance(found["numpy"], Unbuilt)


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.zeros(2, dtype=torch.int64), "int64"),
        (torch.zeros(2, dtype=torch.bool), "bool"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.eye(2).to_sparse(), "sparse tensor"),
        (torch.zeros(2, device="meta"), "meta tensor, without values"),
    ],
)
def test_tensors_without_values(tensor: torch.Tensor, dtype: str) -> None:
    found = read_torch(saved({"a": tensor}), "x")["a"]
    assert isinstance(found, StoredTensor)
    assert found.dtype == dtype


def test_damaged_values_are_noticed() -> None:
    data = bytearray(saved({"a": GRID}))
    at = bytes(data).index(GRID.numpy().tobytes())
    assert np.array_equal(read_torch(bytes(data), "x")["a"].read(), GRID.numpy())
    data[at] ^= 1
    with pytest.raises(BadInput, match="is damaged or cut short: Bad CRC-32"):
        read_torch(bytes(data), "x")["a"].read()


def test_a_legacy_file_cut_short_in_its_values() -> None:
    data = saved({"a": GRID}, _use_new_zipfile_serialization=False)
    with pytest.raises(BadInput, match="cut short"):
        read_torch(data[:-1], "x")
