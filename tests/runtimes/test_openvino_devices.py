"""OpenVINO's GPU, NPU and AUTO: a stand-in for its core has the devices that this machine lacks; AUTO itself runs, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, TensorSpec, require
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP32, INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import openvino as runtime
from squeeze_export.runtimes.openvino import bf16 as openvino_bf16
from squeeze_export.runtimes.openvino.plugins import device_of, executed_on
from squeeze_export.runtimes.openvino.records import placement, read_compiled
from squeeze_export.targets import openvino as target

openvino = require("openvino", "openvino", without=("openvino_telemetry",))
Core = openvino.Core
NOWHERE = TensorSpec("", (), "", "")


@pytest.fixture(scope="module")
def graph() -> Graph:
    arch = Architecture("small", 8, 3, (Fire(4, 8, 8),), (0,), 10)
    rng = np.random.default_rng(3)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    return build_graph(arch, tensors, replace(TORCHVISION, crop_px=48))


@pytest.fixture(scope="module")
def integers(graph: Graph) -> QuantizedGraph:
    return quantize(graph, noise(4), FloatRunner(graph), INT8)


def noise(count: int) -> Any:
    return np.random.default_rng(9).integers(0, 256, (count, 48, 48, 3), np.uint8)


def saved(folder: Path, network: Graph | QuantizedGraph, **options: Any) -> Artifact:
    scheme = INT8 if isinstance(network, QuantizedGraph) else FP32
    path = folder / "a.openvino"
    path.mkdir(exist_ok=True)
    for name, data in target.emit(network, scheme, EmitOptions(**options), {}).items():
        (path / name).write_bytes(data)
    return Artifact(path, "openvino", scheme.name, "", 0, NOWHERE, NOWHERE)


DEVICES: dict[str, dict[str, Any]] = {
    "CPU": {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"], "FULL_DEVICE_NAME": "a CPU"},
    "GPU.0": {"OPTIMIZATION_CAPABILITIES": ["FP32", "FP16", "INT8"], "FULL_DEVICE_NAME": "Iris Xe"},
    "GPU.1": {"OPTIMIZATION_CAPABILITIES": ["FP32", "FP16", "INT8"], "FULL_DEVICE_NAME": "Arc B580"},
    "NPU": {"OPTIMIZATION_CAPABILITIES": ["FP16", "INT8", "EXPORT_IMPORT"], "FULL_DEVICE_NAME": "AI Boost"},
    "GNA": {},
}
HINTS = {"INFERENCE_PRECISION_HINT": "RW", "PERFORMANCE_HINT": "RW"}


class Compiled:
    """A network on the CPU that says of itself what a test wants."""

    def __init__(self, real: Any, told: dict[str, Any], records: Callable[[Any], Any] | None) -> None:
        self._real, self._told, self._records = real, told, records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_property(self, name: str) -> Any:
        return list(self._told) if name == "SUPPORTED_PROPERTIES" else self._told[name]

    def get_runtime_model(self) -> Any:
        if self._records is None:
            raise RuntimeError("the compiler keeps no records")
        return self._records(self._real.get_runtime_model())


class StandIn:
    """OpenVINO's core on a machine with every device; what is compiled for one runs on the CPU, and says what `told` has."""

    def __init__(self) -> None:
        self.available_devices = list(DEVICES)
        self.settable = dict(HINTS)
        self.told: dict[str, Any] = {"EXECUTION_DEVICES": ["GPU.0"], "INFERENCE_PRECISION_HINT": openvino.Type.f32}
        self.records: Callable[[Any], Any] | None = lambda model: model
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get_property(self, plugin: str, name: str) -> Any:
        return self.settable if name == "SUPPORTED_PROPERTIES" else DEVICES[plugin][name]

    def read_model(self, *files: bytes) -> Any:
        return Core().read_model(*files)

    def compile_model(self, model: Any, plugin: str, settings: dict[str, Any]) -> Any:
        self.asked.append((plugin, settings))
        return Compiled(Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), self.told, self.records)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(openvino, "Core", lambda: made)
    return made


