"""ExecuTorch's own runtime, in its own environment, on this CPU: XNNPACK's kernels, and portable ones for the rest.

A session is a process that waits for images. Handing them over takes longer than running a small network, so the process itself
times a session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, FloatArray, Progress, silent
from squeeze_export.errors import Refused
from squeeze_export.runtimes.session import BatchSession, are_samples, check_present, check_threads, read_file
from squeeze_export.workers import executorch
from squeeze_export.workers.environments import check_installed, start
from squeeze_export.workers.executorch.placement import IMAGE_LIMIT_S, OPEN_LIMIT_S, PRODUCT, placement_of
from squeeze_export.workers.worker import Worker

NAME = "executorch"
DEVICES = ("cpu",)
TIME_LIMIT_S = 600.0


def devices() -> tuple[str, ...]:
    """The CPU, if the toolchain is installed; see `Runtime.devices`."""
    check_installed(executorch)
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> ExecutorchSession:
    """Opens a `.pte`; see `Runtime.open_session`."""
    check_present(device, devices(), f"`{NAME}`")
    check_threads(threads)
    content = read_file(artifact.path)
    worker = start(executorch)
    try:
        (worker.folder / PRODUCT).write_bytes(content)
        answer, _ = worker.ask("open_program", {"threads": threads}, limit_s=OPEN_LIMIT_S)
        return ExecutorchSession(worker, artifact, answer)
    except BaseException:
        worker.close()
        raise


class ExecutorchSession(BatchSession):
    """A `.pte` that is open in ExecuTorch's process. It is its own clock.

    Attributes:
        threads: of its thread pool, as ExecuTorch says.
        placement: the operators in the file.
    """

    runtime = NAME
    kernels = "XNNPACK"

    def __init__(self, worker: Worker, artifact: Artifact, answer: Mapping[str, Any]) -> None:
        super().__init__(artifact.input.shape[1:])
        self._worker, self._classes = worker, artifact.output.shape[-1]
        self.placement, self.threads = placement_of(answer), int(answer["threads"])
        self.clock = self

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`; the process runs image by image."""
        _, arrays = self._worker.ask("infer", {}, {"pixels": images}, limit_s=IMAGE_LIMIT_S * len(images))
        logits = arrays.get("logits")
        if logits is None or logits.dtype != np.float32 or logits.shape != (len(images), self._classes):
            raise Refused(f"executorch gave no `{len(images)}` rows of `{self._classes}` logits")
        return logits

    def time(
        self, sessions: Sequence[tuple[ExecutorchSession, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
    ) -> list[tuple[int, ...]]:
        """Times sessions in their own processes, one after the other, from one image's bytes in memory to its logits; see
        `core.Clock.time`.
        """
        found = []
        for done, (session, batch) in enumerate(sessions, start=1):
            answer, _ = session._worker.ask(
                "time_program", {"warmup": warmup, "rounds": rounds}, {"pixels": batch[:1]}, limit_s=TIME_LIMIT_S
            )
            samples = answer.get("samples_ns")
            if not are_samples(samples, rounds):
                raise Refused(f"executorch did not give `{rounds}` samples")
            found.append(tuple(samples))
            progress("timing", done, len(sessions))
        return found

    def free(self) -> None:
        """Ends the process."""
        self._worker.close()
