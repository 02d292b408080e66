"""Keeps what C++ libraries print from reaching the user's stderr, and keeps it for the error message."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MAX_KEPT_CHARACTERS = 400

_LOG_LEVELS = {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_minloglevel": "3", "ABSL_MIN_LOG_LEVEL": "3"}
_lock = threading.RLock()
_STDERR = 2


@dataclass
class Captured:
    """What was printed; complete once the `with` block is left.

    Attributes:
        lines: without blank ones.
    """

    lines: list[str] = field(default_factory=list)

    def reason(self, err: BaseException) -> str:
        """One line that says why: the exception, then what the library printed, shortened.

        Args:
            err: what the library raised.
        """
        parts = " ".join(" ".join([str(err) or type(err).__name__, *self.lines]).split())
        return parts if len(parts) <= MAX_KEPT_CHARACTERS else f"{parts[:MAX_KEPT_CHARACTERS]} ..."


def lower_log_levels() -> None:
    """Asks the libraries to print errors only. Has an effect before they are imported; the user's own setting stays."""
    for name, level in _LOG_LEVELS.items():
        os.environ.setdefault(name, level)


@contextmanager
def quiet() -> Iterator[Captured]:
    """Redirects file descriptor 2 into a file while the block runs.

    C++ writes to the descriptor itself, so replacing `sys.stderr` would not do. The descriptor belongs to the whole process:
    what other threads print meanwhile is kept out too, so the block must be short. One thread at a time is inside; it may nest.
    """
    captured = Captured()
    with _lock, tempfile.TemporaryFile() as file:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # a process without stderr: nothing to keep clean
            yield captured
            return
        _flush()
        os.dup2(file.fileno(), _STDERR)
        try:
            yield captured
        finally:
            _flush()
            os.dup2(saved, _STDERR)
            os.close(saved)
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
            captured.lines.extend(line.strip() for line in text.splitlines() if line.strip())


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
