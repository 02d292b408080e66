"""LiteRT's GPU and NPU: run through a software Vulkan driver where there is one, so emulated and never timed; refused elsewhere."""

from __future__ import annotations

import ctypes
import glob
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import Artifact, Session
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.formats.contents import FileOperator
from squeeze_export.runtimes.tflite import accelerator_probe, accelerators, litert
from squeeze_export.runtimes.tflite.accelerator_process import LitertProcess
from squeeze_export.runtimes.tflite.compiled_model import Division, division_of
from squeeze_export.runtimes.tflite.interpreter import LITERT_BUILTIN
from squeeze_export.runtimes.tflite.placement import contents_of, placement, taken_of
from tests.lint.planted import planted
from tests.runtimes.tflite_files import emitted, small, table

SOFTWARE_DRIVERS = (
    "/usr/share/vulkan/icd.d/lvp_icd*.json",
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
    "/usr/lib/*/dri/vk_swiftshader_icd.json",
)


@pytest.fixture
def software_gpu() -> Iterator[None]:
    """A software Vulkan driver of this machine that LiteRT takes, and nothing but it."""
    drivers = [path for pattern in SOFTWARE_DRIVERS for path in sorted(glob.glob(pattern))]
    if sys.platform != "linux" or not drivers:
        pytest.skip("no software Vulkan driver (apt-get install mesa-vulkan-drivers libvulkan1)")
    reasons = []
    for driver in drivers:
        with pytest.MonkeyPatch.context() as patch:
            reason = why_not_taken(driver, patch)
            if reason is None:
                yield
                return
            reasons.append(f"{driver}: {reason}")
    pytest.skip(f"LiteRT takes no software Vulkan driver: {'; '.join(reasons)}")


def why_not_taken(driver: str, patch: pytest.MonkeyPatch) -> str | None:
    """Sets a driver up; what LiteRT says where it does not take it."""
    patch.setenv("VK_ICD_FILENAMES", driver)
    patch.delenv("VK_DRIVER_FILES", raising=False)
    try:
        ctypes.CDLL(accelerators.VULKAN)
    except OSError:  # Debian's chromium brings its loader along
        beside = Path(driver).parent
        if not (beside / accelerators.VULKAN).exists():
            return "no Vulkan loader (apt-get install libvulkan1)"
        patch.setenv("LD_LIBRARY_PATH", str(beside))  # for the children; this process's own was read when it started
        why_none = accelerators.why_none
        patch.setattr(accelerators, "why_none", lambda device: "" if device == "gpu" else why_none(device))
    if "gpu" in litert.devices():
        return None
    with pytest.raises(Unavailable) as caught:
        accelerators.accelerator_for("gpu")
    return caught.value.message


def both(item: Artifact) -> tuple[Session, Any, Any]:
    """The session on the GPU, closed, and the logits of it and of the CPU."""
    pixels = small()[1][20:]
    session = litert.open_session(item, device="gpu", threads=1)
    try:
        return session, session.infer(pixels), litert.open_session(item, device="cpu", threads=1).infer(pixels)
    finally:
        session.close()
        session.close()


@pytest.mark.usefixtures("software_gpu")
def test_an_fp32_file_on_webgpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert litert.devices()[:2] == ("cpu", "gpu")
    session, logits, expected = both(emitted(tmp_path, "fp32"))
    assert np.abs(logits - expected).max() < 1e-3
    assert np.abs(logits[1:] - expected[:-1]).max() > 1e-2  # another image's logits would not pass
    assert (session.runtime, session.device, session.threads, session.evidence) == ("litert", "gpu", 1, "emulated")
    assert session.kernels == "GPU WebGPU, software driver"
    assert session.facts["driver_kind"] == "software"
    assert session.facts["driver"]
    assert session.facts["fully_accelerated"] is True
    told = session.placement
    assert (told.device_count, told.operator_count, told.elsewhere, told.fallbacks) == (11, 11, (), ())
    assert told.source == "LiteRT with its GPU accelerator alone: fully accelerated"
    assert capfd.readouterr() == ("", "")  # LiteRT prints some fifty lines meanwhile
    with pytest.raises(ValueError, match="closed"):
        session.infer(small()[1])


@pytest.mark.usefixtures("software_gpu")
@pytest.mark.parametrize(("scheme", "pixels"), [("int8", "uint8"), ("int8-npu", "uint8"), ("int8", "int8")])
def test_an_integer_file_is_computed_in_floats_there(tmp_path: Path, scheme: str, pixels: str) -> None:
    session, logits, expected = both(emitted(tmp_path, scheme, input_dtype=pixels))
    step = table(scheme).tensors["conv10"].scale
    assert np.abs(logits - expected).max() <= 2 * step
    told = session.placement
    assert (told.device_count, told.integer_count, told.integer_mac_share) == (told.operator_count, 0, 0.0)
    assert "CONV_2D conv1 in floating point" in told.fallbacks  # what --require-full-placement goes by
    assert not any(name.startswith("MEAN") for name in told.fallbacks if scheme == "int8")


