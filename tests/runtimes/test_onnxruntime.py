"""ONNX Runtime sessions: what they answer, what they refuse, and what they report of themselves."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, FloatArray, Session, TensorSpec
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP16, FP32, INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import FAMILY, Architecture, fire_modules, tensor_shapes
from squeeze_export.quant.observations import observe, observed_tensors
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import onnxruntime as runtime
from squeeze_export.runtimes import runtime_named
from squeeze_export.runtimes.onnxruntime.inner_tensors import tapped_run
from squeeze_export.targets import onnx as target


def random_graph(arch: Architecture) -> Graph:
    rng = np.random.default_rng(5)
    tensors = {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    return build_graph(arch, tensors, replace(TORCHVISION, crop_px=64))


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(9).integers(0, 256, (count, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def graph() -> Graph:
    fires = fire_modules(count=3, base_e=16, incr_e=16, freq=2, squeeze_ratio=0.25, bypass="complex")
    return random_graph(Architecture("tiny", 16, 3, fires, (1,), 10))


@pytest.fixture(scope="module")
def full() -> Graph:
    """The whole of v1.1 with random weights, on small images."""
    return random_graph(FAMILY["squeezenet1_1"])


def saved(folder: Path, network: Graph | QuantizedGraph, **options: Any) -> Artifact:
    scheme = options.pop("scheme", INT8 if isinstance(network, QuantizedGraph) else FP32)
    return stored(folder, target.emit(network, scheme, EmitOptions(**options), {}))


def stored(folder: Path, data: bytes) -> Artifact:
    path = folder / "a.onnx"
    path.write_bytes(data)
    nothing = TensorSpec("", (), "", "")  # a session reads the file, not the artifact's description of it
    return Artifact(path, "onnx", "int8", "", len(data), nothing, nothing)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_answers_and_tells_of_itself(graph: Graph, tmp_path: Path, threads: int) -> None:
    session: Session = runtime.open_session(saved(tmp_path, graph), device="cpu", threads=threads)
    assert (session.runtime, session.device, session.threads, session.kernels) == ("onnxruntime", "cpu", threads, "MLAS")
    pixels = noise(3)
    np.testing.assert_allclose(session.infer(pixels), FloatRunner(graph)(pixels), rtol=1e-4, atol=1e-4)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(pixels)


@pytest.mark.parametrize("batch", [1, 4, "dynamic"])
@pytest.mark.parametrize("input_dtype", ["uint8", "float32"])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_images_through_any_file(
    graph: Graph, tmp_path: Path, batch: int | str, input_dtype: str, count: int
) -> None:
    session = runtime.open_session(saved(tmp_path, graph, batch=batch, input_dtype=input_dtype), device="cpu", threads=1)
    pixels = noise(count)
    logits = session.infer(pixels)
    assert logits.shape == (count, 10)
    np.testing.assert_allclose(logits, FloatRunner(graph)(pixels), rtol=1e-4, atol=1e-4)


def test_the_int8_file_runs_in_integers(full: Graph, tmp_path: Path) -> None:
    """v1.1 becomes 26 integer convolutions, and nothing in float but the average pool."""
    integers = quantize(full, noise(2), FloatRunner(full), INT8, threads=2)
    session = runtime.open_session(saved(tmp_path, integers, batch=2), device="cpu", threads=1)
    assert session.operators == {
        "DequantizeLinear": 1,
        "Flatten": 1,
        "GlobalAveragePool": 1,
        "NhwcMaxPool": 3,
        "QLinearConcat": 8,
        "QLinearConv": 26,
        "Transpose": 1,
    }
    placement = session.placement
    assert (placement.operator_count, placement.integer_count, placement.integer_mac_share) == (41, 38, 1.0)
    assert placement.float_operators == ("DequantizeLinear conv10/real", "GlobalAveragePool logits/pool", "Flatten logits")
    assert "profiler" in placement.source


def test_bypass_runs_in_integers_too(graph: Graph, tmp_path: Path) -> None:
    integers = quantize(graph, noise(2), FloatRunner(graph), INT8, threads=2)
    session = runtime.open_session(saved(tmp_path, integers, batch="dynamic"), device="cpu", threads=1)
    assert session.operators["QLinearAdd"] == 3
    assert session.operators["QLinearConv"] == len(integers.convs)
    assert len(session.placement.float_operators) == 3


@pytest.mark.parametrize("scheme", [FP32, FP16], ids=lambda scheme: scheme.name)
def test_a_float_file_runs_in_float(graph: Graph, tmp_path: Path, scheme: Any) -> None:
    session = runtime.open_session(saved(tmp_path, graph, scheme=scheme), device="cpu", threads=1)
    assert session.placement.integer_mac_share == 0
    assert session.placement.integer_count <= 1  # the Transpose of the pixels
    assert "QLinearConv" not in session.operators


def test_one_float_convolution_lowers_the_share(graph: Graph, tmp_path: Path) -> None:
    """The negative control of the placement: conv10 without its result's pair runs in float."""
    integers = quantize(graph, noise(2), FloatRunner(graph), INT8, threads=2)
    model = onnx.load_model_from_string(target.emit(integers, INT8, EmitOptions(), {}))
    nodes = {node.name: node for node in model.graph.node}
    nodes["logits/pool"].input[0] = "conv10/float"
    for name in ("conv10/quantize", "conv10/real"):
        model.graph.node.remove(nodes[name])
    session = runtime.open_session(stored(tmp_path, model.SerializeToString()), device="cpu", threads=1)
    macs = {conv.name: conv.weight.size * np.prod(integers.sizes[conv.name][:2]) for conv in integers.convs}
    expected = 1 - macs["conv10"] / sum(macs.values())
    assert session.placement.integer_mac_share == pytest.approx(expected, abs=0.01)  # float kernels pad channels
    assert [name for name in session.placement.float_operators if "Conv" in name] == ["Conv conv10"]


