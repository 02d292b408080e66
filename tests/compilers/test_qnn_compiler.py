"""The compiler for Qualcomm's HTP: what it makes of a file, for which SoC, and what it refuses."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from squeeze_export.compilers import Compiled, compiler_named, qnn
from squeeze_export.compilers.qnn.rounding import correct_biases
from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.formats import format_named
from squeeze_export.formats.qnn import GRAPH_KEY, binary_facts, graph_of_text
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream
from squeeze_export.nets.architecture import Architecture, Fire, tensor_shapes
from squeeze_export.pipeline.network import open_network
from squeeze_export.quant.recipes import quantize
from squeeze_export.registry import COMPILERS
from squeeze_export.runtimes import qnn as runtime
from squeeze_export.targets import onnx as target
from squeeze_export.workers import worker

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")
if platform.machine().lower() not in ("x86_64", "amd64"):
    pytest.skip("the HTP is emulated on x86-64 alone", allow_module_level=True)

SOCS = ("SM8450", "SM8650")
DEVICE = "htp-emulator"
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def integers() -> QuantizedGraph:
    arch, rng = Architecture("tiny", 8, 3, (Fire(4, 8, 8), Fire(4, 8, 8)), (0,), 5), np.random.default_rng(5)
    tensors = {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    graph = build_graph(arch, tensors, replace(TORCHVISION, crop_px=32))
    return quantize(graph, PIXELS, FloatRunner(graph), INT8, threads=2)


@pytest.fixture(scope="module")
def artifact(integers: QuantizedGraph, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("source") / "net.int8.onnx"
    path.write_bytes(target.emit(integers, INT8, EmitOptions(), {"labels": "[]"}))
    return Artifact(path, "onnx", "int8", "", path.stat().st_size, *format_named("onnx").describe(path))


def compiled(artifact: Artifact, chip: str, folder: Path, **settings: str) -> Compiled:
    folder.mkdir(parents=True)
    return qnn.compile_for(artifact, chip, settings, folder)


@pytest.fixture(scope="module")
def products(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compiled]:
    return {soc: compiled(artifact, soc, tmp_path_factory.mktemp("work") / soc) for soc in SOCS}


def test_it_is_registered() -> None:
    assert COMPILERS["qnn"] == qnn.__name__
    assert compiler_named("qnn") is qnn
    assert len(set(qnn.SOC_MODELS.values())) == len(qnn.CHIPS)


def test_each_file_is_for_its_soc_and_answers_when_loaded_again(
    products: dict[str, Compiled], integers: QuantizedGraph, tmp_path: Path, artifact: Artifact
) -> None:
    expected = IntegerRunner(integers)(PIXELS)
    sessions = []
    for soc, product in products.items():
        assert binary_facts(product.content) == {"soc": soc, "htp_arch": product.settings["htp_arch"]}
        assert product.placement is None
        assert product.estimate is None
        assert product.settings["qairt"]
        path = tmp_path / f"{soc}.onnx"
        path.write_bytes(product.content)
        sessions.append(runtime.open_session(replace(artifact, path=path, target="qnn"), device=DEVICE, threads=1))
    assert [session.facts["soc"] for session in sessions] == list(SOCS)  # both at once in one process
    assert {product.settings["htp_arch"] for product in products.values()} == {"v69", "v75"}
    for session in sessions:
        assert np.abs(session.infer(PIXELS) - expected).max() <= 3 * integers.tensors["conv10"].scale
        placement = session.placement
        assert placement.device_count == placement.operator_count
        assert (placement.fallbacks, placement.integer_mac_share) == ((), 1.0)


def test_the_file_keeps_its_metadata_and_its_graph(products: dict[str, Compiled], integers: QuantizedGraph) -> None:
    model = onnx.load_model_from_string(products[SOCS[0]].content)
    assert [node.op_type for node in model.graph.node] == ["EPContext"]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["labels"] == "[]"
    graph = graph_of_text(metadata[GRAPH_KEY])
    assert sum(operator.kind == "Conv2d" for operator in graph) == len(integers.convs)


# --- v68 and v69 round down


def logits_of(product: Compiled, artifact: Artifact, path: Path) -> Any:
    path.write_bytes(product.content)
    session = runtime.open_session(replace(artifact, path=path, target="qnn"), device=DEVICE, threads=1)
    try:
        return session.infer(PIXELS)
    finally:
        session.close()


def one_convolution(ratios: Any) -> bytes:
    """A QDQ file of one 1x1 convolution of 32 channels, whose sums are multiplied by (32,) ratios and rounded to uint8."""
    make, draw = onnx.helper, np.random.default_rng(7)
    initial = {
        "w": draw.integers(-127, 128, (32, 32, 1, 1), np.int8),
        "b": draw.integers(0, 5000, 32, np.int32),
        "one": np.float32(1),
        "scales": np.float32(ratios),
        "u0": np.uint8(0),
        "s0": np.zeros(32, np.int8),
        "i0": np.zeros(32, np.int32),
    }
    nodes = [
        make.make_node("DequantizeLinear", ["x", "one", "u0"], ["x/real"]),
        make.make_node("DequantizeLinear", ["w", "scales", "s0"], ["w/real"], axis=0),
        make.make_node("DequantizeLinear", ["b", "scales", "i0"], ["b/real"], axis=0),
        make.make_node("Conv", ["x/real", "w/real", "b/real"], ["y/real"]),
        make.make_node("QuantizeLinear", ["y/real", "one", "u0"], ["y"]),
        make.make_node("DequantizeLinear", ["y", "one", "u0"], ["z"]),
    ]
    graph = make.make_graph(
        nodes,
        "one",
        [make.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 32, 8, 8])],
        [make.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 32, 8, 8])],
        [onnx.numpy_helper.from_array(value, name) for name, value in initial.items()],
    )
    return bytes(make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10).SerializeToString())


def test_half_a_unit_is_added_to_the_biases() -> None:
    content = one_convolution(np.resize([1 / 1024, 1.99 / 1024, 0.99 / 1024, 1 / 32, 1.0], 32))
    changed, count = correct_biases(content)
    before, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_model_from_string(data).graph.initializer}
        for data in (content, changed)
    )
    assert count == 1
    np.testing.assert_array_equal(after["b"], before["b"] + np.resize([32, 32, 64, 1, 0], 32))
    assert all((after[name] == before[name]).all() for name in before if name != "b")


def test_a_convolution_in_float_keeps_its_bias() -> None:
    model = onnx.load_model_from_string(one_convolution(np.full(32, 0.001)))
    model.graph.node[3].input[1] = "floats"  # made by nothing that quantizes
    assert correct_biases(model.SerializeToString()) == (model.SerializeToString(), 0)


def test_the_biases_make_up_for_what_v69_rounds_down(tmp_path: Path, errors: dict[str, float]) -> None:
    """Of one convolution, the mean square error beside its exact integers is about half of what it was."""
    path = tmp_path / "one.int8.onnx"
    path.write_bytes(one_convolution(2 ** np.linspace(-10, -9, 32)))
    source = Artifact(path, "onnx", "int8", "", 1, TensorSpec("x", (1, 32, 8, 8), "uint8", "NHWC"), TensorSpec("z", (), "", ""))
    assert compiled(source, "SM8450", tmp_path / "on").settings["bias_correction"] == "1 convolution"
    assert errors["corrected"] < 0.7 * errors["as_it_is"]
    assert "bias_correction" not in compiled(source, "SM8450", tmp_path / "off", bias_correction="off").settings
    assert "bias_correction" not in compiled(source, "SM8650", tmp_path / "other").settings


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Form of the file -> the error that the last compilation told of it."""
    told: dict[str, float] = {}

    def call(function: Any, values: Any, **options: Any) -> Any:
        answer = worker.call(function, values, **options)
        told[Path(values["folder"]).name] = answer[0]["error"]
        return answer

    monkeypatch.setattr(qnn, "call", call)
    return told


