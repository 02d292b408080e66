"""The devices of ONNX Runtime: which execution provider drives each, with which options, and what to install for it.

Providers are part of the installed build, or plug-ins: libraries that a package brings and that are registered once a process.
Qualcomm's is left to the runtime `qnn`, which can tell an emulator from a chip. Options are the documented ones
(https://onnxruntime.ai/docs/execution-providers/), chosen for one image at a time and for the file's own precision.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import Evidence, require
from squeeze_export.errors import SqueezeExportError, Unavailable
from squeeze_export.graph.quantized import FP32, Scheme
from squeeze_export.runtimes.onnxruntime.calls import hardware_of, onnxruntime, opened, refusals, session_options
from squeeze_export.runtimes.quiet import quiet

CPU = "CPUExecutionProvider"
NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
OTHER_RUNTIMES = ("QNNExecutionProvider", CPU)
"""Providers that are not plug-ins of this runtime, though ONNX Runtime may list them among its devices."""
PLUGIN_PREFIX = "onnxruntime_ep_"
"""How packages of plug-ins are named: `onnxruntime_ep_webgpu`, with `get_library_path()` and `get_ep_name()`."""
_SUFFIX = "ExecutionProvider"
_HARDWARE = {"openvino": "CPU", "openvino-gpu": "GPU", "openvino-npu": "NPU", "webgpu": "GPU"}
"""Device -> ONNX Runtime's word for the hardware that it means."""


@dataclass(frozen=True)
class Device:
    """How a device is driven.

    Attributes:
        provider: ONNX Runtime's name.
        kernels: the library behind it.
        install: what to install where it is missing.
        options: of the provider: names and values.
    """

    provider: str
    kernels: str
    install: str
    options: tuple[tuple[str, str], ...] = ()


_GPU = "pip install onnxruntime-gpu, in place of onnxruntime, on a machine with an NVIDIA GPU and its CUDA libraries"
_INTEL = "pip install onnxruntime-openvino, in place of onnxruntime, in an environment of its own"

DEVICES: Mapping[str, Device] = {
    "cpu": Device(CPU, "MLAS", "pip install 'squeeze-export[onnx]'"),
    # TensorFloat-32 would change the precision of float files.
    "cuda": Device("CUDAExecutionProvider", "cuDNN", _GPU, (("use_tf32", "0"),)),
    "tensorrt": Device("TensorrtExecutionProvider", "TensorRT", f"{_GPU} and TensorRT"),
    "openvino": Device("OpenVINOExecutionProvider", "OpenVINO CPU", _INTEL, (("device_type", "CPU"),)),
    "openvino-gpu": Device(
        "OpenVINOExecutionProvider", "OpenVINO GPU", _INTEL, (("device_type", "GPU"), ("precision", "ACCURACY"))
    ),
    "openvino-npu": Device("OpenVINOExecutionProvider", "OpenVINO NPU", _INTEL, (("device_type", "NPU"),)),
    "coreml": Device(
        "CoreMLExecutionProvider",
        "Core ML",
        "pip install onnxruntime on a Mac",
        (("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL")),
    ),
    "nnapi": Device("NnapiExecutionProvider", "NNAPI", "a build of ONNX Runtime for Android"),
    "directml": Device(
        "DmlExecutionProvider",
        "DirectML",
        "pip install onnxruntime-directml, in place of onnxruntime, on Windows",
        (("device_id", "0"),),
    ),
    "webgpu": Device("WebGpuExecutionProvider", "WebGPU", "pip install onnxruntime-ep-webgpu"),
    "xnnpack": Device("XnnpackExecutionProvider", "XNNPACK", "a build of ONNX Runtime with --use_xnnpack"),
}
"""Device -> how it is driven, and what to install for it."""


def provider_options(name: str, scheme: Scheme, threads: int) -> dict[str, str]:
    """The options of a device's provider for a file.

    TensorRT computes in the precisions that it is allowed, so it is allowed the file's own; its integers are those of symmetric
    Q/DQ pairs (`int8-symmetric`). XNNPACK has its own threads.
    """
    options = dict(DEVICES[name].options) if name in DEVICES else {}
    if name == "tensorrt":
        options |= {"trt_int8_enable": str(int(scheme.integer)), "trt_fp16_enable": str(int(scheme.float_dtype == "float16"))}
    if name == "xnnpack":
        options |= {"intra_op_num_threads": str(threads)}
    return options


def available() -> dict[str, Device]:
    """The devices that ONNX Runtime has here, including those of plug-ins: name -> how it is driven.

    Raises:
        Unavailable: `onnxruntime` is not installed.
    """
    plugins = dict.fromkeys(entry.ep_name for entry in plugin_entries())
    built_in = onnxruntime().get_available_providers()
    found = {name: device for name, device in DEVICES.items() if device.provider in built_in}
    for provider in plugins:
        short = provider.removesuffix(_SUFFIX)
        name = next((name for name, device in DEVICES.items() if device.provider == provider), short.lower())
        found.setdefault(name, DEVICES.get(name) or Device(provider, short, ""))
    return {name: device for name, device in found.items() if name == "cpu" or works(name, device)}


