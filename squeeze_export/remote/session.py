"""Artifacts that are open on a board. They are timed by the board's own clock, so that the network connection does not count."""

from __future__ import annotations

import itertools
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Placement, Progress, silent
from squeeze_export.errors import Inapplicable, Refused, Unavailable
from squeeze_export.files import read_content, reading
from squeeze_export.remote.link import Link
from squeeze_export.remote.runner import RUNTIMES
from squeeze_export.runtimes.session import BatchSession, are_samples

OPEN_S, INFER_S, SILENCE_S = 300, 900, 600
"""Limits: to open a file, to run a batch, and between two progress reports."""
MAX_TEXT = 200
MAX_NUMBER = 1e15
"""A larger number from a board is not a frequency, a temperature or a count."""
_FACTS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("board", "soc", "cpu", "cpu_implementer", "cpu_part", "architecture", "governor", "os", "kernel", "python"), str
    ),
    **dict.fromkeys(("logical_cores", "usable_cores", "memory_bytes", "throttle_count"), int),
    **dict.fromkeys(("max_frequency_mhz", "frequency_mhz"), (int, float)),
    "isa": list,
    "temperatures_c": dict,
    "raspberry_pi_throttled": str,
}
_OF_AN_EMULATED_BOARD = ("on", "cpu_implementer", "cpu_part", "architecture", "os", "python")

ReadRecords = Callable[[str, Mapping[str, Any], str], tuple[str, Placement]]
"""Target, a runtime's records in the runner's form, scheme -> kernels and placement."""