@pytest.mark.usefixtures("software_gpu")
@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_any_number_of_images(tmp_path: Path, batch: int | str) -> None:
    _, logits, expected = both(emitted(tmp_path, "fp32", batch=batch))
    assert logits.shape == (4, 10)
    assert np.abs(logits - expected).max() < 1e-3


@pytest.mark.usefixtures("software_gpu")
def test_what_the_gpu_does_not_take_is_told(tmp_path: Path) -> None:
    """A planted operator cuts the file in two; the GPU is given the larger part."""
    item = emitted(tmp_path, "int8", lambda content: planted(content, "fire2/squeeze1x1", "RELU_0_TO_1"))
    session, logits, expected = both(item)
    assert np.abs(logits - expected).max() <= 2 * table("int8").tensors["conv10"].scale
    assert session.facts["fully_accelerated"] is False
    told = session.placement
    assert (told.operator_count, told.device_count) == (15, 9)
    front = ("QUANTIZE input/int8", "CONV_2D conv1", "MAX_POOL_2D pool1", "CONV_2D fire2/squeeze1x1", "DEQUANTIZE planted/real")
    assert told.elsewhere == tuple(f"{name} on cpu" for name in (*front, "RELU_0_TO_1 planted"))
    assert set(told.elsewhere) <= set(told.fallbacks)
    assert told.source == "LiteRT's list of what its GPU accelerator does not take: 9 on the GPU, 6 on the CPU"


@pytest.mark.usefixtures("software_gpu")
def test_a_file_divided_in_a_way_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"does not tell which are where: CONV_2D: Tensor type\(INT16\) is not supported") as caught:
        litert.open_session(emitted(tmp_path, "int16x8"), device="gpu", threads=1)
    assert caught.value.hint == "--device cpu"


@pytest.mark.usefixtures("software_gpu")
def test_a_driver_that_ends_the_process_ends_the_session_only(tmp_path: Path) -> None:
    session: Any = litert.open_session(emitted(tmp_path, "fp32"), device="gpu", threads=1)
    with pytest.raises(ValueError, match="the file takes uint8"):
        session.infer(small()[1][:, :40])
    os.kill(session._process.pid, signal.SIGKILL)
    with pytest.raises(Refused, match="LiteRT's process failed: ended by SIGKILL"):
        session.infer(small()[1][:1])
    session.close()


@pytest.mark.usefixtures("software_gpu")
def test_a_driver_that_does_not_answer_is_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    assert litert.devices() == ("cpu",)
    with pytest.raises(Unavailable, match="LiteRT has no device `gpu` here: ") as caught:
        litert.open_session(emitted(tmp_path, "fp32"), device="gpu", threads=1)
    assert "mesa-vulkan-drivers" in str(caught.value.hint)


def test_absent_accelerators_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = emitted(tmp_path, "fp32")
    monkeypatch.setattr(accelerators, "NPU_NODES", ())
    with pytest.raises(Unavailable, match="LiteRT has no device `npu` here: no driver of an NPU has a device file") as caught:
        litert.open_session(item, device="npu", threads=1)
    assert "npu-sdk" in str(caught.value.hint)
    monkeypatch.setattr(accelerators, "VULKAN", "libvulkan-of-nobody.so.1")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("VK_ICD_FILENAMES", "asked again")
    with pytest.raises(Unavailable, match=r"there is no Vulkan loader, `libvulkan-of-nobody\.so\.1`"):
        litert.open_session(item, device="gpu", threads=1)
    assert litert.devices() == ("cpu",)
    monkeypatch.setattr(sys, "platform", "win32")
    assert "cannot be asked on `win32`" in accelerators.why_none("gpu")
    with pytest.raises(BadInput, match="`0` threads"):
        litert.open_session(item, device="gpu", threads=0)
    for device in ("npu", "tpu"):
        with pytest.raises(Unavailable, match=f"has no device `{device}`"):
            litert.check_device(device)
    litert.check_device("cpu")
    with pytest.raises(Unavailable, match="`litert-builtin` has no device `gpu`"):
        LITERT_BUILTIN.open_session(item, device="gpu", threads=1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Refused("no driver"), "no driver"),
        ({"accelerator": "GPU WebGPU", "drivers": [["llvmpipe", "software"]]}, ("llvmpipe", "software", True)),
        ({"accelerator": "GPU WebGPU", "drivers": [["llvmpipe", "software"], ["B580", "discrete"]]}, ("B580", "discrete", False)),
        ({"accelerator": "GPU Metal", "drivers": []}, ("", "", False)),
    ],
    ids=["none", "software", "both", "not asked"],
)
def test_the_driver_decides_what_is_emulated(answer: Any, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Refused):
            raise answer
        return answer, {}

    monkeypatch.setattr(accelerators, "why_none", lambda device: "")
    monkeypatch.setattr(accelerators, "call", answered)
    monkeypatch.setenv("HOME", f"/of/{id(answer)}")  # an environment of its own, so that nothing is remembered
    if isinstance(expected, str):
        with pytest.raises(Unavailable, match=expected):
            accelerators.accelerator_for("gpu")
    else:
        found = accelerators.accelerator_for("gpu")
        assert (found.driver, found.kind, found.software) == expected