def test_a_correction_that_takes_the_answers_further_away_is_not_kept(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: dict[str, float]
) -> None:
    kept = compiled(artifact, "SM8450", tmp_path / "off", bias_correction="off")
    monkeypatch.setattr(qnn, "correct_biases", lambda content: (doubled_biases(content), 1))
    product = compiled(artifact, "SM8450", tmp_path / "on")
    assert product.settings == kept.settings
    assert errors["corrected"] > errors["as_it_is"]
    answers = (logits_of(file, artifact, tmp_path / "made.onnx") for file in (kept, product))
    np.testing.assert_array_equal(*answers)


def doubled_biases(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("/bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    return bytes(model.SerializeToString())


def test_a_number_of_another_soc_is_noticed(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the library takes the number without a word."""
    monkeypatch.setattr(qnn, "SOC_MODELS", {"SM8650": qnn.SOC_MODELS["SM8750"]})
    with pytest.raises(Refused, match="compiled for `SM8750` instead of `SM8650`"):
        compiled(artifact, "SM8650", tmp_path / "work")


def test_a_soc_without_fp16_refuses_the_float_pool(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="the HTP of `SM8635` does not take the floats of `int8`") as caught:
        compiled(artifact, "SM8635", tmp_path / "work")
    assert caught.value.hint == "--scheme int8-npu"


def test_a_product_that_answers_otherwise_is_refused(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn, "call", lambda *_, **__: ({"failure": "", "difference": 0.25, "error": None}, {}))
    with pytest.raises(Refused, match=r"gives other answers than the session that it came from: by 0\.25"):
        compiled(artifact, "SM8650", tmp_path / "work")


def test_a_compiler_that_hangs_or_dies(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn, "TIMEOUT_S", 0.01)
    with pytest.raises(Refused, match=r"QNN's compiler for `SM8650` did not finish within 0\.01 s"):
        compiled(artifact, "SM8650", tmp_path / "slow")
    monkeypatch.setattr(qnn, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Refused, match="QNN's compiler for `SM8650` failed: exit code 1"):
        compiled(artifact, "SM8650", tmp_path / "dead")


def test_a_file_that_is_none_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(Refused, match=r"QNN does not compile `bad\.onnx` for `SM8650`") as caught:
        compiled(replace(artifact, path=path), "SM8650", tmp_path / "work")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("chip", "settings", "changed", "message"),
    [
        ("SM9999", {}, {}, "no SoC is called `SM9999`"),
        ("SM8650", {"vtcm": "1"}, {}, "no setting `vtcm`"),
        ("SM8650", {"optimise": "9"}, {}, "the setting optimise `9`"),
        ("SM8650", {"bias_correction": "yes"}, {}, "the setting bias_correction `yes`"),
        ("SM8650", {}, {"scheme": "fp32"}, "does not take `onnx fp32`"),
        ("SM8650", {}, {"target": "tflite"}, "does not take `tflite int8`"),
        ("SM8650", {}, {"input": TensorSpec("input", ("N", 32, 32, 3), "uint8", "NHWC")}, "open batch"),
    ],
)
def test_bad_input(
    artifact: Artifact, tmp_path: Path, chip: str, settings: dict[str, str], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        qnn.compile_for(replace(artifact, **changed), chip, settings, tmp_path)
    assert caught.value.hint


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(Unavailable, match="`onnxruntime_qnn` is not installed") as caught:
        qnn.check("SM8650", {})
    assert caught.value.hint == "pip install 'squeeze-export[qnn]'"


def test_a_real_network(assets: Path, tmp_path: Path) -> None:
    """v1.1 for one SoC: every operator of it on the HTP, and near the exact integers on two photographs."""
    network = open_network(assets / "weights" / "squeezenet1_1.pth")
    files = open_calibration(assets / "images" / "calib")
    pixels = ImageStream(replace(files, files=files.files[:2]), network.graph.preprocess, workers=2).load()[0].pixels
    table = quantize(network.graph, pixels, FloatRunner(network.graph), INT8, threads=2)
    path = tmp_path / "real.int8.onnx"
    path.write_bytes(target.emit(table, INT8, EmitOptions(), {}))
    source = Artifact(path, "onnx", "int8", "", path.stat().st_size, *format_named("onnx").describe(path))
    product = compiled(source, "SM8650", tmp_path / "work")
    (tmp_path / "real.qnn.onnx").write_bytes(product.content)
    session = runtime.open_session(replace(source, path=tmp_path / "real.qnn.onnx", target="qnn"), device=DEVICE, threads=1)
    assert session.placement.device_count == session.placement.operator_count >= 38
    assert session.placement.fallbacks == ()
    logits, expected = session.infer(pixels), IntegerRunner(table)(pixels)
    noise = np.square(logits - expected).sum()
    assert 10 * np.log10(np.square(expected).sum() / noise) > 30
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
