"""An `.mlpackage` as files: manifest, specification and weights, put together or read back."""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import BadInput
from squeeze_export.files import read_content

MAX_SPECIFICATION_BYTES = 256 << 20

_AUTHOR = "com.apple.CoreML"
_SPECIFICATION, _WEIGHTS = f"{_AUTHOR}/model.mlmodel", f"{_AUTHOR}/weights"
_MANIFEST, _DATA, _WEIGHT_FILE = "Manifest.json", "Data", "weight.bin"
_BLOB = struct.Struct("<II3Q")  # sentinel, type, bytes, where they begin, unused bits at their end
_BLOB_SENTINEL = 0xDEADBEEF
_NAMESPACE = uuid.UUID("5b4a9a4e-3a55-5f0c-8c6e-1d1d7f6c2a10")

_NOT_NEEDED = (
    *("torch", "torchvision", "executorch", "tensorflow", "tensorflow_core", "keras"),
    *("sklearn", "scipy", "xgboost", "libsvm", "pandas"),
)


def coremltools() -> Any:
    """The module, imported without the frameworks that it would convert from, and without its complaints.

    Away from a Mac it logs eight warnings that it cannot run files; those who run files here know.

    Raises:
        Unavailable: it is not installed.
    """
    logger = logging.getLogger("coremltools")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    return require("coremltools", "coreml", without=_NOT_NEEDED)


def package_files(specification: bytes, weights: bytes) -> dict[str, bytes]:
    """The files of a package. Its identifiers, random elsewhere, are made from the content: the same content, the same bytes.

    Args:
        specification: a serialized `Model` message.
        weights: the blob file that it refers to.

    Returns:
        Path inside the package -> bytes.
    """
    content = hashlib.sha256(hashlib.sha256(specification).digest() + hashlib.sha256(weights).digest()).hexdigest()
    entries = {
        path: {"author": _AUTHOR, "description": f"CoreML Model {what}", "name": path.rpartition("/")[2], "path": path}
        for path, what in ((_SPECIFICATION, "Specification"), (_WEIGHTS, "Weights"))
    }
    identifiers = {path: str(uuid.uuid5(_NAMESPACE, f"{content} {path}")).upper() for path in entries}
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {identifiers[path]: entry for path, entry in entries.items()},
        "rootModelIdentifier": identifiers[_SPECIFICATION],
    }
    return {
        _MANIFEST: f"{json.dumps(manifest, indent=4, sort_keys=True)}\n".encode(),
        f"{_DATA}/{_SPECIFICATION}": specification,
        f"{_DATA}/{_WEIGHTS}/{_WEIGHT_FILE}": weights,
    }


@dataclass(frozen=True, eq=False)
class Package:
    """A package that was read.

    Attributes:
        model: the `Model` message.
        files: every file of the package: path inside it -> bytes.
        folder: of the specification, inside the package.
    """

    model: Any
    files: Mapping[str, bytes]
    folder: str

    def blob_bytes(self, file_name: str, offset: int) -> int:
        """How many bytes of data lie at a place of a weight file.

        Args:
            file_name: as the specification spells it, from `@model_path/` on.
            offset: of the blob's header.

        Raises:
            ValueError: there is no such file in the package, or no blob there.
        """
        start, _, name = file_name.partition("/")
        data = self.files.get(f"{self.folder}/{name}", b"")
        if start != "@model_path" or not 0 <= offset <= len(data) - _BLOB.size:
            raise ValueError(f"no weights at {offset} of {file_name!r}")
        sentinel, _, size, begin, _ = _BLOB.unpack_from(data, offset)
        if sentinel != _BLOB_SENTINEL or begin + size > len(data):
            raise ValueError(f"damaged weights at {offset} of {file_name!r}")
        return int(size)


def read_package(path: Path) -> Package:
    """Reads a package. Names in it are only looked up among the files that lie in it: none can lead out.

    Raises:
        BadInput: it cannot be read, is too large, holds links, or is no Core ML package.
        Unavailable: coremltools, which knows the format, is not installed.
    """
    try:
        files = read_content(path)
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror or err}") from err
    if isinstance(files, bytes):
        raise BadInput(f"`{path}` is a file; a Core ML package is a folder")
    coremltools()
    decode_error = require("google.protobuf.message", "coreml").DecodeError
    try:
        manifest = json.loads(files[_MANIFEST])
        root = f"{_DATA}/{manifest['itemInfoEntries'][manifest['rootModelIdentifier']]['path']}"
        specification = files[root]
        if len(specification) > MAX_SPECIFICATION_BYTES:
            raise BadInput(f"`{path}` describes itself in more than {MAX_SPECIFICATION_BYTES >> 20} MiB, the most that is read")
        model = require("coremltools.proto.Model_pb2", "coreml").Model.FromString(specification)
    except (LookupError, TypeError, ValueError, RecursionError, decode_error) as err:
        raise BadInput(f"`{path}` is no Core ML package: {err!r}") from err
    return Package(model, files, root.rpartition("/")[0])
