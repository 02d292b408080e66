"""TFLite files on the CPU: one `Interpreter` class under three package names, with XNNPACK or the builtin kernels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, require
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.quiet import lower_log_levels, quiet
from squeeze_export.runtimes.tflite.placement import read_records

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


@dataclass(frozen=True)
class InterpreterRuntime:
    """A package that holds the interpreter; satisfies `Runtime`.

    Attributes:
        NAME: the registry's.
        module: that holds `Interpreter` and `OpResolverType`.
        extra: that brings it.
        hint: how to install what no extra brings.
        delegates: False for the builtin kernels.
    """

    NAME: str
    module: str
    extra: str = "tflite"
    hint: str = ""
    delegates: bool = True

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
        """The devices of the installed package; see `Runtime.devices`.

        Raises:
            Unavailable: it is not installed.
        """
        lower_log_levels()
        with quiet():
            self.load()
        return DEVICES

    def check_device(self, device: str) -> None:
        """Refuses a device that is not here; see `Runtime.check_device`."""
        if device not in self.devices():
            raise Unavailable(f"`{self.NAME}` has no device `{device}`", hint=f"it runs on: {', '.join(DEVICES)}")

    def open_session(self, artifact: Artifact, *, device: str, threads: int) -> InterpreterSession:
        """Opens a TFLite file.

        Args:
            artifact: of the target `tflite`.
            device: must be `cpu`.
            threads: at least 1.

        Raises:
            BadInput: fewer than 1 thread, or the file cannot be read.
            Unavailable: another device, or the package is not installed.
            Refused: the interpreter cannot open the file, or its input and output are not a classifier's.
        """
        self.check_device(device)
        if threads < 1:
            raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
        content = read_content(artifact.path, self.NAME)
        with self.interpreting(content, artifact.path, threads=threads) as interpreter:
            return InterpreterSession(interpreter, self.NAME, threads, artifact.scheme)

    def inner_values(self, artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
        """What the operators make of one image; see `Runtime.inner_values`. They are made outputs of the file, so that a delegate
        has to hand them out.

        Raises:
            Refused: the file has no such tensors, or cannot be run with them as outputs.
            Unavailable: a package is missing.
        """
        with self.interpreting(_with_outputs(artifact, names), artifact.path, threads=1) as interpreter:
            source = interpreter.get_input_details()[0]
            batch = np.zeros(source["shape"], source["dtype"])
            batch[:1] = pixels_as(pixels, batch.dtype)
            interpreter.set_tensor(source["index"], batch)
            interpreter.invoke()
            details = {detail["name"]: detail for detail in interpreter.get_output_details()}
            return {name: real_values(interpreter.get_tensor(details[name]["index"])[:1], details[name]) for name in names}

    @contextmanager
    def interpreting(self, content: bytes, path: Path, *, threads: int) -> Iterator[Any]:
        """Makes an interpreter and keeps what it prints out of stderr while the block runs.

        Args:
            content: a TFLite file's.
            path: for the error message.
            threads: at least 1.

        Raises:
            Refused: the interpreter cannot open the file, or what the block asks of it.
        """
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
            except (ValueError, RuntimeError, LookupError) as err:  # of a damaged file, even names and indices may be wrong
                failure = err
        raise Refused(f"`{self.NAME}` cannot open `{path}`: {printed.reason(failure)}") from failure


LITERT = InterpreterRuntime("litert", "ai_edge_litert.interpreter")
"""With the kernels that it picks itself, XNNPACK. The registry's `litert` is this one and LiteRT's accelerators."""
LITERT_BUILTIN = InterpreterRuntime("litert-builtin", "ai_edge_litert.interpreter", delegates=False)
"""The model that microcontrollers and accelerators follow. Its kernels round otherwise."""
TENSORFLOW_LITE = InterpreterRuntime("tensorflow-lite", "tensorflow.lite.python.interpreter", "peers")
"""For machines that have only TensorFlow."""
TFLITE_RUNTIME = InterpreterRuntime(
    "tflite-runtime",
    "tflite_runtime.interpreter",
    hint="pip install tflite-runtime 'numpy<2' in an environment of its own, or use the runtime litert",
)
"""The older package (2.14 was its last, 2023), for machines that have nothing newer. No extra brings it: it needs numpy < 2."""


def read_content(path: Path, runtime: str) -> bytes:
    """A file's bytes.

    Args:
        path: of a TFLite file.
        runtime: the registry's name, for the error message.

    Raises:
        BadInput: it cannot be read.
        Refused: it is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror or err}") from err
    if not content:
        raise Refused(f"`{runtime}` cannot open `{path}`: the file is empty")
    return content


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


def real_values(values: NDArray[Any], details: Mapping[str, Any]) -> FloatArray:
    """A tensor's real values: those of integers by their scale and zero point."""
    steps: FloatArray = values.astype(np.float32, copy=False)
    if np.issubdtype(values.dtype, np.floating):
        return steps
    scale, zero_point = details["quantization"]
    return (steps - np.float32(zero_point)) * np.float32(scale)


def _signature(details: Mapping[str, Any]) -> Any:
    signature = details.get("shape_signature", ())
    return signature if len(signature) else details["shape"]


def _with_outputs(artifact: Artifact, names: Sequence[str]) -> bytes:
    """The file with the named tensors among its outputs."""
    schema = require("ai_edge_litert.schema_py_generated", "tflite")
    builder = require("flatbuffers", "tflite").Builder(1024)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.path.read_bytes(), 0))
    graph = model.subgraphs[0]
    numbers = {
        tensor.name.decode(): number
        for number, tensor in enumerate(graph.tensors)
        if tensor.quantization is not None or tensor.type == schema.TensorType.FLOAT32
    }
    missing = [name for name in names if name not in numbers]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor `{missing[0]}`")
    # A signature names its own outputs, which would no longer be all.
    graph.outputs, model.signatureDefs = [*graph.outputs, *(numbers[name] for name in names)], []
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
