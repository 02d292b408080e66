"""A toolchain of a few lines: its wheel is written here, its index is a folder, its worker is beside the test."""

from __future__ import annotations

import base64
import hashlib
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
WORKER = """
import os, sys, time
from pathlib import Path


def check(values, arrays):
    import standin_tool

    return {"version": standin_tool.VERSION}, {}


def double(values, arrays):
    print("noise " * 10)
    sys.stderr.write("more noise\\n")
    return {"seen": values}, {"twice": arrays["pixels"] * 2}


def crash(values, arrays):
    sys.stderr.write("the last word\\n")
    sys.stderr.flush()
    os._exit(7)


def kill(values, arrays):
    os.kill(os.getpid(), 9)


def orphan(values, arrays):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    Path("pid").write_text(str(child))
    if values["dies"]:
        os.kill(os.getpid(), 9)
    return {}, {}


def leave(values, arrays):
    import atexit

    atexit.register(time.sleep, 0.5)
    sys.exit("the last word")


def refuse(values, arrays):
    raise ValueError("no such\\nlayer")


def hang(values, arrays):
    Path("pid").write_text(str(os.getpid()))
    time.sleep(600)


def call_home(values, arrays):
    import socket

    socket.create_connection(("127.0.0.1", values["port"]), timeout=5)
    return {}, {}


def nonsense(values, arrays):
    return [1, 2], {}


def leave_link(values, arrays):
    Path("product").symlink_to("/etc/hostname")
    return {}, {}


def environment(values, arrays):
    return {"variables": dict(os.environ), "path": sys.path, "folder": os.getcwd()}, {}


def flood(values, arrays):
    for _ in range(values["lines"]):
        sys.stderr.write("x" * 1000 + "\\n")
    return {}, {}



def refuse_as_ours(values, arrays):
    from squeeze_export import errors

    raise getattr(errors, values["kind"])("`this`", hint="that")


def full(values, arrays):
    with open("/dev/full", "w") as disk:
        disk.write("x")


def lie(values, arrays):
    for number in range(3, 64):
        try:
            os.write(number, values["line"].encode() + b"\\n")
        except OSError:
            pass
    time.sleep(600)


def refuse_at_length(values, arrays):
    raise ValueError("`x`" * 10_000)


def real_time_signal(values, arrays):
    os.kill(os.getpid(), 35)


def read_stdin(values, arrays):
    return {"read": sys.stdin.read()}, {}


def interrupted(values, arrays):
    try:
        Path(values["file"]).touch()  # in here: the interrupt may come as soon as the file is seen
        time.sleep(600)
    finally:
        Path(values["file"]).unlink()


def stubborn(values, arrays):
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path("pid").write_text(str(os.getpid()))
    time.sleep(600)


def keep(values, arrays):
    kept = globals().setdefault("KEPT", arrays["pixels"])
    return {"sum": int(kept.sum())}, {}


def litter(values, arrays):
    import tempfile

    tempfile.mkstemp()
    for folder in (os.getcwd(), os.environ["TMPDIR"], os.environ["HOME"] if values["home"] else "."):
        Path(folder, "litter").write_text("left behind")
    return {}, {}
"""


def wheel(folder: Path, *, version: str = "1.0", says: str = "1.0") -> Path:
    """Writes `standin_tool-<version>-py3-none-any.whl`, whose module calls itself `says`."""
    info = f"standin_tool-{version}.dist-info"
    files = {
        "standin_tool.py": f"VERSION = {says!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: standin-tool\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for name, text in files.items()
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"standin_tool-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return path


def toolchain(path: Path, **changes: Any) -> Any:
    """The toolchain of a wheel; satisfies `Toolchain`."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    script = path.parent / "worker.py"
    script.write_text(WORKER)
    values = {
        "NAME": "standin",
        "VERSION": "1.0",
        "PACKAGE": "standin-tool",
        "LICENCE": "none at all",
        "NOTICE": "",
        "WHEELS": {PYTHON: digest},
        "SYSTEM": sysconfig.get_platform(),
        "WHOLE": (),
        "PINS": (),
        "WORKER": script,
    }
    return SimpleNamespace(**{**values, **changes})
