"""`doctor`'s list, on machines that the tests play."""

from __future__ import annotations

import subprocess
import sys

from squeeze_export.measure.environment import PACKAGES, Probes, environment


def probes(**changes):
    bare = {
        "version": lambda name: None,
        "which": lambda name: None,
        "found": lambda pattern: [],
        "facts": lambda: {"cpu": "Xeon", "isa": ["avx2"], "architecture": "x86_64"},
        "providers": lambda: None,
        "system": "Linux",
    }
    return Probes(**{**bare, **changes})


def items(**changes):
    return {item.name: item for item in environment(probes(**changes))}


def test_a_bare_machine_is_told_what_to_type():
    found = items()
    assert [item.name for item in found.values() if item.present] == ["cpu"]
    assert found["onnx"].hint == "pip install 'squeeze-export[onnx]'"
    assert found["nncf"].hint == "pip install 'squeeze-export[peers]'"
    assert found["vulkan"].hint == "apt-get install mesa-vulkan-drivers"
    assert found["chromium"].hint == "apt-get install chromium"
    assert all(item.serves for item in found.values())


def test_what_is_installed_has_a_version_and_no_hint():
    found = items(version=lambda name: "1.2.3")
    assert all(found[package.name].detail == "1.2.3" and not found[package.name].hint for package in PACKAGES)


def test_the_gpu_build_counts_as_onnxruntime():
    found = items(version={"onnxruntime-gpu": "1.31.1"}.get)
    assert found["onnxruntime"].present
    assert found["onnxruntime"].detail == "1.31.1 (onnxruntime-gpu)"


def test_a_gpu_that_onnxruntime_cannot_use():
    found = items(found=lambda pattern: ["/dev/nvidia0"] if "nvidia" in pattern else [], providers=lambda: ["CPUExecutionProvider"])
    assert found["nvidia gpu"].present
    assert "onnxruntime-gpu" in found["nvidia gpu"].hint
    assert "cuda" not in found


def test_a_gpu_that_onnxruntime_uses():
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    found = items(which=lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None, providers=lambda: providers)
    assert found["nvidia gpu"].present
    assert found["nvidia gpu"].hint == ""
    assert found["cuda"].present
    assert found["tensorrt"].detail == "TensorrtExecutionProvider in this onnxruntime"


def test_devices_are_named_without_their_folders():
    there = {
        "/usr/share/vulkan/icd.d/*.json": ["/usr/share/vulkan/icd.d/radeon.json"],
        "/dev/accel/accel*": ["/dev/accel/accel0"],
    }
    found = items(found=lambda pattern: there.get(pattern, []))
    assert (found["vulkan"].detail, found["vulkan"].hint) == ("radeon.json", "")
    assert found["npu"].detail == "accel0"


def test_a_mac():
    found = items(system="Darwin", facts=lambda: {"architecture": "arm64"}, which=lambda name: name if name == "adb" else None)
    assert found["apple neural engine"].present
    assert found["cpu"].detail == "unknown model: instruction sets unknown"
    assert (found["vulkan"].hint, found["xcrun"].hint) == ("", "xcode-select --install")
    assert found["adb"].present


def test_a_cpu_without_the_instructions():
    assert items(facts=lambda: {"cpu": "Old", "isa": []})["cpu"].detail == "Old: no INT8 instructions"


def test_looking_imports_no_framework():
    code = (
        "import sys; from squeeze_export.measure.environment import Probes, environment; environment(Probes());"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'openvino', 'tensorflow') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
