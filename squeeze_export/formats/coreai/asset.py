"""An `.aimodel` folder on disk: the program, the hash that it must have, and the metadata. Core AI itself compares nothing: it says
that a truncated program is valid, and ends the process that runs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export.files import read_content, reading

PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"
MAX_PROGRAM_BYTES = 256 << 20
MAX_METADATA_BYTES = 4_000_000


@dataclass(frozen=True, eq=False)
class StoredAsset:
    """The files of an asset.

    Attributes:
        program: MLIR bytecode.
        digest: its SHA-256, 32 bytes.
        metadata: what its creator added, key -> text; what is no text stays JSON.
        producer: what wrote it: name and version.
    """

    program: bytes
    digest: bytes
    metadata: Mapping[str, str]
    producer: str


def read_asset(path: Path) -> StoredAsset:
    """Reads an asset, and compares the program with its hash before anything parses it.

    Raises:
        BadInput: it cannot be read, is too large, or holds links.
        ValueError: it is no asset, or damaged; the message is one line.
    """
    with reading(path):
        content = read_content(path)
    if isinstance(content, bytes):
        raise ValueError("it is a file, an asset is a folder")
    for name in (PROGRAM, HASH, METADATA):
        if name not in content:
            raise ValueError(f"it has no `{name}`")
    program, digest = content[PROGRAM], content[HASH]
    for name, most in ((PROGRAM, MAX_PROGRAM_BYTES), (METADATA, MAX_METADATA_BYTES)):
        if len(content[name]) > most:
            raise ValueError(f"its `{name}` has `{len(content[name])}` bytes; `{most}` are read")
    if hashlib.sha256(program).digest() != digest:
        raise ValueError(f"its `{HASH}` is not the SHA-256 of its `{PROGRAM}`")
    told = _told(content[METADATA])
    custom = told.get("creatorDefinedMetadata", {})
    if not isinstance(custom, dict):
        raise ValueError(f"its `{METADATA}` holds no list of what its creator defined")
    texts = {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in custom.items()}
    return StoredAsset(program, digest, texts, str(told.get("producer", "")))


def _told(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"its `{METADATA}` is no JSON: {' '.join(str(err).split())}") from err
    if not isinstance(told, dict):
        raise ValueError(f"its `{METADATA}` is no JSON object")
    return told
