"""Artifacts opened on a device, here or on a board or phone.

On a board, `remote` brings the records and `runtimes` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from squeeze_export.compilers import compiler_named
from squeeze_export.core import Artifact, Placement, Session
from squeeze_export.errors import BadInput, SqueezeExportError, did_you_mean
from squeeze_export.graph.quantized import FP32
from squeeze_export.measure.latency import pinned
from squeeze_export.registry import COMPILERS, registered
from squeeze_export.remote import ssh
from squeeze_export.remote.adb import AdbBoard
from squeeze_export.remote.address import AdbAddress, read_address
from squeeze_export.remote.session import Board
from squeeze_export.results import Accuracy, Answers, Latency
from squeeze_export.runtimes import added_runtimes, runtime_named
from squeeze_export.targets import target_named

DEFAULT_PRECISION: Mapping[str, str] = {"openvino": "openvino-bf16"}
"""Runtime that keeps float32 -> the one that computes in its maker's default precision. An fp32 file is run on both."""

BOARD = "board"
"""Stands for the runtime on a board, until a session there says which it is."""

Key: TypeAlias = tuple[Path, str]
"""Identifies a session: the artifact's path and the runtime."""


class Entry(NamedTuple):
    """An artifact and the runtime to open it."""

    artifact: Artifact
    runtime: str

    @property
    def key(self) -> Key:
        """Of its session."""
        return self.artifact.path, self.runtime


@dataclass(frozen=True)
class RunOptions:
    """How artifacts are run.

    Attributes:
        runtime: a key of `registry.RUNTIMES`; None takes each target's first.
        device: `cpu` ...
        threads: intra-op threads of every session.
        cpus: logical CPUs to pin to; None pins nothing.
        rounds: timed inferences of each session.
        emulated_images: images for an emulated device, spread evenly over the set.
        on: a board to run on instead of this machine, `ssh://user@host[:port]` or `adb://SERIAL`; None runs here. `cpus` and
            `device` are the board's then, and `runtime` None takes the first that is installed there.
        benchmark_binary: LiteRT's benchmark_model, for `adb://`.
        ssh_config: an OpenSSH configuration file instead of the user's own, for `ssh://`.
        board_python: the board's Python, for `ssh://`.

    Raises:
        BadInput: threads or rounds below 1.
    """

    runtime: str | None = None
    device: str = "cpu"
    threads: int = 1
    cpus: tuple[int, ...] | None = None
    rounds: int = 50
    emulated_images: int = 100
    on: str | None = None
    benchmark_binary: Path | None = None
    ssh_config: Path | None = None
    board_python: str = "python3"

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "emulated_images"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name.replace('_', '-')} `{getattr(self, name)}` is below 1")
        far = {"benchmark-binary": self.benchmark_binary, "ssh-config": self.ssh_config}
        given = [name for name, value in far.items() if value is not None]
        if given and self.on is None:
            raise BadInput(f"--{given[0]} works only on a board or a phone", hint="--on ssh://user@host, or --on adb://SERIAL")
        if self.on is not None and self.device != "cpu":
            raise BadInput(f"boards run files on their cpu, not on `{self.device}`", hint="leave out --device")


def entries_of(artifacts: Sequence[Artifact], options: RunOptions, *, needed: bool = True) -> list[Entry]:
    """Each artifact with its runtime; fp32 files also with that of `DEFAULT_PRECISION`, if no runtime was asked for and it has the
    device. On a board the runtime is `BOARD`: the session there says which it is.

    Raises:
        BadInput: the runtime asked for does not open an artifact's target, or not another tool's file.
    """
    found = []
    for artifact in artifacts:
        runtime = runtime_for(artifact.target, options.runtime, needed=needed)
        if artifact.foreign is not None and (options.on is not None or not runtime_named(runtime).FOREIGN):
            where = "a board" if options.on is not None else f"`{runtime}`"
            raise BadInput(f"`{artifact.path.name}` is another tool's file, and {where} runs only this tool's", hint="export one")
        if options.on is not None:
            found.append(Entry(artifact, BOARD))
            continue
        found.append(Entry(artifact, runtime))
        other = DEFAULT_PRECISION.get(runtime)
        if options.runtime is None and artifact.scheme == FP32.name and other is not None and _has(other, options.device):
            found.append(Entry(artifact, other))
    return found


def _has(runtime: str, device: str) -> bool:
    try:
        return device in runtime_named(runtime).devices()
    except SqueezeExportError:
        return False


