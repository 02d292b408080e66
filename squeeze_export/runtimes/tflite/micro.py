"""TFLite Micro: the interpreter and the portable kernels of microcontrollers, run here.

They are the reference that a chip's own kernels follow, but they do not show how fast a chip is: the figures are *emulated*, and
never timed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from squeeze_export.core import CHANNEL_COUNTS, Artifact, ByteArray, Evidence, FloatArray, Placement, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.formats.contents import Contents, FileTensor
from squeeze_export.formats.tflite import Buffer, read_bytes
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.quiet import quiet, reason
from squeeze_export.runtimes.session import BatchSession, check_present, check_threads, read_file
from squeeze_export.runtimes.tflite.interpreter import pixels_as, real_values, takes_pixels
from squeeze_export.runtimes.tflite.micro_probe import find_arena
from squeeze_export.runtimes.tflite.placement import placement
from squeeze_export.workers.worker import Failed, Late, call

NAME = "tflite-micro"
DEVICES = ("cpu",)
MAX_ARENA_BYTES = 1 << 28
PROBE_S = 120
_OUTPUTS = ("int8", "float32")


def devices() -> tuple[str, ...]:
    """The CPU: the wheel of TFLite Micro holds the portable kernels, which run on any; see `Runtime.devices`."""
    _micro()
    return DEVICES


def open_session(artifact: Artifact, *, device: str, threads: int) -> MicroSession:
    """Opens a TFLite file in the smallest arena that it runs in; see `Runtime.open_session`. TFLite Micro has one thread."""
    check_present(device, devices(), f"`{NAME}`")
    check_threads(threads)
    content = read_file(artifact.path)
    arena_bytes = arena_of(artifact.path)
    return MicroSession(content, _read(content, artifact.path), artifact, arena_bytes)


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """See `Runtime.inner_values`. No tensor's memory is used again for another."""
    return open_session(artifact, device=DEVICES[0], threads=1).inner_values(names, pixels)


def arena_of(path: Path) -> int:
    """The bytes of the smallest arena in which TFLite Micro runs a file: what a firmware has to set aside for it.

    A process of its own searches for it, since a file that does not fit may end the process. Its interpreter also records the
    allocations; a firmware's plain one needs a little less.

    Raises:
        Refused: TFLite Micro cannot run the file in `MAX_ARENA_BYTES`, or ends the process.
    """
    try:
        answer, _ = call(find_arena, {"path": str(path.absolute()), "limit": MAX_ARENA_BYTES}, tool="TFLite Micro", limit_s=PROBE_S)
    except Late as err:
        raise Refused(f"TFLite Micro did not run `{path}` within {PROBE_S} s") from err
    except Failed as err:
        raise Refused(f"TFLite Micro cannot open `{path}`: {err.reason}", hint="export the file again") from err
    if "reason" in answer:
        raise Refused(f"TFLite Micro cannot open `{path}`: {answer['reason']}", hint="`--scheme int8` and `int8-npu` fit it best")
    return int(answer["arena_bytes"])


