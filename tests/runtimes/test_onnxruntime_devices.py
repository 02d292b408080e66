"""ONNX Runtime's devices beside the CPU: found, absent, partly used, not used at all. Stand-ins where no such provider is here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from squeeze_export.core import Artifact, TensorSpec
from squeeze_export.errors import Unavailable
from squeeze_export.graph.quantized import FP16, FP32, INT8, scheme_named
from squeeze_export.runtimes import onnxruntime as runtime
from squeeze_export.runtimes.onnxruntime import providers as devices
from squeeze_export.runtimes.onnxruntime.records import Record, is_fused
from squeeze_export.runtimes.onnxruntime.subgraphs import expanded

CUDA = "CUDAExecutionProvider"
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """Pixels -> float -> Conv -> mean: three operators and a Transpose."""
    helper = onnx.helper
    weight = np.random.default_rng(1).normal(size=(5, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["input"], ["pixels"], name="cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], name="turn", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["made"], name="conv"),
        helper.make_node("ReduceMean", ["made"], ["logits"], name="mean", axes=[2, 3], keepdims=0),
    ]
    ends = [helper.make_tensor_value_info("input", 2, (1, 8, 8, 3)), helper.make_tensor_value_info("logits", 1, (1, 5))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "weight")])
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())
    nothing = TensorSpec("", (), "", "")
    return Artifact(path, "onnx", "fp32", "", 0, nothing, nothing)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`build(usable, ran)`: a build for GPUs, on the CPU: whether sessions have the provider, and what ran there by its record."""
    session_type = onnxruntime.InferenceSession

    def install(*, usable: bool, ran: tuple[str, ...] = (), gpus: int = 1) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []
        monkeypatch.setattr(devices, "nvidia_gpu_count", lambda: gpus)

        class Session(session_type):  # type: ignore[misc, valid-type]
            def __init__(self, model: bytes, options: Any, **rest: Any) -> None:
                asked.append(rest)
                super().__init__(model, options, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return [CUDA, devices.CPU] if usable else [devices.CPU]

            def end_profiling(self) -> str:
                path = super().end_profiling()
                events = json.loads(Path(path).read_text())
                for event in events:
                    if event["args"].get("op_name") in ran:
                        event["args"]["provider"] = CUDA
                Path(path).write_text(json.dumps(events))
                return str(path)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, devices.CPU])
        devices.works.cache_clear()
        return asked

    yield install
    devices.works.cache_clear()


@pytest.mark.parametrize("name", [name for name in devices.DEVICES if name != "cpu"])
def test_an_absent_device_says_what_to_install(name: str, artifact: Artifact) -> None:
    if name in runtime.devices():
        pytest.skip(f"`{name}` is here")
    with pytest.raises(Unavailable, match=f"no device `{name}` here") as caught:
        runtime.open_session(artifact, device=name, threads=1)
    hint = str(caught.value.hint)
    assert hint.startswith(devices.DEVICES[name].install)
    assert hint.endswith(f"it has: {', '.join(runtime.devices())}")
    assert caught.value.exit_code == 3


def test_a_provider_that_does_not_work_here_is_no_device(build: Any, artifact: Artifact) -> None:
    """A build for GPUs on a machine without one."""
    build(usable=False, gpus=0)
    assert runtime.devices() == ("cpu",)
    with pytest.raises(Unavailable, match="no device `cuda`"):
        runtime.open_session(artifact, device="cuda", threads=1)


def test_a_gpu_without_its_libraries_is_not_the_cpu(build: Any, artifact: Artifact) -> None:
    """ONNX Runtime's sessions quietly have the CPU's provider alone then."""
    build(usable=False)
    with pytest.raises(Unavailable, match=f"cannot use `{CUDA}` on this machine") as caught:
        runtime.open_session(artifact, device="cuda", threads=1)
    assert "CUDA libraries" in str(caught.value.hint)