def kept(failure: SqueezeExportError, *, alone: bool) -> SqueezeExportError:
    """The one rule for failures: that of a single target, file or chip is raised; one among several is kept for its row."""
    if alone:
        raise failure
    return failure


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is known about an entry so far.

    Attributes:
        entry: what is measured.
        alone: whether a failure ends the job; else it is kept, and the others go on.
        session: None if it could not be opened, or cannot tell where its operators ran.
        accuracy: None if it was not compared.
        answers: of each image; None if it was not compared.
        latency: None if it was not timed.
        failure: why the measurement is incomplete.
    """

    entry: Entry
    alone: bool = True
    session: Session | None = None
    accuracy: Accuracy | None = None
    answers: Answers | None = None
    latency: Latency | None = None
    failure: SqueezeExportError | None = None

    def failed(self, failure: SqueezeExportError) -> Outcome:
        """With its failure; see `kept`."""
        return replace(self, failure=kept(failure, alone=self.alone))


@contextmanager
def opened(entries: Sequence[Entry], options: RunOptions, *, alone: bool = True) -> Iterator[list[Outcome]]:
    """Opens a session for every entry, and closes all at the end.

    Args:
        entries: files, each with its runtime.
        options: how to run them.
        alone: whether one that cannot be opened ends the job.

    Raises:
        Unavailable: the runtime or the device is not on this machine, or the board cannot be reached.
        Refused: the runtime cannot open the file.
    """
    outcomes: list[Outcome] = []
    try:
        with ExitStack() as stack:
            try:
                open_entry = stack.enter_context(_opener(options))
            except SqueezeExportError as err:
                if options.on is None:
                    raise
                outcomes += [Outcome(entry, alone).failed(err) for entry in entries]
            for entry in entries[len(outcomes) :]:
                outcome = Outcome(entry, alone)
                try:
                    outcomes.append(replace(outcome, session=open_entry(entry)))
                except SqueezeExportError as err:
                    outcomes.append(outcome.failed(err))
            yield list(outcomes)
    finally:
        for outcome in outcomes:
            if outcome.session is not None:
                outcome.session.close()


@contextmanager
def _opener(options: RunOptions) -> Iterator[Callable[[Entry], Session]]:
    """A function that opens an entry: with this machine's runtime, or on the board."""
    if options.on is None:
        with pinned(options.cpus):
            yield lambda entry: runtime_named(entry.runtime).open_session(
                entry.artifact, device=options.device, threads=options.threads
            )
        return
    with reached(options) as board:
        yield lambda entry: board.open_session(
            entry.artifact, runtime=options.runtime, device=options.device, threads=options.threads
        )


@contextmanager
def reached(options: RunOptions) -> Iterator[Board | AdbBoard]:
    """The board `options.on`, which is left as it was found.

    Raises:
        BadInput: no address, or no benchmark binary for an Android device.
        Unavailable: the board cannot be reached, or lacks what is needed there.
    """
    address = read_address(options.on or "")
    board: Board | AdbBoard
    if isinstance(address, AdbAddress):
        if options.cpus is not None or options.ssh_config is not None:
            raise BadInput("--cpus and --ssh-config work only on boards that ssh reaches", hint="leave them out with adb://")
        board = AdbBoard(address, options.benchmark_binary)
    else:
        if options.benchmark_binary is not None:
            raise BadInput("--benchmark-binary is for Android devices", hint="--on adb://SERIAL")
        link = ssh.connect(address, config=options.ssh_config, python=options.board_python, cpus=options.cpus)
        board = Board(link, read_records)
    try:
        yield board
    finally:
        board.close()


def read_records(target: str, records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """Kernels and placement from a board's records, read as the first runtime of that target does; see `Runtime.read_records`."""
    return runtime_named(target_named(target).RUNTIMES[0]).read_records(records, scheme)


def device_names(runtimes: Sequence[str]) -> tuple[str, ...]:
    """The devices that any of these runtimes can have on some machine; no framework is imported to tell them."""
    return tuple(dict.fromkeys(device for name in runtimes for device in runtime_named(name).DEVICE_NAMES))


def runtime_for(target: str, asked: str | None, *, needed: bool = True) -> str:
    """The runtime's name: the one asked for, or the target's first. It is empty if nothing opens the target and nothing needs to.

    Raises:
        BadInput: the asked one does not open this target.
    """
    compiled = target in registered(COMPILERS, "compiler")
    known = (compiler_named(target) if compiled else target_named(target)).RUNTIMES or added_runtimes(target)
    if not known:
        if asked is None and not needed:
            return ""
        hint = "run them on the chip that they were compiled for" if compiled else "--no-validate --no-bench"
        raise BadInput(f"nothing here runs {target} files", hint=hint)
    if asked is None:
        return known[0]
    if asked not in known and asked not in added_runtimes(target):
        makers = [name for name in COMPILERS if asked in compiler_named(name).RUNTIMES]
        hint = f"it opens what `squeeze-export {makers[0]}` makes of them" if makers else did_you_mean(asked, known)
        raise BadInput(f"the runtime `{asked}` does not open {target} files", hint=hint)
    return asked
