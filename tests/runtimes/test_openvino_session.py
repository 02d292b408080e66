"""OpenVINO sessions: what they answer, what they refuse, and what they report of kernels and precision."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, Session, TensorSpec, require
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP16, FP32, INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import FAMILY, Architecture, fire_modules, tensor_shapes
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import openvino as runtime
from squeeze_export.runtimes import runtime_named
from squeeze_export.runtimes.openvino import bf16 as openvino_bf16
from squeeze_export.runtimes.openvino import plugins, records
from squeeze_export.runtimes.openvino import session as shared
from squeeze_export.targets import openvino as target

openvino = require("openvino", "openvino", without=("openvino_telemetry",))
op = openvino.opset8


def native_bf16() -> bool:
    """Whether OpenVINO says that this CPU computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_bf16 = pytest.mark.skipif(not native_bf16(), reason="this CPU has no bfloat16 instructions")


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
def integers(graph: Graph) -> QuantizedGraph:
    return quantize(graph, noise(2), FloatRunner(graph), INT8, threads=2)


@pytest.fixture(scope="module")
def full() -> Graph:
    """The whole of v1.1 with random weights, on small images."""
    return random_graph(FAMILY["squeezenet1_1"])


def saved(folder: Path, network: Graph | QuantizedGraph, **options: Any) -> Artifact:
    scheme = options.pop("scheme", INT8 if isinstance(network, QuantizedGraph) else FP32)
    return stored(folder / "a.openvino", target.emit(network, scheme, EmitOptions(**options), {}))


def stored(folder: Path, files: dict[str, bytes]) -> Artifact:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    nothing = TensorSpec("", (), "", "")  # a session reads the files, not the artifact's description of them
    return Artifact(folder, "openvino", "int8", "", 0, nothing, nothing)


def edited(artifact: Artifact, edit: Callable[[Any, dict[str, Any]], None]) -> Artifact:
    """The folder with a network in which something was changed."""
    files = [artifact.path / name for name in ("model.xml", "model.bin")]
    model = openvino.Core().read_model(*(file.read_bytes() for file in files))
    edit(model, {node.get_friendly_name(): node for node in model.get_ops()})
    openvino.serialize(model, *files)
    return artifact


def sqnr_db(reference: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - values).sum()))


def test_a_session_answers_and_tells_of_itself(graph: Graph, tmp_path: Path) -> None:
    session: Session = runtime.open_session(saved(tmp_path, graph), device="cpu", threads=1)
    assert (session.runtime, session.device, session.threads, session.evidence) == ("openvino", "cpu", 1, "measured")
    assert session.kernels
    pixels = noise(3)
    np.testing.assert_allclose(session.infer(pixels), FloatRunner(graph)(pixels), rtol=1e-4, atol=1e-4)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(pixels)


FIRST_LOOK = """
import sys, threading, time
from pathlib import Path
import numpy as np
from squeeze_export.core import Artifact, TensorSpec
from squeeze_export.runtimes import openvino
nothing = TensorSpec("", (), "", "")
artifact = Artifact(Path(sys.argv[1]), "openvino", "int8", "", 0, nothing, nothing)
sessions = [openvino.open_session(artifact, device="cpu", threads=1) for _ in range(4)]
sys.setswitchinterval(1e-6)
started = threading.Event()
def work(session):
    while not started.is_set():
        pass
    session.infer(np.zeros((1, 64, 64, 3), np.uint8))
threads = [threading.Thread(target=work, args=[session]) for session in sessions]
for thread in threads:
    thread.start()
started.set()
for thread in threads:
    thread.join()
"""


def test_sessions_first_run_in_threads_do_not_wait_for_each_other(graph: Graph, tmp_path: Path) -> None:
    """The bindings' first look at a tensor's data in two threads at once hung; only a fresh process looks for the first time."""
    folder = saved(tmp_path, graph).path
    for _ in range(2):
        subprocess.run([sys.executable, "-c", FIRST_LOOK, folder], check=True, timeout=60)


def test_threads_are_those_that_openvino_takes(graph: Graph, tmp_path: Path) -> None:
    """No more than there are cores."""
    session = runtime.open_session(saved(tmp_path, graph), device="cpu", threads=10_000)
    assert 1 <= session.threads < 10_000


