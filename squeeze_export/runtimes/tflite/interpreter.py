"""TFLite files on the CPU: one `Interpreter` class under three package names, with XNNPACK or the builtin kernels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import CHANNEL_COUNTS, Artifact, ByteArray, FloatArray, Placement, require
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.formats.contents import FREE
from squeeze_export.formats.tflite import with_outputs
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.foreign import Adapter, adapter_of
from squeeze_export.runtimes.quiet import lower_log_levels, quiet, reason
from squeeze_export.runtimes.session import MAX_FREE_BATCH, BatchSession, check_present, check_threads, read_file
from squeeze_export.runtimes.tflite.placement import contents_of, kernels_and_placement

DEVICES = ("cpu",)


class InterpreterSession(BatchSession):
    """A TFLite file opened in an interpreter. Not to be used by two threads at once.

    Attributes:
        threads: as asked.
        kernels: those of the convolutions by the interpreter's node list: `XNNPACK`, `builtin`, or `XNNPACK, builtin`.
        placement: from the same list.
    """

    def __init__(self, interpreter: Any, runtime: str, threads: int, scheme: str, *, adapter: Adapter | None = None) -> None:
        self._interpreter: Any = interpreter
        self.runtime, self.threads = runtime, threads
        self._adapter = adapter
        if adapter is None:
            self._input, self._output = classifier_interface(interpreter)
        else:
            (self._input,), (self._output,) = interpreter.get_input_details(), interpreter.get_output_details()
        self._batch, *self._shape = (int(side) for side in self._input["shape"])
        sides = self._shape if adapter is None else adapter.sides
        free = [int(side) for side in self._input.get("shape_signature", ())[:1]] == [FREE]
        super().__init__(sides, least=1 if free else self._batch, most=MAX_FREE_BATCH if free else self._batch)
        nodes, tensors = interpreter._get_ops_details(), interpreter.get_tensor_details()
        listed = contents_of(nodes, tensors, [int(self._input["index"])])
        self.kernels, self.placement = kernels_and_placement(listed, scheme_named(scheme).floats)

    def run_piece(self, images: ByteArray) -> FloatArray:
        """See `BatchSession.run_piece`."""
        try:
            if len(images) != self._batch:
                self._resize(len(images))
            taken = pixels_as(images, self._input["dtype"]) if self._adapter is None else self._adapter.taken(images)
            self._interpreter.set_tensor(self._input["index"], taken)
            self._interpreter.invoke()
            result = self._interpreter.get_tensor(self._output["index"])
        except (ValueError, RuntimeError) as err:
            raise Refused(f"`{self.runtime}` failed on a batch of `{len(images)}` images: {err}") from err
        return real_values(result, self._output) if self._adapter is None else self._adapter.given(result)

    def free(self) -> None:
        """Frees the interpreter."""
        self._interpreter = None

    def _resize(self, size: int) -> None:
        with quiet():
            self._interpreter.resize_tensor_input(self._input["index"], [size, *self._shape])
            self._interpreter.allocate_tensors()
        self._batch = size


@dataclass(frozen=True)
class InterpreterRuntime:
    """A package with the interpreter; satisfies `Runtime`.

    Attributes:
        NAME: the registry's.
        module: the one with `Interpreter` and `OpResolverType`.
        extra: the one that brings the package.
        hint: how to install a package that no extra brings.
        delegates: False for the builtin kernels.
    """

    NAME: str
    module: str
    extra: str = "tflite"
    hint: str = ""
    delegates: bool = True
    FOREIGN: ClassVar[bool] = True

    def load(self) -> Any:
        """The module.

        Raises:
            Unavailable: it is not installed.
        """
        try:
            return require(self.module, self.extra)
        except Unavailable as err:
            raise (Unavailable(err.message, hint=self.hint) if self.hint else err) from err

    def devices(self) -> tuple[str, ...]:
        """See `Runtime.devices`."""
        lower_log_levels()
        with quiet():
            self.load()
        return DEVICES

    def open_session(self, artifact: Artifact, *, device: str, threads: int) -> InterpreterSession:
        """Opens a TFLite file; see `Runtime.open_session`."""
        check_present(device, self.devices(), f"`{self.NAME}`")
        check_threads(threads)
        with self.interpreting(read_file(artifact.path), artifact.path, threads=threads) as interpreter:
            return InterpreterSession(interpreter, self.NAME, threads, artifact.scheme, adapter=adapter_of(artifact))

    def inner_values(self, artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
        """See `Runtime.inner_values`. The tensors are made outputs of the file, so that a delegate must return them."""
        with self.interpreting(with_outputs(artifact.path, names), artifact.path, threads=1) as interpreter:
            source = interpreter.get_input_details()[0]
            batch = np.zeros(source["shape"], source["dtype"])
            batch[:1] = pixels_as(pixels, batch.dtype)
            interpreter.set_tensor(source["index"], batch)
            interpreter.invoke()
            details = {detail["name"]: detail for detail in interpreter.get_output_details()}
            return {name: real_values(interpreter.get_tensor(details[name]["index"])[:1], details[name]) for name in names}

    def read_records(self, records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
        """Reads the `nodes`, `tensors` and `inputs` of a board's interpreter; see `Runtime.read_records`."""
        listed = contents_of(records["nodes"], records["tensors"], records["inputs"])
        return kernels_and_placement(listed, scheme_named(scheme).floats)

    @contextmanager
    def interpreting(self, content: bytes, path: Path, *, threads: int) -> Iterator[Any]:
        """Makes an interpreter of a TFLite file's bytes, and keeps what it prints out of stderr while the block runs.

        Raises:
            Refused: the file is empty, or the interpreter fails to open it or to do what the block asks.
        """
        if not content:
            raise Refused(f"`{self.NAME}` cannot open `{path}`: the file is empty")
        with quiet() as printed:
            module = self.load()
            kinds = module.OpResolverType
            resolver = kinds.AUTO if self.delegates else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # TensorFlow's interpreter announces its own removal
                    interpreter = module.Interpreter(
                        model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
                    )
                interpreter.allocate_tensors()
                yield interpreter
                return
            except (ValueError, RuntimeError, LookupError) as err:  # in a damaged file even names and indices may be wrong
                failure = err
        raise Refused(f"`{self.NAME}` cannot open `{path}`: {reason(failure, printed)}") from failure


