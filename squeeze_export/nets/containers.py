"""What kind of file this is, told by its first bytes; a file's ending only says what an unreadable one was meant to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from squeeze_export.errors import BadInput
from squeeze_export.nets.net_reader import is_net
from squeeze_export.nets.torch_reader import ZIP_MAGIC

Kind = Literal["torch", "safetensors", "onnx", "net"]

ENDINGS: Mapping[str, Kind] = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".tar", ".bin", ".pkl"), "torch"),
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".net": "net",
}
READ = "torch.save's files (.pth, .pt, .ckpt, .bin), .safetensors, .onnx, the authors' .net"
_ONNX_HINT = "give the checkpoint that it was made from, or export the network to ONNX and give the .onnx file"
_FOREIGN: Mapping[bytes, str] = {
    b"\x89HDF\r\n\x1a\n": "a Keras or HDF5 file",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard: unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it first",
    b"\x93NUMPY": "a numpy array (.npy)",
    b"version https://git-lfs": "a pointer of Git LFS, and not the file itself: `git lfs pull` fetches it",
    b"<!DOCTYPE": "a web page, and not the file: the download went wrong",
    b"<!doctype": "a web page, and not the file: the download went wrong",
    b"<html": "a web page, and not the file: the download went wrong",
    b"<?xml": "an XML file; OpenVINO's files are exports and not checkpoints",
    b"<net": "an OpenVINO file, an export and not a checkpoint",
}
_AT_4 = {b"TFL3": "a TFLite file, an export and not a checkpoint", b"ET12": "an ExecuTorch file, an export and not a checkpoint"}
_PICKLE_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_TAR_AT = 257
_MAX_FIELD_COUNT = 10_000
_ONNX_GRAPH, _ONNX_OPSETS = 7, 8


def kind_of(data: bytes, path: Path) -> Kind:
    """The kind of a checkpoint.

    Args:
        data: the file's bytes.
        path: of the file; its ending counts only where the bytes tell nothing.

    Raises:
        BadInput: the file is something else, which is named.
    """
    if data[:4] == ZIP_MAGIC or data[:2] in _PICKLE_PROTOCOLS:
        return "torch"
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return "safetensors"
    foreign = next((what for magic, what in _FOREIGN.items() if data.startswith(magic)), _AT_4.get(data[4:8]))
    if data[_TAR_AT : _TAR_AT + 5] == b"ustar":
        foreign = "a tar archive: unpack it first"
    if foreign is not None:
        raise BadInput(f"`{path}` is {foreign}", hint=None if ":" in foreign else _ONNX_HINT)
    if is_net(data):
        return "net"
    fields = _protobuf_fields(data)
    if fields & {_ONNX_GRAPH, _ONNX_OPSETS}:
        return "onnx"
    if fields and max(fields) >= 200:
        raise BadInput(f"`{path}` is a Core ML model, an export and not a checkpoint", hint=_ONNX_HINT)
    if path.name == "saved_model.pb":
        raise _saved_model(path)
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        raise BadInput(f"`{path}` is not a checkpoint of a supported format", hint=f"supported: {READ}")
    return kind


def refuse_folder(path: Path) -> BadInput:
    """Why a folder is no checkpoint."""
    if (path / "saved_model.pb").is_file():
        return _saved_model(path)
    if (path / "Manifest.json").is_file():
        return BadInput(f"`{path}` is a Core ML package, an export and not a checkpoint", hint=_ONNX_HINT)
    return BadInput(f"`{path}` is a folder, where a checkpoint file is needed")


def _saved_model(path: Path) -> BadInput:
    return BadInput(
        f"`{path}` is a TensorFlow SavedModel",
        hint="python -m tf2onnx.convert --saved-model FOLDER --output net.onnx, and give net.onnx",
    )


def _protobuf_fields(data: bytes) -> set[int]:
    """The field numbers of a protobuf message; empty if the bytes are none to their end.

    Encoding: protobuf.dev/programming-guides/encoding.
    """
    fields: set[int] = set()
    at = 0
    for _ in range(_MAX_FIELD_COUNT):
        if at == len(data):
            return fields
        tag, at = _varint(data, at)
        fields.add(tag >> 3)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(data, at)
            at += size
        else:
            return set()
        if not 0 < at <= len(data):
            return set()
    return set()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; past the end of the data if it has none."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return 0, len(data) + 1
