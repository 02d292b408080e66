"""What all sessions of ONNX Runtime share, whatever the provider: options, errors, one image tensor in, one row of numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeeze_export.core import ByteArray, FloatArray, TensorSpec, require
from squeeze_export.errors import Refused
from squeeze_export.runtimes.quiet import reason

_SILENT = 4  # fatal only: errors are raised, and need not be printed as well
_DTYPES: Mapping[str, str] = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def onnxruntime() -> Any:
    """The module, with its telemetry off.

    Raises:
        Unavailable: it is not installed.
    """
    runtime = require("onnxruntime", "onnx")
    runtime.disable_telemetry_events()
    return runtime


def session_options(threads: int) -> Any:
    """Options of a session that prints nothing and uses this many intra-op threads."""
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    # A pool thread that spins while it waits keeps a core busy between inferences, and so slows whatever is measured next to it.
    # With 2 threads on 2 cores spinning took twice the CPU time and won nothing; with 1 thread there is no pool.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file or a provider that it cannot use."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return (*(getattr(state, name) for name in names if hasattr(state, name)), RuntimeError)


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
        options: of the session; they name the device if `providers` is None.
        providers: names, or pairs of name and options.

    Raises:
        Refused: ONNX Runtime cannot open it.
    """
    chosen = {} if providers is None else {"providers": list(providers)}
    try:
        # ONNX Runtime's own fallback would open a failed session again on the CPU, and print that to stdout.
        return onnxruntime().InferenceSession(model, options, enable_fallback=0, **chosen)
    except refusals() as err:
        raise Refused(f"ONNX Runtime cannot open `{path}`: {reason(err)}", hint="export the file again") from err


def input_of(session: Any, path: Path) -> TensorSpec:
    """The input of an image classifier's session: (N, H, W, 3) uint8 or float32.

    Raises:
        Refused: the session does not take one image tensor, or does not give one row of numbers.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
        raise Refused(f"`{path}` does not take one NHWC tensor of uint8 or float32", hint="open files that this tool wrote")
    if len(outputs) != 1 or outputs[0].type != "tensor(float)" or len(outputs[0].shape) != 2:
        raise Refused(f"`{path}` does not give one (N, classes) tensor of float32", hint="open files that this tool wrote")
    return TensorSpec(inputs[0].name, tuple(inputs[0].shape), _DTYPES[inputs[0].type], "NHWC")


def hardware_of(entry: Any) -> str:
    """ONNX Runtime's word for the hardware behind one of its entries of devices: `CPU`, `GPU` or `NPU`."""
    return str(entry.device.type).rsplit(".", 1)[-1]


def batch_of(source: TensorSpec) -> int | None:
    """Images of an inference; None if the file leaves the batch free."""
    return source.shape[0] if isinstance(source.shape[0], int) else None


def logits_of(session: Any, path: Path, source: TensorSpec, images: ByteArray) -> FloatArray:
    """Runs as many images as the file takes at once.

    Raises:
        Refused: ONNX Runtime failed.
    """
    logits: FloatArray = answered(session, path, None, {source.name: images.astype(source.dtype, copy=False)})[0]
    return logits
