"""What the sessions of all runtimes do alike: they check a batch, split it, fill up its last piece, and cut what was filled up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np

from squeeze_export.core import ByteArray, Clock, Evidence, FloatArray, Placement
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.files import reading

MAX_FREE_BATCH = 32
"""Images at once where a file leaves the batch free and memory grows with it: the speed no longer does."""
MAX_SAMPLE_NS = 3_600_000_000_000
"""Of what a clock elsewhere tells: no inference takes an hour."""


class BatchSession:
    """A session but for how its runtime runs one piece of a batch; see `core.Session` for the attributes.

    A runtime's own session sets `runtime`, `threads` and `kernels`, calls `__init__`, and gives `run_piece`. Where something is to
    be freed it gives `free` as well, and where the runtime tells where operators run, `placement`.

    Args:
        sides: (H, W, 3) of an image.
        least: images of the smallest inference: a smaller piece is filled up with black images.
        most: images of the largest inference; None takes a whole batch at once. Of a file of a fixed batch both are that.
    """

    runtime: str
    device: str = "cpu"
    threads: int
    kernels: str
    evidence: Evidence = "measured"
    facts: Mapping[str, Any] = MappingProxyType({})
    clock: Clock | None = None
    gives_logits: bool = True

    def __init__(self, sides: Sequence[int | str], *, least: int = 1, most: int | None = None) -> None:
        self.sides, self.least, self.most, self.closed = tuple(sides), least, most, False

    @cached_property
    def placement(self) -> Placement | None:
        """See `core.Session.placement`; None here."""
        return None

    def run_piece(self, images: ByteArray) -> FloatArray:
        """Runs as many images as the file takes at once.

        Args:
            images: (N, H, W, 3) uint8, RGB pixels, N from `least` to `most`.

        Returns:
            (N, classes) of a float dtype; it may be the runtime's own memory.

        Raises:
            Refused: the runtime failed.
        """
        raise NotImplementedError

    def free(self) -> None:
        """Frees what the runtime holds; called once."""

    def infer(self, batch: ByteArray) -> FloatArray:
        """See `core.Session.infer`: runs a batch in pieces of the size that the file takes."""
        if self.closed:
            raise ValueError("the session is closed")
        if batch.dtype != np.uint8 or batch.shape[1:] != self.sides or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the file takes uint8 {('N', *self.sides)}")
        size = max(self.least, len(batch) if self.most is None else min(self.most, len(batch)))
        pieces = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            count = len(piece)
            if count < self.least:
                piece = np.concatenate([piece, np.zeros((self.least - count, *piece.shape[1:]), np.uint8)])
            pieces.append(self.run_piece(piece)[:count].astype(np.float32))  # a copy, whatever its dtype
        return np.concatenate(pieces)

    def close(self) -> None:
        """Frees what the runtime holds. Calling it twice is allowed."""
        if not self.closed:
            self.closed = True
            self.free()


def check_threads(threads: int) -> None:
    """Refuses fewer threads than 1.

    Raises:
        BadInput: there are fewer.
    """
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")


def check_present(device: str, present: Sequence[str], runtime: str) -> None:
    """Refuses a device that is not there.

    Args:
        device: that was asked for.
        present: those of this machine.
        runtime: the registry's name, for the message.

    Raises:
        Unavailable: it is none of them.
    """
    if device not in present:
        raise Unavailable(f"`{runtime}` has no device `{device}`", hint=f"it runs on: {', '.join(present)}")


def read_file(path: Path) -> bytes:
    """A file that a session is to open.

    Raises:
        BadInput: it cannot be read.
    """
    with reading(path):
        return path.read_bytes()


def are_samples(told: Any, count: int) -> TypeGuard[list[int]]:
    """Whether what a clock elsewhere told is so many samples, in ns, that can be ones."""
    return isinstance(told, list) and len(told) == count and all(type(value) is int and 0 < value < MAX_SAMPLE_NS for value in told)
