"""A child process: how it is started, how long it may take, what it said last, and how it is ended with all that it started."""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

MAX_PRINTED_BYTES = 64_000
MAX_REASON_CHARACTERS = 400
PATIENCE_S = 5.0
"""How long a process may take to end by itself."""
_STEP_S = 0.01
_NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none, for what looks for a network by itself."""
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


def our_python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as `python -m` does: with this interpreter and with this process's search path, so that the
    child finds the packages where this process does, and not in whatever folder the user stands in."""
    path = [entry or os.getcwd() for entry in sys.path]
    code = f"import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-W", "ignore", "-c", code, *arguments]


def private(home: Path) -> dict[str, str]:
    """Variables that keep a vendor's tool quiet, repeatable, and away from the user's files."""
    return {
        **dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR"), str(home)),
        "PYTHONUSERBASE": site.getuserbase(),  # packages of the user's own stay where they are when HOME moves
        "PYTHONHASHSEED": "0",  # ONNX Runtime walks through sets of names
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "DO_NOT_TRACK": "1",
        "NNCF_CI": "1",  # NNCF's own switch: no telemetry
    }


def isolated(home: Path) -> dict[str, str]:
    """The whole environment of another Python: without what would lead it to the caller's packages or files, or to a network."""
    own = {**os.environ, **private(home)}
    kept = {name: value for name, value in own.items() if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"}
    return {**kept, **dict.fromkeys(_PROXIES, _NOWHERE), "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1"}


class Process:
    """A child in a session of its own: a terminal's ^C is ours, and `end` passes on one, not a second. Also a context manager.

    Args:
        command: program and arguments.
        cwd: where it runs.
        environment: all of its variables; None for this process's own.
        log: a file that takes what it prints.
        pipes: whether its stdin and stdout are ours to talk through.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None, log: Path, pipes: bool = False
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                list(command),
                cwd=cwd,
                env=environment,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                start_new_session=True,
            )
        self.stdin, self.stdout, self.pid = self._child.stdin, self._child.stdout, self._child.pid

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def has_ended(self) -> bool:
        """Whether it has; it is not waited for, so that `end` still reaches what it started."""
        if self._child.returncode is not None or not hasattr(os, "waitid"):  # Windows has none, nor macOS before Python 3.13
            return self._child.poll() is not None
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, limit_s: float) -> int:
        """Until it has ended by itself; gives its exit code, below 0 for a signal.

        Raises:
            TimeoutError: it takes longer than that. It is not ended.
        """
        until = time.monotonic() + limit_s
        while not self.has_ended():
            if time.monotonic() >= until:
                raise TimeoutError
            time.sleep(_STEP_S)
        self.end()
        return self._child.returncode

    def end(self, patience_s: float = PATIENCE_S) -> None:
        """Ends it as ^C would, so that it removes what it has begun; then, by force, it and what it started. Waits for it."""
        if self._child.returncode is None:  # nobody waited for it, so its number is nobody else's
            if patience_s and not self.has_ended():
                with suppress(OSError):
                    os.kill(self.pid, signal.SIGINT if os.name == "posix" else signal.SIGTERM)
                until = time.monotonic() + patience_s
                while not self.has_ended() and time.monotonic() < until:
                    time.sleep(_STEP_S)
            with suppress(OSError):
                if sys.platform == "win32":
                    self._child.kill()
                else:
                    os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()
        if self.stdin is not None:
            with suppress(OSError):
                self.stdin.close()

    def printed(self, max_bytes: int = MAX_PRINTED_BYTES) -> str:
        """The end of what it printed."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - max_bytes))
            return file.read(max_bytes).decode("utf-8", "replace")

    def last_words(self) -> str:
        """How it ended, and the last line that it printed, in one line; to be asked once it has ended."""
        code = self._child.returncode
        names = {-number.value: number.name for number in signal.Signals}
        ended = f"ended by {names.get(code, f'signal {-code}')}" if code < 0 else f"exit code {code}"
        lines = [line for line in self.printed().splitlines() if line.strip()]
        return one_line(f"{ended}, {lines[-1]}" if lines else ended)


def one_line(text: str) -> str:
    """What a tool says, as a part of a message: shortened, and without the marks that stand around values."""
    joined = " ".join(text.split()).replace("`", "'")
    return joined if len(joined) <= MAX_REASON_CHARACTERS else f"{joined[:MAX_REASON_CHARACTERS]} ..."