def test_what_fell_to_the_cpu_is_listed(build: Any, artifact: Artifact) -> None:
    asked = build(usable=True, ran=("Conv", "ReduceMean", "ReorderOutput", "Transpose"))
    assert runtime.devices() == ("cpu", "cuda")
    session = runtime.open_session(artifact, device="cuda", threads=1)
    assert (session.device, session.kernels, session.evidence) == ("cuda", "cuDNN", "measured")
    assert asked[-1]["providers"] == [(CUDA, {"use_tf32": "0"}), devices.CPU]
    placement = session.placement
    assert placement.device_count == placement.operator_count - 1 >= 3
    assert placement.elsewhere == placement.fallbacks == ("Cast cast on cpu",)
    plain = runtime.open_session(artifact, device="cpu", threads=1)
    np.testing.assert_array_equal(session.infer(PIXELS), plain.infer(PIXELS))
    assert plain.placement.elsewhere == ()
    assert list(runtime.inner_values(artifact, ["made"], PIXELS[:1], device="cuda")) == ["made"]


def test_a_session_that_ran_nothing_there_is_refused(build: Any, artifact: Artifact) -> None:
    build(usable=True)
    with pytest.raises(Unavailable, match=f"no operator of `.*net.onnx` ran on `cuda`: {CUDA} took none"):
        runtime.open_session(artifact, device="cuda", threads=1)


def test_a_failing_session_stays_where_it_is(build: Any, artifact: Artifact) -> None:
    """ONNX Runtime's Python would open it again on the CPU."""
    asked = build(usable=True, ran=("Conv",))
    runtime.open_session(artifact, device="cuda", threads=1)
    assert all(entry["enable_fallback"] == 0 for entry in asked)


def test_options_follow_the_file() -> None:
    symmetric = scheme_named("int8-symmetric")
    assert devices.provider_options("tensorrt", symmetric, 1) == {"trt_int8_enable": "1", "trt_fp16_enable": "0"}
    assert devices.provider_options("tensorrt", FP16, 1) == {"trt_int8_enable": "0", "trt_fp16_enable": "1"}
    assert devices.provider_options("tensorrt", FP32, 1) == {"trt_int8_enable": "0", "trt_fp16_enable": "0"}
    assert devices.provider_options("xnnpack", INT8, 3) == {"intra_op_num_threads": "3"}
    assert devices.provider_options("coreml", INT8, 1) == {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}
    assert devices.provider_options("a plug-in's", INT8, 1) == {}


def test_a_compiled_subgraph_is_taken_apart(artifact: Artifact) -> None:
    """Stand-in for ONNX Runtime's assignment: a provider that compiled Conv and ReduceMean into one."""
    fused = Record("OpenVINO_1", "OpenVINO-EP-subgraph_1", False, 0, "OpenVINOExecutionProvider")
    cast = Record("cast", "Cast", False, 0, devices.CPU)
    assert (is_fused(fused), is_fused(cast)) == (True, False)
    pair = [("conv_token_3", "Conv"), ("q", "QuantizeLinear"), ("mean", "ReduceMean")]
    nodes = [SimpleNamespace(name=name, op_type=kind) for name, kind in pair]
    subgraphs = [
        SimpleNamespace(ep_name="OpenVINOExecutionProvider", get_nodes=lambda: nodes),
        SimpleNamespace(ep_name=devices.CPU, get_nodes=lambda: nodes[:1]),
    ]
    session = SimpleNamespace(get_provider_graph_assignment_info=lambda: subgraphs)
    found = expanded([cast, fused], session, artifact.path.read_bytes())
    assert [(r.operator, r.name, r.macs, r.provider == fused.provider) for r in found] == [
        ("Cast", "cast", 0, False),
        ("Conv", "conv", 5 * 6 * 6 * 27, True),
        ("ReduceMean", "mean", 0, True),
    ]
    assert expanded([cast, fused], SimpleNamespace(), artifact.path.read_bytes()) == (cast, fused)  # ONNX Runtime before 1.24


