"""A real sshd on loopback, as a board; and files to run there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from squeeze_export.core import Artifact, EmitOptions
from squeeze_export.graph.quantized import FP32, INT8
from squeeze_export.pipeline import calibrate, export, open_network
from squeeze_export.pipeline.sessions import RunOptions, reached

SIDE_PX = 32


@dataclass(frozen=True)
class Loopback:
    """An sshd that lets one key in.

    Attributes:
        port: on 127.0.0.1.
        folder: its keys and configurations; `ssh.conf` is the one that works.
        temporary: what TMPDIR is over there; empty unless a runner works.
    """

    port: int
    folder: Path
    temporary: Path

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.folder / "ssh.conf"

    def reached(self, python: str = sys.executable, **other):
        return reached(RunOptions(on=self.url, **{"ssh_config": self.config, "board_python": python, **other}))

    def configured(self, name: str, **changes: Path) -> Path:
        """Another ssh configuration: IdentityFile or UserKnownHostsFile changed."""
        options = {"IdentityFile": self.folder / "key", "UserKnownHostsFile": self.folder / "known"} | changes
        lines = [f"{option} {path}" for option, path in options.items()]
        path = self.folder / f"{name}.conf"
        path.write_text("\n".join([*lines, "IdentitiesOnly yes", "GlobalKnownHostsFile /dev/null", "IdentityAgent none", ""]))
        return path

    def left_behind(self, patience_s: float = 10) -> list[str]:
        """What is in the temporary folder, once it had time to vanish."""
        end = time.monotonic() + patience_s
        while os.listdir(self.temporary) and time.monotonic() < end:
            time.sleep(0.05)
        return os.listdir(self.temporary)


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """Skips where there is no OpenSSH, or where this user may not log in by it."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH client and server")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd needs the folder /run/sshd when it runs as root")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    folder = tmp_path_factory.mktemp("sshd")
    temporary = folder / "tmp"
    temporary.mkdir()
    board = Loopback(port, folder, temporary)
    for key in ("host", "key", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True, timeout=30)
    for name, key in (("known", "host"), ("changed", "other")):
        kind, public = (folder / f"{key}.pub").read_text().split()[:2]
        (folder / name).write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
    shutil.copy(folder / "key.pub", folder / "authorized")
    board.configured("ssh")
    lines = (
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        f"SetEnv TMPDIR={temporary}",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
    )
    (folder / "sshd.conf").write_text("\n".join([*lines, ""]))
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd.conf"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _until_it_listens(port)
        tried = subprocess.run(
            ["ssh", "-F", board.config, "-p", str(port), "-o", "BatchMode=yes", "127.0.0.1", "true"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        if tried.returncode:
            last = (folder / "sshd.log").read_text().splitlines()[-1:]
            pytest.skip(f"sshd does not let this user in: {tried.stderr.decode().strip()} {last}")
        yield board
    finally:
        server.terminate()
        server.wait(10)


def _until_it_listens(port: int) -> None:
    for _ in range(100):
        with closing(socket.socket()) as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


@pytest.fixture(scope="session")
def tflite(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The tiny network's TFLite files: scheme -> artifact; `int8 pixels` is int8 and takes such."""
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("tflite")
    table = calibrate(open_network(tiny / "tiny.safetensors"), tiny / "calib").quantized
    other, _ = export(table, "tflite", INT8, folder, name="other", options=EmitOptions(input_dtype="int8"))
    return {**_files("tflite", tiny, folder), "int8 pixels": other}


@pytest.fixture(scope="session")
def onnx(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Its ONNX files."""
    pytest.importorskip("onnxruntime")
    return _files("onnx", tiny, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="session")
def openvino(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Its OpenVINO folders."""
    pytest.importorskip("openvino")
    return _files("openvino", tiny, tmp_path_factory.mktemp("openvino"))


def _files(target: str, tiny: Path, folder: Path) -> dict[str, Artifact]:
    network = open_network(tiny / "tiny.safetensors")
    quantized = calibrate(network, tiny / "calib").quantized
    pairs = ((FP32, network.graph), (INT8, quantized))
    return {scheme.name: export(source, target, scheme, folder, name="net")[0] for scheme, source in pairs}


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(3, 32, 32, 3) uint8."""
    return np.random.default_rng(3).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
