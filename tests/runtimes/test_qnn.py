"""Qualcomm's HTP, emulated: what sessions answer, what they report of themselves, and what they refuse."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.formats.qnn import GRAPH_KEY, QnnOperator, graph_of_text, graph_text, read_graph
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP32, INT8, QuantizedGraph, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.measure.difference import first_layer_apart
from squeeze_export.nets.architecture import Architecture, fire_modules, tensor_shapes
from squeeze_export.pipeline.measuring import timed
from squeeze_export.pipeline.sessions import Entry, Outcome, RunOptions
from squeeze_export.quant.mixed import keep_float
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import onnxruntime as cpu
from squeeze_export.runtimes import qnn, runtime_named
from squeeze_export.runtimes.qnn import plugin, records
from squeeze_export.targets import onnx as target

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")
if platform.machine().lower() not in ("x86_64", "amd64"):
    pytest.skip("the HTP is emulated on x86-64 alone", allow_module_level=True)

DEVICE = "htp-emulator"
SPEC = TensorSpec("input", (1, 64, 64, 3), "uint8", "NHWC")


@pytest.fixture(scope="module")
def graph() -> Graph:
    fires = fire_modules(count=3, base_e=16, incr_e=16, freq=2, squeeze_ratio=0.25, bypass="none")
    arch, rng = Architecture("tiny", 16, 3, fires, (1,), 10), np.random.default_rng(5)
    tensors = {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    return build_graph(arch, tensors, replace(TORCHVISION, crop_px=64))


def noise(count: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(9).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def integers(graph: Graph) -> QuantizedGraph:
    return quantize(graph, noise(4), FloatRunner(graph), INT8, threads=2)


def stored(folder: Path, data: bytes, scheme: str = "int8") -> Artifact:
    path = folder / "a.onnx"
    path.write_bytes(data)
    return Artifact(path, "onnx", scheme, "", len(data), SPEC, replace(SPEC, name="logits"))


@pytest.fixture(scope="module")
def int8(integers: QuantizedGraph, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return stored(tmp_path_factory.mktemp("int8"), target.emit(integers, INT8, EmitOptions(), {}))


def test_a_session_answers_as_the_integers_do_and_says_that_it_is_emulated(
    int8: Artifact, integers: QuantizedGraph, capfd: pytest.CaptureFixture[str]
) -> None:
    assert runtime_named("qnn").devices() == (DEVICE,)
    session = qnn.open_session(int8, device=DEVICE, threads=1)
    assert (session.runtime, session.device, session.threads, session.kernels) == ("qnn", DEVICE, 1, "HTP")
    assert session.evidence == "emulated"
    first = session.infer(noise(3))
    kept = first.copy()
    second = session.infer(noise(6)[3:])
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    expected = IntegerRunner(integers)(noise(3))
    step = integers.tensors["conv10"].scale
    assert np.abs(first - expected).max() <= 2 * step
    assert np.abs(first - expected[::-1]).max() > 4 * step  # the control: the answer to another image
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(noise(1))
    assert capfd.readouterr() == ("", "")


def test_every_operator_runs_on_the_htp(int8: Artifact, integers: QuantizedGraph) -> None:
    placement = qnn.open_session(int8, device=DEVICE, threads=1).placement
    assert placement.device_count == placement.operator_count > len(integers.convs)
    assert (placement.elsewhere, placement.fallbacks, placement.integer_mac_share) == ((), (), 1.0)
    assert {name.split()[0] for name in placement.float_operators} <= {"Dequantize", "PoolAvg2d", "Transpose", "Reshape"}
    assert "profile" in placement.source


def test_macs_are_those_of_the_file(int8: Artifact, integers: QuantizedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(qnn, "place", lambda operators, **rest: seen.extend(operators))
    assert qnn.open_session(int8, device=DEVICE, threads=1).placement is None
    found = {operator.name: operator.macs for operator in seen if operator.macs}
    assert found == {f"Conv2d {c.name}": c.weight.size * np.prod(integers.sizes[c.name][:2]) for c in integers.convs}


def test_integers_throughout_have_no_fall_back(graph: Graph, tmp_path: Path) -> None:
    scheme = scheme_named("int8-npu")
    table = quantize(graph, noise(4), FloatRunner(graph), scheme, threads=2)
    session = qnn.open_session(
        stored(tmp_path, target.emit(table, scheme, EmitOptions(), {}), "int8-npu"), device=DEVICE, threads=1
    )
    placement = session.placement
    assert placement.fallbacks == ()
    assert [name.split()[0] for name in placement.float_operators] == ["Dequantize"]
    assert placement.integer_count == placement.operator_count - 1


def test_a_planted_float_convolution_is_a_fall_back(graph: Graph, integers: QuantizedGraph, tmp_path: Path) -> None:
    """The negative control of the placement: conv10 with float weights, which the HTP runs in fp16."""
    mixed = target.emit(keep_float(graph, integers, ["conv10"]), INT8, EmitOptions(), {})
    placement = qnn.open_session(stored(tmp_path, mixed), device=DEVICE, threads=1).placement
    assert placement.device_count == placement.operator_count
    assert placement.integer_mac_share < 1
    assert [name for name in placement.float_operators if "Conv" in name] == ["Conv2d conv10"]
    assert "Conv2d conv10 in floating point" in placement.fallbacks


def test_an_operator_that_the_htp_has_not_is_refused(integers: QuantizedGraph, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(target.emit(integers, INT8, EmitOptions(), {}))
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Celu", ["before"], ["logits"], name="odd"))
    with pytest.raises(Refused, match="cannot open"):
        qnn.open_session(stored(tmp_path, model.SerializeToString()), device=DEVICE, threads=1)


def test_what_is_refused(int8: Artifact, graph: Graph, integers: QuantizedGraph, tmp_path: Path) -> None:
    for data in (b"", b"no model", int8.path.read_bytes()[:-5000]):
        with pytest.raises(Refused) as caught:
            qnn.open_session(stored(tmp_path, data), device=DEVICE, threads=1)
        assert "\n" not in caught.value.message
    with pytest.raises(Refused, match=r"open batch|cannot open"):
        qnn.open_session(stored(tmp_path, target.emit(integers, INT8, EmitOptions("dynamic"), {})), device=DEVICE, threads=1)
    with pytest.raises(BadInput, match="`0` threads"):
        qnn.open_session(int8, device=DEVICE, threads=0)
    with pytest.raises(BadInput, match="cannot be read"):
        qnn.open_session(replace(int8, path=tmp_path / "none.onnx"), device=DEVICE, threads=1)
    for device in ("cpu", "htp"):
        with pytest.raises(Unavailable, match=f"no device `{device}`") as unavailable:
            qnn.open_session(int8, device=device, threads=1)
        assert str(unavailable.value.hint).endswith(f"it has: {DEVICE}")


def context_file(folder: Path, *, embed_mode: int = 1, metadata: bool = True) -> Artifact:
    """A file of one context binary that is none."""
    helper = onnx.helper
    node = helper.make_node("EPContext", ["input"], ["logits"], domain="com.microsoft", embed_mode=embed_mode, ep_cache_context="x")
    ends = [helper.make_tensor_value_info("input", 2, (1, 64, 64, 3)), helper.make_tensor_value_info("logits", 1, (1, 10))]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    if metadata:
        helper.set_model_props(model, {GRAPH_KEY: graph_text([QnnOperator("a", "Conv2d", True, 3)])})
    return replace(stored(folder, model.SerializeToString()), target="qnn")


def test_context_binaries_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not hold its context binary itself"):
        qnn.open_session(context_file(tmp_path, embed_mode=0), device=DEVICE, threads=1)
    with pytest.raises(Refused, match="was not compiled by this tool"):
        qnn.open_session(context_file(tmp_path, metadata=False), device=DEVICE, threads=1)
    with pytest.raises(Refused, match="cannot open"):
        qnn.open_session(context_file(tmp_path), device=DEVICE, threads=1)


def test_inner_values_are_those_of_the_integer_run(int8: Artifact, integers: QuantizedGraph) -> None:
    names = [node.name for node in integers.nodes[:-1]]
    values = qnn.inner_values(int8, names, noise(1))
    assert list(values) == names
    assert first_layer_apart(IntegerRunner(integers), noise(1), values) == ""
    broken = dict(values) | {"conv10": values["conv10"] + 3 * integers.tensors["conv10"].scale}
    assert first_layer_apart(IntegerRunner(integers), noise(1), broken) != ""
    with pytest.raises(Refused, match="`fire99`"):
        qnn.inner_values(int8, ["fire99"], noise(1))
    with pytest.raises(Unavailable, match="cannot be read"):
        qnn.inner_values(replace(int8, target="qnn"), names, noise(1))


def test_no_time_is_taken_of_an_emulator(int8: Artifact) -> None:
    emulated, measured = Entry(int8, "qnn"), Entry(int8, "onnxruntime")
    outcomes = [
        Outcome(emulated, session=qnn.open_session(int8, device=DEVICE, threads=1)),
        Outcome(measured, session=cpu.open_session(int8, device="cpu", threads=1)),
    ]
    assert [outcome.latency is None for outcome in timed(outcomes, RunOptions(rounds=2))] == [True, False]


def test_an_npu_is_a_chip_and_what_it_runs_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for ONNX Runtime's entries: here there is no chip."""

    class Listed:
        ep_name = plugin.PROVIDER

        def __init__(self, kind: str) -> None:
            self.device = type("Hardware", (), {"type": f"OrtHardwareDeviceType.{kind}"})

    monkeypatch.setattr(plugin, "plugin_entries", lambda: [Listed("CPU"), Listed("NPU"), Listed("GPU")])
    assert set(plugin.entries()) == {"htp", DEVICE}
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert set(plugin.entries()) == {"htp"}  # nothing is emulated there
    monkeypatch.setattr(plugin, "plugin_entries", lambda: [Listed("CPU")])
    assert qnn.devices() == ()
    with pytest.raises(Unavailable) as caught:
        qnn.check_device("htp")
    assert "Hexagon" in str(caught.value.hint)


