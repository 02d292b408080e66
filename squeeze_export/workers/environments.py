"""Environments for toolchains whose dependencies conflict with ours. Each toolchain runs in its own, behind a worker.

An environment is a folder in the user's data folder, marked by a file. It is complete or absent. A toolchain is one module that
satisfies `Toolchain`, and one line in `registry.TOOLCHAINS`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.registry import TOOLCHAINS, entry_named
from squeeze_export.workers.process import Process
from squeeze_export.workers.worker import Worker

DATA_VARIABLE = "SQUEEZE_EXPORT_DATA"
MARKER = "squeeze-export-toolchain.json"
MAX_MARKER_BYTES = 64_000
VENV_LIMIT_S, PIP_LIMIT_S, CHECK_LIMIT_S = 300.0, 3600.0, 300.0
ABANDONED_AFTER_S = 3 * PIP_LIMIT_S
_DRAFT = ".draft-"
_PIP_PLACES = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIREMENT", "PIP_CONSTRAINT")


class Toolchain(Protocol):
    """What a toolchain's module offers: only data.

    Attributes:
        NAME: the registry's key, and the name on the command line.
        VERSION: of `PACKAGE`; part of the folder's name, so that each version has its own environment.
        PACKAGE: name of the distribution.
        LICENCE: of the toolchain, in a few words.
        NOTICE: what the user must accept before anything is downloaded; empty if there is nothing to accept.
        WHEELS: Python's `major.minor` -> SHA-256 of the package's wheel. Other Pythons are not supported.
        SYSTEM: the platform of these wheels, as `sysconfig.get_platform()` gives it.
        WHOLE: requirements installed with their dependencies, within `PINS`; those of torch differ between package indexes.
        PINS: all other requirements, each with its exact version.
        WORKER: the file with the worker's functions. It runs in the other environment, so it imports nothing of this project.
    """

    NAME: str
    VERSION: str
    PACKAGE: str
    LICENCE: str
    NOTICE: str
    WHEELS: Mapping[str, str]
    SYSTEM: str
    WHOLE: tuple[str, ...]
    PINS: tuple[str, ...]
    WORKER: Path


def toolchain_named(name: str) -> Toolchain:
    """Looks a toolchain up.

    Raises:
        BadInput: there is no such toolchain.
    """
    return cast(Toolchain, entry_named(name, TOOLCHAINS, "toolchain", Toolchain))


@dataclass(frozen=True)
class Installed:
    """An installed environment.

    Attributes:
        name: of the toolchain.
        version: likewise.
        size_bytes: of all its files.
        licence: of the toolchain.
        path: the folder.
    """

    name: str
    version: str
    size_bytes: int
    licence: str
    path: Path


def data_folder() -> Path:
    """The folder of all environments: `toolchains` in $SQUEEZE_EXPORT_DATA, or else in `squeeze-export` in $XDG_DATA_HOME,
    ~/.local/share, ~/Library/Application Support or %LOCALAPPDATA%.
    """
    home = Path.home()
    if os.environ.get(DATA_VARIABLE):
        root = Path(os.environ[DATA_VARIABLE]).absolute()
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "squeeze-export"
    elif sys.platform == "darwin":
        root = home / "Library" / "Application Support" / "squeeze-export"
    else:
        root = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "squeeze-export"
    return root / "toolchains"


def folder_of(toolchain: Toolchain) -> Path:
    """The toolchain's folder, `<name>-<version>` in the data folder, whether it exists or not."""
    return data_folder() / f"{toolchain.NAME}-{toolchain.VERSION}"


def is_installed(toolchain: Toolchain) -> bool:
    """Whether its environment, in this version, exists."""
    return _is_ours(folder_of(toolchain), toolchain.NAME)


def check_installed(toolchain: Toolchain) -> None:
    """Refuses a toolchain that is not installed.

    Raises:
        Unavailable: it is not.
    """
    if not is_installed(toolchain):
        hint = f"squeeze-export toolchain install {toolchain.NAME}"
        raise Unavailable(f"the toolchain `{toolchain.NAME}` {toolchain.VERSION} is not installed", hint=hint)


def start(toolchain: Toolchain) -> Worker:
    """Starts a toolchain's worker.

    Raises:
        Unavailable: it is not installed.
    """
    check_installed(toolchain)
    return _start(toolchain, folder_of(toolchain))