def test_a_file_that_an_accelerator_does_not_take_is_not_run_on_the_cpu(tmp_path: Path) -> None:
    """LiteRT has an NPU accelerator in its list here, and no NPU: asked for it alone, it refuses."""
    if "npu" in litert.devices():
        pytest.skip("there is an NPU on this machine")
    content = emitted(tmp_path, "int8").path.read_bytes()
    with pytest.raises(Refused, match="NPU accelerator does not take all of the file"):
        LitertProcess(
            content,
            "npu",
            1,
            source={"dtype": np.uint8, "shape": (1, 48, 48, 3)},
            result={"dtype": np.float32, "shape": (1, 10)},
        )


def test_the_probe_says_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator_probe, "VULKAN", "libvulkan-of-nobody.so.1")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(Unavailable, match=r"^there is no Vulkan loader: libvulkan-of-nobody\.so\.1"):
        accelerator_probe.ask_driver({"device": "gpu"}, {})


def broken_driver(values: Any, arrays: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_probe_that_does_not_survive_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "ask_driver", broken_driver)
    told = "the process that asked its driver did not survive it: ended by SIGKILL"
    assert accelerators.probe("gpu") == told
    monkeypatch.setattr(accelerators, "PROBE_S", 0.01)
    assert accelerators.probe("gpu") == "its driver did not finish within 0.01 s"


LOG = (
    "INFO: [delegate_webgpu.cc:363] Created a WebGPU environment.",
    "ERROR: Following operations are not supported by GPU delegate:",
    "CONV_2D: Tensor type(INT16) is not supported. pool1",
    "ZEROS_LIKE: Operation is not supported.",
    "9 operations will run on the GPU, and the remaining 6 operations will run on the CPU.",
)


def test_what_litert_prints_is_read() -> None:
    assert division_of(LOG) == Division(frozenset({"CONV_2D", "ZEROS_LIKE"}), 9, 6, LOG[2:4])
    for damaged in (LOG[:1], LOG[:-1], LOG[2:], (LOG[4], *LOG[:4]), LOG + LOG):
        assert division_of(damaged) is None


def operators(nodes: list[dict[str, Any]]) -> tuple[FileOperator, ...]:
    tensors = [{"index": i, "name": f"t{i}", "shape": [1], "dtype": np.int8} for i in range(len(nodes) + 1)]
    return contents_of(nodes, tensors, [0]).operators


def nodes(*kinds: str) -> list[dict[str, Any]]:
    """A chain of operators over tensors 0, 1, 2 ..."""
    return [{"op_name": kind, "inputs": [number], "outputs": [number + 1]} for number, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "counts", "expected"),
    [
        ("ABxBBB", (3, 3), {3, 4, 5}),
        ("ABxBBB", (5, 1), {0, 1, 3, 4, 5}),  # both parts
        ("ABxBBB", (2, 4), None),  # the smaller part
        ("ABxBBB", (4, 2), None),  # no part has four
        ("ABxBBB", (3, 2), None),  # not all are counted
        ("BBxBB", (2, 3), None),  # which of the two is not told
        ("xxx", (0, 3), set()),
    ],
)
def test_which_operators_follow_from_the_counts(kinds: str, counts: tuple[int, int], expected: set[int] | None) -> None:
    assert taken_of(operators(nodes(*kinds)), Division(frozenset("x"), *counts, ())) == expected


def test_a_loop_is_no_chain() -> None:
    ring = [{"op_name": "A", "inputs": [1], "outputs": [0]}, {"op_name": "A", "inputs": [0], "outputs": [1]}]
    assert taken_of(operators(ring), Division(frozenset("x"), 2, 0, ())) is None


def test_an_npu_computes_a_file_as_it_is_written() -> None:
    """What reads constants only is no part of an inference."""
    chain = [*nodes("CONV_2D", "MAX_POOL_2D"), {"op_name": "DEQUANTIZE", "inputs": [8], "outputs": [9]}]
    chain[0]["inputs"] = [0, 9]
    shapes = {0: [1, 4, 4, 2], 1: [1, 4, 4, 3], 2: [1, 2, 2, 3], 8: [3, 1, 1, 2], 9: [3, 1, 1, 2]}
    tensors = [{"index": i, "name": f"t{i}", "shape": shape, "dtype": np.int8} for i, shape in shapes.items()]
    for device, count in (("npu", 1), ("gpu", 0)):
        told = placement(contents_of(chain, tensors, [0]), frozenset({0}), device=device, floats="none", source="")
        assert (told.operator_count, told.device_count, told.integer_count) == (2, 1, count)
        assert told.elsewhere == ("MAX_POOL_2D t2 on cpu",)
        assert told.integer_mac_share == float(count)
