"""OpenVINO with floats as the file has them: fp32 files run in float32, also on CPUs where OpenVINO's own choice is bfloat16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from squeeze_export.core import Artifact, ByteArray, FloatArray
from squeeze_export.runtimes.openvino import plugins
from squeeze_export.runtimes.openvino import session as shared

NAME = "openvino"
PRECISION = "f32"


def devices() -> tuple[str, ...]:
    """The devices that OpenVINO has here.

    Raises:
        Unavailable: `openvino` is not installed.
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