@pytest.mark.usefixtures("core")
def test_devices_are_those_that_openvino_has() -> None:
    assert runtime.devices() == ("cpu", "gpu", "gpu.1", "npu")
    with pytest.raises(Unavailable, match="needs a CPU that computes in bfloat16"):
        openvino_bf16.devices()
    assert [device_of(name) for name in ("CPU", "GPU", "GPU.0", "GPU.1", "NPU")] == ["cpu", "gpu", "gpu", "gpu.1", "npu"]


@pytest.mark.parametrize(("device", "plugin", "name"), [("gpu", "GPU.0", "Iris Xe"), ("gpu.1", "GPU.1", "Arc B580")])
def test_a_gpu_has_settings_of_its_own(graph: Graph, tmp_path: Path, core: StandIn, device: str, plugin: str, name: str) -> None:
    core.told["EXECUTION_DEVICES"] = [plugin]
    session = runtime.open_session(saved(tmp_path, graph), device=device, threads=1)
    assert core.asked == [(plugin, {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})]  # threads are the CPU's
    assert (session.device, session.threads, session.evidence) == (device, 1, "measured")
    assert session.facts == {"device_name": name, "precision": "f32"}
    assert session.placement.elsewhere == ()
    np.testing.assert_allclose(session.infer(noise(2)), FloatRunner(graph)(noise(2)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"INFERENCE_PRECISION_HINT": openvino.Type.f16}, "computes in `f16`, though `f32` was asked for"),
        ({"EXECUTION_DEVICES": ["CPU"]}, "runs the network on `cpu`, though `gpu` was asked for"),
        ({"EXECUTION_DEVICES": ["GPU.1"]}, "runs the network on `gpu.1`, though `gpu` was asked for"),
        ({"EXECUTION_DEVICES": ["(CPU)", "GPU.0"]}, r"runs the network on `\(CPU\), GPU.0`, not on one device"),
        ({"INFERENCE_PRECISION_HINT": None}, "does not say in which precision `GPU.0` computes"),
    ],
)
def test_what_openvino_says_otherwise_is_refused(
    graph: Graph, tmp_path: Path, core: StandIn, told: dict[str, Any], message: str
) -> None:
    core.told = {name: value for name, value in (core.told | told).items() if value is not None}
    with pytest.raises(Refused, match=message):
        runtime.open_session(saved(tmp_path, graph), device="gpu", threads=1)


