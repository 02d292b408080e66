"""Environments are there as a whole or not at all, and only what was made here is removed."""

from __future__ import annotations

import json
import os
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin

from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.registry import TOOLCHAINS
from squeeze_export.workers import environments
from squeeze_export.workers.environments import MARKER, install, installed, is_installed, remove, start, toolchain_named


def made(data: Path, name: str = "executorch", version: str = "1.5.1", marker: object = None) -> Path:
    """A folder as an installation leaves it, without an environment inside."""
    folder = data / f"{name}-{version}"
    folder.mkdir(parents=True)
    (folder / "file").write_text("12345")
    (folder / MARKER).write_text(json.dumps({"made_by": "squeeze-export", "name": name, "version": version, **(marker or {})}))
    return folder


def test_install_list_run_remove(data, index, known):
    """With pip and a real environment, once: the steps, the answer of what was installed, and nothing left of it."""
    toolchain = known(standin.toolchain(standin.wheel(index), NOTICE="accept me"))
    with pytest.raises(BadInput, match="licence") as caught:
        install(toolchain, accepted=False)
    assert "--accept-licence" in caught.value.hint
    assert not data.exists()  # nothing was made, or downloaded
    steps = []
    folder = install(toolchain, accepted=True, progress=lambda what, done, total: steps.append((what, done, total)))
    assert [path.name for path in data.iterdir()] == ["standin-1.0"] == [folder.name]
    assert steps[0] == ("installing standin", 0, 5)
    assert steps[-1] == ("installing standin", 5, 5)
    with start(toolchain) as running:
        assert running.ask("check", limit_s=60) == ({"version": "1.0"}, {})
    (entry,) = installed()
    assert (entry.name, entry.version, entry.path, entry.licence) == ("standin", "1.0", folder, "none at all")
    assert entry.size_bytes == sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    assert install(toolchain, accepted=False) == folder  # it is there already
    assert remove("standin") == [folder]
    assert list(data.iterdir()) == []
    with pytest.raises(Unavailable, match="not installed") as absent:
        start(toolchain)
    assert absent.value.hint == "squeeze-export toolchain install standin"


def nothing_left(data: Path) -> bool:
    return not data.exists() or list(data.iterdir()) == []


def own_pip(commands: list[list[str]]) -> Callable[..., Any]:
    """A venv without pip, and the pip beside the tests instead of one of its own: the same work in a tenth of the time."""
    pytest.importorskip("pip")

    def run(command, folder, limit_s):
        commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            venv.create(command[3], symlinks=True)
            return 0, []
        python, isolated, *rest = command
        assert rest[:2] == ["-m", "pip"]
        if "--require-hashes" not in command:
            return 0, []
        return REAL_RUN([sys.executable, isolated, "-m", "pip", "--python", python, *rest[2:]], folder, limit_s)

    return run


REAL_RUN = environments.run_step


def test_the_downloads_are_the_pinned_ones(monkeypatch, data, index):
    """The package's own wheel comes first, by its hash; no step builds anything, and none but the last follows dependencies."""
    commands: list[list[str]] = []
    monkeypatch.setattr(environments, "run_step", own_pip(commands))
    toolchain = standin.toolchain(standin.wheel(index), WHOLE=("standin-tool==1.0",), PINS=("standin-tool==1.0",))
    install(toolchain, accepted=True)
    pips = [command for command in commands if "pip" in command]
    assert all(command[command.index("--only-binary") + 1] == ":all:" for command in pips)
    assert ["--require-hashes" in command for command in pips] == [True, False, False]
    assert ["--no-deps" in command for command in pips] == [True, True, False]


def test_another_download_is_refused(monkeypatch, data, index):
    """Negative control of the hash: the index holds another wheel of the same name."""
    monkeypatch.setattr(environments, "run_step", own_pip([]))
    toolchain = standin.toolchain(standin.wheel(index), WHEELS={standin.PYTHON: "0" * 64})
    with pytest.raises(Refused, match="SHA-256 differs"):
        install(toolchain, accepted=True)
    assert nothing_left(data)


def test_a_failed_self_check_leaves_nothing(monkeypatch, data, index):
    toolchain = standin.toolchain(standin.wheel(index, says="0.9"))
    monkeypatch.setattr(environments, "run_step", own_pip([]))
    with pytest.raises(Refused, match=r"calls itself `0\.9`"):
        install(toolchain, accepted=True)
    assert nothing_left(data)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_installation_leaves_nothing(monkeypatch, data, index, error):
    toolchain = standin.toolchain(standin.wheel(index))

    def run(command, folder, limit_s):
        (folder / "half").write_text("written")
        raise error

    monkeypatch.setattr(environments, "run_step", run)
    with pytest.raises((KeyboardInterrupt, BadInput)):
        install(toolchain, accepted=True)
    assert data.is_dir()
    assert nothing_left(data)
    assert not is_installed(toolchain)


def test_what_a_killed_process_left_is_removed_when_it_is_old(monkeypatch, data, index):
    toolchain = standin.toolchain(standin.wheel(index))
    old, young, foreign = data / ".draft-executorch-1-aa", data / ".draft-executorch-1-bb", data / "foreign"
    for folder in (old, young, foreign):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    long_ago = time.time() - 2 * environments.ABANDONED_AFTER_S
    os.utime(old, (long_ago, long_ago))
    os.utime(foreign, (long_ago, long_ago))
    monkeypatch.setattr(environments, "run_step", lambda *_: (1, ["no venv here"]))
    with pytest.raises(Unavailable, match="no venv here"):
        install(toolchain, accepted=True)
    assert sorted(path.name for path in data.iterdir()) == [young.name, "foreign"]


