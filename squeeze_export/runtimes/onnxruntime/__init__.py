"""ONNX Runtime, with the provider of the device that was asked for, never another's.

ONNX Runtime gives a provider the operators that it takes, and the rest to the CPU's: a session's placement lists those. A session
that ran nothing on the provider is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_export.core import Artifact, ByteArray, FloatArray, Placement
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.foreign import adapter_of
from squeeze_export.runtimes.onnxruntime import inner_tensors
from squeeze_export.runtimes.onnxruntime.calls import onnxruntime, session_options
from squeeze_export.runtimes.onnxruntime.providers import CPU, DEVICES, Device, available, open_on
from squeeze_export.runtimes.onnxruntime.records import is_mixed, placement, read_events
from squeeze_export.runtimes.onnxruntime.session import OnnxSession
from squeeze_export.runtimes.session import check_present, check_threads, read_file

NAME = OnnxSession.runtime
FOREIGN = True
DEVICE_NAMES = tuple(DEVICES)


def devices() -> tuple[str, ...]:
    """The devices whose provider is in the installed build or plug-ins, and works here; see `Runtime.devices`."""
    return tuple(available())


def open_session(artifact: Artifact, *, device: str, threads: int) -> OnnxSession:
    """Opens an ONNX file on a device; see `Runtime.open_session`.

    Raises:
        Unavailable: also if no operator of the file runs on the device.
    """
    check_threads(threads)
    driven = _driven(device)
    model, scheme, adapter = read_file(artifact.path), scheme_named(artifact.scheme), adapter_of(artifact)
    session = OnnxSession(model, artifact.path, device, driven, threads, scheme, adapter=adapter)
    if device != "cpu":
        session.check_it_ran_there()
    return session


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    _driven(device)


def _driven(device: str) -> Device:
    """How a device is driven.

    Raises:
        Unavailable: it is not here.
    """
    if device == "cpu" and CPU in onnxruntime().get_available_providers():
        return DEVICES["cpu"]  # without a look at the others
    present = available()
    check_present(device, present, "ONNX Runtime", DEVICES[device].install if device in DEVICES else "")
    return present[device]


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray, *, device: str = "cpu") -> Mapping[str, FloatArray]:
    """The file's inner tensors for one image, made outputs of the file; see `Runtime.inner_values`."""
    driven, scheme = _driven(device), scheme_named(artifact.scheme)
    return inner_tensors.inner_values(
        artifact, names, pixels, lambda model: open_on(device, driven, model, artifact.path, session_options(1), scheme, 1)
    )


def read_records(records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """Reads the profiler's `events` of one inference on a board's CPU, and `events_as_in_the_file`: of another without ONNX
    Runtime's optimizations. See `Runtime.read_records`.
    """
    ran = read_events(records["events"])
    counted = read_events(records["events_as_in_the_file"]) if is_mixed(ran) else ran
    return DEVICES["cpu"].kernels, placement(ran, sum(record.macs for record in counted), scheme_named(scheme).floats)