def test_an_npu_computes_in_float16_and_in_fixed_shapes(graph: Graph, tmp_path: Path, core: StandIn) -> None:
    core.told = {"EXECUTION_DEVICES": "NPU", "INFERENCE_PRECISION_HINT": openvino.Type.f16}
    session = runtime.open_session(saved(tmp_path, graph, batch="dynamic"), device="npu", threads=1)
    assert core.asked == [("NPU", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"})]
    assert session.facts == {"device_name": "AI Boost", "precision": "f16"}
    assert session.infer(noise(3)).shape == (3, 10)  # one by one
    assert session.most == 1


def test_a_driver_that_tells_little(graph: Graph, tmp_path: Path, core: StandIn) -> None:
    """Some drivers of NPUs take no precision, have none to show, and list no operators: then none is made up."""
    core.told, core.settable, core.records = {"EXECUTION_DEVICES": "NPU"}, {"PERFORMANCE_HINT": "RW"}, None
    session: Any = runtime.open_session(saved(tmp_path, graph), device="npu", threads=1)
    assert core.asked == [("NPU", {"PERFORMANCE_HINT": "LATENCY"})]
    assert (session.facts["precision"], session.kernels, session.placement) == ("f16", "not told", None)


def test_absent_devices_are_unavailable(graph: Graph, tmp_path: Path, core: StandIn) -> None:
    core.available_devices = ["CPU"]
    for device, needed in (("gpu", "intel-opencl-icd"), ("gpu.1", "intel-opencl-icd"), ("npu", "linux-npu-driver")):
        with pytest.raises(Unavailable, match=f"`openvino` has no device `{device}` here") as caught:
            runtime.open_session(saved(tmp_path, graph), device=device, threads=1)
        assert needed in str(caught.value.hint)
        with pytest.raises(Unavailable, match=f"has no device `{device}` here"):
            runtime.check_device(device)
        assert str(caught.value.hint).endswith("it has: cpu")
    assert core.asked == []  # never the CPU instead
    for device in ("cpu", "auto"):
        runtime.check_device(device)


def test_auto_says_where_it_runs(integers: QuantizedGraph, tmp_path: Path) -> None:
    """For real: on a machine with no other device of OpenVINO's it is the CPU, with the CPU's own kernels."""
    item = saved(tmp_path, integers)
    chosen = runtime.open_session(item, device="auto", threads=1)
    assert chosen.device in runtime.devices()
    assert "auto" not in runtime.devices()
    assert set(chosen.facts) == {"device_name", "precision"}
    if chosen.device != "cpu":
        pytest.skip(f"AUTO takes `{chosen.device}` on this machine")
    same = runtime.open_session(item, device="cpu", threads=1)
    assert (chosen.threads, chosen.kernels, chosen.placement) == (1, same.kernels, same.placement)
    assert chosen.facts["precision"] == "f32"
    assert dict(same.facts) == {}
    np.testing.assert_array_equal(chosen.infer(noise(3)), same.infer(noise(3)))


def test_auto_is_held_to_one_device(graph: Graph, tmp_path: Path, core: StandIn) -> None:
    gpu = {"INFERENCE_PRECISION_HINT": openvino.Type.f32}
    core.told = {"EXECUTION_DEVICES": ["GPU.1"], "DEVICE_PROPERTIES": {"GPU.1": gpu}}
    session = runtime.open_session(saved(tmp_path, graph), device="auto", threads=2)
    assert (session.device, session.facts["device_name"]) == ("gpu.1", "Arc B580")
    ((plugin, settings),) = core.asked
    assert plugin == "AUTO"
    assert settings["ENABLE_STARTUP_FALLBACK"] is settings["ENABLE_RUNTIME_FALLBACK"] is False
    assert settings["DEVICE_PROPERTIES"]["CPU"]["INFERENCE_NUM_THREADS"] == 2
    gpu["INFERENCE_PRECISION_HINT"] = openvino.Type.f16
    with pytest.raises(Refused, match="computes in `f16`, though `f32` was asked for"):
        runtime.open_session(saved(tmp_path, graph), device="auto", threads=1)


class Node:
    """A node of an execution graph as a GPU writes it: without its weights, in capitals."""

    def __init__(self, real: Any, **changed: str) -> None:
        self._real, self._changed = real, changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_rt_info(self) -> Any:
        found = dict(self._real.get_rt_info().items()) | {key: openvino.OVAny(value) for key, value in self._changed.items()}
        precision = found["runtimePrecision"].astype(str).upper()
        return found | {"runtimePrecision": openvino.OVAny(precision)}

    def inputs(self) -> Any:
        return self._real.inputs()[:1]


def test_records_of_a_gpu(integers: QuantizedGraph, tmp_path: Path, core: StandIn) -> None:
    """The multiply-accumulates come from the file where the records leave out the weights; what is bound elsewhere is told."""

    def as_a_gpu(model: Any) -> Any:
        listed = []
        for node in model.get_ordered_ops():
            kind = node.get_rt_info()["layerType"].astype(str)
            listed.append(Node(node, affinity="CPU" if kind == "Pooling" else "GPU.0"))
        return SimpleNamespace(get_ordered_ops=lambda: listed)

    item = saved(tmp_path, integers)
    expected = runtime_on_cpu(item)
    core.records = as_a_gpu
    session = runtime.open_session(item, device="gpu", threads=1)
    found = session.placement
    assert [record.macs for record in session.executed] == [record.macs for record in expected]
    assert all(name.endswith(" on cpu") and name.startswith("Pooling") for name in found.elsewhere)
    assert len(found.elsewhere) == 2
    assert found.integer_mac_share == 1.0
    assert set(found.elsewhere) <= set(found.fallbacks)


def runtime_on_cpu(item: Artifact) -> Any:
    """The records of the same file on the real CPU."""
    files = [(item.path / name).read_bytes() for name in ("model.xml", "model.bin")]
    made = Core().compile_model(Core().read_model(*files), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = read_compiled(made)
    assert placement(found, "around the convolutions").elsewhere == ()
    assert executed_on(made).device == "cpu"
    return found
