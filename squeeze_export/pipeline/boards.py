"""Boards and phones as a place to run artifacts: joins what `remote` brings from there with what `runtimes` can read of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from squeeze_export.core import ByteArray, Placement, Progress, Session, silent
from squeeze_export.errors import BadInput
from squeeze_export.remote import ssh
from squeeze_export.remote.adb import AdbBoard, AdbSession
from squeeze_export.remote.address import AdbAddress, read_address
from squeeze_export.remote.session import Board, RemoteSession
from squeeze_export.runtimes import runtime_named
from squeeze_export.runtimes.executorch import ExecutorchSession
from squeeze_export.targets import target_named

BOARD = "board"
"""Stands for the runtime of what is run on a board, until a session there says which it is."""
Far: TypeAlias = RemoteSession | AdbSession | ExecutorchSession
"""Sessions that time themselves, by the clock of where they run: on a board, or in a process of their own."""


@dataclass(frozen=True)
class Reaching:
    """How a board is reached.

    Attributes:
        on: `ssh://user@host[:port]` or `adb://SERIAL`.
        benchmark_binary: LiteRT's benchmark_model for an Android device.
        ssh_config: an OpenSSH configuration file instead of the user's own.
        board_python: the Python over there, by name or path.
        cpus: logical CPUs over there to stay on; None leaves that to the board.
    """

    on: str
    benchmark_binary: Path | None = None
    ssh_config: Path | None = None
    board_python: str = "python3"
    cpus: tuple[int, ...] | None = None


@contextmanager
def reached(reaching: Reaching) -> Iterator[Board | AdbBoard]:
    """A board, which is left as it was found.

    Raises:
        BadInput: no address, or no benchmark binary for an Android device.
        Unavailable: the board cannot be reached, or lacks what is needed there.
    """
    address = read_address(reaching.on)
    board: Board | AdbBoard
    if isinstance(address, AdbAddress):
        if reaching.cpus is not None or reaching.ssh_config is not None:
            raise BadInput("--cpus and --ssh-config are of boards that ssh reaches", hint="leave them out with adb://")
        board = AdbBoard(address, reaching.benchmark_binary)
    else:
        if reaching.benchmark_binary is not None:
            raise BadInput("--benchmark-binary is of Android devices", hint="--on adb://SERIAL")
        link = ssh.connect(address, config=reaching.ssh_config, python=reaching.board_python, cpus=reaching.cpus)
        board = Board(link, read_records)
    try:
        yield board
    finally:
        board.close()


def read_records(target: str, records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """Kernels and placement of what a runtime on a board tells, as this package's own runtime of that target reads it; see
    `Runtime.read_records`.
    """
    return runtime_named(target_named(target).RUNTIMES[0]).read_records(records, scheme)


def is_far(session: Session) -> TypeGuard[Far]:
    """Whether a session times itself: what lies between it and this process is no part of an inference."""
    return isinstance(session, RemoteSession | AdbSession | ExecutorchSession)


def gives_logits(session: Session) -> bool:
    """False of an Android device, which is timed and nothing else."""
    return not isinstance(session, AdbSession)


def unheard(sessions: Mapping[Any, Session]) -> tuple[str, ...]:
    """A warning where there are sessions that give no logits."""
    silent_ones = [session for session in sessions.values() if not gives_logits(session)]
    return ("not validated: benchmark_model gives no logits, an Android device's rows are of latency alone",) if silent_ones else ()


def time_far(
    sessions: Sequence[tuple[Far, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
) -> list[tuple[int, ...]]:
    """Times sessions there, by their board's own clock; those of one board in interleaved rounds.

    Args:
        sessions: each with its batch.
        warmup: inferences of each before the first sample.
        rounds: samples of each, at least 1.
        progress: told of the rounds.

    Returns:
        Samples in ns, in the order of the sessions; all of one length.

    Raises:
        Unavailable: the connection broke.
        Refused: the runtime failed.
    """
    boards: dict[int, Any] = {id(session.board): session.board for session, _ in sessions}
    samples: dict[int, tuple[int, ...]] = {}
    for key, board in boards.items():
        places = [place for place, (session, _) in enumerate(sessions) if id(session.board) == key]
        found = board.time([sessions[place] for place in places], warmup=warmup, rounds=rounds, progress=progress)
        samples |= dict(zip(places, found, strict=True))
    return [samples[place] for place in range(len(sessions))]
