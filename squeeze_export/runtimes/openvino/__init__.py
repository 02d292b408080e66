"""OpenVINO with floats as the file has them: fp32 files run in float32, also on CPUs where OpenVINO's own choice is bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from squeeze_export.core import Placement
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.openvino import session
from squeeze_export.runtimes.openvino.plugins import installed_devices, plugin_of
from squeeze_export.runtimes.openvino.records import Executed, kernel_families, placement

NAME, PRECISION = "openvino", "f32"

devices = partial(installed_devices, NAME, PRECISION)
open_session = partial(session.OpenvinoSession, runtime=NAME, precision=PRECISION)
inner_values = partial(session.inner_values, precision=PRECISION)


def check_device(device: str) -> None:
    """Refuses a device that this machine does not have, and tells what to install for it; `auto` is none and is let through.

    Raises:
        Unavailable: it has none, or `openvino` is not installed.
    """
    plugin_of(device, devices(), NAME)


def read_records(records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """What a board's OpenVINO told on its CPU: every operator that it executes; see `Runtime.read_records`."""
    executed = [
        Executed(
            name=str(entry["name"]),
            operator=str(entry["operator"]),
            kernel=str(entry["kernel"]),
            precision=str(entry["precision"]),
            output_precisions=tuple(str(precision) for precision in entry["output_precisions"]),
            macs=int(entry["macs"]),
        )
        for entry in records["executed"]
    ]
    return kernel_families(executed), placement(executed, scheme_named(scheme).floats)
