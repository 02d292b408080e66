"""Writes files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from squeeze_export.errors import BadInput


def make_folder(path: Path) -> None:
    """Creates an output folder and makes sure that it can be written.

    Raises:
        BadInput: it is a file, or may not be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError as err:
        raise _refusal(path, err) from err
    if not writable:
        raise BadInput(f"the folder `{path}` cannot be written", hint="choose another with --out")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes to a temporary name beside `path`, then renames it: a reader sees the old file or the new one.

    Raises:
        BadInput: the folder does not exist, may not be written, or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            # Also on ^C. After the rename there is nothing left to remove.
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise _refusal(path, err) from err


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    # A lone surrogate (an undecodable file name) becomes \\udc80, which JSON reads back as itself.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def _refusal(path: Path, err: OSError) -> BadInput:
    return BadInput(f"cannot write `{path}`: {err.strerror}", hint="choose another folder with --out")
