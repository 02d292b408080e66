"""What every session of ONNX Runtime shares, whatever its provider: options, errors, an image tensor in, a row of numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import ByteArray, FloatArray, require
from squeeze_export.errors import Refused

MAX_REASON_CHARACTERS = 400
_SILENT = 4  # fatal only: what goes wrong is raised, and is not to be printed as well
_DTYPES: Mapping[str, str] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass(frozen=True)
class Ends:
    """The two ends of a session.

    Attributes:
        name: of the input.
        dtype: of the input: `uint8` or `float32`.
        shape: (N, H, W, 3) of the input; a symbolic dimension is a string.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def batch(self) -> int | None:
        """Images of an inference; None where the file leaves that open."""
        return self.shape[0] if isinstance(self.shape[0], int) else None


def onnxruntime() -> Any:
    """The module, with its telemetry off.

    Raises:
        Unavailable: it is not installed.
    """
    runtime = require("onnxruntime", "onnx")
    runtime.disable_telemetry_events()
    return runtime


def session_options(threads: int) -> Any:
    """Options of a session of so many intra-op threads that prints nothing."""
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # A waiting pool thread that spins keeps a core busy between inferences, and so slows whatever is measured next to it. With
    # 2 threads on 2 cores it took twice the CPU time and won nothing; with 1 there is no pool.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises of a file or a provider that it cannot use."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (*(getattr(state, name) for name in names if hasattr(state, name)), RuntimeError)


def reason(err: BaseException) -> str:
    """One line of what was raised, shortened."""
    text = " ".join(str(err).split())
    return text if len(text) <= MAX_REASON_CHARACTERS else f"{text[:MAX_REASON_CHARACTERS]} ..."


def answered(session: Any, path: Path, names: list[str] | None, inputs: Mapping[str, Any]) -> Any:
    """Runs a session.

    Raises:
        Refused: ONNX Runtime failed.
    """
    try:
        return session.run(names, inputs)
    except refusals() as err:
        raise Refused(f"ONNX Runtime failed on `{path}`: {reason(err)}") from err


def opened(model: bytes, path: Path, options: Any, providers: Sequence[Any] | None) -> Any:
    """Opens a session that keeps to its providers.

    Args:
        model: an ONNX file.
        path: where it lies, for messages.
        options: of the session; they hold the device where `providers` is None.
        providers: names, or names with options.

    Raises:
        Refused: ONNX Runtime cannot open it.
    """
    runtime = onnxruntime()
    chosen = {} if providers is None else {"providers": list(providers)}
    try:
        # Its own fallback opens a failed session again on the CPU, and says so to stdout.
        return runtime.InferenceSession(model, options, enable_fallback=0, **chosen)
    except refusals() as err:
        raise Refused(f"ONNX Runtime cannot open `{path}`: {reason(err)}", hint="export the file again") from err


def ends_of(session: Any, path: Path) -> Ends:
    """The input of a session.

    Raises:
        Refused: it does not take one image tensor, or does not give one row of numbers.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
        raise Refused(f"`{path}` does not take one NHWC tensor of uint8 or float32", hint="open files that this tool wrote")
    if len(outputs) != 1 or outputs[0].type != "tensor(float)" or len(outputs[0].shape) != 2:
        raise Refused(f"`{path}` does not give one (N, classes) tensor of float32", hint="open files that this tool wrote")
    return Ends(inputs[0].name, _DTYPES[inputs[0].type], tuple(inputs[0].shape))


def logits_of(session: Any, path: Path, ends: Ends, images: ByteArray) -> FloatArray:
    """Runs as many images as the file takes at once.

    Raises:
        Refused: ONNX Runtime failed.
    """
    logits: FloatArray = answered(session, path, None, {ends.name: images.astype(ends.dtype, copy=False)})[0]
    return logits


def black_images(ends: Ends) -> Mapping[str, Any]:
    """The inputs of one inference, all zeros."""
    return {ends.name: np.zeros((ends.batch or 1, *ends.shape[1:]), ends.dtype)}
