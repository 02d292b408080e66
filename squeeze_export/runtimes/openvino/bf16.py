"""OpenVINO with floats in bfloat16: what it makes of a float file by itself on a CPU that has instructions for it.

An int8 file runs the same integer kernels as with `openvino`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from squeeze_export.core import Artifact, ByteArray, FloatArray
from squeeze_export.runtimes.openvino import plugins
from squeeze_export.runtimes.openvino import session as shared

NAME = "openvino-bf16"
PRECISION = "bf16"


def devices() -> tuple[str, ...]:
    """The devices that compute in bfloat16.

    Raises:
        Unavailable: `openvino` is not installed, or the CPU would have to emulate it.
    """
    return plugins.installed_devices(NAME, PRECISION)


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have, and tells what to install for it; `auto` is none and is let through.

    Raises:
        Unavailable: it has none, or `openvino` is not installed.
    """
    plugins.plugin_of(device, devices(), NAME)


def open_session(artifact: Artifact, *, device: str, threads: int) -> shared.OpenvinoSession:
    """Opens a folder; see `session.OpenvinoSession`."""
    return shared.OpenvinoSession(artifact, runtime=NAME, precision=PRECISION, device=device, threads=threads)


def inner_values(artifact: Artifact, names: Sequence[str], pixels: ByteArray) -> Mapping[str, FloatArray]:
    """What the file's operators make of one image; see `session.inner_values`."""
    return shared.inner_values(artifact, names, pixels, precision=PRECISION)