class Board:
    """A board with a runner on it.

    Args:
        link: the connection to the runner.
        read_records: reads kernels and placement from a runtime's records.

    Attributes:
        link: the connection.
        facts: what the board reports about itself, and about its state while files were timed.
        evidence: `emulated` if the board's processor is not the one that its programs are built for.
    """

    def __init__(self, link: Link, read_records: ReadRecords) -> None:
        self.link, self._read_records, self._numbers = link, read_records, itertools.count()
        emulated = link.greeting.get("emulated")
        self.evidence: Evidence = "emulated" if emulated else "measured"
        self.facts: dict[str, Any] = {"on": "ssh", **plain_facts(link.greeting.get("facts"))}
        if emulated:  # the other facts would describe the machine that emulates the board
            self.facts = {name: value for name, value in self.facts.items() if name in _OF_AN_EMULATED_BOARD}
            self.facts["emulated"] = str(emulated)[:MAX_TEXT]

    def open_session(self, artifact: Artifact, *, runtime: str | None, device: str, threads: int) -> RemoteSession:
        """Opens an artifact on the board.

        Args:
            artifact: TFLite, ONNX or OpenVINO.
            runtime: its name; None takes the first that is installed on the board.
            device: `cpu`.
            threads: intra-op threads.

        Raises:
            BadInput: the file cannot be read.
            Inapplicable: another target.
            Unavailable: another device, or the board lacks the runtime.
            Refused: the board's runtime cannot open the file, or its records cannot be read.
        """
        if device != "cpu":
            raise Unavailable(f"boards run files on their `cpu`, not on `{device}`", hint="leave out --device")
        targets = list(dict.fromkeys(target for target, _ in RUNTIMES.values()))
        if artifact.target not in targets:
            raise Inapplicable(f"{artifact.target} files are not run on boards", hint=f"what is: {', '.join(targets)}")
        with reading(artifact.path):
            content = read_content(artifact.path)
        files = {artifact.path.name: content} if isinstance(content, bytes) else content
        number = next(self._numbers)
        answer, _ = self.link.ask(
            {
                "do": "open",
                "id": number,
                "target": artifact.target,
                "runtime": runtime,
                "threads": threads,
                "files": [[Path(name).name, len(data)] for name, data in files.items()],
            },
            b"".join(files.values()),
            limit_s=OPEN_S,
        )
        try:
            kernels, placement = self._read_records(artifact.target, answer["records"], artifact.scheme)
            return RemoteSession(self, number, artifact, answer, kernels, placement)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as err:
            raise Refused(
                f"what the board reports about `{artifact.path.name}` cannot be read: {type(err).__name__} {err}"
            ) from err

    def time(
        self, sessions: Sequence[tuple[RemoteSession, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
    ) -> list[tuple[int, ...]]:
        """Times sessions on this board in one interleaved run, by the board's clock, and adds the board's state to `facts`.

        Args:
            sessions: each with its batch.
            warmup: inferences of each session before the first sample.
            rounds: samples of each session.
            progress: called every few seconds.

        Returns:
            For each session, its samples in ns.

        Raises:
            Refused: the board did not give this number of samples.
        """
        if not sessions:
            return []
        listed = [[session.number, list(batch.shape)] for session, batch in sessions]
        answer, _ = self.link.ask(
            {"do": "time", "sessions": listed, "warmup": warmup, "rounds": rounds},
            b"".join(batch.tobytes() for _, batch in sessions),
            limit_s=SILENCE_S,
            progress=progress,
        )
        samples = answer.get("samples_ns")
        if not isinstance(samples, list) or len(samples) != len(sessions) or not all(are_samples(row, rounds) for row in samples):
            raise Refused(f"the board did not give `{rounds}` samples of each of `{len(sessions)}` files")
        self.facts |= state_facts(answer, self.facts.get("max_frequency_mhz"))
        return [tuple(row) for row in samples]

    def close(self) -> None:
        """Ends the runner, which removes its files. A second call does nothing."""
        self.link.close()


class RemoteSession(BatchSession):
    """An artifact on a board; satisfies `core.Session`.

    Attributes:
        number: the session's number in requests to the board.
        runtime: the runtime that opened it.
        device: `cpu`.
        threads: the number that the runtime reports.
        kernels: read from the runtime's records.
        placement: likewise.
        evidence: the board's.
        facts: the board's, which grow when it is timed, and the version of the runtime.
        clock: the board.
    """

    def __init__(
        self, board: Board, number: int, artifact: Artifact, answer: Mapping[str, Any], kernels: str, placement: Placement
    ) -> None:
        super().__init__(artifact.input.shape[1:])
        self.clock: Board = board
        self.number, self.evidence = number, board.evidence
        self.runtime, self.threads = str(answer["runtime"])[:MAX_TEXT], int(answer["threads"])
        self.kernels, self.placement = kernels, placement
        self._classes = int(artifact.output.shape[-1])
        self.facts: Mapping[str, Any] = ChainMap({"runtime_version": str(answer["version"])[:MAX_TEXT]}, board.facts)

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`. The runner splits a batch into the sizes that the file takes.

        Raises:
            Unavailable: the connection broke.
            Refused: the runtime failed, the runner ended, or the answer is not the logits.
        """
        shape, size = [len(images), self._classes], 4 * len(images) * self._classes
        answer, data = self.clock.link.ask(
            {"do": "infer", "id": self.number, "shape": list(images.shape)}, images.tobytes(), limit_s=INFER_S, answer_bytes=size
        )
        if answer.get("shape") != shape or len(data) != size:
            raise Refused(f"the board gave `{answer.get('shape')}`, not logits of {shape}")
        return np.frombuffer(data, "<f4").reshape(shape)


def plain_facts(told: Any) -> dict[str, Any]:
    """The board's facts that have a known name and a value of the right type. Texts are cut to one bounded line."""
    found: dict[str, Any] = {}
    for name, kind in _FACTS.items():
        value = told.get(name) if isinstance(told, dict) else None
        if not isinstance(value, kind):
            continue
        if isinstance(value, list):
            found[name] = [_line(entry) for entry in value[:32]]
        elif isinstance(value, dict):
            found[name] = {_line(key): degrees for key, degrees in list(value.items())[:32] if _is_number(degrees)}
        elif isinstance(value, str):
            found[name] = _line(value)
        elif _is_number(value):
            found[name] = value
    return found


def state_facts(answer: Mapping[str, Any], most_mhz: float | None) -> dict[str, Any]:
    """Facts about the board's state during a timed run.

    Args:
        answer: `before` and `after` (see `board_facts.state`), and `frequencies_mhz` of the fastest core after each round.
        most_mhz: the highest frequency of the fastest core; None if it is not known.

    Returns:
        Some of: temperatures_c, temperatures_c_after, frequency_mhz_low and _high, below_max_frequency (share of rounds in which
        the fastest core ran more than 2% below `most_mhz`), raspberry_pi_throttled (the firmware's bits in hexadecimal), throttled
        (whether a counter of throttling rose, or the firmware reports throttling).
    """
    before, after = plain_facts(answer.get("before")), plain_facts(answer.get("after"))
    seen = answer.get("frequencies_mhz")
    frequencies = [float(value) for value in seen if _is_number(value)] if isinstance(seen, list) else []
    found: dict[str, Any] = {}
    if "temperatures_c" in before:
        found["temperatures_c"] = before["temperatures_c"]
    if "temperatures_c" in after:
        found["temperatures_c_after"] = after["temperatures_c"]
    if frequencies:
        found |= {"frequency_mhz_low": min(frequencies), "frequency_mhz_high": max(frequencies)}
        if most_mhz:
            found["below_max_frequency"] = sum(value < 0.98 * most_mhz for value in frequencies) / len(frequencies)
    if "throttle_count" in before and "throttle_count" in after:
        found["throttled"] = after["throttle_count"] > before["throttle_count"]
    if "raspberry_pi_throttled" in after:
        bits = after["raspberry_pi_throttled"]
        found["raspberry_pi_throttled"] = bits
        with suppress(ValueError):
            found["throttled"] = found.get("throttled", False) or bool(int(bits, 16) & 0xF)
    return found


def _line(value: Any) -> str:
    return " ".join(str(value).split())[:MAX_TEXT]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