def install(toolchain: Toolchain, *, accepted: bool, progress: Progress = silent) -> Path:
    """Makes a toolchain's environment. It gets its name only when its worker has answered; an existing one is kept.

    Args:
        toolchain: what to install.
        accepted: whether the user accepted its notice.
        progress: called for each step.

    Returns:
        The folder.

    Raises:
        BadInput: the notice is not accepted, or the data folder cannot be written.
        Unavailable: it is for other systems or another Python, or pip cannot download it.
        Refused: a download does not match its hash, or the installed toolchain does not work.
    """
    final = folder_of(toolchain)
    if is_installed(toolchain):
        return final
    if final.exists() or final.is_symlink():
        raise BadInput(f"`{final}` exists, and was not made by this command", hint="move it away")
    if toolchain.NOTICE and not accepted:
        raise BadInput(
            f"the licence of `{toolchain.NAME}` is not accepted ({toolchain.LICENCE})",
            hint=f"squeeze-export toolchain install {toolchain.NAME} --accept-licence",
        )
    check_machine(toolchain)
    draft = data_folder() / f"{_DRAFT}{final.name}-{secrets.token_hex(4)}"
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(draft.parent)
        draft.mkdir()
        fill(toolchain, draft, progress)
        marker = {"made_by": "squeeze-export", "name": toolchain.NAME, "version": toolchain.VERSION, "accepted": accepted}
        (draft / MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        os.replace(draft, final)
    except OSError as err:
        if is_installed(toolchain):  # by another run in the meantime
            return final
        raise BadInput(f"`{final}` cannot be made: {err.strerror or err}", hint=f"set {DATA_VARIABLE} to another folder") from err
    finally:
        if draft.exists():  # also on ^C
            shutil.rmtree(draft, ignore_errors=True)
    return final


def installed() -> list[Installed]:
    """Every environment that this command made, including older versions."""
    found = []
    for name in TOOLCHAINS:
        toolchain = toolchain_named(name)
        for path in _environments(name):
            version = path.name.removeprefix(f"{name}-")
            found.append(Installed(name, version, _size_bytes(path), toolchain.LICENCE, path))
    return found


def remove(name: str) -> list[Path]:
    """Removes all versions of a toolchain's environment. Folders that this command did not make stay, and no link is followed.

    Returns:
        The removed folders.

    Raises:
        BadInput: there is no such toolchain, it is not installed, or a folder cannot be removed.
    """
    toolchain_named(name)
    paths = list(_environments(name))
    if not paths:
        raise BadInput(f"the toolchain `{name}` is not installed", hint="squeeze-export toolchain list")
    for path in paths:
        doomed = path.with_name(f"{_DRAFT}{path.name}-{secrets.token_hex(4)}")
        try:
            os.replace(path, doomed)  # a half-removed environment must not keep its name
            shutil.rmtree(doomed)
        except OSError as err:
            raise BadInput(f"`{path}` cannot be removed: {err.strerror or err}") from err
    return paths


def fill(toolchain: Toolchain, draft: Path, progress: Progress) -> None:
    """Installs into an empty folder, and checks the version that the worker reports; see `install`."""
    what = f"installing {toolchain.NAME}"
    requirement = f"{toolchain.PACKAGE}=={toolchain.VERSION}"
    lists = draft / "requirements"
    lists.mkdir()
    (lists / "pins.txt").write_text("".join(f"{line}\n" for line in toolchain.PINS), encoding="utf-8")
    hashes = " ".join(f"--hash=sha256:{value}" for value in toolchain.WHEELS.values())
    (lists / "package.txt").write_text(f"{requirement} {hashes}\n", encoding="utf-8")
    progress(what, 0, 5)
    code, lines = run_step([sys.executable, "-m", "venv", str(draft / "env")], draft, VENV_LIMIT_S)
    if code:
        hint = "Python's venv module is needed; Debian and Ubuntu have it in python3-venv"
        raise Unavailable(f"no environment could be made: {_last(lines)}", hint=hint)
    # The package first, so that nothing else is downloaded if its hash differs.
    steps = [["--no-deps", "--require-hashes", "-r", str(lists / "package.txt")]]
    steps += [["--no-deps", "-r", str(lists / "pins.txt")]] if toolchain.PINS else []
    steps += [["-c", str(lists / "pins.txt"), *toolchain.WHOLE]] if toolchain.WHOLE else []
    for done, arguments in enumerate(steps, start=1):
        progress(what, done, 5)
        _pip(toolchain, draft, arguments)
    progress(what, 4, 5)
    with _start(toolchain, draft) as worker:
        values, _ = worker.ask("check", limit_s=CHECK_LIMIT_S)
    if values.get("version") != toolchain.VERSION:
        raise Refused(f"what was installed as `{requirement}` calls itself `{str(values.get('version'))[:40]}`")
    progress(what, 5, 5)


def _pip(toolchain: Toolchain, draft: Path, arguments: list[str]) -> None:
    """Runs pip with the user's own configuration: index, proxy, cache."""
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command = [str(_python(draft)), "-I", "-m", "pip", "install", *quiet, "--only-binary", ":all:", *arguments]
    code, lines = run_step(command, draft, PIP_LIMIT_S)
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        raise Refused(
            f"the download of `{toolchain.PACKAGE}` is not the file that is pinned (SHA-256 differs); nothing was installed"
        )
    if code:
        reasons = [line for line in lines if line.startswith("ERROR:")] or lines
        hint = "pip's own index and proxy are used: `pip config list` shows them"
        raise Unavailable(f"pip cannot install `{toolchain.NAME}`: {_last(reasons)}", hint=hint)


def run_step(command: list[str], folder: Path, limit_s: float) -> tuple[int, list[str]]:
    """Runs one command of an installation. Gives its exit code, and the last lines of its output.

    Raises:
        Unavailable: it took too long.
    """
    env = {name: value for name, value in os.environ.items() if name not in (*_PIP_PLACES, "PYTHONHOME", "PYTHONPATH")}
    with (
        tempfile.TemporaryDirectory(prefix="squeeze-export-") as temporary,
        Process(command, cwd=folder, environment=env, log=Path(temporary) / "log") as process,
    ):
        try:
            code = process.wait(limit_s)
        except TimeoutError as err:
            raise Unavailable(f"`{' '.join(command[1:4])}` did not finish within {limit_s:g} s, and was ended") from err
        return code, [line.strip() for line in process.printed().splitlines() if line.strip()]


def check_machine(toolchain: Toolchain) -> None:
    """Refuses a toolchain for another system or another Python.

    Raises:
        Unavailable: it is; the error names what it is for.
    """
    system, python = sysconfig.get_platform(), f"{sys.version_info.major}.{sys.version_info.minor}"
    if system != toolchain.SYSTEM:
        raise Unavailable(f"the toolchain `{toolchain.NAME}` is for {toolchain.SYSTEM}, and this is {system}")
    if python not in toolchain.WHEELS:
        known = ", ".join(toolchain.WHEELS)
        raise Unavailable(
            f"the toolchain `{toolchain.NAME}` has no wheel for Python `{python}`", hint=f"run squeeze-export with Python {known}"
        )


def _start(toolchain: Toolchain, folder: Path) -> Worker:
    tool = f"{toolchain.PACKAGE} {toolchain.VERSION}"
    try:
        return Worker(toolchain.WORKER, python=_python(folder), tool=tool)
    except OSError as err:
        hint = "squeeze-export toolchain remove, then install it again"
        raise Unavailable(f"the Python of `{tool}` cannot be started: {err.strerror or err}", hint=hint) from err


def _python(folder: Path) -> Path:
    return folder / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _environments(name: str) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in sorted(data_folder().iterdir()) if _is_ours(path, name))


def _is_ours(path: Path, name: str) -> bool:
    """Whether a folder holds the marker of this toolchain, and of the version in the folder's name. Links do not count."""
    marker = path / MARKER
    try:
        if path.is_symlink() or marker.is_symlink() or not marker.is_file() or marker.stat().st_size > MAX_MARKER_BYTES:
            return False
        values = json.loads(marker.read_text(encoding="utf-8"))
        return values["made_by"] == "squeeze-export" and values["name"] == name and f"{name}-{values['version']}" == path.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _remove_abandoned(folder: Path) -> None:
    """Removes what a killed process left long ago. A younger folder may belong to a running one."""
    for path in folder.glob(f"{_DRAFT}*"):
        if not path.is_symlink() and path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(path, ignore_errors=True)


def _size_bytes(folder: Path) -> int:
    return sum(entry.lstat().st_size for entry in folder.rglob("*") if not entry.is_dir() or entry.is_symlink())


def _last(lines: list[str]) -> str:
    return lines[-1][:300] if lines else "nothing was printed"