def test_a_step_that_takes_too_long(monkeypatch, data, index):
    monkeypatch.setattr(environments, "VENV_LIMIT_S", 0.01)
    with pytest.raises(Unavailable, match=r"did not finish within 0\.01 s"):
        install(standin.toolchain(standin.wheel(index)), accepted=True)
    assert nothing_left(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"SYSTEM": "plan9-mips"}, "is for plan9-mips"), ({"WHEELS": {"2.7": "0" * 64}}, "no wheel for Python")],
)
def test_another_machine_is_told_before_anything_is_made(data, index, changes, message):
    with pytest.raises(Unavailable, match=message):
        install(standin.toolchain(standin.wheel(index), **changes), accepted=True)
    assert not data.exists()


def test_an_index_without_the_package(data, index, monkeypatch):
    monkeypatch.setattr(
        environments, "run_step", lambda command, *_: (int("pip" in command), ["ERROR: No matching distribution found"])
    )
    with pytest.raises(Unavailable, match="No matching distribution") as caught:
        install(standin.toolchain(standin.wheel(index)), accepted=True)
    assert "pip config list" in caught.value.hint
    assert nothing_left(data)


def test_a_folder_of_somebody_else_is_not_installed_over(data, index):
    (data / "standin-1.0").mkdir(parents=True)
    with pytest.raises(BadInput, match="was not made by this command"):
        install(standin.toolchain(standin.wheel(index)), accepted=True)


def test_remove_takes_every_version_and_nothing_else(data, known, tmp_path):
    known(standin.toolchain(standin.wheel(tmp_path)))
    first, second, other = made(data), made(data, version="1.4.0"), made(data, name="standin", version="1.0")
    (data / "executorch-notes").mkdir()
    assert remove("executorch") == [second, first]
    assert sorted(path.name for path in data.iterdir()) == ["executorch-notes", other.name]
    with pytest.raises(BadInput, match="not installed"):
        remove("executorch")


@pytest.mark.parametrize(
    "marker",
    [
        {"made_by": "somebody"},
        {"name": "standin"},
        {"version": "9"},
        {"version": "../../1.5.1"},
        {"version": None},
    ],
)
def test_a_marker_that_is_not_ours_protects_a_folder(data, marker):
    folder = made(data, marker=marker)
    with pytest.raises(BadInput, match="not installed"):
        remove("executorch")
    assert (folder / "file").exists()
    assert installed() == []


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"made_by": "squeeze-export"}', " " * 70_000 + "{}"])
def test_a_marker_that_cannot_be_read_protects_a_folder(data, text):
    folder = made(data)
    (folder / MARKER).write_text(text)
    with pytest.raises(BadInput, match="not installed"):
        remove("executorch")
    assert (folder / "file").exists()


def test_links_are_not_followed(data, tmp_path):
    """A link in place of the folder or of its marker is none of ours; one inside is removed, and what it leads to stays."""
    precious = made(tmp_path / "elsewhere")
    data.mkdir(parents=True)
    (data / "executorch-1.5.1").symlink_to(precious)
    assert installed() == []
    with pytest.raises(BadInput, match="not installed"):
        remove("executorch")
    (data / "executorch-1.5.1").unlink()
    folder = made(data)
    (folder / MARKER).rename(tmp_path / "marker")
    (folder / MARKER).symlink_to(tmp_path / "marker")
    with pytest.raises(BadInput, match="not installed"):
        remove("executorch")
    (folder / MARKER).unlink()
    (tmp_path / "marker").rename(folder / MARKER)
    (folder / "inside").symlink_to(precious)
    assert remove("executorch") == [folder]
    assert (precious / "file").read_text() == "12345"


@pytest.mark.parametrize("name", ["../executorch", "", "executorch-1.5.1", "/etc"])
def test_a_name_is_one_of_the_registry(data, name):
    with pytest.raises(BadInput, match="no toolchain is called"):
        remove(name)


@pytest.mark.parametrize("name", TOOLCHAINS)
def test_a_tenant_is_pinned(name):
    """Every requirement to one version, every wheel by its hash, its worker in the package; a notice where no licence is stated."""
    tenant = toolchain_named(name)
    assert name == tenant.NAME
    assert all(line.count("==") == 1 and not set(line) & set("<>~*,; ") for line in (*tenant.PINS, *tenant.WHOLE))
    assert all(len(digest) == 64 and int(digest, 16) for digest in tenant.WHEELS.values())
    assert tenant.WORKER.is_file()
    assert bool(tenant.NOTICE) == ("none stated" in tenant.LICENCE)


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SQUEEZE_EXPORT_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert environments.data_folder() == tmp_path / "squeeze-export" / "toolchains"
    monkeypatch.setattr("sys.platform", "darwin")
    assert environments.data_folder() == Path.home() / "Library" / "Application Support" / "squeeze-export" / "toolchains"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert environments.data_folder() == tmp_path / "local" / "squeeze-export" / "toolchains"
    monkeypatch.setenv("SQUEEZE_EXPORT_DATA", str(tmp_path / "own"))
    assert environments.data_folder() == tmp_path / "own" / "toolchains"
