"""Files and folders as content: written whole or not at all, read within bounds, known by one hash."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from squeeze_export.errors import BadInput

Content: TypeAlias = bytes | Mapping[str, bytes]
"""The bytes of a file, or all files of a folder: path inside it, with slashes -> bytes."""

MAX_CONTENT_BYTES = 1_000_000_000
MAX_FOLDER_FILES = 1000


def make_folder(path: Path) -> None:
    """Creates an output folder, and checks that it can be written to.

    Raises:
        BadInput: it is a file, or cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError as err:
        raise _refusal(path, err) from err
    if not writable:
        raise BadInput(f"the folder `{path}` cannot be written", hint="choose another with --out")


def write_draft(path: Path, content: Content) -> None:
    """Writes content to a path that nothing reads yet. No folder may be there.

    Raises:
        OSError: it cannot be written.
        ValueError: a name points outside the folder.
    """
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    path.mkdir()
    for name, data in content.items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()) or not name:
            raise ValueError(f"`{name}` is outside its folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def write_files(contents: Mapping[Path, Content]) -> None:
    """Writes files or folders that belong together: all under temporary names first, which are then renamed.

    Raises:
        BadInput: a folder does not exist or cannot be written to, or the disk is full; the old files stay and nothing is left over.
    """
    token = secrets.token_hex(8)  # a killed process may have left its own temporary names, under the same number as this one
    drafts = {path: path.with_name(f".{path.name}.{token}.tmp") for path in contents}
    path = next(iter(contents))
    added: list[Path] = []
    moved: dict[Path, Path] = {}
    try:
        try:
            for path, content in contents.items():
                write_draft(drafts[path], content)
            for path, draft in drafts.items():
                new = not path.exists()
                if path.is_dir() and draft.is_dir():  # a folder cannot be replaced in one step
                    old = path.with_name(f".{path.name}.{token}.old")
                    os.replace(path, old)
                    moved[path] = old
                os.replace(draft, path)
                added += [path] if new else []
        except BaseException:
            for path_added in added:
                _remove(path_added)  # one without the other is of no use
            for path_moved, old in moved.items():
                _remove(path_moved)
                os.replace(old, path_moved)
            raise
        finally:
            for draft in drafts.values():  # also on ^C
                _remove(draft)
    except OSError as err:
        raise _refusal(path, err) from err
    for old in moved.values():
        _remove(old)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes one file, as `write_files` does: readers see the old file or the new one."""
    write_files({path: data})


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A temporary name beside a file, for what is written bit by bit; it becomes the file if nothing is raised.

    Raises:
        BadInput: it cannot be written; the old file stays and nothing is left over.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as err:
        raise _refusal(path, err) from err
    finally:
        _remove(draft)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    # A lone surrogate (an undecodable file name) becomes \\udc80, which JSON reads back as itself.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A context that turns the operating system's read errors into ours.

    Raises:
        BadInput: a file cannot be read; the error names it, or `path` if the system names none.
    """
    try:
        yield
    except OSError as err:
        raise BadInput(f"`{err.filename or path}` cannot be read: {err.strerror or err}") from err


def read_bounded(path: Path, max_bytes: int, what: str) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        max_bytes: the most to read.
        what: what the file is, for the error: `an ONNX file`.

    Raises:
        BadInput: the file cannot be read, or is larger.
    """
    with reading(path), path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise BadInput(f"`{path}` is larger than {max_bytes >> 20} MiB, the most that is read of {what}")
    return data


def read_content(path: Path) -> Content:
    """Reads a file, or a folder with everything in it.

    Raises:
        BadInput: a folder with links or too many files, or more bytes than any network has.
        OSError: it cannot be read.
    """
    if not path.is_dir():
        if path.stat().st_size > MAX_CONTENT_BYTES:
            raise _too_large(path)
        return path.read_bytes()
    files = [entry for entry in sorted(path.rglob("*")) if entry.is_symlink() or not entry.is_dir()]
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise BadInput(f"`{path}` holds `{file.name}`, which is no plain file")
    if len(files) > MAX_FOLDER_FILES or sum(file.stat().st_size for file in files) > MAX_CONTENT_BYTES:
        raise _too_large(path)
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def content_sha256(content: Content) -> str:
    """Of a file: its SHA-256. Of a folder: the SHA-256 of its list, one line `<SHA-256>  <path>` a file, sorted by path."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    lines = (f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in sorted(content))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def content_size(content: Content) -> int:
    """Bytes of the file, or of all files of the folder."""
    return len(content) if isinstance(content, bytes) else sum(len(data) for data in content.values())


def _remove(path: Path) -> None:
    """Removes a file or folder of ours, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _too_large(path: Path) -> BadInput:
    return BadInput(f"`{path}` is larger than any network's file (`{MAX_CONTENT_BYTES}` bytes, `{MAX_FOLDER_FILES}` files)")


def _refusal(path: Path, err: OSError) -> BadInput:
    return BadInput(f"cannot write `{path}`: {err.strerror}", hint="choose another folder with --out")
