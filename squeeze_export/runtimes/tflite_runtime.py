"""The older `tflite_runtime` package (2.14 was its last, 2023), for machines that have nothing newer."""

from __future__ import annotations

from typing import Any

from squeeze_export.core import Artifact, Session, require
from squeeze_export.errors import Unavailable
from squeeze_export.runtimes._tflite_interpreter import installed_devices, open_interpreter

NAME = "tflite-runtime"


def open_session(artifact: Artifact, *, device: str, threads: int) -> Session:
    """Opens a TFLite file; see `open_interpreter` for what is raised."""
    return open_interpreter(artifact, runtime=NAME, device=device, threads=threads, load=_load)


def devices() -> tuple[str, ...]:
    """The devices that this runtime can use on this machine.

    Raises:
        Unavailable: the package is not installed.
    """
    return installed_devices(_load)


def _load() -> Any:
    try:
        return require("tflite_runtime.interpreter", "tflite")
    except Unavailable as err:  # no extra brings it: it needs numpy < 2
        hint = "pip install tflite-runtime 'numpy<2' in an environment of its own, or use the runtime litert"
        raise Unavailable(err.message, hint=hint) from err
