"""ExecuTorch's own runtime, in its own environment, on this CPU: XNNPACK's kernels, portable ones for the rest.

A session is a process that waits for images. Handing them over takes longer than a small network does, so a session is timed over
there, by `time`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Progress, silent
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.workers import executorch
from squeeze_export.workers.environments import is_installed, start
from squeeze_export.workers.executorch.placement import IMAGE_LIMIT_S, OPEN_LIMIT_S, PRODUCT, placement_of
from squeeze_export.workers.process import Worker

NAME = "executorch"
DEVICES = ("cpu",)
TIME_LIMIT_S = 600.0
MAX_SAMPLE_NS = 3_600_000_000_000


def devices() -> tuple[str, ...]:
    """Where it runs.

    Raises:
        Unavailable: the toolchain is not installed.
    """
    if not is_installed(executorch):
        raise Unavailable("the toolchain `executorch` is not installed", hint="squeeze-export toolchain install executorch")
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> ExecutorchSession:
    """Opens a `.pte`; see `Runtime.open_session`."""
    check_device(device)
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    try:
        content = artifact.path.read_bytes()
    except OSError as err:
        raise BadInput(f"`{artifact.path}` cannot be read: {err.strerror or err}") from err
    worker = start(executorch)
    try:
        (worker.folder / PRODUCT).write_bytes(content)
        answer, _ = worker.ask("open", {"threads": threads}, limit_s=OPEN_LIMIT_S)
        return ExecutorchSession(worker, artifact, answer)
    except BaseException:
        worker.close()
        raise


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    if device not in devices():
        raise Unavailable(f"`{NAME}` has no device `{device}`", hint=f"it runs on: {', '.join(DEVICES)}")


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> NoReturn:
    """ExecuTorch shows what a program makes, not what is inside XNNPACK.

    Raises:
        Unavailable: always.
    """
    raise Unavailable("executorch does not show what lies inside XNNPACK", hint="leave out --runtime executorch")


class ExecutorchSession:
    """A `.pte` that is open in ExecuTorch's process; satisfies `core.Session`.

    Attributes:
        runtime: `executorch`.
        device: `cpu`.
        threads: of its thread pool, as it says.
        kernels: `XNNPACK`.
        placement: the operators in the file.
        evidence: `measured`.
        facts: none.
        board: itself: a session that is timed by its own clock, as those on a board are.
    """

    runtime = NAME
    device = DEVICES[0]
    kernels = "XNNPACK"
    evidence: Evidence = "measured"

    def __init__(self, worker: Worker, artifact: Artifact, answer: Mapping[str, Any]) -> None:
        self._worker, self._sides, self._classes = worker, artifact.input.shape[1:], artifact.output.shape[-1]
        self.placement = placement_of(answer)
        self.threads = int(answer["threads"])
        self.facts: Mapping[str, Any] = {}
        self.board = self

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch, image by image."""
        if batch.dtype != np.uint8 or batch.shape[1:] != self._sides:
            raise BadInput(f"pixels of `{batch.dtype}{list(batch.shape)}`", hint="(N, H, W, 3) uint8 in the file's size")
        _, arrays = self._worker.ask("infer", {}, {"pixels": batch}, limit_s=IMAGE_LIMIT_S * len(batch))
        logits = arrays.get("logits")
        if logits is None or logits.dtype != np.float32 or logits.shape != (len(batch), self._classes):
            raise Refused(f"executorch gave no `{len(batch)}` rows of `{self._classes}` logits")
        return logits

    def time(
        self, sessions: Sequence[tuple[ExecutorchSession, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
    ) -> list[tuple[int, ...]]:
        """Times sessions in their own processes, one after the other: bytes in memory to logits in memory.

        Args:
            sessions: each with a batch of one image.
            warmup: inferences of each before the first sample.
            rounds: samples of each.
            progress: told after each session.

        Returns:
            Samples in ns, `rounds` of each session.

        Raises:
            Refused: the process failed, or gave no such samples.
        """
        found = []
        for done, (session, batch) in enumerate(sessions, start=1):
            found.append(session.samples_ns(batch, warmup=warmup, rounds=rounds))
            progress("timing", done, len(sessions))
        return found

    def samples_ns(self, batch: ByteArray, *, warmup: int, rounds: int) -> tuple[int, ...]:
        """What `time` gives of this session alone."""
        answer, _ = self._worker.ask("time", {"warmup": warmup, "rounds": rounds}, {"pixels": batch[:1]}, limit_s=TIME_LIMIT_S)
        samples = answer.get("samples_ns")
        sound = isinstance(samples, list) and all(type(value) is int and 0 < value < MAX_SAMPLE_NS for value in samples)
        if not isinstance(samples, list) or not sound or len(samples) != rounds:
            raise Refused(f"executorch did not give `{rounds}` samples")
        return tuple(samples)

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()
