"""ONNX Runtime. One provider a session, the one that was asked for: it never falls back to another."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Evidence, FloatArray, FloatPart, Placement, require
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes._onnxruntime_records import Record, placement, read_records

NAME = "onnxruntime"
PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider"}
"""Device -> the execution provider that drives it."""
KERNELS: Mapping[str, str] = {"CPUExecutionProvider": "MLAS"}
"""Execution provider -> the one kernel library behind it."""

_SILENT = 4  # fatal only: what goes wrong is raised, and is not to be printed as well
_DTYPES: Mapping[str, str] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_FLOAT_MAKERS = ("Add", "Concat", "Conv", "MaxPool", "Relu")


def devices() -> tuple[str, ...]:
    """The devices whose provider is in the installed build.

    Raises:
        Unavailable: `onnxruntime` is not installed.
    """
    available = _onnxruntime().get_available_providers()
    return tuple(device for device, provider in PROVIDERS.items() if provider in available)


def open_session(artifact: Artifact, *, device: str, threads: int) -> OnnxSession:
    """Opens an ONNX file on a device.

    Args:
        artifact: of the target `onnx`.
        device: one of `devices()`.
        threads: intra-op threads, at least 1.

    Raises:
        BadInput: `threads` is below 1, or the file cannot be read.
        Unavailable: the device or `onnxruntime` is not on this machine.
        Refused: the file is no ONNX model, or none that takes one image tensor and gives one row of numbers.
    """
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    present = devices()
    if device not in present:
        raise Unavailable(f"ONNX Runtime has no device `{device}` here", hint=f"it has: {', '.join(present)}")
    try:
        model = artifact.path.read_bytes()
    except OSError as err:
        raise BadInput(f"`{artifact.path}` cannot be read: {err.strerror or err}") from err
    return OnnxSession(model, artifact.path, device, threads, scheme_named(artifact.scheme).floats)


class OnnxSession:
    """An ONNX file opened on a device; satisfies `core.Session`.

    Attributes:
        runtime: `onnxruntime`.
        device: whose provider ONNX Runtime says it uses.
        threads: intra-op threads.
        kernels: the library behind that provider.
    """

    runtime = NAME
    evidence: Evidence = "measured"
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, model: bytes, path: Path, device: str, threads: int, floats: FloatPart) -> None:
        self._model, self._path, self.threads, self._floats = model, path, threads, floats
        self._session: Any = _open(model, path, PROVIDERS[device], _options(threads))
        provider = self._session.get_providers()[0]
        self.device = next(name for name, known in PROVIDERS.items() if known == provider)
        self.kernels = KERNELS[provider]
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
            raise Refused(f"`{path}` does not take one NHWC tensor of uint8 or float32", hint="open files that this tool wrote")
        if len(outputs) != 1 or outputs[0].type != "tensor(float)" or len(outputs[0].shape) != 2:
            raise Refused(f"`{path}` does not give one (N, classes) tensor of float32", hint="open files that this tool wrote")
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        self._shape = tuple(inputs[0].shape)  # a symbolic dimension is a string

    def infer(self, batch: ByteArray) -> FloatArray:
        """Runs a batch, in pieces where the file's own batch size is fixed; the last piece is filled up with zeros.

        Args:
            batch: (N, H, W, 3) uint8, RGB pixels.

        Returns:
            (N, classes) float32, a fresh array.

        Raises:
            ValueError: a batch of another shape or dtype, or the session is closed.
        """
        if self._session is None:
            raise ValueError("the session is closed")
        if batch.dtype != np.uint8 or batch.shape[1:] != self._shape[1:] or not len(batch):
            raise ValueError(f"a batch of {batch.dtype} {batch.shape}, the file takes uint8 {('N', *self._shape[1:])}")
        size = self._shape[0] if isinstance(self._shape[0], int) else len(batch)
        pieces: list[FloatArray] = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            missing = size - len(piece)
            if missing:
                piece = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), np.uint8)])
            logits = _answered(self._session, self._path, None, {self._input: piece.astype(self._dtype, copy=False)})[0]
            pieces.append(logits[: size - missing])
        return np.concatenate(pieces)

    def close(self) -> None:
        """Frees the session. Calling it twice is allowed."""
        self._session = None

    @cached_property
    def placement(self) -> Placement:
        """Which operators run, and in what numbers: read once, from a profiled inference of a second session; where some
        convolutions run in integers and some in floats, the multiply-accumulates are counted in a third.
        """
        counted = self._records
        if len({record.integer for record in counted if record.macs}) > 1:
            # Its float kernels fill up the channels; without its optimizations the convolutions are those of the file.
            counted = self._profiled(optimized=False)
        return placement(self._records, sum(record.macs for record in counted), self._floats)

    @cached_property
    def operators(self) -> Mapping[str, int]:
        """Operator type, after ONNX Runtime's own fusions -> how many ran; from the same record as `placement`."""
        return dict(sorted(Counter(record.operator for record in self._records).items()))

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        return self._profiled(optimized=True)

    def _profiled(self, *, optimized: bool) -> tuple[Record, ...]:
        shape = (self._shape[0] if isinstance(self._shape[0], int) else 1, *self._shape[1:])
        with tempfile.TemporaryDirectory() as folder:
            options = _options(self.threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            # Prepacked weights vanish from the record; their shapes are what the multiply-accumulates are counted from.
            options.add_session_config_entry("session.disable_prepacking", "1")
            if not optimized:
                options.graph_optimization_level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
            session = _open(self._model, self._path, PROVIDERS[self.device], options)
            session.run(None, {self._input: np.zeros(shape, self._dtype)})
            return read_records(json.loads(Path(session.end_profiling()).read_text()))


def tapped_run(model: bytes, names: Sequence[str]) -> Callable[[ByteArray, Callable[[str, FloatArray], None] | None], FloatArray]:
    """A float run that shows inner tensors, for calibration. May be called from several threads: one thread each.

    Args:
        model: an ONNX file of batch 1 whose first output is the logits and which also outputs each of `names` as (1, H, W, C).
        names: the tensors to show, in the order in which they are shown.

    Returns:
        `run(batch, tap=None)`: `batch` (N, H, W, 3) uint8; `tap(name, values)` sees (1, H, W, C) float32, once per image and
        name; gives (N, classes) float32 logits.

    Raises:
        Refused: ONNX Runtime cannot open the model.
        Unavailable: `onnxruntime` is not installed.
    """
    session = _open(model, Path("calibration.onnx"), PROVIDERS["cpu"], _options(1))
    source, logits = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(batch: ByteArray, tap: Callable[[str, FloatArray], None] | None = None) -> FloatArray:
        shown = list(names) if tap is not None else []
        rows = []
        for image in batch:
            row, *values = session.run([logits, *shown], {source: image[None]})
            rows.append(row)
            if tap is not None:
                for name, value in zip(shown, values, strict=True):
                    tap(name, value)
        return np.concatenate(rows)

    return run


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """What the file's operators make of one image: its own tensors made outputs; see `Runtime.inner_values`.

    Raises:
        Refused: the file has no such tensors.
        Unavailable: `onnx` or `onnxruntime` is not installed.
    """
    onnx = require("onnx", "onnx")
    model = onnx.load(artifact.path)
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if node.op_type in ("QuantizeLinear", *_FLOAT_MAKERS)}
    missing = [name for name in names if name not in makers]
    if missing:
        raise Refused(f"`{artifact.path}` has no tensor `{missing[0]}`")
    steps = {
        name: tuple(constants[operand] for operand in makers[name].input[1:])
        for name in names
        if makers[name].op_type == "QuantizeLinear"
    }
    for name in names:
        carrier = steps[name][1].dtype if name in steps else np.dtype(np.float32)
        dtype = onnx.helper.np_dtype_to_tensor_dtype(carrier)
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, dtype, None))
    session = _open(model.SerializeToString(), artifact.path, PROVIDERS["cpu"], _options(1))
    source = session.get_inputs()[0]
    size = source.shape[0] if isinstance(source.shape[0], int) else 1
    batch = np.zeros((size, *pixels.shape[1:]), _DTYPES[source.type])
    batch[:1] = pixels
    found = _answered(session, artifact.path, list(names), {source.name: batch})
    result = {}
    for name, real in zip(names, (value[:1].astype(np.float32) for value in found), strict=True):  # (1, C, H, W)
        if name in steps:
            scale, zero_point = steps[name]
            real = (real - np.float32(zero_point)) * scale
        result[name] = np.ascontiguousarray(real.transpose(0, 2, 3, 1))
    return result


def _onnxruntime() -> Any:
    runtime = require("onnxruntime", "onnx")
    runtime.disable_telemetry_events()
    return runtime


def _options(threads: int) -> Any:
    options = _onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # A waiting pool thread that spins keeps a core busy between inferences, and so slows whatever is measured next to it. With
    # 2 threads on 2 cores it took twice the CPU time and won nothing; with 1 there is no pool.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _refusals() -> tuple[type[Exception], ...]:
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (*(getattr(state, name) for name in names), RuntimeError)


def _answered(session: Any, path: Path, names: list[str] | None, inputs: Mapping[str, Any]) -> Any:
    try:
        return session.run(names, inputs)
    except _refusals() as err:
        raise Refused(f"ONNX Runtime failed on `{path}`: {' '.join(str(err).split())}") from err


def _open(model: bytes, path: Path, provider: str, options: Any) -> Any:
    runtime = _onnxruntime()
    try:
        return runtime.InferenceSession(model, options, providers=[provider])
    except _refusals() as err:
        reason = " ".join(str(err).split())
        raise Refused(f"ONNX Runtime cannot open `{path}`: {reason}", hint="export the file again") from err
