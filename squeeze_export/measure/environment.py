"""The packages, devices and tools that this machine has or lacks, for `doctor`. Reads only metadata and files."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from squeeze_export.measure.host import host_facts, package_version

Kind = Literal["package", "device", "tool"]


@dataclass(frozen=True)
class Item:
    """One line of `doctor`.

    Attributes:
        kind: `package`, `device` or `tool`.
        name: the package's name on PyPI, or the device's.
        present: whether it was found.
        detail: version, or what was found.
        extra: the extra of this package that installs it; empty if none does.
        serves: what it is needed for.
        hint: what to type if it is missing; empty if there is nothing to type.
    """

    kind: Kind
    name: str
    present: bool
    detail: str = ""
    extra: str = ""
    serves: str = ""
    hint: str = ""


@dataclass(frozen=True)
class NeededPackage:
    """A package that some command needs.

    Attributes:
        name: on PyPI.
        extra: of this package; empty if it must be installed by name.
        serves: what it is needed for.
    """

    name: str
    extra: str
    serves: str


PACKAGES = (
    NeededPackage("numpy", "", "everything"),
    NeededPackage("Pillow", "", "reading images"),
    NeededPackage("onnx", "onnx", "target onnx"),
    NeededPackage("onnxruntime", "onnx", "running onnx"),
    NeededPackage("ai-edge-litert", "tflite", "target tflite, running it"),
    NeededPackage("flatbuffers", "tflite", "target tflite"),
    NeededPackage("openvino", "openvino", "target openvino, running it"),
    NeededPackage("coremltools", "coreml", "target coreml"),
    NeededPackage("coreai-core", "coreai", "target coreai, running it"),
    NeededPackage("torch", "torch", "the recipes best and qat, running onnx in torch"),
    NeededPackage("tensorflow-cpu", "peers", "comparing with TFLite's own quantizer"),
    NeededPackage("nncf", "peers", "comparing with OpenVINO's own quantizer"),
    NeededPackage("ethos-u-vela", "ethosu", "compiling for Arm Ethos-U"),
    NeededPackage("onnxruntime-qnn", "qnn", "Qualcomm Hexagon: compiler, emulator, device"),
    NeededPackage("onnxruntime-ep-webgpu", "", "onnx on a GPU through WebGPU"),
    NeededPackage("tflite-micro", "micro", "running tflite with the kernels of microcontrollers"),
    NeededPackage("pyarrow", "parquet", "results of each image as Parquet"),
    NeededPackage("ray", "ray", "validation on several machines"),
)

PROVIDERS = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "tensorrt",
    "CoreMLExecutionProvider": "coreml",
    "DmlExecutionProvider": "directml",
    "NnapiExecutionProvider": "nnapi",
    "OpenVINOExecutionProvider": "openvino",
    "QNNExecutionProvider": "qnn",
    "WebGpuExecutionProvider": "webgpu",
    "XnnpackExecutionProvider": "xnnpack",
}
"""ONNX Runtime's name of a provider -> our name of the device."""

_VULKAN_DRIVERS = ("/usr/share/vulkan/icd.d/*.json", "/etc/vulkan/icd.d/*.json", "/usr/local/share/vulkan/icd.d/*.json")


@dataclass(frozen=True)
class Probes:
    """Functions that look at the machine; tests pass their own.

    Attributes:
        version: package name -> version or None.
        which: program name -> its path or None.
        found: glob pattern -> paths.
        facts: as `host_facts`.
        providers: ONNX Runtime's execution providers; None if it is not installed. The caller passes it, as it imports
            ONNX Runtime.
        system: `Linux`, `Darwin`, `Windows`.
    """

    version: Callable[[str], str | None] = package_version
    which: Callable[[str], str | None] = shutil.which
    found: Callable[[str], Sequence[str]] = glob.glob
    facts: Callable[[], dict[str, Any]] = host_facts
    providers: Callable[[], Sequence[str] | None] = lambda: None
    system: str = field(default_factory=platform.system)


