"""The process in which LiteRT runs a file on an accelerator, seen from ours; `accelerator_worker` is the other side."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import squeeze_export
from squeeze_export.core import FloatArray
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.runtimes.tflite.accelerator_worker import FILE, LOGITS, PIXELS

OPEN_S, RUN_S = 300, 120
"""How long a file may take to be opened (a driver compiles every kernel then) and to be run once."""
MAX_LAST_WORDS = 300
_MAX_REPLY_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4096


def child_environment() -> dict[str, str]:
    """This process's environment, in which a child finds this package."""
    root = str(Path(squeeze_export.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


class LitertProcess:
    """A file opened on an accelerator by another process.

    Attributes:
        account: what LiteRT says of it: `division`, as in `compiled_model.Division`, or None where the accelerator takes all.
        pixels: what the next run is given; shape and dtype of the file's input.
        logits: what the last run gave; those of its output.

    Raises:
        Unavailable, Refused: what the process raised; Refused too if anything else ended it, or it took too long.
    """

    def __init__(self, content: bytes, device: str, threads: int, *, source: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            with tempfile.TemporaryDirectory(prefix="squeeze-export-litert-") as name:
                folder = Path(name)
                (folder / FILE).write_bytes(content)
                self.pixels: Any = _map(folder / PIXELS, source)
                self.logits: Any = _map(folder / LOGITS, result)
                self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                    [sys.executable, "-m", "squeeze_export.runtimes.tflite.accelerator_worker", name, device, str(threads)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._log,
                    bufsize=0,
                    cwd=name if os.name == "posix" else None,  # the user's folder is no place to import from
                    env=child_environment(),
                )
                # Both sides have the two files mapped by then, so that nothing is left in the folder to be removed later.
                self.account = self._reply(OPEN_S)
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether it was closed, or has ended by itself."""
        return self._process is None

    def run(self) -> FloatArray:
        """Runs the file once on `pixels`.

        Returns:
            `logits`: of the file's dtype; the next run overwrites it.

        Raises:
            Refused: LiteRT failed, ended its process, or took longer than `RUN_S`.
        """
        if self._process is None or self._process.stdin is None:
            raise Refused("LiteRT's process has ended")
        try:
            self._process.stdin.write(b"\n")
        except BrokenPipeError:
            raise self._ended() from None
        self._reply(RUN_S)
        values: FloatArray = self.logits
        return values

    def close(self) -> None:
        """Ends the process. Calling it twice is allowed."""
        process, self._process = getattr(self, "_process", None), None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._log.close()

    def _reply(self, patience_s: float) -> Mapping[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe, deadline, reply = self._process.stdout, time.monotonic() + patience_s, b""
        while not reply.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise Refused(f"LiteRT's accelerator did not answer within {patience_s:g} s")
            piece = os.read(pipe.fileno(), _MAX_REPLY_BYTES)
            if not piece:
                raise self._ended()
            reply += piece
        answer: Mapping[str, Any] = json.loads(reply)
        if "kind" in answer:
            kind = Unavailable if answer["kind"] == "Unavailable" else Refused
            raise kind(answer["message"], hint=answer["hint"])
        return answer

    def _ended(self) -> Refused:
        """Why it has ended: its signal or exit code, and the last line that it printed."""
        assert self._process is not None
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        words = last_words(code, self._log.read())
        self.close()
        return Refused(f"LiteRT's process ended: {words}", hint="--device cpu")


def last_words(code: int, printed: bytes) -> str:
    """How a process ended, and the last line that it printed.

    Args:
        code: as `subprocess` gives it: below 0 for a signal.
        printed: UTF-8.
    """
    lines = [line.strip() for line in printed.decode("utf-8", "replace").splitlines() if line.strip()]
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{ended}, {lines[-1][:MAX_LAST_WORDS]}" if lines else ended


def _map(path: Path, details: Mapping[str, Any]) -> Any:
    dtype, shape = np.dtype(details["dtype"]), tuple(int(side) for side in details["shape"])
    path.write_bytes(bytes(dtype.itemsize * math.prod(shape)))  # a sparse file's disk may be full when it is written to: SIGBUS
    return np.memmap(path, dtype, mode="r+", shape=shape)
