"""OpenVINO with floats as the file has them: fp32 files run in float32 even on CPUs where OpenVINO itself would choose bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from squeeze_export.core import Placement
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.runtimes.openvino import session
from squeeze_export.runtimes.openvino.plugins import AUTO, installed_devices, plugin_of
from squeeze_export.runtimes.openvino.records import Executed, kernel_families, placement

NAME, PRECISION = "openvino", "f32"
FOREIGN = True
DEVICE_NAMES = ("cpu", "gpu", "npu", AUTO)

devices = partial(installed_devices, NAME, PRECISION)
check_device = partial(plugin_of, NAME, PRECISION)
open_session = partial(session.OpenvinoSession, runtime=NAME, precision=PRECISION)
inner_values = partial(session.inner_values, precision=PRECISION)


def read_records(records: Mapping[str, Any], scheme: str) -> tuple[str, Placement]:
    """Reads every operator that OpenVINO executes on a board's CPU; see `Runtime.read_records`."""
    executed = [
        Executed(
            str(entry["name"]),
            str(entry["operator"]),
            str(entry["kernel"]),
            str(entry["precision"]),
            tuple(map(str, entry["output_precisions"])),
            int(entry["macs"]),
        )
        for entry in records["executed"]
    ]
    return kernel_families(executed), placement(executed, scheme_named(scheme).floats)
