"""The interpreter inside TensorFlow, for machines that have only that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from squeeze_export.core import Artifact, ByteArray, FloatArray, Session, require
from squeeze_export.runtimes import _tflite_values
from squeeze_export.runtimes._tflite_interpreter import check_cpu, installed_devices, open_interpreter

NAME = "tensorflow-lite"


def open_session(artifact: Artifact, *, device: str, threads: int) -> Session:
    """Opens a TFLite file; see `open_interpreter` for what is raised."""
    return open_interpreter(artifact, runtime=NAME, device=device, threads=threads, load=_load)


def check_device(device: str) -> None:
    """Refuses a device that is not here; see `Runtime.check_device`."""
    installed_devices(_load)
    check_cpu(NAME, device)


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """What the file's operators make of one image; see `Runtime.inner_values`."""
    return _tflite_values.inner_values(artifact, names, pixels, runtime=NAME, load=_load)


def devices() -> tuple[str, ...]:
    """The devices that this runtime can use on this machine.

    Raises:
        Unavailable: the package is not installed.
    """
    return installed_devices(_load)


def _load() -> Any:
    return require("tensorflow.lite.python.interpreter", "peers")
