"""OpenVINO with floats in bfloat16: its own choice for a float file on a CPU that has instructions for it.

An int8 file runs the same integer kernels as with `openvino`.
"""

from __future__ import annotations

from functools import partial

from squeeze_export.runtimes.openvino import session
from squeeze_export.runtimes.openvino.plugins import AUTO, installed_devices, plugin_of

NAME, PRECISION = "openvino-bf16", "bf16"
FOREIGN = True
DEVICE_NAMES = ("cpu", "gpu", "npu", AUTO)

devices = partial(installed_devices, NAME, PRECISION)
check_device = partial(plugin_of, NAME, PRECISION)
open_session = partial(session.OpenvinoSession, runtime=NAME, precision=PRECISION)
inner_values = partial(session.inner_values, precision=PRECISION)
