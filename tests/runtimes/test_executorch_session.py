"""A session in ExecuTorch's process, which a stand-in takes the place of: what comes back is checked, and its clock is its own.

The real one is in tests/workers/test_executorch.py, where its toolchain is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import Artifact, Session, TensorSpec
from squeeze_export.errors import Refused
from squeeze_export.runtimes.executorch import ExecutorchSession

ANSWER = {"threads": 2, "operators": [["convolution", "xnnpack", True, 100], ["mean", "portable", False, 0]]}


class Process:
    """Answers as ExecuTorch's does: its logits are each image's mean, by class."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.closed = answers, 0

    def ask(self, task: str, arguments: Any, arrays: Any, *, limit_s: float) -> Any:
        pixels = arrays["pixels"]
        if task == "time_program":
            return self.answers.get("time", {"samples_ns": [7] * arguments["rounds"]}), {}
        return {}, {"logits": self.answers.get("logits", pixels.mean(axis=(1, 2), dtype=np.float32))}

    def close(self) -> None:
        self.closed += 1


def opened(process: Process) -> ExecutorchSession:
    source, result = TensorSpec("image", (1, 4, 4, 3), "uint8", "NHWC"), TensorSpec("logits", (1, 3), "float32", "NC")
    return ExecutorchSession(process, Artifact(Path("net.pte"), "executorch", "int8", "", 0, source, result), ANSWER)


PIXELS = np.random.default_rng(1).integers(0, 256, (3, 4, 4, 3), np.uint8)


def test_a_session_answers_and_tells_of_itself() -> None:
    process = Process()
    session: Session = opened(process)
    np.testing.assert_allclose(session.infer(PIXELS), PIXELS.mean(axis=(1, 2)), rtol=1e-6)
    assert (session.threads, session.placement.integer_mac_share, session.clock) == (2, 1.0, session)
    session.close()
    session.close()
    assert process.closed == 1


@pytest.mark.parametrize("logits", [None, np.zeros((3, 2), np.float32), np.zeros((3, 3)), np.zeros((1, 3), np.float32)])
def test_what_are_no_logits_is_refused(logits: Any) -> None:
    with pytest.raises(Refused, match="gave no `3` rows of `3` logits"):
        opened(Process(logits=logits)).infer(PIXELS)


def test_it_is_timed_by_its_own_clock() -> None:
    told: list[Any] = []
    session = opened(Process())
    found = session.clock.time([(session, PIXELS[:1])], warmup=1, rounds=4, progress=lambda *step: told.append(step))
    assert (found, told) == ([(7, 7, 7, 7)], [("timing", 1, 1)])


@pytest.mark.parametrize("samples", [None, [7], [7, 0], [7, 7.0], [7, True], [7, 3_600_000_000_000], "77"])
def test_what_are_no_samples_is_refused(samples: Any) -> None:
    session = opened(Process(time={"samples_ns": samples}))
    with pytest.raises(Refused, match="did not give `2` samples"):
        session.clock.time([(session, PIXELS[:1])], warmup=1, rounds=2)
