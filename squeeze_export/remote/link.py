"""A link to a board's runner: a program that exchanges frames (see `runner`) over its stdin and stdout, with time limits."""

from __future__ import annotations

import json
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from squeeze_export.core import Progress, silent
from squeeze_export.errors import BadInput, Refused, SqueezeExportError, Unavailable
from squeeze_export.remote.runner import MARK, frame

MAX_NOISE_BYTES = 1 << 16
"""The most that a login script may print before the first frame."""
MAX_JSON_BYTES = 1 << 23
KEPT_BYTES = 4096
"""How much of the end of stderr is kept."""
PATIENCE_S = 10
"""How long the program may take to clean up."""
MAX_PROGRESS_FRAMES = 1 << 20
"""The most between a request and its answer."""
KINDS: Mapping[str, type[SqueezeExportError]] = {"unavailable": Unavailable, "refused": Refused, "bad": BadInput}

Explain = Callable[[int, str], SqueezeExportError]
"""Exit code, end of stderr -> why the program ended."""


class Link:
    """A running program. It does one request at a time; several threads may ask.

    Args:
        command: the program and its arguments.
        first: bytes to send before the first frame.
        explain: tells why the program ended.
        name: of the other end, for messages.
        limit_s: for the greeting.

    Attributes:
        process: the running program.
        greeting: the first frame that it sent.

    Raises:
        Unavailable: the program is not installed, or sent no greeting in time.
        SqueezeExportError: from `explain`, or reported by the other side.
    """

    def __init__(self, command: Sequence[str], first: bytes, *, explain: Explain, name: str, limit_s: float) -> None:
        self._explain, self._name, self._printed = explain, name, b""
        self._lock, self._late = threading.Lock(), False
        self._gone: SqueezeExportError | None = None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # ^C reaches only this process, which then closes the link properly
            )
        except OSError as err:
            raise Unavailable(f"`{command[0]}` cannot be started: {err.strerror}", hint=f"install {command[0]}") from err
        self._source, self._sink = cast("IO[bytes]", self.process.stdout), cast("IO[bytes]", self.process.stdin)
        self._drain = threading.Thread(target=self._keep_the_end, daemon=True)
        self._drain.start()
        try:
            with self._limited(limit_s):
                self._send(first)
                self._find_mark()
                self.greeting, _ = self._receive(0)
            _raise_error(self.greeting)
        except BaseException:
            self.close()
            raise

    def ask(
        self, request: Mapping[str, Any], blob: bytes = b"", *, limit_s: float, answer_bytes: int = 0, progress: Progress = silent
    ) -> tuple[Mapping[str, Any], bytes]:
        """Sends a request and waits for its answer.

        Args:
            request: what to do.
            blob: bytes that follow it.
            limit_s: for each frame that comes back.
            answer_bytes: the most bytes that may follow the answer.
            progress: called for each `progress` frame.

        Returns:
            The answer, and the bytes that follow it.

        Raises:
            Unavailable: the connection broke, or no answer came in time.
            Refused: the runner ended, or its answer cannot be read.
            SqueezeExportError: reported by the other side.
        """
        with self._lock:
            if self._gone is not None:
                raise self._gone
            try:
                answer, found = self._answered(request, blob, limit_s, answer_bytes, progress)
            except SqueezeExportError as err:
                self._gone = err  # the link cannot be used any more; later requests get the same error
                raise
        _raise_error(answer)
        return answer, found

    def _answered(
        self, request: Mapping[str, Any], blob: bytes, limit_s: float, answer_bytes: int, progress: Progress
    ) -> tuple[Mapping[str, Any], bytes]:
        if self.process.poll() is not None:
            raise self._end()
        with self._limited(limit_s):
            self._send(frame(dict(request), blob))
        for _ in range(MAX_PROGRESS_FRAMES):
            with self._limited(limit_s):
                answer, found = self._receive(answer_bytes)
            if "progress" not in answer:
                return answer, found
            with suppress(KeyError, TypeError, ValueError, OverflowError):
                progress("timing on the board", int(answer["progress"]), int(answer["total"]))
        self.process.kill()
        raise Refused("the board reports progress without end")

    def close(self) -> None:
        """Closes the program's stdin, which tells it to end, and waits up to `PATIENCE_S`. A second call does nothing."""
        timer = threading.Timer(PATIENCE_S, self.process.kill)
        timer.start()
        try:
            with suppress(OSError):
                self._sink.close()  # may wait until the rest is written
            self.process.wait()
        finally:
            timer.cancel()
        self._drain.join(PATIENCE_S)
        self._source.close()

    @contextmanager
    def _limited(self, limit_s: float) -> Iterator[None]:
        """Ends the program if the block takes longer, so that nothing waits for it forever."""

        def end() -> None:
            self._late = True
            self.process.kill()

        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, EOFError):
            failure = self._end(limit_s)
        else:
            return
        finally:
            timer.cancel()
        raise failure

    def _end(self, limit_s: float = 0) -> SqueezeExportError:
        """Why the program has ended."""
        if self._late:
            return Unavailable(f"{self._name} gave no answer within `{limit_s:g}` s", hint="is it overloaded, or the network down?")
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return Refused(f"{self._name} stopped answering")
        self._drain.join(PATIENCE_S)
        return self._explain(code, self._printed.decode("utf-8", "replace"))

    def _send(self, data: bytes) -> None:
        self._sink.write(data)
        self._sink.flush()

    def _read(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _find_mark(self) -> None:
        seen = b""
        while not seen.endswith(MARK):
            if len(seen) > MAX_NOISE_BYTES:
                self.process.kill()
                raise Refused(f"{self._name} prints too much before the runner starts", hint="quieten its login scripts")
            seen += self._read(1)

    def _receive(self, most: int) -> tuple[Mapping[str, Any], bytes]:
        sizes = struct.unpack(">II", self._read(8))
        if sizes[0] > MAX_JSON_BYTES or sizes[1] > most:
            self.process.kill()
            raise Refused(f"{self._name} sent `{sizes[0]}` and `{sizes[1]}` bytes, more than the answer can have")
        text, blob = self._read(sizes[0]), self._read(sizes[1])
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            self.process.kill()
            raise Refused(f"{self._name} sent an answer that cannot be read")
        return content, blob

    def _keep_the_end(self) -> None:
        stream = cast("IO[bytes]", self.process.stderr)
        with stream:
            while data := stream.read1(KEPT_BYTES):  # type: ignore[attr-defined]
                self._printed = (self._printed + data)[-KEPT_BYTES:]


def _raise_error(answer: Mapping[str, Any]) -> None:
    if "error" in answer:
        kind = KINDS.get(str(answer["error"]), Refused)
        hint = answer.get("hint")
        message = " ".join(str(answer.get("message", "")).split())[:600]
        raise kind(
            f"the board's runtime failed: {message}" if kind is Refused else message, hint=None if hint is None else str(hint)[:300]
        )
