"""The sidecar: the JSON file beside an exported one, with what an app needs and what `verify` compares.

It has one form, so that a change of any byte shows: the fields of `SidecarDocument` in their order, each level one more space
from the margin, in UTF-8, and a last field `checksum`, the SHA-256 of all bytes before its line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squeeze_export.core import Audit, TensorSpec
from squeeze_export.documents import Schema, nothing_new, to_json
from squeeze_export.errors import BadInput
from squeeze_export.files import Content, read_bounded
from squeeze_export.formats.contents import Contents
from squeeze_export.graph.golden import Golden

MAX_SIDECAR_BYTES = 16_000_000
PIECE_BYTES = 65_536
"""A file's pieces have a hash each, which tells where it was changed."""
CHECKSUM = "checksum"
_HINT = "export it again with this tool"


@dataclass(frozen=True)
class SidecarDocument:
    """What is told about a file.

    Attributes:
        schema_version: of this document. Version 1 had no such field, and no checksum, pieces, constants and golden outputs.
        file: its name, or that of its folder.
        target: a key of `registry.TARGETS` or `registry.COMPILERS`.
        scheme: how numbers are carried.
        sha256: see `files.content_sha256`.
        size_bytes: of the file, or of all files of the folder.
        input: what it takes.
        output: what it gives.
        labels: one per class, or empty.
        provenance: where it comes from; what begins its metadata, with what only the sidecar tells.
        audit: what is inside; None for a compiled file.
        pieces: file, or file in the folder -> 16 digits of the SHA-256 of each `PIECE_BYTES` of it.
        constants: stored tensor's name -> 16 digits of its SHA-256.
        golden: what it must answer; None for compiled files and those of the vendors' tools.
    """

    schema_version: int
    file: str
    target: str
    scheme: str
    sha256: str
    size_bytes: int
    input: TensorSpec
    output: TensorSpec
    labels: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    audit: Audit | None = None
    pieces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    golden: Golden | None = None


SIDECAR = Schema(SidecarDocument, "sidecar", 2, {1: nothing_new})


def sidecar_path(path: Path) -> Path:
    """`<file>.json` beside the file."""
    return path.with_name(f"{path.name}.json")


def sidecar_bytes(sidecar: SidecarDocument) -> bytes:
    """The sidecar in its one form, with its checksum."""
    return _sealed(to_json(sidecar, SIDECAR.name))


def read_sidecar(sidecar: Path) -> SidecarDocument:
    """Reads a sidecar, also one of an earlier version, or one that somebody edited.

    Raises:
        BadInput: it cannot be read, or is no sidecar.
    """
    return _read(sidecar)[0]


def sidecar_difference(sidecar: Path) -> tuple[SidecarDocument | None, str, str]:
    """A sidecar, None where it cannot be read; what is wrong with its bytes; and what it lacks. Without a fault, both are empty."""
    try:
        found, values, data = _read(sidecar)
    except BadInput as err:
        return None, err.message, ""
    if CHECKSUM not in values and "schema_version" not in values:
        return found, "", "an earlier version wrote it, without a checksum, hashes of the file's regions and golden outputs"
    if data == _sealed({key: value for key, value in values.items() if key != CHECKSUM}):
        return found, "", ""
    return found, f"the sidecar `{sidecar}` was changed: its bytes do not match its checksum", ""


def damaged(sidecar: Path, why: str) -> BadInput:
    """The error of a sidecar that cannot be used."""
    return BadInput(f"the sidecar `{sidecar}` is damaged: {why}", hint=_HINT)


def piece_hashes(content: Content, name: str) -> dict[str, tuple[str, ...]]:
    """File, or file in a folder -> 16 digits of the SHA-256 of each of its pieces.

    Args:
        content: of the file or folder.
        name: of the file.
    """
    files = {name: content} if isinstance(content, bytes) else content
    return {
        part: tuple(_digits(files[part][at : at + PIECE_BYTES]) for at in range(0, len(files[part]), PIECE_BYTES))
        for part in sorted(files)
    }


def constant_hashes(contents: Contents) -> dict[str, str]:
    """Name -> 16 digits of the SHA-256 of every stored tensor whose bytes the format's reader gives.

    Raises:
        BadInput: one is damaged.
    """
    found: dict[str, str] = {}
    try:
        for tensor in contents.constants:
            stored = tensor.load() if tensor.size_bytes else b""
            if stored:
                found.setdefault(tensor.name, _digits(stored))
    except (OSError, ValueError) as err:
        raise BadInput(f"the constant `{tensor.name}` is damaged: {err}") from err
    return found


def _digits(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _sealed(values: Mapping[str, Any]) -> bytes:
    """The one form of a sidecar's JSON, with the checksum as its last line but one."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}") + ",\n"
    data = text.encode("utf-8", "backslashreplace")
    return data + f' "{CHECKSUM}": "{hashlib.sha256(data).hexdigest()}"\n}}\n'.encode()


def _read(sidecar: Path) -> tuple[SidecarDocument, dict[str, Any], bytes]:
    """The document, its JSON, and its bytes."""
    data = read_bounded(sidecar, MAX_SIDECAR_BYTES, "a sidecar")
    try:
        values = json.loads(data.decode("utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        document = {"schema_version": 1, **values}
        document.pop(CHECKSUM, None)
        return SIDECAR.from_json(document), values, data
    except (ValueError, RecursionError) as err:
        raise damaged(sidecar, str(err)) from err
    except BadInput as err:
        raise damaged(sidecar, err.message) from err
