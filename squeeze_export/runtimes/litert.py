"""LiteRT: on the CPU with the kernels it picks itself, XNNPACK, and on its GPU and NPU accelerators.

The accelerators are devices of this runtime and no runtime of their own: they are of the same package and open the same files. The
CPU stays with the interpreter, whose node list says what XNNPACK takes; `CompiledModel` would not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_export.core import Artifact, ByteArray, FloatArray, Session, require
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.runtimes import _litert_devices, _tflite_values
from squeeze_export.runtimes._litert_session import AcceleratedSession
from squeeze_export.runtimes._tflite_interpreter import installed_devices, open_interpreter

NAME = "litert"


def open_session(artifact: Artifact, *, device: str, threads: int) -> Session:
    """Opens a TFLite file; see `open_interpreter` and `AcceleratedSession` for what is raised."""
    if device not in _litert_devices.DEVICES:
        return open_interpreter(artifact, runtime=NAME, device=device, threads=threads, load=_load)
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    _load()
    accelerator = _litert_devices.accelerator_for(device)
    return AcceleratedSession(artifact, accelerator, runtime=NAME, threads=threads, load=_load)


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have, and tells what to install for it.

    Raises:
        Unavailable: it has none, or the package is not installed.
    """
    _load()
    if device in _litert_devices.DEVICES:
        _litert_devices.accelerator_for(device)
    elif device not in installed_devices(_load):
        raise Unavailable(f"`{NAME}` has no device `{device}`", hint=f"it runs on: {', '.join(devices())}")


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """What the file's operators make of one image, on the CPU; see `Runtime.inner_values`."""
    return _tflite_values.inner_values(artifact, names, pixels, runtime=NAME, load=_load)


def devices() -> tuple[str, ...]:
    """The devices that this runtime can use on this machine: `cpu`, and the accelerators whose drivers answer.

    Raises:
        Unavailable: the package is not installed.
    """
    return (*installed_devices(_load), *_litert_devices.present())


def _load() -> Any:
    return require("ai_edge_litert.interpreter", "tflite")