@cache
def works(name: str, device: Device) -> bool:
    """Whether an installed provider runs here. It is tried with one operator, once a process.

    A build for GPUs names its providers on machines without a GPU too, and its sessions then quietly have the CPU's alone. NVIDIA's
    take seconds to start, so the driver is asked for a GPU instead; `open_on` notices what else they may lack.
    """
    if device.provider in NVIDIA:
        return nvidia_gpu_count() > 0
    with contextlib.suppress(SqueezeExportError, *refusals()):
        session = open_on(name, device, _one_operator(), Path("probe.onnx"), session_options(1), FP32, 1)
        session.run(None, {"x": np.zeros((1, 4), np.float32)})
        return True
    return False


def nvidia_gpu_count() -> int:
    """GPUs that NVIDIA's driver has, by its cuInit and cuDeviceGetCount; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _one_operator() -> bytes:
    onnx = require("onnx", "onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 4)) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())


def open_on(name: str, device: Device, model: bytes, path: Path, options: Any, scheme: Scheme, threads: int) -> Any:
    """Opens a session on a device: its provider first, the CPU's for the operators that the first does not take.

    Args:
        name: of the device.
        device: how it is driven.
        model: an ONNX file.
        path: where it lies, for messages.
        options: of the session.
        scheme: of the file.
        threads: intra-op threads.

    Raises:
        Unavailable: the provider is installed, but does not work on this machine.
        Refused: the file cannot be opened on it.
    """
    if name == "cpu":
        return opened(model, path, options, [CPU])
    entries = entries_for(name, device.provider)
    chosen = provider_options(name, scheme, threads)
    if device.provider == "DmlExecutionProvider":
        options.enable_mem_pattern = False  # as its page says
    if entries:
        options.add_provider_for_devices(entries[:1], chosen)
    with quiet(), contextlib.redirect_stdout(None):
        if not entries and device.provider in NVIDIA:  # the CUDA libraries in Python packages, if this ONNX Runtime can load them
            getattr(onnxruntime(), "preload_dlls", lambda: None)()
        session = opened(model, path, options, None if entries else [(device.provider, chosen), CPU])
    if device.provider not in session.get_providers():
        raise Unavailable(f"ONNX Runtime cannot use `{device.provider}` on this machine", hint=device.install)
    return session


def entries_for(name: str, provider: str) -> list[Any]:
    """The plug-in's entries that a device may be opened on; the first is used. Without a GPU, `webgpu` takes the CPU: a software
    adapter.

    Args:
        name: of the device.
        provider: ONNX Runtime's name.
    """
    entries = [entry for entry in plugin_entries() if entry.ep_name == provider]
    if name not in _HARDWARE:
        return entries
    fitting = [entry for entry in entries if hardware_of(entry) == _HARDWARE[name]]
    return fitting or (entries if name == "webgpu" else [])


def plugin_entries() -> list[Any]:
    """ONNX Runtime's own entries of the devices that plug-ins drive."""
    runtime = onnxruntime()
    if not hasattr(runtime, "get_ep_devices"):  # before 1.23
        return []
    for module in pkgutil.iter_modules():
        if module.name.startswith(PLUGIN_PREFIX):
            _register(module.name)
    return [entry for entry in runtime.get_ep_devices() if entry.ep_name not in OTHER_RUNTIMES]


@cache
def _register(module: str) -> None:
    """Registers a plug-in's library, once a process. If that fails, its device is not among those that are here."""
    failures: tuple[type[Exception], ...] = (AttributeError, ImportError, OSError, *refusals())
    with contextlib.suppress(*failures), quiet():
        package = importlib.import_module(module)
        name = package.get_ep_name() if hasattr(package, "get_ep_name") else module  # some are then called by this name
        onnxruntime().register_execution_provider_library(name, str(package.get_library_path()))


def evidence_and_facts(entry: Any) -> tuple[Evidence, dict[str, str]]:
    """What ONNX Runtime tells of the hardware that a plug-in drives: `emulated` if WebGPU's GPU is really the CPU, as a software
    adapter is; and its name and numbers.
    """
    kind, hardware = hardware_of(entry), entry.device
    software = entry.ep_name == DEVICES["webgpu"].provider and kind == "CPU"
    name = " ".join(filter(None, [kind, hardware.vendor, f"{hardware.vendor_id:04x}:{hardware.device_id:04x}"]))
    return "emulated" if software else "measured", {"hardware": name}
