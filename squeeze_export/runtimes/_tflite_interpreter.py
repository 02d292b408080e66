"""What the four TFLite runtimes share: one `Interpreter` class under three package names, with or without XNNPACK."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes._tflite_records import read_records
from squeeze_export.runtimes.quiet import lower_log_levels, quiet

DEVICES = ("cpu",)
MAX_DYNAMIC_BATCH = 32
"""Images at once where the file leaves the batch free: the arena grows with it, the speed no longer does."""


class InterpreterSession:
    """A TFLite file opened in an interpreter. Satisfies `core.Session`; not to be used by two threads at once.

    Attributes:
        runtime: the registry's name.
        device: always `cpu`.
        threads: as handed to the interpreter.
        kernels: `XNNPACK`, `builtin`, or `XNNPACK, builtin`: which the interpreter's node list says the convolutions ran in.
        placement: from the same list.
    """

    evidence: Evidence = "measured"
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, interpreter: Any, runtime: str, threads: int, scheme: str) -> None:
        self._interpreter: Any = interpreter
        self._input, self._output = classifier_interface(interpreter)
        self._batch = int(self._input["shape"][0])
        self._dynamic = int(_signature(self._input)[0]) == -1
        self.runtime = runtime
        self.device = "cpu"
        self.threads = threads
        self.kernels, self.placement = read_records(
            interpreter._get_ops_details(),
            interpreter.get_tensor_details(),
            [int(self._input["index"])],
            floats=scheme_named(scheme).floats,
        )

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch in pieces of the file's own batch size; the last piece is filled up with zeros and cut.

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
        expected = tuple(int(size) for size in self._input["shape"][1:])
        if batch.dtype != np.uint8 or batch.shape[1:] != expected or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the file takes uint8 {('N', *expected)}")
        size = min(len(batch), MAX_DYNAMIC_BATCH) if self._dynamic else self._batch
        pieces = [self._run(batch[start : start + size], size) for start in range(0, len(batch), size)]
        return np.concatenate(pieces)[: len(batch)]

    def close(self) -> None:
        """Frees the interpreter; a second call does nothing."""
        self._interpreter = None

    def _run(self, images: ByteArray, size: int) -> FloatArray:
        try:
            if size != self._batch:
                self._resize(size)
            if len(images) < size:
                images = np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), np.uint8)])
            self._interpreter.set_tensor(self._input["index"], pixels_as(images, self._input["dtype"]))
            self._interpreter.invoke()
            result = self._interpreter.get_tensor(self._output["index"])  # a copy
        except (ValueError, RuntimeError) as err:
            raise Refused(f"`{self.runtime}` failed on a batch of `{size}` images: {err}") from err
        return real_values(result, self._output)

    def _resize(self, size: int) -> None:
        shape = [size, *(int(side) for side in self._input["shape"][1:])]
        with quiet():
            self._interpreter.resize_tensor_input(self._input["index"], shape)
            self._interpreter.allocate_tensors()
        self._batch = size


def installed_devices(load: Callable[[], Any]) -> tuple[str, ...]:
    """The devices of an installed package.

    Args:
        load: imports the package's interpreter module.

    Raises:
        Unavailable: it is not installed.
    """
    lower_log_levels()
    with quiet():
        load()
    return DEVICES


def check_cpu(runtime: str, device: str) -> None:
    """Refuses every device but the CPU.

    Args:
        runtime: the registry's name.
        device: what was asked for.

    Raises:
        Unavailable: it is another.
    """
    if device not in DEVICES:
        raise Unavailable(f"`{runtime}` has no device `{device}`", hint=f"it runs on: {', '.join(DEVICES)}")


def open_interpreter(
    artifact: Artifact, *, runtime: str, device: str, threads: int, load: Callable[[], Any], delegates: bool = True
) -> InterpreterSession:
    """Opens an artifact.

    Args:
        artifact: a TFLite file.
        runtime: the registry's name.
        device: must be `cpu`.
        threads: at least 1.
        load: imports and gives the module that holds `Interpreter` and `OpResolverType`.
        delegates: False for the builtin kernels.

    Raises:
        BadInput: fewer than 1 thread, or the file cannot be read.
        Unavailable: another device, or the package is not installed.
        Refused: the interpreter cannot open the file, or its input and output are not a classifier's.
    """
    check_cpu(runtime, device)
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    lower_log_levels()
    try:
        content = artifact.path.read_bytes()
    except OSError as err:
        raise BadInput(f"`{artifact.path}` cannot be read: {err.strerror or err}") from err
    if not content:
        raise Refused(f"`{runtime}` cannot open `{artifact.path}`: the file is empty")
    with interpreting(content, artifact.path, runtime=runtime, threads=threads, load=load, delegates=delegates) as interpreter:
        return InterpreterSession(interpreter, runtime, threads, artifact.scheme)


@contextmanager
def interpreting(
    content: bytes, path: Path, *, runtime: str, threads: int, load: Callable[[], Any], delegates: bool
) -> Iterator[Any]:
    """Makes an interpreter and keeps what it prints out of stderr while the block runs.

    Args:
        content: a TFLite file's.
        path: for the error message.
        runtime: likewise.
        threads: at least 1.
        load: imports and gives the module that holds `Interpreter` and `OpResolverType`.
        delegates: False for the builtin kernels.

    Raises:
        Refused: the interpreter cannot open the file, or what the block asks of it.
    """
    with quiet() as printed:
        module = load()
        kinds = module.OpResolverType
        resolver = kinds.AUTO if delegates else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TensorFlow's interpreter announces its own removal
                interpreter = module.Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=resolver,
                )
            interpreter.allocate_tensors()
            yield interpreter
            return
        except (ValueError, RuntimeError, LookupError) as err:  # of a damaged file, even names and indices may be wrong
            failure = err
    raise Refused(f"`{runtime}` cannot open `{path}`: {printed.reason(failure)}") from failure


def classifier_interface(interpreter: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The details of the one input and the one output.

    Raises:
        Refused: they are not a classifier's.
    """
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    fits = (
        len(inputs) == len(outputs) == 1
        and len(inputs[0]["shape"]) == 4
        and inputs[0]["shape"][3] == 3
        and takes_pixels(inputs[0]["dtype"], *inputs[0]["quantization"])
        and len(outputs[0]["shape"]) == 2
        and (outputs[0]["dtype"] == np.float32 or (outputs[0]["dtype"] == np.int8 and outputs[0]["quantization"][0] > 0))
    )
    if not fits:
        found = "; ".join(
            f"{side}: " + ", ".join(f"{np.dtype(d['dtype']).name}{d['shape'].tolist()}" for d in details)
            for side, details in (("in", inputs), ("out", outputs))
        )
        wanted = "(N, H, W, 3) uint8, float32 or 128 lower int8 pixels with float32 or quantized int8 logits"
        raise Refused(f"the file is no classifier of {wanted}: `{found}`")
    return inputs[0], outputs[0]


def takes_pixels(dtype: Any, scale: float, zero_point: int) -> bool:
    """Whether an input of this dtype and quantization takes what `pixels_as` makes."""
    return np.dtype(dtype) in (np.uint8, np.float32) or (np.dtype(dtype), scale, zero_point) == (np.int8, 1, -128)


def pixels_as(images: ByteArray, dtype: Any) -> NDArray[Any]:
    """Pixels in the dtype of a file's input: the same values, those of int8 128 lower."""
    if np.dtype(dtype) == np.int8:
        return (images ^ np.uint8(128)).view(np.int8)
    return images.astype(dtype, copy=False)


def real_values(values: Any, details: Mapping[str, Any]) -> FloatArray:
    """The output's real values: those of int8 logits by their scale and zero point."""
    scale, zero_point = details["quantization"]
    steps: FloatArray = values.astype(np.float32, copy=False)
    return (steps - np.float32(zero_point)) * np.float32(scale) if values.dtype == np.int8 else steps


def _signature(details: Mapping[str, Any]) -> Any:
    signature = details.get("shape_signature", ())
    return signature if len(signature) else details["shape"]
