"""Checkpoint files of torch and safetensors: good ones, damaged ones, hostile ones."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from squeeze_export.core import CAFFE, TORCHVISION
from squeeze_export.errors import BadInput
from squeeze_export.nets.architecture import FAMILY, Architecture, Fire, StructureChoice, architecture, tensor_shapes
from squeeze_export.nets.checkpoints import Checkpoint, read_checkpoint
from squeeze_export.nets.safetensors_file import preprocess_from_json, read_safetensors, write_safetensors

SMALL = Architecture("squeezenet_custom", 4, 3, (Fire(2, 3, 5), Fire(2, 4, 4), Fire(3, 6, 6)), (1,), 5)
WIDE = replace(SMALL, fires=(*SMALL.fires, *(Fire(3, 6, 6) for _ in range(12))))
RICH = replace(SMALL, fires=(Fire(2, 3, 5, "complex"), Fire(2, 4, 4, "simple"), Fire(3, 6, 6, "complex")))


def weights(arch: Architecture = SMALL) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return {key: draw.normal(size=shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}


def state_dict(arch: Architecture = SMALL) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in weights(arch).items()}


def torch_bytes(value: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def with_prefix(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state_dict().items()}


GOOD: dict[str, Callable[[], object]] = {
    "a state dict": state_dict,
    "ordered": lambda: collections.OrderedDict(state_dict()),
    "under state_dict": lambda: {"epoch": 3, "state_dict": state_dict(), "optimizer": {"state": {}, "param_groups": []}},
    "under model": lambda: {"model": state_dict(), "seed": 2**62},
    "under model_state_dict": lambda: {"model_state_dict": state_dict(), "history": [1.5, 2.5]},
    "under any key": lambda: {"mine": {"best": [state_dict()]}},
    "five deep": lambda: {"model": {"model": {"model": {"model": {"model": state_dict()}}}}},
    "a text and a number among tensors": lambda: {**state_dict(), "x": "y", 3: 4.5},
    "DataParallel": lambda: with_prefix("module."),
    "Lightning, compiled": lambda: {"state_dict": with_prefix("model._orig_mod.")},
    "parameters": lambda: {key: torch.nn.Parameter(value) for key, value in state_dict().items()},
    "another order": lambda: dict(reversed(state_dict().items())),
}


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_torch_files(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(torch_bytes(GOOD[name](), _use_new_zipfile_serialization=form == "zip"))
    found = read_checkpoint(path)
    assert (found.kind, found.architecture, found.preprocess, found.labels) == ("torch", SMALL, TORCHVISION, ())
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(found.tensors) == list(tensor_shapes(SMALL))
    for key, value in weights().items():
        assert found.tensors[key].dtype == np.float32
        assert np.array_equal(found.tensors[key], value)


def read(data: bytes, folder: Path, name: str = "x.pth") -> Checkpoint:
    (folder / name).write_bytes(data)
    return read_checkpoint(folder / name)


def test_a_model_of_the_family(tmp_path: Path) -> None:
    arch = architecture("squeezenet1_1", class_count=3)
    torch.save(state_dict(arch), tmp_path / "net.pt")
    assert read_checkpoint(tmp_path / "net.pt").architecture == arch


class Hostile:
    """Unpickled with code allowed, this leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_code_is_never_run(form: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    hostile = {**state_dict(), "x": Hostile(trace)}
    data = torch_bytes(hostile, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(BadInput, match=r"holds code or an object \(`\w+\.mkdir`\) at `x`") as caught:
        read(data, tmp_path)
    assert caught.value.hint is not None
    assert "state_dict()" in caught.value.hint
    assert not trace.exists()
    torch.load(io.BytesIO(data), weights_only=False)  # the control: the file is really hostile
    assert trace.exists()


def test_an_object_beside_the_state_dict_is_left_out_and_never_built(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    found = read(torch_bytes({"state_dict": state_dict(), "hook": Hostile(trace)}), tmp_path)
    assert found.architecture == SMALL
    assert found.notes == (f"left out, and not built: `hook`, a `{os.mkdir.__module__}.mkdir`",)
    assert not trace.exists()


@pytest.mark.parametrize(("put", "where"), [(lambda model: model, ""), (lambda model: {"epoch": 3, "net": model}, " at `net`")])
def test_a_whole_model_is_refused_with_a_hint(put: Callable[[Any], Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"is a whole pickled module{where} \(`torch\.nn\.modules\.linear\.Linear`\)") as caught:
        read(torch_bytes(put(torch.nn.Linear(2, 2))), tmp_path)
    assert caught.value.hint is not None
    assert "model.state_dict()" in caught.value.hint


def zipped(code: bytes, *, compression: int = zipfile.ZIP_STORED, extra: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("net/data.pkl", code)
        archive.writestr("net/version", b"3\n")
        if extra:
            archive.writestr("net/data/0", extra)
    return stream.getvalue()


def overlapping() -> bytes:
    """Two directory entries that claim the same bytes."""
    data = bytearray(zipped(b"\x80\x02}.", extra=b"0" * 500))
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, at + 20, 10**6, 10**6)
    return bytes(data)


def lying_storage() -> bytes:
    data = torch_bytes({"a": torch.zeros(7)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        code = archive.read("archive/data.pkl")
    return zipped(code.replace(b"K\x07tq", b"J\xff\xff\xff\x7ftq", 1))


def scripted() -> bytes:
    stream = io.BytesIO()
    with pytest.deprecated_call():
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def exported() -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), stream)
    return stream.getvalue()


def zip_of(**entries: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("_", "."), content)
    return stream.getvalue()


def numpy_archive() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


NOT_READ: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is no torch checkpoint"),
    "text": (lambda: b"hello world" * 10, "is no torch checkpoint, or is cut short: it refers to a value"),
    "a plain pickle": (lambda: pickle.dumps({"a": 1}), "is a plain pickle, which torch.save did not write"),
    "a zip of something": (lambda: zip_of(other_txt=b"x"), "is a zip file, but not one of torch's"),
    "a zip around a checkpoint": (lambda: zip_of(best_pth=b"x"), "is a zip archive around `best.pth`"),
    "TorchScript": (scripted, "is a TorchScript program"),
    "an exported program": (exported, "is an exported program"),
    "numpy arrays": (numpy_archive, "is an archive of numpy arrays"),
    "Keras": (lambda: zip_of(model_weights_h5=b"x", config_json=b"{}"), "is a Keras model"),
    "compressed": (
        lambda: zipped(b"\x80\x02}." + b"\0" * 999, compression=zipfile.ZIP_DEFLATED),
        "compressed entries, and torch.save compresses none",
    ),
    "overlapping": (overlapping, "claims to hold more bytes"),
    "a storage too large": (lying_storage, "claims a storage of `2147483647` elements"),
    "a number": (lambda: torch_bytes(3), "holds no state dict"),
    "numbers": (lambda: torch_bytes({"a": 1, "model": 3}), "holds no state dict"),
    "nested too deep": (lambda: torch_bytes(nested(9)), "holds no state dict"),
    "nested without end": (lambda: zipped(b"\x80\x02" + b"]" * 9000 + b"a" * 8999 + b"."), "holds no state dict"),
    "a number as key": (lambda: torch_bytes({**state_dict(), 3: torch.zeros(1)}), "no layer of a SqueezeNet has: `3`"),
    "integers": (lambda: torch_bytes({"a": torch.zeros(3, dtype=torch.int8)}), r"its tensors: `a` 3 \(int8\)"),
    "sparse": (lambda: torch_bytes({"a": torch.eye(3).to_sparse()}), r"its tensors: `a` scalar \(sparse tensor\)"),
    "repeated": (lambda: torch_bytes({"a": torch.zeros(1).expand(2**40)}), "a tensor of shape .* claims more data"),
    "repeated often": (
        lambda: torch_bytes({str(i): torch.zeros(100).expand(100, 100) for i in range(50)}),
        "claims more data",
    ),
    "one storage as all weights": (lambda: torch_bytes(shared_storage()), "claim more data than it has"),
    "a function of torch": (
        lambda: zipped(b"\x80\x02ctorch\nset_num_threads\nK\x01\x85R."),
        r"holds code or an object \(`torch\.set_num_threads`\) at `its top`",
    ),
    "another kind of reference": (lambda: zipped(b"\x80\x02X\x01\0\0\0aQ."), "something else than a storage"),
    "an extension": (lambda: zipped(b"\x80\x02\x82\x01."), "the operation `EXT1`, which no state dict needs"),
    "operations without end": (lambda: zipped(b"\x80\x02" + b"N0" * 1_100_000 + b"N."), "more than 2000000 operations"),
    "a list without end": (lambda: zipped(b"\x80\x02" + b"]" + b"N" * 999), "cut short"),
}


def nested(depth: int) -> Any:
    found: Any = state_dict()
    for _ in range(depth):
        found = [found]
    return found


def shared_storage() -> dict[str, torch.Tensor]:
    """Each weight looks at the same numbers."""
    everything = torch.zeros(max(value.numel() for value in state_dict().values()))
    return {key: everything[: value.numel()].view(value.shape) for key, value in state_dict(WIDE).items()}


@pytest.mark.parametrize("name", list(NOT_READ))
def test_torch_files_that_are_refused(name: str, tmp_path: Path) -> None:
    draw, says = NOT_READ[name]
    with pytest.raises(BadInput, match=says) as caught:
        read(draw(), tmp_path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_truncated_torch_files_are_refused(form: str, tmp_path: Path) -> None:
    data = torch_bytes(state_dict(), _use_new_zipfile_serialization=form == "zip")
    for end in range(0, len(data), 331):
        with pytest.raises(BadInput):
            read(data[:end], tmp_path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_damaged_bytes_never_give_a_traceback(form: str, tmp_path: Path) -> None:
    data = torch_bytes(state_dict(), _use_new_zipfile_serialization=form == "zip")
    draw = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for at in draw.integers(0, len(data), 4):
            damaged[at] = draw.integers(0, 256)
        try:
            read(bytes(damaged), tmp_path)
        except BadInput:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("dtype", "code"), [(np.float64, "F64"), (np.float32, "F32"), (np.float16, "F16")], ids=["F64", "F32", "F16"]
)
def test_safetensors(dtype: type, code: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(save({f"model.{key}": value.astype(dtype) for key, value in weights().items()}))
    assert code.encode() in path.read_bytes()
    found = read_checkpoint(path)
    assert (found.kind, found.architecture, found.preprocess) == ("safetensors", SMALL, TORCHVISION)
    for key, value in weights().items():
        assert found.tensors[key].dtype == np.float32
        assert np.array_equal(found.tensors[key], value.astype(dtype).astype(np.float32))


def raw_safetensors(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_bfloat16_safetensors() -> None:
    values = torch.tensor([1.5, -3.0e38, 0.0078125, 0.0])
    body = values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    data = raw_safetensors({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, body)
    expected = values.to(torch.bfloat16).to(torch.float32).numpy().reshape(2, 2)
    assert np.array_equal(read_safetensors(data, "x").tensors["a"].read(), expected)


def test_tensors_that_are_no_floats_have_no_values() -> None:
    data = raw_safetensors({"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}, b"\0" * 2)
    assert (read_safetensors(data, "x").tensors["a"].dtype, read_safetensors(data, "x").tensors["a"].shape) == ("I8", (2,))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no safetensors file"),
        (b"\xff" * 100, "no safetensors file"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 8]}}, b"\0" * 8), "no safetensors file"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 7), "no safetensors file"),
    ],
)
def test_safetensors_that_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_safetensors(data, "x.safetensors")


def test_truncated_safetensors_are_refused() -> None:
    data = save(weights())
    for end in range(0, len(data), 251):
        with pytest.raises(BadInput):
            read_safetensors(data[:end], "x")


@pytest.mark.parametrize("arch", [*FAMILY.values(), RICH, replace(SMALL, conv10_pad=1, pools_after=(0, 2), name="mine")])
def test_what_is_written_reads_back_whole(arch: Architecture, tmp_path: Path) -> None:
    arch = replace(arch, class_count=4)
    path, labels = tmp_path / "net.safetensors", ("a", "b", "ä", "d")
    write_safetensors(path, arch, weights(arch), CAFFE, labels)
    found = read_checkpoint(path)
    assert (found.architecture, found.preprocess, found.labels) == (arch, CAFFE, labels)
    assert all(np.array_equal(found.tensors[key], value) for key, value in weights(arch).items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]
    write_safetensors(path, arch, weights(arch), CAFFE)
    assert read_checkpoint(path).labels == ()


def metadata_file(path: Path, **metadata: str) -> Path:
    path.write_bytes(save(weights(), metadata))
    return path


PREPROCESS = CAFFE.to_json()
BAD_METADATA: dict[str, tuple[dict[str, str], str]] = {
    "not JSON": ({"preprocess": "{"}, "`preprocess` is not JSON"),
    "nested without end": ({"labels": "[" * 100_000}, "`labels` is not JSON"),
    "not an object": ({"architecture": "[]"}, "`architecture` is a list"),
    "architecture of another net": ({"architecture": json.dumps(FAMILY["squeezenet1_0"].to_json())}, "has shape"),
    "architecture with an endless width": (
        {"architecture": json.dumps({**SMALL.to_json(), "conv1_channels": 1e999})},
        "architecture cannot be read",
    ),
    "architecture that cannot be": ({"architecture": json.dumps({**SMALL.to_json(), "conv10_pad": 3})}, "pads conv10 by `3`"),
    "labels that are numbers": ({"labels": "[1]"}, "labels stored in"),
    "labels too long": ({"labels": json.dumps(["x" * 1001] * 5)}, "labels stored in"),
    "too few labels": ({"labels": '["a"]'}, "stores `1` labels for a network of 5 classes"),
    "field missing": ({"preprocess": json.dumps({"crop_px": 224})}, "lacks `resize_px`"),
    "field unknown": ({"preprocess": json.dumps({**PREPROCESS, "flip": 1})}, "unknown field, `flip`"),
    "crop of a text": ({"preprocess": json.dumps({**PREPROCESS, "crop_px": "224"})}, "crop_px `224`"),
    "crop too large": ({"preprocess": json.dumps({**PREPROCESS, "resize_px": 10**9})}, "resize_px `1000000000`"),
    "interpolation": ({"preprocess": json.dumps({**PREPROCESS, "interpolation": "area"})}, "interpolation `area`"),
    "channel order": ({"preprocess": json.dumps({**PREPROCESS, "channel_order": "gbr"})}, "channel_order `gbr`"),
    "resize mode": ({"preprocess": json.dumps({**PREPROCESS, "resize_mode": "fit"})}, "resize_mode `fit`"),
    "width of 0": ({"preprocess": json.dumps({**PREPROCESS, "width_px": 0})}, "width_px `0`"),
    "grey with three means": ({"preprocess": json.dumps({**PREPROCESS, "channel_order": "gray"})}, "one number in pixel units"),
    "mean of two": ({"preprocess": json.dumps({**PREPROCESS, "mean": [1, 2]})}, "mean"),
    "mean of NaN": ({"preprocess": json.dumps({**PREPROCESS, "mean": [1, 2, float("nan")]})}, "mean"),
    "mean too large": ({"preprocess": json.dumps({**PREPROCESS, "mean": [1, 2, 10**400]})}, "mean"),
    "std of 0": ({"preprocess": json.dumps({**PREPROCESS, "std": [1, 0, 1]})}, "std"),
}


@pytest.mark.parametrize("name", list(BAD_METADATA))
def test_metadata_that_is_refused(name: str, tmp_path: Path) -> None:
    metadata, says = BAD_METADATA[name]
    with pytest.raises(BadInput, match=says):
        read_checkpoint(metadata_file(tmp_path / "net.safetensors", **metadata))


def test_metadata_in_parts(tmp_path: Path) -> None:
    path = metadata_file(tmp_path / "net.safetensors", preprocess=json.dumps(PREPROCESS), format="pt")
    found = read_checkpoint(path)
    assert (found.architecture, found.preprocess, found.labels) == (SMALL, CAFFE, ())
    assert preprocess_from_json(TORCHVISION.to_json()) == TORCHVISION
    other = replace(TORCHVISION, width_px=96, resize_mode="stretch", channel_order="gray", mean=(1.0,), std=(2.0,))
    assert preprocess_from_json(json.loads(json.dumps(other.to_json()))) == other


def test_simple_bypass_is_asked_for_or_stored(tmp_path: Path) -> None:
    simple = replace(SMALL, fires=(Fire(2, 3, 5), Fire(2, 4, 4, "simple"), Fire(3, 6, 6)))
    path = tmp_path / "net.safetensors"
    path.write_bytes(save(weights()))
    assert read_checkpoint(path).architecture.bypass == "none"
    assert read_checkpoint(path, structure=StructureChoice(bypass="simple")).architecture == simple
    write_safetensors(path, simple, weights(), TORCHVISION)
    assert read_checkpoint(path).architecture == simple
    assert read_checkpoint(path, structure=StructureChoice(bypass="simple")).architecture == simple
    with pytest.raises(BadInput, match="bypass `none` was asked for, but the file says `simple`"):
        read_checkpoint(path, structure=StructureChoice(bypass="none"))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(BadInput, match="No space"):
        write_safetensors(tmp_path / "net.safetensors", SMALL, weights(), TORCHVISION)
    assert not list(tmp_path.iterdir())


ELSEWHERE: dict[str, tuple[bytes, str]] = {
    "net.h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "is a Keras or HDF5 file"),
    "net.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
    "net.pt": (b"<!DOCTYPE html><html>", "is a web page"),
    "net.pth.gz": (b"\x1f\x8b\x08\0", "compressed with gzip"),
    "net.tar": (bytes(257) + b"ustar\x0000" + bytes(255), "is a tar archive"),
    "net.tflite": (b"\x1c\0\0\0TFL3" + bytes(20), "is a TFLite file"),
    "net.pte": (b"\x1c\0\0\0ET12" + bytes(20), "is an ExecuTorch file"),
    "net.mlmodel": (b"\x08\x04\x12\0\xa2\x1f\x02hi", "is a Core ML model"),
    "net.xml": (b'<?xml version="1.0"?><net/>', "is an XML file"),
    "saved_model.pb": (b"\x08\x01\x12\x02hi", "is a TensorFlow SavedModel"),
    "photo.jpg": (b"\xff\xd8\xff\xe0", "is not a checkpoint of a supported format"),
}


@pytest.mark.parametrize("name", list(ELSEWHERE))
def test_files_of_other_kinds_are_named(name: str, tmp_path: Path) -> None:
    content, says = ELSEWHERE[name]
    with pytest.raises(BadInput, match=says):
        read(content, tmp_path, name)


def test_folders_are_named(tmp_path: Path) -> None:
    for file, says in (("saved_model.pb", "TensorFlow SavedModel"), ("Manifest.json", "Core ML package"), ("x", "is a folder")):
        (tmp_path / says).mkdir()
        (tmp_path / says / file).write_bytes(b"")
        with pytest.raises(BadInput, match=says):
            read_checkpoint(tmp_path / says)


@pytest.mark.parametrize("name", ["net", "net.bin", "net.ckpt", "net.pth.tar", "net.pkl", "net.onnx", "net.safetensors"])
def test_no_ending_matters(name: str, tmp_path: Path) -> None:
    for data, kind in ((torch_bytes(state_dict()), "torch"), (save(weights()), "safetensors")):
        assert (read(data, tmp_path, name).kind, read(data, tmp_path, name).architecture) == (kind, SMALL)


def test_a_key_has_no_sense_for_a_graph(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08\x3a\x02\x12\x00")
    with pytest.raises(BadInput, match="has no keys to choose from"):
        read_checkpoint(tmp_path / "net.onnx", key="ema")


def test_a_foreign_network_is_refused_with_its_tensors(tmp_path: Path) -> None:
    tensors = {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}
    with pytest.raises(BadInput, match=r"has `1` convolutions .* its tensors: `conv1.weight` 64x3x7x7, `bn1.weight` 64$"):
        read(torch_bytes(tensors), tmp_path, "resnet.pth")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="is not there"):
        read_checkpoint(tmp_path / "net.pth")

    def denied(*_args: object, **_kw: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "shut.pth").write_bytes(b"")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BadInput, match="cannot be read: Permission denied"):
        read_checkpoint(tmp_path / "shut.pth")


def test_torchvisions_weights(assets: Path) -> None:
    found = read_checkpoint(assets / "weights" / "squeezenet1_1.pth")
    assert found.architecture == FAMILY["squeezenet1_1"]
    assert found.preprocess == TORCHVISION
    twin = read_checkpoint(assets / "weights" / "squeezenet1_1.safetensors")
    assert twin.architecture == FAMILY["squeezenet1_1"]
    assert all(np.array_equal(found.tensors[key], twin.tensors[key]) for key in twin.tensors)
    assert found.sha256 != twin.sha256
