"""LiteRT: on the CPU with the kernels it picks itself, XNNPACK, and on its GPU and NPU accelerators.

The accelerators are devices of this runtime and no runtime of their own: they are of the same package and open the same files. The
CPU stays with the interpreter, whose node list says what XNNPACK takes; `CompiledModel` would not.
"""

from __future__ import annotations

from squeeze_export.core import Artifact, Session
from squeeze_export.runtimes import session
from squeeze_export.runtimes.tflite import accelerators
from squeeze_export.runtimes.tflite.accelerator_session import AcceleratedSession
from squeeze_export.runtimes.tflite.interpreter import LITERT

NAME = LITERT.NAME
inner_values, read_records = LITERT.inner_values, LITERT.read_records
"""Both of the CPU."""


def open_session(artifact: Artifact, *, device: str, threads: int) -> Session:
    """Opens a TFLite file; see `InterpreterRuntime.open_session` and `AcceleratedSession` for what is raised."""
    if device not in accelerators.DEVICES:
        return LITERT.open_session(artifact, device=device, threads=threads)
    session.check_threads(threads)
    LITERT.load()
    return AcceleratedSession(artifact, accelerators.accelerator_for(device), LITERT, threads=threads)


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have, and tells what to install for it.

    Raises:
        Unavailable: it has none, or the package is not installed.
    """
    on_cpu = LITERT.devices()
    if device in accelerators.DEVICES:
        accelerators.accelerator_for(device)
    elif device not in on_cpu:
        session.check_present(device, devices(), NAME)


def devices() -> tuple[str, ...]:
    """The devices that this runtime can use on this machine: `cpu`, and the accelerators whose drivers answer.

    Raises:
        Unavailable: the package is not installed.
    """
    return (*LITERT.devices(), *accelerators.present())
