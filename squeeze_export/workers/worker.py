"""Calls into a child process: JSON and plain arrays in, JSON and plain arrays out. Nothing is pickled.

Vendors' tools have heavy imports with global state, print a lot, write files beside themselves, and may crash. In their own process
none of that reaches the caller: each call has a time limit, the output is kept out of sight and bounded, and no file remains.
"""

from __future__ import annotations

import json
import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export import errors
from squeeze_export.errors import BadInput, Refused, SqueezeExportError
from squeeze_export.workers.process import PATIENCE_S, Process, isolated, one_line, our_python, private

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Answer: TypeAlias = tuple[Mapping[str, Any], dict[str, NDArray[Any]]]

MAX_ANSWER_BYTES = 16_000_000
MAX_FILE_BYTES = 500_000_000
_PIPE_CHARACTERS = 4096
"""What a pipe holds on every system before anybody reads it."""
_STEP_S = 0.2
_OUTPUT, _REQUEST = "output.txt", "request.json"
_KINDS: Mapping[str, type[SqueezeExportError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SqueezeExportError)
}
"""Name -> error. An error of ours is sent as its name, message and hint."""


class Failed(Refused):
    """The child raised an error that is not ours, or ended without an answer.

    Attributes:
        reason: one line: the error, or how the child ended and the last line of its output.
    """

    def __init__(self, tool: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{tool} failed: {reason}", hint=hint)
        self.reason = reason


class Late(Refused):
    """The child did not finish within its limit, and was ended."""


class Worker:
    """A child that waits for calls. Close it, or use it as a context manager.

    Args:
        code: the functions to call: a module's name, or a file.
        tool: its name in error messages.
        hint: of the error where it fails.
        python: the Python of a toolchain's environment; it gets none of our environment variables and no network. None is ours.
        keep_private: whether to keep the tool away from the user's files; see `process.private`.
        variables: more environment variables.
        cwd: the folder that it runs in; `folder` by default.

    Attributes:
        folder: a temporary folder for its files.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        code: str | Path,
        *,
        tool: str,
        hint: str | None = None,
        python: Path | None = None,
        keep_private: bool = False,
        variables: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._tool, self._hint, self._busy = tool, hint, False
        self._temporary = tempfile.TemporaryDirectory(prefix="squeeze-export-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name).resolve()
        home = self.folder / "home"
        arguments = [str(self.folder), str(code)]
        if python is None:
            command = our_python("squeeze_export.workers.serve", *arguments)
            environment = {**os.environ, "TMPDIR": str(home), **(private(home) if keep_private else {}), **(variables or {})}
        else:
            command = [str(python), "-I", str(Path(__file__).with_name("serve.py")), *arguments, "offline"]
            environment = isolated(home)
        try:
            home.mkdir()
            self._process = Process(command, cwd=cwd or self.folder, environment=environment, log=self.folder / _OUTPUT, pipes=True)
        except OSError:
            self._temporary.cleanup()
            raise
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._process.pid

    def ask(
        self,
        verb: str,
        values: Mapping[str, Any] | None = None,
        arrays: Arrays | None = None,
        *,
        limit_s: float | None = None,
    ) -> Answer:
        """Makes one call and waits for its answer.

        Args:
            verb: name of the function.
            values: anything that JSON can hold.
            arrays: name -> array; the names are identifiers.
            limit_s: the process is ended after this time; None waits without a limit.

        Returns:
            The function's values and arrays.

        Raises:
            SqueezeExportError: the function raised it.
            BadInput: the temporary folder has no space left.
            Failed: the function raised any other error, the process ended, or its answer cannot be read.
            Late: it took too long.
        """
        self.send(verb, values, arrays)
        return self.receive(limit_s=limit_s)

    def send(self, verb: str, values: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> None:
        """The first half of `ask`. Does not wait."""
        request = json.dumps({"verb": verb, "values": dict(values or {}), "arrays": sorted(arrays or {})})
        try:
            for name, array in (arrays or {}).items():
                file = self.folder / f"in-{name}.npy"
                file.unlink(missing_ok=True)  # the child may still have the last one mapped
                np.save(file, array, allow_pickle=False)
            if len(request) > _PIPE_CHARACTERS:
                (self.folder / _REQUEST).write_text(request, encoding="utf-8")
                request = _REQUEST
        except OSError as err:
            raise self._full() from err
        self._busy = True
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended; `receive` reports that
            self._process.stdin.write(f"{request}\n".encode())
            self._process.stdin.flush()

    def receive(self, *, limit_s: float | None = None) -> Answer:
        """The second half of `ask`."""
        try:
            line = self._line(math.inf if limit_s is None else limit_s)
        except TimeoutError:
            self._process.end()
            raise Late(f"{self._tool} did not finish within {limit_s:g} s", hint=self._hint) from None
        except BaseException:  # ^C: the next answer would still be this call's
            self._process.end()
            raise
        if not line.endswith(b"\n"):
            with suppress(TimeoutError):
                self._process.wait(PATIENCE_S)  # so that its own exit code is known
            self._process.end(patience_s=0)
            raise Failed(self._tool, self._process.last_words(), hint=self._hint)
        self._busy = False
        return self._answer(line)

    def read(self, name: str) -> bytes:
        """The content of a file that the worker wrote into its folder.

        Raises:
            Refused: there is no such plain file, or it is very large.
        """
        path = self.folder / name
        if path.parent != self.folder or path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"{self._tool} left no readable file `{name}`")
        return path.read_bytes()

    def printed(self) -> str:
        """The end of the worker's output since the last call began."""
        return self._process.printed()

    def close(self) -> None:
        """Ends the process and removes its folder. A second call does nothing."""
        self._process.end(patience_s=PATIENCE_S if self._busy else 0)  # an idle one has nothing to clean up
        self._reader.join(PATIENCE_S)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
        self._temporary.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_lines(self) -> None:
        """Puts every line into the queue, and an empty one when the stream ends."""
        assert self._process.stdout is not None
        line = b"\n"
        while line:
            line = self._process.stdout.readline(MAX_ANSWER_BYTES)
            self._lines.put(line)

    def _line(self, limit_s: float) -> bytes:
        """The next line; an empty one if the child has ended, even if a process that it started holds its stdout open.

        Raises:
            TimeoutError: no line came in time.
        """
        until = time.monotonic() + limit_s
        while True:
            gone = self._process.has_ended()  # before the queue is read, so that its last line is not lost
            with suppress(queue.Empty):
                return self._lines.get(timeout=max(0.0, min(_STEP_S, until - time.monotonic())))
            if gone:
                return b""
            if time.monotonic() >= until:
                raise TimeoutError

    def _answer(self, line: bytes) -> Answer:
        try:
            answer = json.loads(line)
            if "kind" in answer:
                raise _KINDS[answer["kind"]](str(answer["message"]), hint=answer["hint"])
            if "full" in answer:
                raise self._full()
            if "error" in answer:
                raise Failed(self._tool, one_line(str(answer["error"])), hint=self._hint)
            found = {name: self._array(name) for name in answer["arrays"]}
            values = answer["values"]
            if not isinstance(values, dict):
                raise TypeError("values")
        except (KeyError, TypeError, ValueError, RecursionError, EOFError, MemoryError, OSError) as err:
            raise Failed(self._tool, f"its answer cannot be read: {type(err).__name__} {err}", hint=self._hint) from err
        return values, found

    def _array(self, name: str) -> NDArray[Any]:
        if not name.isidentifier():
            raise ValueError(f"an array called {name!r}")
        self.read(f"out-{name}.npy")  # checks that it is a plain file of bounded size
        # Mapped first: a header that claims more than the file holds is refused before memory is allocated.
        array = np.load(self.folder / f"out-{name}.npy", mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise TypeError("an archive")
        return np.array(array)

    def _full(self) -> BadInput:
        return BadInput(f"{self._tool} needs more space than the temporary folder has", hint="set TMPDIR to one on another disk")


def call(
    function: Callable[[Any, Any], Any],
    values: Mapping[str, Any] | None = None,
    arrays: Arrays | None = None,
    *,
    limit_s: float | None = None,
    **options: Any,
) -> Answer:
    """Calls one function of a module in its own process; see `Worker.ask`.

    Args:
        function: (values, arrays) -> (values, arrays).
        values: for the function.
        arrays: likewise.
        limit_s: time limit.
        options: of the `Worker`.
    """
    with Worker(function.__module__, **options) as worker:
        return worker.ask(function.__name__, values, arrays, limit_s=limit_s)
