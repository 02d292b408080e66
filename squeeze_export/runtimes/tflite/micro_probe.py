"""Finds the smallest arena that a file runs in.

TFLite Micro was made for firmware: if an arena is too small or a file is damaged, it may follow a null pointer. So each attempt is
a forked process, and the caller runs the whole search in a process of its own.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

STEP_BYTES = 16
"""TFLite Micro's own alignment: only multiples make a difference."""
FIRST_BYTES = 1 << 20
MAX_REASON_CHARACTERS = 300
ATTEMPT_S = 120
"""An attempt ends by itself after this, even if the caller has given up the search."""


def smallest(fits: Callable[[int], bool], limit: int, guess: Callable[[], int] = lambda: 0) -> int | None:
    """The smallest multiple of `STEP_BYTES` that fits; None if not even `limit` does.

    Args:
        fits: whether a file runs in an arena of that many bytes; if it fits a small one, it fits a larger one.
        limit: bytes.
        guess: what the size may be; asked for as soon as some size fits. A good guess shortens the search, a bad one does no harm.
    """
    low, high = 0, min(FIRST_BYTES, limit)
    while not fits(high):
        if high >= limit:
            return None
        low, high = high, min(2 * high, limit)
    likely = -(-guess() // STEP_BYTES) * STEP_BYTES
    for size in (likely, likely - STEP_BYTES):
        if low < size < high:
            low, high = (low, size) if fits(size) else (size, high)
    while high - low > STEP_BYTES:
        middle = (low + high) // 2 // STEP_BYTES * STEP_BYTES
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def run_once(content: bytes, arena_bytes: int) -> None:
    """Opens a file and runs it once on zeros."""
    interpreter = _opened(content, arena_bytes)
    source: Any = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(source["shape"], source["dtype"]), 0)
    interpreter.invoke()
    interpreter.get_output(0)


def allocate(content: bytes, arena_bytes: int) -> None:
    """Opens a file, and prints what it takes of the arena."""
    _opened(content, arena_bytes).print_allocations()


def _opened(content: bytes, arena_bytes: int) -> Any:
    from tflite_micro import runtime

    return runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)


def survives(work: Callable[[], None], log: Path) -> bool:
    """Whether `work` succeeds in a forked process; `log` takes what it prints and raises."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    signal.alarm(ATTEMPT_S)  # ends native code too
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
        work()
        code = 0
    except BaseException as err:  # noqa: BLE001 - the process ends here, whatever it was
        os.write(2, f"{type(err).__name__}: {err}\n".encode())
    finally:
        os._exit(code)


def find_arena(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Searches for the arena.

    Args:
        values: `path` of the file, and `limit` in bytes.
        arrays: none.

    Returns:
        `arena_bytes`, or `reason`: why there is none.
    """
    import tflite_micro  # noqa: F401 - once here, not in every attempt

    content, log = Path(values["path"]).read_bytes(), Path("attempt.log").absolute()
    # Allocation alone decides the size; one inference then shows that nothing else is missing.
    found = smallest(
        lambda size: survives(lambda: allocate(content, size), log),
        values["limit"],
        lambda: max(map(int, re.findall(r"Arena allocation total (\d+) bytes", log.read_text("utf-8", "replace"))), default=0),
    )
    if found is not None and survives(lambda: run_once(content, found), log):
        return {"arena_bytes": found}, {}
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    reason = " ".join(lines) or f"no arena of up to {values['limit']} bytes is enough"
    return {"reason": reason[:MAX_REASON_CHARACTERS]}, {}
