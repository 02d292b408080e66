"""A child process: started, limited in time, asked for its last output, and ended together with all that it started."""

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
"""How long a process may take to end after ^C."""
_STEP_S = 0.01
_NOWHERE = "http://127.0.0.1:9"
"""A proxy that does not exist, which stops tools that look for a network."""
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


def our_python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as `python -m` does, with this interpreter and this process's search path: the child finds
    the same packages, and none in the current folder.
    """
    path = [entry or os.getcwd() for entry in sys.path]
    code = f"import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-W", "ignore", "-c", code, *arguments]


def private(home: Path) -> dict[str, str]:
    """Environment variables that keep a vendor's tool quiet, repeatable, and away from the user's files."""
    return {
        **dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR"), str(home)),
        "PYTHONUSERBASE": site.getuserbase(),  # the user's own packages are still found when HOME moves
        "PYTHONHASHSEED": "0",  # ONNX Runtime iterates over sets of names
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "DO_NOT_TRACK": "1",
        "NNCF_CI": "1",  # NNCF's own switch: no telemetry
    }


def isolated(home: Path) -> dict[str, str]:
    """All environment variables for another Python: none that leads to the caller's packages or files, or to a network."""
    own = {**os.environ, **private(home)}
    kept = {name: value for name, value in own.items() if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"}
    return {**kept, **dict.fromkeys(_PROXIES, _NOWHERE), "NO_PROXY": "", "no_proxy": "", "HF_HUB_OFFLINE": "1"}


class Process:
    """A child in its own session, so that ^C in a terminal reaches only us; `end` passes on one. Also a context manager.

    Args:
        command: program and arguments.
        cwd: the folder that it runs in.
        environment: all of its environment variables; None copies this process's.
        log: the file that receives its output.
        pipes: whether stdin and stdout are pipes to us.

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
        """Whether it has ended. It is not reaped, so that `end` still reaches what it started."""
        if self._child.returncode is not None or not hasattr(os, "waitid"):  # Windows has none, nor macOS before Python 3.13
            return self._child.poll() is not None
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, limit_s: float) -> int:
        """Waits until it ends; gives its exit code, or minus the signal's number.

        Raises:
            TimeoutError: it takes longer; it goes on.
        """
        until = time.monotonic() + limit_s
        while not self.has_ended():
            if time.monotonic() >= until:
                raise TimeoutError
            time.sleep(_STEP_S)
        self.end()
        return self._child.returncode

    def end(self, patience_s: float = PATIENCE_S) -> None:
        """Ends it as ^C would, so that it can clean up; after `patience_s`, kills it and all that it started."""
        if self._child.returncode is None:  # not reaped, so its number still belongs to it
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
        """The end of its output."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - max_bytes))
            return file.read(max_bytes).decode("utf-8", "replace")

    def last_words(self) -> str:
        """How it ended and the last line of its output, as one line. Only for a process that has ended."""
        code = self._child.returncode
        names = {-number.value: number.name for number in signal.Signals}
        ended = f"ended by {names.get(code, f'signal {-code}')}" if code < 0 else f"exit code {code}"
        lines = [line for line in self.printed().splitlines() if line.strip()]
        return one_line(f"{ended}, {lines[-1]}" if lines else ended)


def one_line(text: str) -> str:
    """A tool's output as part of a message: one line, shortened, without backticks."""
    joined = " ".join(text.split()).replace("`", "'")
    return joined if len(joined) <= MAX_REASON_CHARACTERS else f"{joined[:MAX_REASON_CHARACTERS]} ..."