@pytest.mark.parametrize("batch", [1, 4, "dynamic"])
@pytest.mark.parametrize("input_dtype", ["uint8", "float32"])
def test_any_number_of_images_through_any_file(
    graph: Graph, tmp_path: Path, batch: int | str, input_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_FREE_BATCH", 5)
    session = runtime.open_session(saved(tmp_path, graph, batch=batch, input_dtype=input_dtype), device="cpu", threads=1)
    pixels = noise(6)
    expected = FloatRunner(graph)(pixels)
    for count in (6, 1, 4, 6):
        logits = session.infer(pixels[:count])
        assert logits.shape == (count, 10)
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [2, "dynamic"])
def test_the_int8_file_runs_in_integers(full: Graph, tmp_path: Path, batch: int | str) -> None:
    """v1.1 becomes 26 integer convolutions, and nothing in float but the average pool."""
    quantized = quantize(full, noise(2), FloatRunner(full), INT8, threads=2)
    session = runtime.open_session(saved(tmp_path, quantized, batch=batch), device="cpu", threads=1)
    convolutions = [record for record in session.executed if record.operator == "Convolution"]
    assert len(convolutions) == 26
    assert all(record.kernel.endswith("_I8") and record.precision == "u8" for record in convolutions)
    assert [record.name for record in convolutions] == [conv.name for conv in quantized.convs]
    assert [record.macs for record in convolutions] == [
        conv.weight.size * np.prod(quantized.sizes[conv.name][:2]) for conv in quantized.convs
    ]
    assert set(session.kernels.split(", ")) == {record.kernel.replace("_1x1_", "_") for record in convolutions}
    placement = session.placement
    assert (placement.integer_mac_share, placement.float_operators) == (1.0, ("Reduce logits",))
    assert placement.integer_count == placement.operator_count - 1 == len(session.executed) - 1
    assert "runtime model" in placement.source
    counts = Counter(record.operator for record in session.executed)
    assert (counts["Concatenation"], counts["Pooling"], counts["Const"]) == (8, 3, 0)


def test_bypass_runs_in_integers_too(integers: QuantizedGraph, tmp_path: Path) -> None:
    session = runtime.open_session(saved(tmp_path, integers), device="cpu", threads=1)
    assert session.placement.integer_mac_share == 1
    assert session.placement.float_operators == ("Reduce logits",)


@pytest.mark.parametrize("scheme", [FP32, FP16], ids=lambda scheme: scheme.name)
def test_a_float_file_runs_in_the_files_own_numbers(graph: Graph, tmp_path: Path, scheme: Any) -> None:
    """In float32, also where OpenVINO's own choice is another; half-precision weights are widened once."""
    session = runtime.open_session(saved(tmp_path, graph, scheme=scheme), device="cpu", threads=1)
    assert {record.precision for record in session.executed if record.operator == "Convolution"} == {"f32"}
    assert session.placement.integer_mac_share == 0
    assert "Convolution conv1" in session.placement.float_operators
    assert sqnr_db(FloatRunner(graph)(noise(4)), session.infer(noise(4))) > (100 if scheme == FP32 else 55)


@needs_bf16
def test_a_float_file_in_bfloat16(graph: Graph, tmp_path: Path) -> None:
    session = openvino_bf16.open_session(saved(tmp_path, graph), device="cpu", threads=1)
    assert session.runtime == "openvino-bf16"
    assert session.kernels.endswith("bf16")
    assert {record.precision for record in session.executed if record.operator == "Convolution"} == {"bf16"}
    assert 20 < sqnr_db(FloatRunner(graph)(noise(4)), session.infer(noise(4))) < 80


@needs_bf16
def test_an_int8_file_is_the_same_in_both(integers: QuantizedGraph, tmp_path: Path) -> None:
    artifact = saved(tmp_path, integers)
    sessions = [module.open_session(artifact, device="cpu", threads=1) for module in (runtime, openvino_bf16)]
    np.testing.assert_array_equal(*(session.infer(noise(4)) for session in sessions))
    assert sessions[0].kernels == sessions[1].kernels


def test_one_float_convolution_lowers_the_share(integers: QuantizedGraph, tmp_path: Path) -> None:
    """The negative control of the placement: conv1 without the quantization of its input runs in float."""

    def edit(model: Any, nodes: dict[str, Any]) -> None:
        nodes["conv1/product"].input(0).replace_source_output(nodes["input/float"].output(0))

    session = runtime.open_session(edited(saved(tmp_path, integers), edit), device="cpu", threads=1)
    macs = {conv.name: conv.weight.size * np.prod(integers.sizes[conv.name][:2]) for conv in integers.convs}
    assert session.placement.integer_mac_share == pytest.approx(1 - macs["conv1"] / sum(macs.values()))
    assert [name for name in session.placement.float_operators if "Convolution" in name] == ["Convolution conv1"]
    assert len(session.kernels.split(", ")) == 2


