"""Files and folders: written whole or not at all, read within bounds, known by one hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from squeeze_export import files
from squeeze_export.errors import BadInput
from squeeze_export.files import content_sha256, content_size, read_content, write_draft, write_files

FOLDER = {"model.xml": b"<net/>", "data/weights.bin": b"\0\1\2"}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_folder_is_written_and_read(tmp_path: Path) -> None:
    write_files({tmp_path / "net": FOLDER, tmp_path / "net.json": b"{}"})
    assert read_content(tmp_path / "net") == FOLDER
    assert names(tmp_path) == ["net", "net.json"]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    write_files({tmp_path / "net": FOLDER})
    write_files({tmp_path / "net": {"model.xml": b"<new/>"}})
    assert read_content(tmp_path / "net") == {"model.xml": b"<new/>"}
    assert names(tmp_path) == ["net"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """A user's folder that is called like our file stays."""
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "mine").write_text("precious")
    with pytest.raises(BadInput, match="cannot write"):
        write_files({tmp_path / "report.html": b"<html>"})
    assert (tmp_path / "report.html" / "mine").read_text() == "precious"
    assert names(tmp_path) == ["report.html"]


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_goes_wrong_at_any_step_leaves_the_old_folder(
    nth: int, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps: the old folder aside, the new one in its place, the file beside it."""
    write_files({tmp_path / "net": FOLDER, tmp_path / "net.json": b"old"})
    calls: list[Any] = []

    def replace(source: Any, target: Any, original: Any = os.replace) -> None:
        calls.append(target)
        if len(calls) == nth:
            raise failure
        original(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(BadInput if isinstance(failure, OSError) else KeyboardInterrupt):
        write_files({tmp_path / "net": {"model.xml": b"<new/>"}, tmp_path / "net.json": b"new"})
    assert read_content(tmp_path / "net") == FOLDER
    assert (tmp_path / "net.json").read_bytes() == b"old"
    assert names(tmp_path) == ["net", "net.json"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    write_files({tmp_path / "net": FOLDER})
    for ending in ("old", "tmp"):
        (tmp_path / f".net.{os.getpid()}.{ending}").mkdir()
        (tmp_path / f".net.{os.getpid()}.{ending}" / "stale").write_text("stale")
    write_files({tmp_path / "net": {"model.xml": b"<new/>"}})
    assert read_content(tmp_path / "net") == {"model.xml": b"<new/>"}


@pytest.mark.parametrize("name", ["../out", "a/../../out", "", "/etc/out"])
def test_a_name_stays_inside_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside its folder"):
        write_draft(tmp_path / "net", {name: b"data"})
    assert names(tmp_path) == ["net"]


def test_links_inside_a_folder_are_refused(tmp_path: Path) -> None:
    write_files({tmp_path / "net": FOLDER})
    (tmp_path / "net" / "link").symlink_to("/etc/hostname")
    with pytest.raises(BadInput, match="`link`, which is no plain file"):
        read_content(tmp_path / "net")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files({tmp_path / "net": FOLDER, tmp_path / "file": b"12345678"})
    monkeypatch.setattr(files, "MAX_FOLDER_FILES", 1)
    with pytest.raises(BadInput, match="is larger than any network's file"):
        read_content(tmp_path / "net")
    monkeypatch.setattr(files, "MAX_CONTENT_BYTES", 7)
    with pytest.raises(BadInput, match="is larger than any network's file"):
        read_content(tmp_path / "file")


def test_hash_and_size() -> None:
    assert content_sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()
    listed = "".join(f"{hashlib.sha256(FOLDER[name]).hexdigest()}  {name}\n" for name in sorted(FOLDER))
    assert content_sha256(FOLDER) == hashlib.sha256(listed.encode()).hexdigest()
    assert content_sha256(dict(reversed(FOLDER.items()))) == content_sha256(FOLDER)
    assert content_sha256({**FOLDER, "more": b""}) != content_sha256(FOLDER)
    assert (content_size(b"abc"), content_size(FOLDER)) == (3, 9)
