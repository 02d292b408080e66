"""What the sessions of all runtimes share: they check a batch, split it, pad its last piece, and cut off the padding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import numpy as np

from squeeze_export.core import ByteArray, Clock, Evidence, FloatArray, Placement
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.files import reading

MAX_FREE_BATCH = 32
"""Images at once if a file leaves the batch free: more take more memory and are no faster."""
MAX_SAMPLE_NS = 3_600_000_000_000
"""No inference takes an hour: a longer sample of a remote clock is refused."""


class BatchSession:
    """A `core.Session`, except for how the runtime runs one piece of a batch.

    A runtime's own session sets `runtime`, `threads` and `kernels`, calls `__init__`, and implements `run_piece`. It also
    implements `free` if it holds memory, and `placement` if the runtime tells where operators run.

    Args:
        sides: (H, W, 3) of an image.
        least: images of the smallest inference: a smaller piece is padded with black images.
        most: images of the largest inference; None takes a whole batch at once. For a file with a fixed batch, both are that batch.
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
            (N, classes) of any float dtype; it may be the runtime's own memory.

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

    def black_images(self) -> ByteArray:
        """The smallest batch that the file takes, all black: (least, H, W, 3) uint8."""
        return np.zeros((self.least, *map(int, self.sides)), np.uint8)

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


def check_present(device: str, present: Collection[str], runtime: str, needed: str = "") -> None:
    """Refuses a device that this machine does not have.

    Args:
        device: the one asked for.
        present: those of this machine.
        runtime: what the message calls the runtime.
        needed: what the device needs, if that is known.

    Raises:
        Unavailable: this machine does not have it.
    """
    if device not in present:
        has = f"it has: {', '.join(present)}" if present else ""
        raise Unavailable(f"{runtime} has no device `{device}` here", hint="; ".join(filter(None, (needed, has))))


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        BadInput: it cannot be read.
    """
    with reading(path):
        return path.read_bytes()


def are_samples(told: Any, count: int) -> TypeGuard[list[int]]:
    """Whether a remote clock gave `count` plausible samples in ns."""
    return isinstance(told, list) and len(told) == count and all(type(value) is int and 0 < value < MAX_SAMPLE_NS for value in told)
