"""Boards and phones as a place to run artifacts: joins what `remote` brings from there with what `runtimes` can read of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from squeeze_export.core import Placement
from squeeze_export.errors import BadInput
from squeeze_export.remote import ssh
from squeeze_export.remote.adb import AdbBoard
from squeeze_export.remote.address import AdbAddress, read_address
from squeeze_export.remote.session import Board
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

BOARD = "board"
"""Stands for the runtime of what is run on a board, until a session there says which it is."""


@contextmanager
def reached(
    on: str,
    *,
    benchmark_binary: Path | None = None,
    ssh_config: Path | None = None,
    board_python: str = "python3",
    cpus: tuple[int, ...] | None = None,
) -> Iterator[Board | AdbBoard]:
    """A board, which is left as it was found.

    Args:
        on: `ssh://user@host[:port]` or `adb://SERIAL`.
        benchmark_binary: LiteRT's benchmark_model for an Android device.
        ssh_config: an OpenSSH configuration file instead of the user's own.
        board_python: the Python over there, by name or path.
        cpus: logical CPUs over there to stay on; None leaves that to the board.

    Raises:
        BadInput: no address, or no benchmark binary for an Android device.
        Unavailable: the board cannot be reached, or lacks what is needed there.
    """
    address = read_address(on)
    board: Board | AdbBoard
    if isinstance(address, AdbAddress):
        if cpus is not None or ssh_config is not None:
            raise BadInput("--cpus and --ssh-config work only on boards that ssh reaches", hint="leave them out with adb://")
        board = AdbBoard(address, benchmark_binary)
    else:
        if benchmark_binary is not None:
            raise BadInput("--benchmark-binary is of Android devices", hint="--on adb://SERIAL")
        board = Board(ssh.connect(address, config=ssh_config, python=board_python, cpus=cpus), read_records)
    try:
        yield board
    finally:
        board.close()


def read_records(target: str, records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """Kernels and placement of what a runtime on a board tells, as this package's own runtime of that target reads it; see
    `Runtime.read_records`.
    """
    return runtime_named(target_named(target).RUNTIMES[0]).read_records(records, scheme)
