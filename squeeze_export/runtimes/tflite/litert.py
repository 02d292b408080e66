"""LiteRT: on the CPU with the kernels it picks itself, XNNPACK, and on its GPU and NPU accelerators.

The accelerators are devices of this runtime and no runtime of their own: they are of the same package and open the same files. The
CPU stays with the interpreter, whose node list says what XNNPACK takes; `CompiledModel` would not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from squeeze_export.core import Artifact, Placement, Session
from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.tflite import accelerators, placement
from squeeze_export.runtimes.tflite.accelerator_session import AcceleratedSession
from squeeze_export.runtimes.tflite.interpreter import LITERT

NAME = LITERT.NAME
inner_values = LITERT.inner_values
"""On the CPU."""


def open_session(artifact: Artifact, *, device: str, threads: int) -> Session:
    """Opens a TFLite file; see `InterpreterRuntime.open_session` and `AcceleratedSession` for what is raised."""
    if device not in accelerators.DEVICES:
        return LITERT.open_session(artifact, device=device, threads=threads)
    if threads < 1:
        raise BadInput(f"`{threads}` threads", hint="--threads N with N at least 1")
    LITERT.load()
    return AcceleratedSession(artifact, accelerators.accelerator_for(device), LITERT, threads=threads)


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have, and tells what to install for it.

    Raises:
        Unavailable: it has none, or the package is not installed.
    """
    here = LITERT.devices()
    if device in accelerators.DEVICES:
        accelerators.accelerator_for(device)
    elif device not in here:
        raise Unavailable(f"`{NAME}` has no device `{device}`", hint=f"it runs on: {', '.join(devices())}")


def read_records(records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """What a board's interpreter told: its `nodes`, `tensors` and `inputs`; see `Runtime.read_records`."""
    floats = scheme_named(scheme).floats
    return placement.read_records(records["nodes"], records["tensors"], records["inputs"], floats=floats)


def devices() -> tuple[str, ...]:
    """The devices that this runtime can use on this machine: `cpu`, and the accelerators whose drivers answer.

    Raises:
        Unavailable: the package is not installed.
    """
    return (*LITERT.devices(), *accelerators.present())
