"""Keeps what C++ libraries print away from the user, and keeps it for the error message."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import IO

MAX_KEPT_CHARACTERS = 400

_LOG_LEVELS = {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_minloglevel": "3", "ABSL_MIN_LOG_LEVEL": "3"}
_lock = threading.RLock()
_STDOUT, _STDERR = 1, 2


def one_line(err: object) -> str:
    """What a library raised, or its text, in one line."""
    return " ".join(str(err).split()) or type(err).__name__


def reason(err: BaseException, printed: Iterable[str] = ()) -> str:
    """One line that says why: what a library raised, then what it printed, shortened."""
    text = " ".join(map(one_line, (err, *printed)))
    return text if len(text) <= MAX_KEPT_CHARACTERS else f"{text[:MAX_KEPT_CHARACTERS]} ..."


def lower_log_levels() -> None:
    """Asks the libraries to print errors only. Has an effect before they are imported; the user's own setting stays."""
    for name, level in _LOG_LEVELS.items():
        os.environ.setdefault(name, level)


@contextmanager
def quiet(*, stdout: bool = False) -> Iterator[list[str]]:
    """Redirects stderr's file descriptor into a file while the block runs, on request stdout's as well.

    C++ writes to the descriptor itself, so replacing `sys.stderr` would not do. The descriptor belongs to the whole process:
    what other threads print meanwhile is kept out too, so the block must be short. One thread at a time is inside; it may nest.

    Yields:
        The lines that were printed, without blank ones; filled when the block is left.
    """
    printed: list[str] = []
    with _lock, tempfile.TemporaryFile() as file:
        try:
            with _redirected(_STDERR, file), _redirected(_STDOUT, file) if stdout else nullcontext():
                yield printed
        finally:
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
            printed.extend(line.strip() for line in text.splitlines() if line.strip())


@contextmanager
def _redirected(descriptor: int, file: IO[bytes]) -> Iterator[None]:
    try:
        saved = os.dup(descriptor)
    except OSError:  # a process without it: nothing to keep clean
        yield
        return
    _flush(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        _flush(descriptor)
        os.dup2(saved, descriptor)
        os.close(saved)


def _flush(descriptor: int) -> None:
    stream = sys.stdout if descriptor == _STDOUT else sys.stderr
    if stream is not None:
        stream.flush()
    if descriptor == _STDOUT:
        ctypes.CDLL(None).fflush(None)  # what C still holds would come out later
