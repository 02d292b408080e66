"""An `.mlpackage` as files: manifest, specification and weights; and coremltools, which writes the last two."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from typing import Any

from squeeze_export.core import require

_AUTHOR = "com.apple.CoreML"
_SPECIFICATION, _WEIGHTS = f"{_AUTHOR}/model.mlmodel", f"{_AUTHOR}/weights"
_MANIFEST, _DATA, _WEIGHT_FILE = "Manifest.json", "Data", "weight.bin"
_NAMESPACE = uuid.UUID("5b4a9a4e-3a55-5f0c-8c6e-1d1d7f6c2a10")

_NOT_NEEDED = (
    *("torch", "torchvision", "executorch", "tensorflow", "tensorflow_core", "keras"),
    *("sklearn", "scipy", "xgboost", "libsvm", "pandas"),
)


def coremltools() -> Any:
    """The module, imported without the frameworks that it converts from, and without the eight warnings that it logs on other
    systems than macOS.

    Raises:
        Unavailable: it is not installed.
    """
    logger = logging.getLogger("coremltools")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    return require("coremltools", "coreml", without=_NOT_NEEDED)


def package_files(specification: bytes, weights: bytes) -> dict[str, bytes]:
    """The files of a package: path inside it -> bytes. Its identifiers are hashes of the content, so the same content gives the
    same bytes.

    Args:
        specification: a serialized `Model` message.
        weights: its blob file.
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