PLUGIN = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from squeeze_export.core import Artifact, TensorSpec
from squeeze_export.runtimes.onnxruntime import providers as devices
from squeeze_export.runtimes import onnxruntime as runtime
devices.OTHER_RUNTIMES = (devices.CPU,)
from onnxruntime_qnn import get_qnn_htp_path
devices.DEVICES["qnn"] = devices.Device("QNNExecutionProvider", "QNN", "", (("backend_path", get_qnn_htp_path()),))
nothing = TensorSpec("", (), "", "")
artifact = Artifact(Path(sys.argv[2]), "onnx", "fp32", "", 0, nothing, nothing)
session = runtime.open_session(artifact, device="qnn", threads=1)
placement = session.placement
print(json.dumps({
    "devices": runtime.devices(), "kernels": session.kernels, "facts": dict(session.facts), "source": placement.source,
    "elsewhere": placement.elsewhere, "count": [placement.operator_count, placement.device_count],
}))
"""


def test_a_plug_in_is_found_by_its_package_and_may_take_a_part(artifact: Artifact, tmp_path: Path) -> None:
    """A real one under another name, in a process of its own: what is registered stays so."""
    pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")
    model = onnx.load(artifact.path)
    model.graph.node[-1].output[0] = "mean"
    model.graph.node.append(onnx.helper.make_node("Celu", ["mean"], ["logits"], name="odd"))
    onnx.save(model, artifact.path)
    package = tmp_path / "packages" / "onnxruntime_ep_other"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from onnxruntime_qnn import get_ep_name, get_library_path\n")
    broken = tmp_path / "packages" / "onnxruntime_ep_broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no driver')\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PLUGIN), str(package.parent), str(artifact.path)],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["devices"] == ["cpu", "qnn"]
    assert told["kernels"] == "QNN"
    assert told["facts"]["hardware"]
    assert told["elsewhere"] == ["Celu odd on cpu"]
    assert told["count"][1] == told["count"][0] - 1 >= 2
    assert "graph assignment" in told["source"]


def test_what_is_told_of_webgpu_is_of_the_entry_that_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU, though ONNX Runtime lists a software adapter before it."""
    provider = devices.DEVICES["webgpu"].provider
    kinds = [f"OrtHardwareDeviceType.{name}" for name in ("CPU", "GPU")]
    hardware = [SimpleNamespace(type=kind, vendor="Maker", vendor_id=16, device_id=2) for kind in kinds]
    listed = [SimpleNamespace(ep_name=provider, device=device) for device in hardware]
    monkeypatch.setattr(devices, "plugin_entries", lambda: listed)
    (gpu,) = devices.entries_for("webgpu", provider)
    assert devices.evidence_and_facts(gpu) == ("measured", {"hardware": "GPU Maker 0010:0002"})
    assert devices.evidence_and_facts(listed[0])[0] == "emulated"
    listed.pop()
    assert devices.entries_for("webgpu", provider) == listed


def test_webgpu_where_it_is_here(artifact: Artifact) -> None:
    if "webgpu" not in runtime.devices():
        pytest.skip("no onnxruntime-ep-webgpu with a Vulkan driver")
    session = runtime.open_session(artifact, device="webgpu", threads=1)
    expected = runtime.open_session(artifact, device="cpu", threads=1).infer(PIXELS)
    np.testing.assert_allclose(session.infer(PIXELS), expected, rtol=1e-3, atol=1e-3)
    assert session.facts["hardware"]
    assert session.evidence == ("emulated" if session.facts["hardware"].startswith("CPU") else "measured")


def test_the_page_names_every_device() -> None:
    page = (Path(__file__).parents[2] / "docs" / "targets" / "onnx.md").read_text(encoding="utf-8")
    table = page.split("| `--device` |")[1].split("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", line.split("|")[1])]
    assert sorted(named) == sorted(devices.DEVICES)