def test_the_package_is_named_where_it_is_missing(int8: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(Unavailable, match="`onnxruntime_qnn` is not installed") as caught:
        qnn.open_session(int8, device=DEVICE, threads=1)
    assert caught.value.hint == "pip install 'squeeze-export[qnn]'"


def test_records_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="wrote no profile"):
        records.read_profile(tmp_path / "profile.csv")
    (tmp_path / "profile.csv").write_text("Msg Timestamp,Message,Event Identifier\n0,FINALIZE,x\n")
    with pytest.raises(Refused, match="names no operator"):
        records.read_profile(tmp_path / "profile.csv")
    with pytest.raises(Refused, match="0 graphs"):
        read_graph(tmp_path)
    for text in ("", "{}", "[[1]]", '[["a", "b", true, "x"]]'):
        if text != "{}":
            with pytest.raises(Refused, match="damaged"):
                graph_of_text(text)


def test_an_operator_that_the_profile_does_not_name_is_elsewhere() -> None:
    """Worked by hand: b never ran; the order is that of the profile."""
    graph = [QnnOperator(name, "Conv2d", True, 4) for name in ("a_token_1", "b", "c")]
    found = records.placed(graph, ("c", "a_token_1"))
    assert [operator.name for operator in found] == ["Conv2d c", "Conv2d a", "Conv2d b"]
    assert [bool(operator.elsewhere) for operator in found] == [False, False, True]
    assert graph_of_text(graph_text(graph)) == tuple(graph)


def test_a_float_file_runs_in_floats(graph: Graph, tmp_path: Path) -> None:
    session = qnn.open_session(stored(tmp_path, target.emit(graph, FP32, EmitOptions(), {}), "fp32"), device=DEVICE, threads=1)
    assert session.placement.integer_mac_share == 0
    np.testing.assert_allclose(session.infer(noise(1)), FloatRunner(graph)(noise(1)), rtol=0.02, atol=0.05)
