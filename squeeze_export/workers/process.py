"""A toolchain's own process: JSON and plain arrays in, JSON and plain arrays out, through files in a temporary folder.

Every wait has a limit, what is printed is kept out of sight and bounded, nothing is pickled, and the process has no network.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import Refused, Unavailable

MAX_ANSWER_BYTES = 16_000_000
MAX_FILE_BYTES = 500_000_000
MAX_PRINTED_BYTES = 64_000
MAX_LINE_CHARACTERS = 300
PATIENCE_S = 5
STEP_S = 0.2
_SERVE = Path(__file__).with_name("serve.py")
_OUTPUT = "output.txt"
_NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none, for what looks for a network by itself."""


class Worker:
    """A worker that waits for calls. To be closed; also a context manager.

    Args:
        python: the interpreter of the toolchain's environment.
        script: the worker.
        tool: what error messages call it.

    Attributes:
        folder: where the worker runs; its own files lie there.

    Raises:
        Unavailable: the interpreter cannot be started.
    """

    def __init__(self, python: Path, script: Path, *, tool: str) -> None:
        self._tool = tool
        self._temporary = tempfile.TemporaryDirectory(prefix="squeeze-export-toolchain-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name).resolve()
        (self.folder / "home").mkdir()
        try:
            with (self.folder / _OUTPUT).open("ab") as output:
                self._process = subprocess.Popen(
                    [str(python), "-I", str(_SERVE), str(script)],
                    cwd=self.folder,
                    env=isolated(self.folder / "home"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as err:
            self._temporary.cleanup()
            hint = "squeeze-export toolchain remove, then install it again"
            raise Unavailable(f"the Python of `{tool}` cannot be started: {err.strerror or err}", hint=hint) from err
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()

    def ask(
        self,
        verb: str,
        values: Mapping[str, Any] | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        *,
        limit_s: float,
    ) -> tuple[Mapping[str, Any], dict[str, NDArray[Any]]]:
        """One call, and its answer.

        Args:
            verb: that the worker knows.
            values: anything that JSON holds.
            arrays: by names that are identifiers.
            limit_s: after that long the process is ended.

        Raises:
            Refused: the worker raised, ended, took too long, or answered what cannot be read.
        """
        for name, array in (arrays or {}).items():
            np.save(self.folder / f"in-{name}.npy", array, allow_pickle=False)
        request = {"verb": verb, "values": dict(values or {}), "arrays": sorted(arrays or {})}
        (self.folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
            line = self._line(limit_s)
        except TimeoutError:
            end(self._process)
            raise Refused(f"{self._tool} did not finish within {limit_s:g} s, and was ended") from None
        except OSError:
            line = b""
        except BaseException:  # ^C: the call is not over, so the next answer would be this one's
            end(self._process)
            raise
        if line != b"done\n":
            self._fail_ended()
        return self._answer()

    def read(self, name: str) -> bytes:
        """A file that the worker wrote into its folder.

        Raises:
            Refused: there is none, or no plain one, or a very large one.
        """
        path = self.folder / name
        if path.parent != self.folder or path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"{self._tool} left no readable file `{name}`")
        return path.read_bytes()

    def printed(self) -> list[str]:
        """The last lines that the worker printed since it was asked last, without blank ones."""
        return last_lines(self.folder / _OUTPUT)

    def close(self) -> None:
        """Ends the process and removes its folder. A second call does nothing."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()  # the worker ends by itself
        _await_end(self._process)
        end(self._process)
        self._reader.join(PATIENCE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._temporary.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, limit_s: float) -> bytes:
        """What it says next; an empty line where it has ended, even if what it started holds its stdout open.

        Raises:
            TimeoutError: it said nothing for that long.
        """
        until = time.monotonic() + limit_s
        while True:
            gone = _has_ended(self._process)  # asked first: what it said before it ended is still read
            with suppress(queue.Empty):
                return self._lines.get(timeout=max(0.0, min(STEP_S, until - time.monotonic())))
            if gone:
                return b""
            if time.monotonic() >= until:
                raise TimeoutError

    def _answer(self) -> tuple[Mapping[str, Any], dict[str, NDArray[Any]]]:
        try:
            text = self.read("answer.json")
            if len(text) > MAX_ANSWER_BYTES:
                raise ValueError(f"{len(text)} bytes")
            answer = json.loads(text)
            if "error" in answer:
                raise Refused(f"{self._tool} failed: {_shortened(str(answer['error']))}")
            names = [str(name) for name in answer["arrays"]]
            found = {name: self._array(name) for name in names}
            values = answer["values"]
            if not isinstance(values, dict):
                raise TypeError("values")
        except (KeyError, TypeError, ValueError, RecursionError, EOFError, MemoryError, OSError) as err:
            raise Refused(f"{self._tool} gave an answer that cannot be read: {type(err).__name__} {err}") from err
        return values, found

    def _array(self, name: str) -> NDArray[Any]:
        if not name.isidentifier():
            raise ValueError(f"an array called {name!r}")
        self.read(f"out-{name}.npy")  # a plain file of a bounded size
        # Mapped first: a header that claims more than the file holds is refused before anything is allocated.
        array = np.load(self.folder / f"out-{name}.npy", mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise TypeError("an archive")
        return np.array(array)

    def _fail_ended(self) -> NoReturn:
        _await_end(self._process)  # its own exit code, where it comes to one
        end(self._process)
        code, lines = self._process.returncode, self.printed()
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        last = f": {_shortened(lines[-1])}" if lines else ""
        raise Refused(f"the process of {self._tool} ended {ended}{last}")


def run_quietly(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], limit_s: float) -> tuple[int, list[str]]:
    """Runs a command to its end, and ends it, with all that it started, where the caller does not wait for it.

    Returns:
        Its exit code, and the last lines that it printed.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit_s`.
        OSError: it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="squeeze-export-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / _OUTPUT
        with path.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            code = process.wait(limit_s)
        finally:
            end(process)
        return code, last_lines(path)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process of ours and what it started, and waits for it. It has a session of its own, where there are sessions."""
    if process.returncode is None:  # nobody waited for it, so its number is nobody else's; what it started may outlive it
        with suppress(OSError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has; it is not waited for, so that `end` still reaches what it started."""
    if process.returncode is not None or not hasattr(os, "waitid"):  # Windows has none, nor macOS before Python 3.13
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Until it has ended, or patience has."""
    until = time.monotonic() + PATIENCE_S
    while not _has_ended(process) and time.monotonic() < until:
        time.sleep(0.01)


def isolated(home: Path) -> dict[str, str]:
    """The caller's environment without what would lead another Python to the caller's packages or files, or out of the machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"}
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), _NOWHERE)
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    return {
        **kept,
        **offline,
        **quiet,
        "HOME": str(home),
        "USERPROFILE": str(home),
        "TMPDIR": str(home),
        "NO_PROXY": "",
        "no_proxy": "",
    }


def last_lines(path: Path) -> list[str]:
    """The end of what was printed into a file, without blank lines."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_PRINTED_BYTES))
        text = file.read(MAX_PRINTED_BYTES).decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Until the stream ends, which is told as an empty line."""
    while True:
        line = stream.readline(16)
        lines.put(line)
        if not line:
            return


def _shortened(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= MAX_LINE_CHARACTERS else f"{joined[:MAX_LINE_CHARACTERS]} ..."
