"""Writes files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Writes several files that belong together: all to temporary names beside them first, and only then each gets its own.

    Raises:
        BadInput: a folder does not exist, may not be written, or the disk is full; the old files stay and nothing is left behind.
    """
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    path = next(iter(contents))
    added: list[Path] = []
    try:
        try:
            for path, data in contents.items():
                temporaries[path].write_bytes(data)
            for path, temporary in temporaries.items():
                new = not path.exists()
                os.replace(temporary, path)
                added += [path] if new else []
        except BaseException:
            for path_added in added:
                path_added.unlink()  # one without the other is of no use
            raise
        finally:
            # Also on ^C. After the renames there is nothing left to remove.
            for temporary in temporaries.values():
                temporary.unlink(missing_ok=True)
    except OSError as err:
        raise _refusal(path, err) from err


def write_bytes(path: Path, data: bytes) -> None:
    """Writes one file as `write_files` does: a reader sees the old file or the new one."""
    write_files({path: data})


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    # A lone surrogate (an undecodable file name) becomes \\udc80, which JSON reads back as itself.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def _refusal(path: Path, err: OSError) -> BadInput:
    return BadInput(f"cannot write `{path}`: {err.strerror}", hint="choose another folder with --out")
