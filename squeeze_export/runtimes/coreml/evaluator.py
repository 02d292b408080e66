"""The Core ML evaluator: runs an `.mlpackage` in numpy, on any machine. Its figures are *emulated*, never a device's.

Core ML itself runs on Apple's systems only. This reads nothing but the saved package (manifest, model file, `weight.bin`), shares
no code with what wrote it, and computes what the operators' documentation says: it proves what is in the file. How fast a device
is, and how it rounds in between, it cannot know.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.formats.coreml.package import Package, read_package
from squeeze_export.formats.coreml.values import Array
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.coreml.arguments import HINT
from squeeze_export.runtimes.coreml.placement import read_placement
from squeeze_export.runtimes.coreml.plan import Plan

NAME = "coreml-evaluator"
DEVICES = ("cpu",)
MAX_OPEN_BATCH = 8
"""Images at once where the package leaves their number open: more would not be faster."""


def devices() -> tuple[str, ...]:
    """Where the evaluator runs: it needs numpy and nothing else."""
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> EvaluatorSession:
    """Opens a package, and runs it once on black images: what cannot be computed is refused now, not in the middle of a job.

    Args:
        artifact: of the target `coreml`.
        device: must be `cpu`.
        threads: of numpy's matrix products, at least 1.

    Raises:
        BadInput: `threads` is below 1, or the package cannot be read.
        Unavailable: another device.
        Refused: it is no package of one image classifier, it is damaged, or has an operator that the evaluator does not know.
    """
    check_device(device)
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    return EvaluatorSession(read_package(artifact.path), artifact, threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    if device not in DEVICES:
        raise Unavailable(f"the Core ML evaluator has no device `{device}`", hint=f"it runs on: {', '.join(DEVICES)}")


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """What the named nodes of a package make of one image, computed as a session does.

    Args:
        artifact: of the target `coreml`.
        names: of nodes of the graph that was written; in the package, `a/b` is called `a_b`.
        pixels: (1, H, W, 3) uint8.

    Returns:
        Name -> (1, H, W, C) float32, real values.

    Raises:
        Refused: the package has no such tensor of floats, or cannot be opened.
    """
    session = open_session(artifact, device=DEVICES[0], threads=1)
    inner = {name: re.sub(r"\W", "_", name, flags=re.ASCII) for name in names}
    missing = [name for name, tensor in inner.items() if tensor not in session.plan]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor for `{missing[0]}`", hint="export the file again")
    found = session.evaluate(session.filled(pixels), list(inner.values()))
    for name, tensor in inner.items():
        if found[tensor].ndim != 4 or found[tensor].dtype.kind != "f":
            text = f"{found[tensor].dtype}{list(found[tensor].shape)}"
            raise Refused(f"`{name}` is {text} in `{artifact.path}`, not floats of (1, C, H, W)", hint="export the file again")
    return {name: np.ascontiguousarray(found[tensor][:1].transpose(0, 2, 3, 1), np.float32) for name, tensor in inner.items()}


class EvaluatorSession:
    """A package opened in the evaluator; satisfies `core.Session`. May be used by several threads at once.

    Attributes:
        runtime: `coreml-evaluator`.
        evidence: `emulated`.
        device: `cpu`.
        threads: of numpy's matrix products.
        kernels: `numpy`.
        placement: read from the package; nothing was placed on a device.

    Raises:
        Refused: the program cannot be run, or does not give one row of numbers an image.
    """

    runtime = NAME
    evidence: Evidence = "emulated"
    facts: Mapping[str, Any] = MappingProxyType({})
    clock = None
    gives_logits = True
    device = DEVICES[0]
    kernels = "numpy"

    def __init__(self, package: Package, artifact: Artifact, threads: int) -> None:
        self._package, self._path, self.threads = package, artifact.path, threads
        self._plan: Plan | None = Plan(package.program, package.result)
        self.placement = read_placement(package.program, self.plan.operations, scheme_named(artifact.scheme).floats)
        self.evaluate(np.zeros((package.input.least, package.input.height, package.input.width, 3), np.uint8))

    @property
    def plan(self) -> Plan:
        """What is run.

        Raises:
            ValueError: the session is closed.
        """
        if self._plan is None:
            raise ValueError("the session is closed")
        return self._plan

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch in pieces that the package takes: images one by one; the last piece is filled up with black ones.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels, N at least 1.

        Returns:
            (N, classes) float32, a fresh array.

        Raises:
            ValueError: a batch of another shape or dtype, or the session is closed.
            Refused: the result is not finite.
        """
        taken = self._package.input
        expected = (taken.height, taken.width, 3)
        if batch.dtype != np.uint8 or batch.shape[1:] != expected or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the package takes uint8 {('N', *expected)}")
        size = max(taken.least, min(taken.most, len(batch), MAX_OPEN_BATCH))
        rows: list[FloatArray] = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            rows.append(self.evaluate(self.filled(piece))[self._package.result].astype(np.float32)[: len(piece)])
        result = np.concatenate(rows)
        if not np.isfinite(result).all():
            raise Refused(f"`{self._path}` gives what is no finite number", hint="export it again")
        return result

    def filled(self, pixels: ByteArray) -> ByteArray:
        """Images (N, H, W, 3) uint8, with black ones behind them until there are as many as the package takes."""
        missing = self._package.input.least - len(pixels)
        return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)]) if missing > 0 else pixels

    def evaluate(self, pixels: ByteArray, keep: Sequence[str] = ()) -> Mapping[str, Array]:
        """Runs one piece.

        Args:
            pixels: (N, H, W, 3) uint8, as many images as the package takes at once.
            keep: names of inner tensors to give as well, as the package calls them.

        Returns:
            Name -> tensor, of the result and of `keep`.

        Raises:
            Refused: the program does not fit its own types, or gives no row of numbers an image.
        """
        taken, dtype = self._package.input, self._package.program.input_type.element.numpy
        source: Array = pixels
        if taken.image:  # Core ML hands an image to the program as planes of 0 to 255
            source = (pixels[..., ::-1] if taken.bgr else pixels).transpose(0, 3, 1, 2)
        try:
            with _blas(self.threads):
                found = self.plan.run(np.ascontiguousarray(source, dtype), keep)
        except MemoryError as err:
            raise Refused(f"the input of `{self._path}` does not fit into memory", hint=HINT) from err
        result = found[self._package.result]
        if result.ndim != 2 or len(result) != len(pixels) or result.dtype.kind != "f":
            raise Refused(f"`{self._path}` gives {result.dtype}{list(result.shape)}, not one row of numbers an image", hint=HINT)
        return found

    def close(self) -> None:
        """Frees the constants. Calling it twice is allowed."""
        self._plan = None


_lock = threading.Lock()
_running: list[Any] = []


@contextmanager
def _blas(threads: int) -> Iterator[None]:
    """While open, numpy's matrix products use so many threads.

    The number belongs to the whole process, so of sessions that run side by side the first one's counts, and the last one to end
    restores what was before.
    """
    from threadpoolctl import ThreadpoolController

    with _lock:
        _running.append(_running[-1] if _running else ThreadpoolController().limit(limits=threads, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            limiter = _running.pop()
            if not _running:
                limiter.restore_original_limits()
