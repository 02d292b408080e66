"""Writes a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from squeeze_export.errors import BadInput


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text to a temporary name beside `path`, then renames it: a reader sees the old file or the new one.

    Raises:
        BadInput: the folder does not exist, may not be written, or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            # A lone surrogate (an undecodable file name) becomes \udc80, which JSON reads back as itself.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
            os.replace(temporary, path)
        finally:
            # Also on ^C. After the rename there is nothing left to remove.
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise BadInput(f"cannot write `{path}`: {err.strerror}", hint="choose another folder with --out") from err
