"""Artifacts opened on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from squeeze_export.core import Artifact, Session
from squeeze_export.errors import BadInput, SqueezeExportError, Unavailable
from squeeze_export.measure.latency import pinned
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named


@dataclass(frozen=True)
class RunOptions:
    """How artifacts are run.

    Attributes:
        runtime: a key of `runtimes.RUNTIMES`; None takes each target's first.
        device: `cpu` ...
        threads: intra-op threads of every session.
        cpus: logical CPUs to pin to; None pins nothing.
        rounds: timed inferences of each session.

    Raises:
        BadInput: threads or rounds below 1.
    """

    runtime: str | None = None
    device: str = "cpu"
    threads: int = 1
    cpus: tuple[int, ...] | None = None
    rounds: int = 50

    def __post_init__(self) -> None:
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} `{getattr(self, name)}` is below 1")


@contextmanager
def opened(
    artifacts: Sequence[Artifact], options: RunOptions, failures: dict[Path, SqueezeExportError] | None = None
) -> Iterator[dict[Path, Session]]:
    """Opens a session for every artifact, and closes all at the end.

    Args:
        artifacts: what to open.
        options: how.
        failures: takes what an artifact that cannot be opened raises, so that the others go on; None lets it out.

    Raises:
        BadInput: the runtime does not open this target.
        Unavailable: the runtime or the device is not on this machine.
        Refused: the runtime cannot open the file.
    """
    sessions: dict[Path, Session] = {}
    try:
        with pinned(options.cpus):
            for artifact in artifacts:
                session = _open(artifact, options, failures)
                if session is not None:
                    sessions[artifact.path] = session
            yield sessions
    finally:
        for session in sessions.values():
            session.close()


def _open(artifact: Artifact, options: RunOptions, failures: dict[Path, SqueezeExportError] | None) -> Session | None:
    try:
        runtime = runtime_named(runtime_for(artifact.target, options.runtime))
        return runtime.open_session(artifact, device=options.device, threads=options.threads)
    except SqueezeExportError as err:
        if failures is None:
            raise
        failures[artifact.path] = err
        return None


def runtime_for(target: str, asked: str | None) -> str:
    """The runtime's name: the asked one where the target knows it, the target's first where none was asked.

    Raises:
        BadInput: the asked one does not open this target.
    """
    known = target_named(target).RUNTIMES
    if asked is None:
        return known[0]
    if asked not in known:
        raise BadInput(f"the runtime `{asked}` does not open {target} files", hint=f"one of: {', '.join(known)}")
    return asked


def check_device(runtime: str, device: str) -> None:
    """Refuses a device before any work is done for it.

    Raises:
        Unavailable: the runtime is not installed, or does not have the device here.
    """
    present = runtime_named(runtime).devices()
    if device not in present:
        raise Unavailable(f"{runtime} has no device `{device}` on this machine", hint=f"it has: {', '.join(present)}")