class MicroSession(BatchSession):
    """A TFLite file opened in TFLite Micro. Not to be used by two threads at once.

    Attributes:
        evidence: `emulated`: a microcontroller's kernels on another CPU.
        facts: `arena_bytes`, the smallest arena that the file runs in.
    """

    runtime = NAME
    evidence: Evidence = "emulated"
    threads = 1
    kernels = "TFLite Micro"

    def __init__(self, content: bytes, file: Contents, artifact: Artifact, arena_bytes: int) -> None:
        self._content, self._file, self._path = content, file, artifact.path
        self._floats = scheme_named(artifact.scheme).floats
        self.facts = {"arena_bytes": arena_bytes}
        with quiet():
            self._interpreter: Any = _micro().Interpreter.from_bytes(content, arena_size=arena_bytes)
            source, result = self._interpreter.get_input_details(0), self._interpreter.get_output_details(0)
        shape = [int(side) for side in source["shape"]]
        self._dtype, self._result = np.dtype(source["dtype"]), {"quantization": _steps(result)}
        made = np.dtype(result["dtype"])
        fits = len(shape) == 4 and shape[3] in CHANNEL_COUNTS and len(result["shape"]) == 2
        if not fits or not takes_pixels(self._dtype, *_steps(source)) or made.name not in _OUTPUTS:
            found = f"{self._dtype.name}{shape} -> {made.name}{[int(side) for side in result['shape']]}"
            raise Refused(f"`{artifact.path}` is no image classifier: `{found}`", hint="open files that this tool wrote")
        super().__init__(shape[1:], least=shape[0], most=shape[0])

    @cached_property
    def placement(self) -> Placement:
        """Which operators run in integers. TFLite Micro keeps no list: it runs each operator of the file with one kernel."""
        source = f"the file's {len(self._file.operators)} operators, which TFLite Micro runs one by one"
        return placement(self._file, frozenset(), device=self.device, floats=self._floats, source=source)

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        return self._run(self._interpreter, images)

    def free(self) -> None:
        """Frees the interpreter."""
        self._interpreter = None

    def inner_values(self, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
        """See `Runtime.inner_values`."""
        tensors = {t.key: t for operator in self._file.operators for t in (*operator.inputs, *operator.outputs)}
        known = {t.name: t for t in tensors.values() if len(t.scales) == 1 or t.dtype == "float32"}
        missing = [name for name in names if name not in known]
        if missing:
            raise Refused(f"`{self._path}` has no tensor `{missing[0]}`")
        runtime = _micro()
        # Enough for every tensor to have memory of its own.
        arena_bytes = self.facts["arena_bytes"] + sum(8 * math.prod(_fixed(tensor)) for tensor in tensors.values())
        with quiet():
            keeping = runtime.InterpreterConfig.kPreserveAllTensors
            interpreter = runtime.Interpreter.from_bytes(self._content, arena_size=arena_bytes, intrepreter_config=keeping)
        filled = np.zeros((self.least, *pixels.shape[1:]), np.uint8)
        filled[:1] = pixels
        self._run(interpreter, filled)
        found = {}
        for name in names:
            tensor = known[name]
            _, number = cast(tuple[int, int], tensor.place)
            made = np.asarray(interpreter.GetTensor(number, 0)["tensor_data"]).reshape(_fixed(tensor))[:1]
            steps = (tensor.scales[0], tensor.zero_points[0]) if tensor.scales else ()
            found[name] = np.array(real_values(made, {"quantization": steps}))
        return found

    def _run(self, interpreter: Any, images: ByteArray) -> FloatArray:
        with quiet() as printed:
            try:
                interpreter.set_input(pixels_as(images, self._dtype), 0)
                interpreter.invoke()
                return real_values(np.array(interpreter.get_output(0)), self._result)
            except (ValueError, RuntimeError) as err:
                failure = err
        raise Refused(f"TFLite Micro failed on `{self._path}`: {reason(failure, printed)}") from failure


def _read(content: bytes, path: Path) -> Contents:
    """The contents of a file that TFLite Micro has opened, which does not tell what operators it runs.

    Raises:
        Refused: several subgraphs, or weights outside the flatbuffer, which TFLite Micro would silently read as nothing.
    """
    try:
        file = read_bytes(content, str(path))
    except BadInput as err:
        raise Refused(err.message, hint="export the file again") from err
    if file.bodies:
        raise Refused(f"`{path}` has {1 + len(file.bodies)} subgraphs, not one")
    if any(isinstance(tensor.storage, Buffer) and tensor.storage.behind for tensor in file.constants):
        raise Refused(
            f"`{path}` keeps its weights behind the flatbuffer, where TFLite Micro does not read them",
            hint="export the file with this tool",
        )
    return file


def _fixed(tensor: FileTensor) -> list[int]:
    return [max(side, 1) for side in tensor.shape]  # a free batch is of one image here


def _micro() -> Any:
    return require("tflite_micro", "micro").runtime


def _steps(details: Mapping[str, Any]) -> tuple[float, int]:
    """Scale and zero point of an input or output; 0 and 0 for floats."""
    told = details["quantization_parameters"]
    return (float(told["scales"][0]), int(told["zero_points"][0])) if len(told["scales"]) == 1 else (0.0, 0)
