"""LiteRT: on the CPU with the kernels that it picks itself, XNNPACK's, and on its GPU and NPU accelerators.

The accelerators are devices of this runtime, since they belong to the same package and open the same files. The CPU stays with the
interpreter, whose node list says what XNNPACK takes; `CompiledModel` does not say it.
"""

from __future__ import annotations

from squeeze_export.core import Artifact, Session
from squeeze_export.errors import BadInput
from squeeze_export.runtimes import session
from squeeze_export.runtimes.tflite import accelerators
from squeeze_export.runtimes.tflite.accelerator_session import AcceleratedSession
from squeeze_export.runtimes.tflite.interpreter import LITERT

NAME = LITERT.NAME
FOREIGN = True
DEVICE_NAMES = ("cpu", *accelerators.DEVICES)
inner_values, read_records = LITERT.inner_values, LITERT.read_records
"""Both on the CPU."""


def open_session(artifact: Artifact, *, device: str, threads: int) -> Session:
    """Opens a TFLite file; see `Runtime.open_session`."""
    if device not in accelerators.DEVICES:
        return LITERT.open_session(artifact, device=device, threads=threads)
    session.check_threads(threads)
    if artifact.foreign is not None:
        raise BadInput(
            f"`{artifact.path.name}` is another tool's, and LiteRT's accelerators run only this tool's files", hint="--device cpu"
        )
    LITERT.load()
    return AcceleratedSession(artifact, accelerators.accelerator_for(device), LITERT, threads=threads)


def check_device(device: str) -> None:
    """Refuses a device that is not here, and says what to install for it; see `Runtime.check_device`."""
    on_cpu = LITERT.devices()
    if device in accelerators.DEVICES:
        accelerators.accelerator_for(device)
    elif device not in on_cpu:
        session.check_present(device, devices(), f"`{NAME}`")


def devices() -> tuple[str, ...]:
    """`cpu`, and the accelerators whose drivers answer; see `Runtime.devices`."""
    return (*LITERT.devices(), *accelerators.present())
