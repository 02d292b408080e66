"""OpenVINO's devices: what they are called here, which are on this machine, and how each is set up.

A *plugin* is OpenVINO's own name of a device: `CPU`, `GPU.0`, `AUTO`. A *precision* is that of floats: `f32`, `bf16` or `f16`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.runtimes.quiet import quiet
from squeeze_export.runtimes.session import check_present

AUTO = "auto"
"""OpenVINO chooses the device. `installed_devices` does not list it, and a session names the device that was chosen."""
_FLOATS: Mapping[str, str] = {"f32": "FP32", "bf16": "BF16"}
"""Precision -> what OpenVINO calls a device's capability for it."""
_HINTS: Mapping[str, str] = {
    "gpu": "an Intel GPU needs its OpenCL driver: apt-get install ocl-icd-libopencl1 intel-opencl-icd",
    "npu": "an Intel NPU needs its driver, `intel-driver-compiler-npu` and `intel-level-zero-npu` of Intel's linux-npu-driver",
}


def load() -> Any:
    """The `openvino` package.

    Raises:
        Unavailable: it is not installed.
    """
    # Importing it reports the import to its maker, by this package; without it nothing else changes.
    return require("openvino", "openvino", without=("openvino_telemetry",))


def device_of(plugin: str) -> str:
    """Our name of a plugin: `CPU` is `cpu`, `GPU` and `GPU.0` are `gpu`, `GPU.1` is `gpu.1`."""
    return plugin.lower().removesuffix(".0")


def installed_devices(runtime: str, precision: str) -> tuple[str, ...]:
    """The devices that OpenVINO has here and that compute in `precision`, `f32` or `bf16`, without emulating it.

    An NPU is listed for `f32` although it has only float16; a session says that its floats run in float16.

    Raises:
        Unavailable: `openvino` is not installed, or no device computes in the precision.
    """
    core = load().Core()
    with quiet():
        present = {device_of(plugin): plugin for plugin in core.available_devices if plugin.startswith(("CPU", "GPU", "NPU"))}
        able = {device: core.get_property(plugin, "OPTIMIZATION_CAPABILITIES") for device, plugin in present.items()}
    found = tuple(device for device, capabilities in able.items() if precision != "bf16" or "BF16" in capabilities)
    if present and not found:
        told = ", ".join(able[next(iter(able))])
        raise Unavailable(
            f"`{runtime}` needs a CPU that computes in bfloat16; OpenVINO says of this one: `{told}`", hint="--runtime openvino"
        )
    return found


def plugin_of(runtime: str, precision: str, device: str) -> str:
    """The plugin of a device, or of `AUTO`.

    Raises:
        Unavailable: the device is not one of `installed_devices`; the hint says what to install for it.
    """
    present = installed_devices(runtime, precision)
    if device == AUTO:
        return "AUTO"
    check_present(device, present, f"`{runtime}`", _HINTS.get(device.split(".")[0], ""))
    plugins: list[str] = load().Core().available_devices
    return next(plugin for plugin in plugins if device_of(plugin) == device)


def float_precision(plugin: str, precision: str) -> str:
    """The precision to ask a device for: `precision`, or `f16` if it has no other floats."""
    if plugin in ("CPU", "AUTO"):
        return precision
    able = _capabilities(plugin)
    return "f16" if _FLOATS[precision] not in able and "FP16" in able else precision


def settings_of(plugin: str, precision: str, threads: int) -> dict[str, Any]:
    """How a device is set up: for the latency of one image, with floats in one precision, and on the CPU with `threads` threads."""
    shared = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    # Without pinning, the caller's own choice of cores stays as it is. It made no difference in speed.
    cpu = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    if plugin == "CPU":
        return shared | cpu
    if plugin == "AUTO":
        # Without fall-backs a session stays on the one device that it names, from the first image on.
        return shared | {"ENABLE_STARTUP_FALLBACK": False, "ENABLE_RUNTIME_FALLBACK": False, "DEVICE_PROPERTIES": {"CPU": cpu}}
    with quiet():  # some drivers of NPUs take no precision
        known = load().Core().get_property(plugin, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in shared.items() if known.get(name) == "RW"}


@dataclass(frozen=True)
class ChosenDevice:
    """Where OpenVINO says that a network runs.

    Attributes:
        device: our name of it.
        plugin: OpenVINO's.
        precision: of floats.
        threads: of the CPU; None for another device.
    """

    device: str
    plugin: str
    precision: str
    threads: int | None

    @property
    def full_name(self) -> str:
        """The chip, by OpenVINO's property `FULL_DEVICE_NAME`."""
        with quiet():
            return str(load().Core().get_property(self.plugin, "FULL_DEVICE_NAME"))


def execution_devices(compiled: Any) -> list[str]:
    """The plugins that a compiled network runs on."""
    told = compiled.get_property("EXECUTION_DEVICES")
    return [told] if isinstance(told, str) else [str(name) for name in told]  # an NPU gives one string


def executed_on(compiled: Any) -> ChosenDevice:
    """The one device that an `openvino.CompiledModel` runs on.

    Raises:
        Refused: OpenVINO names several devices, or does not say in which precision it computes.
    """
    devices = execution_devices(compiled)
    if len(devices) != 1:
        raise Refused(f"OpenVINO runs the network on `{', '.join(devices)}`, not on one device", hint="--device cpu")
    (plugin,) = devices
    supported = compiled.get_property("SUPPORTED_PROPERTIES")
    if "INFERENCE_PRECISION_HINT" not in supported and "DEVICE_PROPERTIES" in supported:
        told = compiled.get_property("DEVICE_PROPERTIES").get(plugin, {})  # AUTO keeps what it says of its device there
    else:
        wanted = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS")
        told = {name: compiled.get_property(name) for name in wanted if name in supported}
    precision, threads = told.get("INFERENCE_PRECISION_HINT"), told.get("INFERENCE_NUM_THREADS")
    if precision is None and not _capabilities(plugin) & {*_FLOATS.values()}:
        name = "f16"  # the device has no other floats
    elif precision is None:
        raise Refused(f"OpenVINO does not say in which precision `{plugin}` computes", hint="--device cpu")
    else:
        name = precision.get_type_name()
    return ChosenDevice(device_of(plugin), plugin, name, None if threads is None else int(threads))


def _capabilities(plugin: str) -> frozenset[str]:
    with quiet():
        return frozenset(load().Core().get_property(plugin, "OPTIMIZATION_CAPABILITIES"))
