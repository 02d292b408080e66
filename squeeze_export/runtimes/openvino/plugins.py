"""OpenVINO's devices: what they are called here, which are on this machine, and how each is set up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeeze_export.core import require
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.runtimes.quiet import quiet

AUTO = "auto"
"""No device: OpenVINO chooses one. So `installed_devices` does not list it, and a session says which it was."""
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
    """What OpenVINO's name of a device is here: `CPU` is `cpu`, `GPU` and `GPU.0` are `gpu`, `GPU.1` is `gpu.1`."""
    return plugin.lower().removesuffix(".0")


def installed_devices(runtime: str, precision: str) -> tuple[str, ...]:
    """The devices that OpenVINO has here and that compute in a precision without emulating it.

    An NPU has no float32. It is listed for it all the same: what a file has in floats runs in float16 there, and a session says so.

    Args:
        runtime: the registry's name.
        precision: `f32` or `bf16`.

    Raises:
        Unavailable: `openvino` is not installed, or no device computes in it.
    """
    core = load().Core()
    with quiet():
        present = {device_of(plugin): plugin for plugin in core.available_devices if _known(plugin)}
        able = {device: core.get_property(plugin, "OPTIMIZATION_CAPABILITIES") for device, plugin in present.items()}
    found = tuple(device for device, capabilities in able.items() if precision != "bf16" or "BF16" in capabilities)
    if present and not found:
        told = ", ".join(able[next(iter(able))])
        raise Unavailable(
            f"`{runtime}` needs a CPU that computes in bfloat16; OpenVINO says of this one: `{told}`", hint="--runtime openvino"
        )
    return found


def plugin_of(device: str, present: Sequence[str], runtime: str) -> str:
    """OpenVINO's name of a device.

    Args:
        device: one of `present`, or `AUTO`.
        present: the devices of this machine.
        runtime: the registry's name, for the error message.

    Raises:
        Unavailable: it is none of them.
    """
    if device == AUTO:
        return "AUTO"
    if device not in present:
        needed = _HINTS.get(device.split(".")[0])
        has = f"it has: {', '.join(present)}"
        raise Unavailable(f"`{runtime}` has no device `{device}` here", hint=f"{needed}; {has}" if needed else has)
    if device == "cpu":
        return "CPU"
    plugins: list[str] = load().Core().available_devices
    return next(plugin for plugin in plugins if device_of(plugin) == device)


def float_precision(plugin: str, precision: str) -> str:
    """The precision to ask a device for: `precision`, or `f16` where it has no floats but those.

    Args:
        plugin: OpenVINO's name of the device.
        precision: `f32` or `bf16`.
    """
    if plugin in ("CPU", "AUTO"):
        return precision
    able = _capabilities(plugin)
    return "f16" if _FLOATS[precision] not in able and "FP16" in able else precision


def settings_of(plugin: str, precision: str, threads: int) -> dict[str, Any]:
    """How a device is set up: one image as fast as possible, floats in one precision, and on the CPU so many threads.

    Args:
        plugin: OpenVINO's name of the device.
        precision: `f32`, `bf16` or `f16`.
        threads: at least 1; of the CPU.
    """
    shared = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    # The caller's own choice of cores stays as it is. It made no difference in speed.
    cpu = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    if plugin == "CPU":
        return shared | cpu
    if plugin == "AUTO":
        # Without its fall-backs a session stays on the one device that it names, from the first image on.
        return shared | {"ENABLE_STARTUP_FALLBACK": False, "ENABLE_RUNTIME_FALLBACK": False, "DEVICE_PROPERTIES": {"CPU": cpu}}
    with quiet():  # some drivers of NPUs take no precision
        known = load().Core().get_property(plugin, "SUPPORTED_PROPERTIES")
    return {name: value for name, value in shared.items() if known.get(name) == "RW"}


@dataclass(frozen=True)
class ChosenDevice:
    """Where OpenVINO says that a network runs.

    Attributes:
        device: as it is called here.
        plugin: as OpenVINO calls it.
        precision: of what is computed in floating point: `f32`, `bf16`, `f16`.
        threads: of the CPU; None of another device.
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
    """OpenVINO's names of the devices that a compiled network runs on: a list, of an NPU one word."""
    told = compiled.get_property("EXECUTION_DEVICES")
    return [told] if isinstance(told, str) else [str(name) for name in told]


def executed_on(compiled: Any) -> ChosenDevice:
    """The one device that a compiled network runs on.

    Args:
        compiled: an `openvino.CompiledModel`.

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
        told = {name: compiled.get_property(name) for name in _READ_BACK if name in supported}
    precision = told.get("INFERENCE_PRECISION_HINT")
    threads = told.get("INFERENCE_NUM_THREADS")
    if precision is None and not _capabilities(plugin) & {*_FLOATS.values()}:
        name = "f16"  # the device has no other floats
    elif precision is None:
        raise Refused(f"OpenVINO does not say in which precision `{plugin}` computes", hint="--device cpu")
    else:
        name = precision.get_type_name()
    return ChosenDevice(device_of(plugin), plugin, name, None if threads is None else int(threads))


_READ_BACK = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS")


def _capabilities(plugin: str) -> frozenset[str]:
    with quiet():
        return frozenset(load().Core().get_property(plugin, "OPTIMIZATION_CAPABILITIES"))


def _known(plugin: str) -> bool:
    return plugin.split(".")[0] in ("CPU", "GPU", "NPU")