def test_a_file_without_convolutions(tmp_path: Path) -> None:
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    taken = helper.make_tensor_value_info("input", onnx.TensorProto.UINT8, (1, 4, 4, 3))
    given = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (1, 3))
    model = helper.make_model(
        helper.make_graph(nodes, "mean", [taken], [given]), opset_imports=[helper.make_opsetid("", 13)], ir_version=7
    )
    session = runtime.open_session(stored(tmp_path, model.SerializeToString()), device="cpu", threads=1)
    assert session.placement.integer_mac_share == 0


def test_foreign_files_are_refused(graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for data in (b"", b"no model", target.emit(graph, FP32, EmitOptions(), {})[:-5000]):
        with pytest.raises(Refused, match=r"ONNX Runtime cannot open `.*a.onnx`") as caught:
            runtime.open_session(stored(tmp_path, data), device="cpu", threads=1)
        assert "\n" not in caught.value.message
    model = onnx.load_model_from_string(target.emit(graph, FP32, EmitOptions(), {}))
    model.graph.node[3].op_type = "Nonsense"
    with pytest.raises(Refused, match="Nonsense"):
        runtime.open_session(stored(tmp_path, model.SerializeToString()), device="cpu", threads=1)
    with pytest.raises(Refused, match="does not give one"):
        runtime.open_session(stored(tmp_path, target.emit_with_taps(graph, ["conv1"])), device="cpu", threads=1)
    model = onnx.load_model_from_string(target.emit(graph, FP32, EmitOptions(), {}))
    model.graph.input.append(onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, (1,)))
    with pytest.raises(Refused, match="does not take one"):
        runtime.open_session(stored(tmp_path, model.SerializeToString()), device="cpu", threads=1)
    assert capfd.readouterr() == ("", "")


def test_usage_errors(graph: Graph, tmp_path: Path) -> None:
    artifact = saved(tmp_path, graph)
    with pytest.raises(Unavailable, match="no device `cuda`") as caught:
        runtime.open_session(artifact, device="cuda", threads=1)
    assert caught.value.hint is not None
    assert "onnxruntime-gpu" in caught.value.hint
    assert caught.value.hint.endswith("it has: cpu")
    with pytest.raises(BadInput, match="`0` threads"):
        runtime.open_session(artifact, device="cpu", threads=0)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        runtime.open_session(replace(artifact, path=tmp_path / "b.onnx"), device="cpu", threads=1)


def test_devices_are_the_providers_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_named("onnxruntime").devices() == runtime.devices()
    assert runtime.devices() == ("cpu",)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["OtherExecutionProvider"])
    assert runtime.devices() == ()


def test_onnxruntime_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unavailable, match="`onnxruntime` is not installed") as caught:
        runtime.devices()
    assert caught.value.hint == "pip install 'squeeze-export[onnx]'"


def test_tapped_run_shows_what_the_reference_run_shows(graph: Graph) -> None:
    names = [node.name for node in graph.nodes if node.name in observed_tensors(graph)]
    run = tapped_run(target.emit_with_taps(graph, names), names)
    reference = FloatRunner(graph)
    pixels = noise(4)
    np.testing.assert_allclose(run(pixels), reference(pixels), rtol=1e-4, atol=1e-4)

    def shown(tapped: Any, image: NDArray[np.uint8]) -> list[tuple[str, FloatArray]]:
        seen: list[tuple[str, FloatArray]] = []
        tapped(image[None], lambda name, values: seen.append((name, values)))
        return [(name, values) for name, values in seen if name in names]

    with ThreadPoolExecutor(4) as pool:  # one session, several threads
        found = list(pool.map(lambda image: shown(run, image), pixels))
    for image, tensors in zip(pixels, found, strict=True):
        expected = shown(reference, image)
        assert [name for name, _ in tensors] == [name for name, _ in expected] == names
        for (_, values), (_, right) in zip(tensors, expected, strict=True):
            np.testing.assert_allclose(values, right, rtol=1e-4, atol=1e-4)


def test_tapped_run_calibrates_like_the_reference_run(graph: Graph) -> None:
    names = [node.name for node in graph.nodes if node.name in observed_tensors(graph)]
    run = tapped_run(target.emit_with_taps(graph, names), names)
    found = observe(graph, run, noise(4), seed=0, threads=2).of()
    expected = observe(graph, FloatRunner(graph), noise(4), seed=0, threads=2).of()
    for name in names:
        values, right = (
            [seen.lows, seen.highs, seen.patches, *(seen.others[kernel] for kernel in sorted(seen.others))]
            for seen in (found[name], expected[name])
        )
        assert found[name].others.keys() == expected[name].others.keys()
        for one, other in zip(values, right, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
