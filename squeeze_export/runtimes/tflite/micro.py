"""TFLite Micro: the interpreter and the portable kernels of microcontrollers, run here.

They are the model that a chip's own kernels follow. How long those take they do not tell, so the figures are *emulated* and never
timed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import squeeze_export
from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, Placement, require
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.quiet import quiet
from squeeze_export.runtimes.tflite.interpreter import pixels_as, takes_pixels
from squeeze_export.runtimes.tflite.micro_file import FileRecords, read_file
from squeeze_export.runtimes.tflite.placement import read_records

NAME = "tflite-micro"
DEVICES = ("cpu",)
MAX_ARENA_BYTES = 1 << 28
PROBE_S = 120
_OUTPUTS = ("int8", "float32")


def devices() -> tuple[str, ...]:
    """Where TFLite Micro runs: its wheel holds the portable kernels, for any CPU.

    Raises:
        Unavailable: `tflite-micro` is not installed.
    """
    _micro()
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> MicroSession:
    """Opens a TFLite file in the smallest arena that it runs in.

    Args:
        artifact: of the target `tflite`.
        device: must be `cpu`.
        threads: at least 1; TFLite Micro has one.

    Raises:
        BadInput: `threads` is below 1, or the file cannot be read.
        Unavailable: another device, or `tflite-micro` is not installed.
        Refused: TFLite Micro cannot run the file, or it is no image classifier.
    """
    check_device(device)
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    try:
        content = artifact.path.read_bytes()
    except OSError as err:
        raise BadInput(f"`{artifact.path}` cannot be read: {err.strerror or err}") from err
    arena_bytes = arena_of(artifact.path)
    return MicroSession(content, read_file(content, artifact.path), artifact, arena_bytes)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    if device not in devices():
        raise Unavailable(f"`{NAME}` has no device `{device}`", hint=f"it runs on: {', '.join(DEVICES)}")


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """What the file's operators make of one image: no tensor gives its place up to another; see `Runtime.inner_values`.

    Raises:
        Refused: TFLite Micro cannot run the file, or it has no such tensors.
        Unavailable: `tflite-micro` is not installed.
    """
    session = open_session(artifact, device=DEVICES[0], threads=1)
    return session.inner_values(names, pixels)


def arena_of(path: Path) -> int:
    """The bytes of the smallest arena in which TFLite Micro runs a file: what a firmware has to set aside for it.

    They are searched for in a process of its own, since what does not fit may end it. The interpreter is the one that records its
    allocations; a firmware's plain one needs a little less.

    Raises:
        Refused: TFLite Micro cannot run the file in `MAX_ARENA_BYTES`, or ends the process.
    """
    root = str(Path(squeeze_export.__file__).parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "squeeze_export.runtimes.tflite.micro_probe", str(path.absolute()), str(MAX_ARENA_BYTES)]
    try:
        with tempfile.TemporaryDirectory(prefix="squeeze-export-") as folder:
            done = subprocess.run(
                command,
                cwd=folder,  # the user's is no place to import from
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_S,
                check=False,
                env={**os.environ, "PYTHONPATH": paths, "TMPDIR": folder},
            )
    except subprocess.TimeoutExpired as err:
        raise Refused(f"TFLite Micro did not run `{path}` within {PROBE_S} s") from err
    if done.returncode:
        names = {-number.value: number.name for number in signal.Signals}
        ended = names.get(done.returncode, f"exit code {done.returncode}")
        raise Refused(f"TFLite Micro cannot open `{path}`: it ended its process with {ended}", hint="export the file again")
    answer: Mapping[str, Any] = json.loads(done.stdout)
    if "reason" in answer:
        raise Refused(f"TFLite Micro cannot open `{path}`: {answer['reason']}", hint="`--scheme int8` and `int8-npu` fit it best")
    return int(answer["arena_bytes"])


class MicroSession:
    """A TFLite file opened in TFLite Micro; satisfies `core.Session`. Not to be used by two threads at once.

    Attributes:
        runtime: `tflite-micro`.
        evidence: `emulated`: a microcontroller's kernels on another CPU.
        device: `cpu`.
        threads: 1.
        kernels: `TFLite Micro`.
        facts: `arena_bytes`, the smallest arena that the file runs in.
    """

    runtime = NAME
    evidence: Evidence = "emulated"
    device = DEVICES[0]
    threads = 1
    kernels = "TFLite Micro"

    def __init__(self, content: bytes, file: FileRecords, artifact: Artifact, arena_bytes: int) -> None:
        self._content, self._file, self._path = content, file, artifact.path
        self._floats = scheme_named(artifact.scheme).floats
        self.facts: Mapping[str, Any] = {"arena_bytes": arena_bytes}
        with quiet():
            self._interpreter: Any = _micro().Interpreter.from_bytes(content, arena_size=arena_bytes)
            source, result = self._interpreter.get_input_details(0), self._interpreter.get_output_details(0)
        self._shape = tuple(int(side) for side in source["shape"])
        self._dtype, self._steps = np.dtype(source["dtype"]), _steps(result)
        made = np.dtype(result["dtype"])
        fits = len(self._shape) == 4 and self._shape[3] == 3 and len(result["shape"]) == 2
        if not fits or not takes_pixels(self._dtype, *_steps(source)) or made.name not in _OUTPUTS:
            found = f"{self._dtype.name}{list(self._shape)} -> {made.name}{[int(side) for side in result['shape']]}"
            raise Refused(f"`{artifact.path}` is no image classifier: `{found}`", hint="open files that this tool wrote")

    @cached_property
    def placement(self) -> Placement:
        """Which operators run in integers. TFLite Micro keeps no list; it runs each operator of the file with one kernel."""
        file = self._file
        _, found = read_records(file.nodes, file.tensors, file.inputs, floats=self._floats)
        return replace(found, source=f"the file's {len(file.nodes)} operators, which TFLite Micro runs one by one")

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch in pieces of the file's own size; the last piece is filled up with zeros and cut.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels, N at least 1.

        Returns:
            (N, classes) float32, a fresh array.

        Raises:
            ValueError: a batch of another shape or dtype, or the session is closed.
            Refused: the runtime failed.
        """
        if self._interpreter is None:
            raise ValueError("the session is closed")
        if batch.dtype != np.uint8 or batch.shape[1:] != self._shape[1:] or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the file takes uint8 {('N', *self._shape[1:])}")
        size = self._shape[0]
        pieces = []
        for start in range(0, len(batch), size):
            piece = np.zeros(self._shape, self._dtype)
            piece[: len(batch) - start] = pixels_as(batch[start : start + size], self._dtype)
            pieces.append(self._run(self._interpreter, piece))
        return np.concatenate(pieces)[: len(batch)]

    def close(self) -> None:
        """Frees the interpreter; a second call does nothing."""
        self._interpreter = None

    def inner_values(self, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
        """See `Runtime.inner_values`."""
        known = {tensor["name"]: tensor for tensor in self._file.tensors if tensor["scale"] or tensor["dtype"] == "float32"}
        missing = [name for name in names if name not in known]
        if missing:
            raise Refused(f"`{self._path}` has no tensor `{missing[0]}`")
        runtime = _micro()
        arena_bytes = self.facts["arena_bytes"] + self._file.tensor_bytes
        with quiet():
            keeping = runtime.InterpreterConfig.kPreserveAllTensors
            interpreter = runtime.Interpreter.from_bytes(self._content, arena_size=arena_bytes, intrepreter_config=keeping)
        filled = np.zeros(self._shape, self._dtype)
        filled[:1] = pixels_as(pixels, self._dtype)
        self._run(interpreter, filled)
        found = {}
        for name in names:
            tensor = known[name]
            made = np.asarray(interpreter.GetTensor(tensor["index"], 0)["tensor_data"]).reshape(tensor["shape"])[:1]
            real = made.astype(np.float32)
            if made.dtype != np.float32:
                real = (real - np.float32(tensor["zero_point"])) * np.float32(tensor["scale"])
            found[name] = real
        return found

    def _run(self, interpreter: Any, images: Any) -> FloatArray:
        with quiet() as printed:
            try:
                interpreter.set_input(images, 0)
                interpreter.invoke()
                result = np.array(interpreter.get_output(0))
            except (ValueError, RuntimeError) as err:
                failure = err
            else:
                scale, zero_point = self._steps
                steps: FloatArray = result.astype(np.float32)
                return (steps - np.float32(zero_point)) * np.float32(scale) if result.dtype == np.int8 else steps
        raise Refused(f"TFLite Micro failed on `{self._path}`: {printed.reason(failure)}") from failure


def _micro() -> Any:
    return require("tflite_micro", "micro").runtime


def _steps(details: Mapping[str, Any]) -> tuple[float, int]:
    """Scale and zero point of an output; 0 and 0 of floats."""
    told = details["quantization_parameters"]
    return (float(told["scales"][0]), int(told["zero_points"][0])) if len(told["scales"]) == 1 else (0.0, 0)
