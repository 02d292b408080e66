"""Apple's own runtime for Core AI, as `coreai-core` brings it: on Linux an interpreter, whose rows are *emulated* and never timed.

A session has a child process to itself, because a damaged program ends the process that runs it. The program is compared with
its hash first.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Placement
from squeeze_export.errors import NotInstalled, Refused
from squeeze_export.formats.coreai import GROUPS, read
from squeeze_export.formats.coreai.asset import HASH, METADATA, PROGRAM, StoredAsset, read_asset
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.coreai import interpreter
from squeeze_export.runtimes.session import BatchSession, check_present, check_threads
from squeeze_export.runtimes.written_placement import written_placement
from squeeze_export.workers.worker import Failed, Worker

NAME = "coreai"
DEVICES = ("cpu",)
MAX_OPEN_BATCH = 8
"""Images at once if the file leaves their number free."""
OPEN_LIMIT_S = 300.0
IMAGE_LIMIT_S = 300.0

_FUNCTION = "main"
_TOOL = "Core AI's runtime"
_BORDERS = ("quantize", "dequantize")
_STEPS_KEY = "steps"


def devices() -> tuple[str, ...]:
    """The CPU, which runs the interpreter; see `Runtime.devices`."""
    if find_spec("coreai") is None:
        raise NotInstalled(
            "`coreai-core` is not installed", hint=f"pip install 'squeeze-export[{interpreter.EXTRA}]', with Python 3.11 or later"
        )
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> InterpreterSession:
    """Opens an asset, and runs it once on black images, so that what cannot be run is refused now; see `Runtime.open_session`. The
    interpreter has one thread.
    """
    check_present(device, devices(), f"`{NAME}`")
    check_threads(threads)
    asset = _asset(artifact)
    worker = _interpreter()
    try:
        session = InterpreterSession(worker, artifact, asset)
        session.infer(session.black_images())
        return session
    except Failed as err:
        worker.close()
        raise Refused(f"Core AI's runtime cannot run `{artifact.path}`: {err.reason}", hint="export it again") from err
    except BaseException:
        worker.close()
        raise


_idle: list[Worker] = []
"""At most one process that has nothing open: starting one takes longer than opening an asset in it."""


def _interpreter() -> Worker:
    return _idle.pop() if _idle else Worker(interpreter.__name__, tool=_TOOL, keep_private=True)


@atexit.register
def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """See `Runtime.inner_values`. The program is given further outputs, and run by the same interpreter."""
    asset = _asset(artifact)
    steps = _steps(asset, artifact)
    batch = artifact.input.shape[0]
    images = np.zeros((batch if isinstance(batch, int) else 1, *pixels.shape[1:]), artifact.input.dtype)
    images[0] = pixels[0]
    with Worker(interpreter.__name__, tool=_TOOL, keep_private=True) as worker:
        told = {"path": str(_put(asset, worker)), "function": _FUNCTION, "input": artifact.input.name, "names": list(names)}
        _, arrays = worker.ask("inner", told, {"pixels": images}, limit_s=OPEN_LIMIT_S)
    found = {}
    for index, name in enumerate(names):
        value = np.moveaxis(arrays[f"value_{index}"][:1], 1, -1)
        if value.dtype == np.uint8:
            scale, zero_point = steps[name]
            found[name] = (value.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
        else:
            found[name] = value.astype(np.float32)
    return found


def _asset(artifact: Artifact) -> StoredAsset:
    try:
        return read_asset(artifact.path)
    except ValueError as err:
        raise Refused(f"`{artifact.path}` is no Core AI asset that can be read: {err}", hint="export it again") from err


def _steps(asset: StoredAsset, artifact: Artifact) -> dict[str, tuple[float, int]]:
    """Tensor's name -> scale and zero point, from the metadata."""
    try:
        told = json.loads(asset.metadata.get(_STEPS_KEY, ""))
        return {str(name): (float(scale), int(zero_point)) for name, (scale, zero_point) in told.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as err:
        raise Refused(f"`{artifact.path}` does not tell its tensors' scales", hint="export it again") from err


def _put(asset: StoredAsset, worker: Worker) -> Path:
    """A copy in the worker's folder, so that what is run is what was compared with its hash."""
    folder = worker.folder / "network.aimodel"
    folder.mkdir(exist_ok=True)
    for name, data in ((PROGRAM, asset.program), (HASH, asset.digest), (METADATA, b'{"assetVersion": "2.0"}')):
        (folder / name).write_bytes(data)
    return folder


class InterpreterSession(BatchSession):
    """An asset that is open in the interpreter's process."""

    runtime = NAME
    kernels = "Core AI interpreter"
    evidence: Evidence = "emulated"
    threads = 1

    def __init__(self, worker: Worker, artifact: Artifact, asset: StoredAsset) -> None:
        batch = artifact.input.shape[0]
        fixed = batch if isinstance(batch, int) else 0
        super().__init__(artifact.input.shape[1:], least=fixed or 1, most=fixed or MAX_OPEN_BATCH)
        self._worker, self._artifact, self._classes = worker, artifact, artifact.output.shape[-1]
        self._sound = False
        names = {"function": _FUNCTION, "input": artifact.input.name, "output": artifact.output.name}
        worker.ask("open_asset", {"path": str(_put(asset, worker)), **names}, limit_s=OPEN_LIMIT_S)

    @cached_property
    def placement(self) -> Placement:
        """See `core.Session.placement`: read from the file."""
        contents, floats = read(self._artifact.path), scheme_named(self._artifact.scheme).floats
        return written_placement(contents, GROUPS, floats, convolution="conv2d", borders=_BORDERS, what="the file")

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        pixels = images.astype(self._artifact.input.dtype, copy=False)
        self._sound = False  # until it has answered
        _, arrays = self._worker.ask("infer", {}, {"pixels": pixels}, limit_s=IMAGE_LIMIT_S * len(images))
        self._sound = True
        logits = arrays.get("logits")
        if logits is None or logits.dtype != np.float32 or logits.shape != (len(images), self._classes):
            raise Refused(f"Core AI's runtime gave no `{len(images)}` rows of `{self._classes}` numbers")
        return logits

    def free(self) -> None:
        """Keeps the process for the next session, or ends it."""
        if self._sound and not _idle:
            _idle.append(self._worker)
        else:
            self._worker.close()