def environment(probes: Probes) -> tuple[Item, ...]:
    """Everything `doctor` lists: packages, then devices, then tools."""
    return (*(_package(package, probes) for package in PACKAGES), *_devices(probes), *_tools(probes))


def _package(package: NeededPackage, probes: Probes) -> Item:
    version = probes.version(package.name)
    if package.name == "onnxruntime" and version is None:
        # The builds for GPUs install the same module under another package name.
        other = next((name for name in ("onnxruntime-gpu", "onnxruntime-directml") if probes.version(name)), None)
        version = f"{probes.version(other)} ({other})" if other else None
    wanted = f"'squeeze-export[{package.extra}]'" if package.extra else package.name
    return Item(
        kind="package",
        name=package.name,
        present=version is not None,
        detail=version or "",
        extra=package.extra,
        serves=package.serves,
        hint="" if version is not None else f"pip install {wanted}",
    )


def _devices(probes: Probes) -> list[Item]:
    facts = probes.facts()
    providers = probes.providers()
    isa = (", ".join(facts["isa"]) or "no INT8 instructions") if "isa" in facts else "instruction sets unknown"
    items = [Item("device", "cpu", True, f"{facts.get('cpu', 'unknown model')}: {isa}", serves="every target")]
    nvidia = bool(probes.found("/dev/nvidia[0-9]*")) or probes.which("nvidia-smi") is not None
    cuda = providers is not None and "CUDAExecutionProvider" in providers
    items.append(
        Item(
            "device",
            "nvidia gpu",
            nvidia,
            "driver found" if nvidia else "",
            serves="onnx on cuda and tensorrt",
            hint="pip install onnxruntime-gpu (in place of onnxruntime)" if nvidia and not cuda else "",
        )
    )
    items.extend(
        Item("device", PROVIDERS[provider], True, f"{provider} in this onnxruntime", serves="onnx")
        for provider in providers or ()
        if provider in PROVIDERS
    )
    vulkan = [path for pattern in _VULKAN_DRIVERS for path in probes.found(pattern)]
    vulkan_hint = "apt-get install mesa-vulkan-drivers" if probes.system == "Linux" and not vulkan else ""
    items.append(_files("vulkan", vulkan, "tflite on a GPU", vulkan_hint))
    items.append(_files("render node", probes.found("/dev/dri/renderD*"), "openvino on an Intel GPU"))
    items.append(_files("npu", probes.found("/dev/accel/accel*"), "openvino on an Intel NPU"))
    items.append(_files("edge tpu", probes.found("/dev/apex_*"), "tflite on a Coral Edge TPU"))
    apple = probes.system == "Darwin" and facts.get("architecture") == "arm64"
    items.append(Item("device", "apple neural engine", apple, "Apple silicon" if apple else "", serves="coreml"))
    return items


def _files(name: str, paths: Sequence[str], serves: str, hint: str = "") -> Item:
    names = sorted(os.path.basename(path) for path in paths)
    return Item("device", name, bool(paths), ", ".join(names), serves=serves, hint=hint)


def _tools(probes: Probes) -> list[Item]:
    chromium = "apt-get install chromium" if probes.system == "Linux" else ""
    xcode = "xcode-select --install" if probes.system == "Darwin" else ""
    adb = "apt-get install adb" if probes.system == "Linux" else "install Android's platform-tools"
    ssh = "apt-get install openssh-client" if probes.system == "Linux" else ""
    return [
        _tool(probes, "ssh", ("ssh",), "running on a board: --on ssh://", ssh),
        _tool(probes, "adb", ("adb",), "running on an Android phone: --on adb://", adb),
        _tool(probes, "chromium", ("chromium", "chromium-browser", "google-chrome"), "testing the web package", chromium),
        _tool(probes, "xcrun", ("xcrun",), "compiling Core ML models", xcode),
    ]


def _tool(probes: Probes, name: str, programs: tuple[str, ...], serves: str, hint: str) -> Item:
    program = next((program for program in programs if probes.which(program)), None)
    return Item("tool", name, program is not None, program or "", serves=serves, hint="" if program else hint)