def test_a_file_without_convolutions(tmp_path: Path) -> None:
    source = op.parameter([1, 4, 4, 3], np.uint8, name="input")
    mean = op.reduce_mean(op.convert(source, "f32"), op.constant(np.array([1, 2])), keep_dims=False)
    openvino.serialize(openvino.Model([mean], [source], "mean"), tmp_path / "a.xml", tmp_path / "a.bin")
    session = runtime.open_session(stored(tmp_path, {}), device="cpu", threads=1)
    assert (session.placement.integer_mac_share, session.kernels) == (0, "no convolution")


def test_integers_in_and_floats_out_are_no_integer_operator() -> None:
    operator = records.Executed("logits", "Reduce", "jit_avx512_I8", "u8", ("f32",), 0)
    assert not operator.integer
    assert replace(operator, operator="Convolution").integer  # it may rescale its sums to floats
    assert not replace(operator, operator="Convolution", precision="bf16").integer
    assert replace(operator, output_precisions=("u8", "i32")).integer


def test_foreign_files_are_refused(graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = saved(tmp_path, graph)
    for name in ("model.xml", "model.bin"):
        content = (artifact.path / name).read_bytes()
        for data in (b"", b"no model", content[: len(content) // 3]):
            (artifact.path / name).write_bytes(data)
            with pytest.raises(Refused, match=r"OpenVINO cannot open `.*a.openvino`") as caught:
                runtime.open_session(artifact, device="cpu", threads=1)
            assert "\n" not in caught.value.message
            assert caught.value.hint
        (artifact.path / name).write_bytes(content)
    runtime.open_session(artifact, device="cpu", threads=1)
    assert capfd.readouterr() == ("", "")


def test_folders_without_one_network_are_refused(graph: Graph, tmp_path: Path) -> None:
    artifact = saved(tmp_path, graph)
    (artifact.path / "b.xml").write_text("")
    reason = "it is no folder with one"
    with pytest.raises(Refused, match=reason):
        runtime.open_session(artifact, device="cpu", threads=1)
    (artifact.path / "b.xml").unlink()
    with pytest.raises(Refused, match=reason):
        runtime.open_session(replace(artifact, path=artifact.path / "model.xml"), device="cpu", threads=1)
    (artifact.path / "model.bin").unlink()
    with pytest.raises(Refused, match=reason):
        runtime.open_session(artifact, device="cpu", threads=1)


def test_networks_that_are_no_classifier_are_refused(graph: Graph, tmp_path: Path) -> None:
    def two_results(model: Any, nodes: dict[str, Any]) -> None:
        model.add_outputs([nodes["conv1"].output(0)])

    def two_inputs(model: Any, nodes: dict[str, Any]) -> None:
        second = op.parameter([10], np.float32, name="second")
        nodes["logits/result"].input(0).replace_source_output(op.add(nodes["logits"], second).output(0))
        model.add_parameters([second])

    def any_rank(model: Any, nodes: dict[str, Any]) -> None:
        model.reshape({"input": openvino.PartialShape([1, -1, -1, 3])})

    for edit, reason in ((two_results, "does not give one"), (two_inputs, "does not take one"), (any_rank, "does not take one")):
        artifact = edited(saved(tmp_path, graph), edit)
        with pytest.raises(Refused, match=reason):
            runtime.open_session(artifact, device="cpu", threads=1)


def test_an_input_of_any_rank_is_refused(tmp_path: Path) -> None:
    source = op.parameter(openvino.PartialShape.dynamic(), np.uint8, name="input")
    openvino.serialize(openvino.Model([op.convert(source, "f32")], [source], "any"), tmp_path / "a.xml", tmp_path / "a.bin")
    with pytest.raises(Refused, match="cannot compile") as caught:
        runtime.open_session(stored(tmp_path, {}), device="cpu", threads=1)
    assert "\n" not in caught.value.message


def test_a_network_that_cannot_be_compiled_is_refused(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Exception:\n not implemented")

    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    with pytest.raises(Refused, match=r"cannot compile `.*`: Exception: not implemented"):
        runtime.open_session(saved(tmp_path, graph), device="cpu", threads=1)


def test_a_failing_run_is_refused(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = runtime.open_session(saved(tmp_path, graph), device="cpu", threads=1)

    def fail(_: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(openvino.InferRequest, "infer", fail)
    with pytest.raises(Refused, match="failed on `1` images: out of memory"):
        session.infer(noise(1))


def test_another_precision_than_asked_for_is_refused(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_model = openvino.Core.compile_model

    def careless(core: Any, model: Any, plugin: str, settings: dict[str, Any]) -> Any:
        return compile_model(core, model, plugin, settings | {"INFERENCE_PRECISION_HINT": "bf16" if native_bf16() else "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", careless)
    asked, given = (runtime, "bf16") if native_bf16() else (openvino_bf16, "f32")
    monkeypatch.setattr(plugins, "installed_devices", lambda *_: ("cpu",))
    with pytest.raises(Refused, match=f"computes in `{given}`, though `{asked.PRECISION}` was asked for"):
        asked.open_session(saved(tmp_path, graph), device="cpu", threads=1)


def test_usage_errors(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = saved(tmp_path, graph)
    with pytest.raises(Unavailable, match="no device `npu9`") as caught:
        runtime.open_session(artifact, device="npu9", threads=1)
    assert caught.value.hint == "it has: cpu"
    with pytest.raises(BadInput, match="`0` threads"):
        runtime.open_session(artifact, device="cpu", threads=0)
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        runtime.open_session(replace(artifact, path=tmp_path / "b"), device="cpu", threads=1)
    monkeypatch.setattr(shared, "MAX_FILE_BYTES", 1000)
    with pytest.raises(BadInput, match="is larger than"):
        runtime.open_session(artifact, device="cpu", threads=1)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [runtime_named(name).NAME for name in ("openvino", "openvino-bf16")] == ["openvino", "openvino-bf16"]
    assert runtime.devices() == ("cpu",)
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8", "BF16"])
    assert openvino_bf16.devices() == ("cpu",)
    monkeypatch.setattr(openvino.Core, "available_devices", ["GNA"])
    assert runtime.devices() == openvino_bf16.devices() == ()


def test_no_bfloat16_where_it_would_be_emulated(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    for attempt in (
        openvino_bf16.devices,
        lambda: openvino_bf16.open_session(saved(tmp_path, graph), device="cpu", threads=1),
    ):
        with pytest.raises(
            Unavailable, match="needs a CPU that computes in bfloat16; OpenVINO says of this one: `FP32, INT8`"
        ) as caught:
            attempt()
        assert caught.value.hint == "--runtime openvino"


def test_openvino_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Unavailable, match="`openvino` is not installed") as caught:
        runtime.devices()
    assert caught.value.hint == "pip install 'squeeze-export[openvino]'"


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"batch": "dynamic", "input_dtype": "float32"}], ids=str)
def test_inner_values_are_the_oracles(integers: QuantizedGraph, tmp_path: Path, options: dict[str, Any]) -> None:
    """Each node makes what the integer run makes of the same inputs, to a step."""
    names = [node.name for node in integers.nodes[:-1]]
    values = runtime.inner_values(saved(tmp_path, integers, **options), names, noise(1))
    assert list(values) == names
    runner, steps = IntegerRunner(integers), {integers.input.name: noise(1)}
    for node in integers.nodes[:-1]:
        assert values[node.name].shape == (1, *integers.sizes[node.name])
        q = integers.tensors[node.name]
        exact = values[node.name] / np.float32(q.scale) + q.zero_point
        steps[node.name] = np.rint(exact).astype(np.uint8)
        assert np.abs(exact - steps[node.name]).max() < 0.01
        assert np.abs(steps[node.name].astype(int) - runner.step(node, steps)).max() <= 1, node.name


def test_inner_values_come_from_the_sessions_kernels(
    integers: QuantizedGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making a tensor an output does not take its layer out of the integers."""
    seen: list[Any] = []
    compile_model = openvino.Core.compile_model

    def watched(*arguments: Any) -> Any:
        seen.append(compile_model(*arguments))
        return seen[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", watched)
    artifact = saved(tmp_path, integers)
    session = runtime.open_session(artifact, device="cpu", threads=1)
    runtime.inner_values(artifact, [node.name for node in integers.nodes[:-1]], noise(1))
    kernels = [
        Counter(record.kernel for record in records.read_compiled(model) if record.operator == "Convolution") for model in seen
    ]
    assert kernels[0] == kernels[1] == Counter(r.kernel for r in session.executed if r.operator == "Convolution")


@needs_bf16
def test_inner_values_in_bfloat16(graph: Graph, tmp_path: Path) -> None:
    artifact = saved(tmp_path, graph)
    found = [module.inner_values(artifact, ["conv10"], noise(1))["conv10"] for module in (runtime, openvino_bf16)]
    assert 15 < sqnr_db(*found) < 80


def test_inner_values_that_are_not_there(integers: QuantizedGraph, tmp_path: Path) -> None:
    for name in ("fire99", "logits", "conv1/bias/none"):
        with pytest.raises(Refused, match=f"has no tensor `{name}`"):
            runtime.inner_values(saved(tmp_path, integers), ["conv1", name], noise(1))