LITERT = InterpreterRuntime("litert", "ai_edge_litert.interpreter")
"""With the kernels that it picks itself, XNNPACK's. The registry's `litert` is this and LiteRT's accelerators."""
LITERT_BUILTIN = InterpreterRuntime("litert-builtin", "ai_edge_litert.interpreter", delegates=False)
"""The reference that microcontrollers and accelerators follow. Its kernels round differently from XNNPACK's."""
TENSORFLOW_LITE = InterpreterRuntime("tensorflow-lite", "tensorflow.lite.python.interpreter", "peers")
"""For machines that have only TensorFlow."""
TFLITE_RUNTIME = InterpreterRuntime(
    "tflite-runtime",
    "tflite_runtime.interpreter",
    hint="pip install tflite-runtime 'numpy<2' in an environment of its own, or use the runtime litert",
)
"""The older package (2.14 was its last, 2023), for machines that have nothing newer. No extra brings it: it needs numpy < 2."""


def classifier_interface(interpreter: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The details of a classifier's input and output.

    Raises:
        Refused: the file is not an image classifier.
    """
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    fits = (
        len(inputs) == len(outputs) == 1
        and len(inputs[0]["shape"]) == 4
        and inputs[0]["shape"][3] in CHANNEL_COUNTS
        and takes_pixels(inputs[0]["dtype"], *inputs[0]["quantization"])
        and len(outputs[0]["shape"]) == 2
        and (outputs[0]["dtype"] == np.float32 or (outputs[0]["dtype"] == np.int8 and outputs[0]["quantization"][0] > 0))
    )
    if not fits:
        found = "; ".join(
            f"{side}: " + ", ".join(f"{np.dtype(d['dtype']).name}{d['shape'].tolist()}" for d in details)
            for side, details in (("in", inputs), ("out", outputs))
        )
        wanted = "(N, H, W, C) uint8, float32 or 128 lower int8 pixels with float32 or quantized int8 logits"
        raise Refused(f"the file is no classifier of {wanted}: `{found}`")
    return inputs[0], outputs[0]


def takes_pixels(dtype: Any, scale: float, zero_point: int) -> bool:
    """Whether an input of this dtype and quantization takes what `pixels_as` makes."""
    return np.dtype(dtype) in (np.uint8, np.float32) or (np.dtype(dtype), scale, zero_point) == (np.int8, 1, -128)


def pixels_as(images: ByteArray, dtype: Any) -> NDArray[Any]:
    """Pixels in the dtype of a file's input: the same values, for int8 128 lower."""
    if np.dtype(dtype) == np.int8:
        return (images ^ np.uint8(128)).view(np.int8)
    return images.astype(dtype, copy=False)


def real_values(values: NDArray[Any], details: Mapping[str, Any]) -> FloatArray:
    """A tensor's real values, of integers by their scale and zero point."""
    steps: FloatArray = values.astype(np.float32, copy=False)
    if np.issubdtype(values.dtype, np.floating):
        return steps
    scale, zero_point = details["quantization"]
    return (steps - np.float32(zero_point)) * np.float32(scale)
