"""OpenVINO files: read by OpenVINO itself, run on its CPU kernels, compared with the reference and the integer oracle."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, EmitOptions, TensorSpec, require
from squeeze_export.errors import Refused, Unavailable
from squeeze_export.formats import format_named
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Conv, Graph
from squeeze_export.graph.quantized import FP16, FP32, INT8, QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import Architecture, Bypass, fire_modules, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.recipes import quantize
from squeeze_export.targets import openvino as target
from squeeze_export.targets import target_named
from squeeze_export.targets.openvino import metadata as info

openvino = require("openvino", "openvino", without=("openvino_telemetry",))

REAL = {"v1.1": "squeezenet1_1.safetensors", "v1.0": "squeezenet1_0_deep_compression.net"}
SHAPES = [  # bypass, size, conv1's kernel, conv10's padding
    ("none", 64, 3, 0),
    ("none", 67, 7, 1),
    ("simple", 65, 3, 0),
    ("complex", 70, 7, 1),
]
SCHEMES = [FP32, FP16, INT8]


def vnni() -> bool:
    """Whether u8 x s8 products are summed without saturation: x86 needs VNNI for it."""
    cpu = Path("/proc/cpuinfo")
    return not cpu.exists() or "flags" not in (text := cpu.read_text()) or "vnni" in text


def tiny(bypass: Bypass = "none", size_px: int = 64, kernel: int = 3, conv10_pad: int = 0) -> Graph:
    """A small random network with labels."""
    fires = fire_modules(count=4, base_e=16, incr_e=16, freq=2, squeeze_ratio=0.25, bypass=bypass)
    arch = Architecture("tiny", 16, kernel, fires, (1,), 10, conv10_pad)
    rng = np.random.default_rng(7)
    tensors = {
        key: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    labels = tuple(f'class {i} <é> & "co"\'s' for i in range(10))
    return build_graph(arch, tensors, replace(TORCHVISION, crop_px=size_px), labels=labels, checkpoint_sha256="c0")


def noise(graph: Graph, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, *graph.input.shape[1:]), np.uint8)


def in_integers(graph: Graph, pixels: NDArray[np.uint8]) -> QuantizedGraph:
    return quantize(graph, pixels, FloatRunner(graph), INT8, threads=2)


def emitted(graph: Graph, scheme: Scheme, quantized: QuantizedGraph | None = None, **options: Any) -> dict[str, bytes]:
    return target.emit(quantized or graph, scheme, EmitOptions(**options), {"tool": "test"})


def read(files: dict[str, bytes]) -> Any:
    return openvino.Core().read_model(files["model.xml"], files["model.bin"])


def compiled(files: dict[str, bytes], shown: list[str] | None = None) -> Any:
    """The file as it is, with some of its tensors as further outputs."""
    model = read(files)
    model.add_outputs(shown or [])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(model, "CPU", settings)


def run(files: dict[str, bytes], pixels: NDArray[Any]) -> NDArray[np.float32]:
    """The logits, in one piece."""
    return next(iter(compiled(files)(pixels).values()))


def one_by_one(files: dict[str, bytes], pixels: NDArray[Any]) -> NDArray[np.float32]:
    model = compiled(files)
    return np.concatenate([next(iter(model(image[None]).values())).copy() for image in pixels])


def convolution_kernels(model: Any) -> list[str]:
    told = [{key: value.astype(str) for key, value in node.get_rt_info().items()} for node in model.get_runtime_model().get_ops()]
    return [entry["primitiveType"] for entry in told if entry["layerType"] == "Convolution"]


def sqnr_db(reference: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - values).sum()))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return tiny()


@pytest.fixture(scope="module")
def quantized(graph: Graph) -> QuantizedGraph:
    return in_integers(graph, noise(graph, 4))


@pytest.fixture(scope="module", params=list(REAL))
def real(request: pytest.FixtureRequest, assets: Path) -> tuple[Graph, NDArray[np.uint8]]:
    """A real network and, in its preprocessing, 16 photographs to calibrate on and 48 others."""
    checkpoint = read_checkpoint(assets / "weights" / REAL[request.param])
    network = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:16] + sorted((assets / "images" / "eval").glob("*/*.jpg"))[:192:4]
    return network, np.stack([load_pixels(file, checkpoint.preprocess) for file in files])


@pytest.mark.skipif(not vnni(), reason="without VNNI, u8 x s8 sums saturate on x86")
def test_real_networks_are_within_two_steps_of_the_oracle(real: tuple[Graph, NDArray[np.uint8]]) -> None:
    network, photographs = real
    integers = in_integers(network, photographs[:16])
    files = target.emit(integers, INT8, EmitOptions(), {})
    kernels = convolution_kernels(compiled(files))
    assert len(kernels) == 26
    assert all(kernel.endswith("_I8") for kernel in kernels)
    expected = IntegerRunner(integers)(photographs[16:])
    logits = one_by_one(files, photographs[16:])
    assert np.abs(logits - expected).max() <= 2 * integers.tensors["conv10"].scale
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.99


def test_real_networks_in_float(real: tuple[Graph, NDArray[np.uint8]]) -> None:
    network, photographs = real[0], real[1][16:24]
    reference = FloatRunner(network)(photographs)
    logits = one_by_one(emitted(network, FP32), photographs)
    assert sqnr_db(reference, logits) > 100
    np.testing.assert_array_equal(logits.argmax(1), reference.argmax(1))
    assert sqnr_db(reference, one_by_one(emitted(network, FP16), photographs)) > 55


@pytest.mark.parametrize(("bypass", "size_px", "kernel", "conv10_pad"), SHAPES)
def test_every_shape_of_network(bypass: Bypass, size_px: int, kernel: int, conv10_pad: int) -> None:
    """Even and odd pools, bypasses with zero points, a padded conv10: each node alone is within one step of the oracle."""
    network = tiny(bypass, size_px, kernel, conv10_pad)
    pixels = noise(network, 4)
    reference = FloatRunner(network)(pixels)
    assert sqnr_db(reference, one_by_one(emitted(network, FP32), pixels)) > 100
    assert sqnr_db(reference, one_by_one(emitted(network, FP16), pixels)) > 55
    integers = in_integers(network, pixels)
    files = emitted(network, INT8, integers)
    assert {kernel.rsplit("_", 1)[1] for kernel in convolution_kernels(compiled(files))} == {"I8"}
    if not vnni():
        return
    names = [node.name for node in integers.nodes[:-1]]
    model, runner = compiled(files, names), IntegerRunner(integers)
    found = {integers.input.name: pixels[:1]}
    for name, values in zip(names, list(model(pixels[:1]).values())[1:], strict=True):
        q = integers.tensors[name]
        steps = values.transpose(0, 2, 3, 1) / np.float32(q.scale) + q.zero_point
        assert np.abs(steps - np.rint(steps)).max() < 0.01, name
        found[name] = np.rint(steps).astype(np.uint8)
    for node in integers.nodes[:-1]:
        assert np.abs(found[node.name].astype(int) - runner.step(node, found)).max() <= 1, node.name


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_outer_forms(graph: Graph, quantized: QuantizedGraph, scheme: Scheme) -> None:
    """Batch 4, a dynamic batch and float32 pixels change nothing; softmax is the softmax of the logits."""
    integers = quantized if scheme.integer else None
    pixels = noise(graph, 4)
    expected = one_by_one(emitted(graph, scheme, integers), pixels)
    for batch in (4, "dynamic"):
        np.testing.assert_allclose(run(emitted(graph, scheme, integers, batch=batch), pixels), expected, rtol=1e-5, atol=1e-5)
    floats = emitted(graph, scheme, integers, input_dtype="float32")
    np.testing.assert_allclose(one_by_one(floats, pixels.astype(np.float32)), expected, rtol=1e-5, atol=1e-5)
    exponentials = np.exp(expected.astype(np.float64))
    probabilities = one_by_one(emitted(graph, scheme, integers, softmax=True), pixels)
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_the_same_network_gives_the_same_bytes(graph: Graph, quantized: QuantizedGraph, scheme: Scheme, tmp_path: Path) -> None:
    network: Graph | QuantizedGraph = tiny()
    if scheme.integer:
        (tmp_path / "table").write_bytes(table_bytes(quantized))
        network = read_table(tmp_path / "table")
    first = target.emit(quantized if scheme.integer else graph, scheme, EmitOptions(), {"a": "1", "b": "2"})
    assert target.emit(network, scheme, EmitOptions(), {"b": "2", "a": "1"}) == first


def test_edges_come_in_an_order_of_their_own(graph: Graph, quantized: QuantizedGraph) -> None:
    """OpenVINO writes those of one tensor in the order of addresses."""
    xml = emitted(graph, INT8, quantized)["model.xml"]
    edges = [
        tuple(map(int, edge)) for edge in re.findall(rb'from-layer="(\d+)" from-port="(\d+)" to-layer="(\d+)" to-port="(\d+)"', xml)
    ]
    assert edges == sorted(edges)
    assert len(edges) == xml.count(b"<edge ") > 100


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_what_is_in_a_file(graph: Graph, quantized: QuantizedGraph, scheme: Scheme) -> None:
    files = emitted(graph, scheme, quantized if scheme.integer else None)
    assert list(files) == ["model.xml", "model.bin", "labels.txt"]
    assert files["labels.txt"].decode().splitlines() == list(graph.labels)
    model = read(files)
    assert (model.inputs[0].get_any_name(), model.outputs[0].get_any_name()) == ("input", "logits")
    assert [str(openvino.layout_helpers.get_layout(port)) for port in (model.inputs[0], model.outputs[0])] == ["[N,H,W,C]", "[N,C]"]
    stored = {node.get_element_type().get_type_name() for node in model.get_ops() if node.get_type_name() == "Constant"}
    assert stored == {"fp32": {"f32", "i64"}, "fp16": {"f16", "f32", "i64"}, "int8": {"i8", "f32", "i64"}}[scheme.name]
    names = {node.get_friendly_name() for node in model.get_ops()}
    assert {node.name for node in graph.nodes} <= names
    assert not any(re.search(r"_\d+$", name) for name in names)  # OpenVINO's own, which count up


def test_model_api_finds_its_keys(graph: Graph) -> None:
    model = read(emitted(graph, FP32))
    told = {key: model.get_rt_info(["model_info", key]).astype(str) for key in model.get_rt_info("model_info").astype(dict)}
    assert told.pop("labels").split() == [label.replace(" ", "_") for label in graph.labels]
    assert told == {
        "model_type": "Classification",
        "resize_type": "crop",
        "reverse_input_channels": "False",
        "mean_values": "0 0 0",
        "scale_values": "1 1 1",
    }


def test_model_api_may_put_its_preprocessing_before_the_network(graph: Graph, quantized: QuantizedGraph) -> None:
    """What it does with these keys: everything in float, and the answers stay the same."""
    files = emitted(graph, INT8, quantized)
    prepared = openvino.preprocess.PrePostProcessor(read(files))
    prepared.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    prepared.input().model().set_layout(openvino.Layout("NHWC"))
    prepared.input().preprocess().convert_element_type(openvino.Type.f32).mean([0.0, 0.0, 0.0]).scale([1.0, 1.0, 1.0])
    pixels = noise(graph, 1)
    logits = next(iter(openvino.Core().compile_model(prepared.build(), "CPU")(pixels).values()))
    np.testing.assert_allclose(logits, run(files, pixels), rtol=1e-5, atol=1e-5)


def test_metadata_is_in_the_file(graph: Graph) -> None:
    metadata = {"squeeze_export.sha": "ab" * 32, "b-2": 'é & <"quoted">\n\x07\ud800'}
    model = read(target.emit(graph, FP32, EmitOptions(), metadata))
    assert model.get_rt_info(["squeeze_export", "sha"]).astype(str) == "ab" * 32
    assert model.get_rt_info(["squeeze_export", "b-2"]).astype(str) == 'é & <"quoted">\n\\u0007\\ud800'
    with pytest.raises(ValueError, match="'a b' is no XML name"):
        target.emit(graph, FP32, EmitOptions(), {"a b": ""})


def test_labels_without_white_space() -> None:
    assert info.label_word("great white  shark\n") == "great_white_shark"
    assert info.label_word(" \x07 ") == "_"
    assert info.labels_file(("é", "\ud800")) == b"\xc3\xa9\n\\ud800\n"


def test_no_labels_no_entry(graph: Graph) -> None:
    files = target.emit(replace(graph, labels=()), FP32, EmitOptions(), {})
    assert list(files) == ["model.xml", "model.bin"]
    assert not read(files).has_rt_info(["model_info", "labels"])


def test_fp16_bias_of_conv1_makes_up_for_its_weights_at_the_mean_pixel(graph: Graph) -> None:
    """By hand: one channel, channels in BGR, weights that half precision cannot hold."""
    weight = np.array([0.1, 0.2, 0.3], np.float32).reshape(1, 3, 1, 1)
    conv = Conv("conv1", "input", weight, np.zeros(1, np.float32), (2, 2), (0, 0, 0, 0), True)
    preprocess = replace(graph.preprocess, mean=(30.0, 20.0, 10.0), channel_order="bgr")
    changed = replace(graph, nodes=(conv, replace(graph.nodes[-1], input="conv1")), preprocess=preprocess, labels=())
    model = read(target.emit(changed, FP16, EmitOptions(), {}))
    stored = {node.get_friendly_name(): node.data for node in model.get_ops() if node.get_type_name() == "Constant"}
    halves = np.array([0.1, 0.2, 0.3], np.float16)
    np.testing.assert_array_equal(stored["conv1/weight/half"].ravel(), halves)
    assert (
        stored["conv1/bias"].item() == np.float32((weight.ravel() - halves.astype(np.float64)) @ np.array([10.0, 20.0, 30.0])) != 0
    )


def test_describe_reads_the_folder(graph: Graph, quantized: QuantizedGraph, tmp_path: Path) -> None:
    def described(files: dict[str, bytes]) -> tuple[TensorSpec, TensorSpec]:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return format_named("openvino").describe(tmp_path)

    taken = TensorSpec("input", (1, 64, 64, 3), "uint8", "NHWC", 1.0, 0)
    assert described(emitted(graph, INT8, quantized)) == (taken, TensorSpec("logits", (1, 10), "float32", "NC"))
    taken = TensorSpec("input", ("N", 64, 64, 3), "float32", "NHWC")
    files = emitted(graph, FP32, input_dtype="float32", batch="dynamic", softmax=True)
    assert described(files) == (taken, TensorSpec("probabilities", ("N", 10), "float32", "NC"))


def test_fp16_refuses_weights_beyond_its_range(graph: Graph) -> None:
    huge = replace(graph.convs[0], weight=np.full((16, 3, 3, 3), 70_000, np.float32))
    with pytest.raises(Refused, match=r"`conv1` reach `7e\+04`"):
        target.emit(replace(graph, nodes=(huge, *graph.nodes[1:])), FP16, EmitOptions(), {})


def test_openvino_not_installed(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Unavailable, match="`openvino` is not installed") as caught:
        emitted(graph, FP32)
    assert caught.value.hint == "pip install 'squeeze-export[openvino]'"


def test_nothing_is_reported_to_anyone() -> None:
    """OpenVINO's telemetry package is never loaded."""
    code = (
        "import sys; from squeeze_export.runtimes import openvino; openvino.devices(); print('openvino_telemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_registered() -> None:
    assert target_named("openvino").emit is target.emit
    assert (target.NAME, target.SUFFIX, target.RUNTIMES) == ("openvino", ".openvino", ("openvino", "openvino-bf16"))


def test_an_openvino_that_lays_out_its_xml_otherwise_is_refused(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edges are sorted line by line, so they have to be found."""
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path).replace(b"\t<edges>", b"  <edges>"))
    with pytest.raises(Refused, match="lays its XML out in a way that is not known here") as caught:
        emitted(graph, FP32)
    assert caught.value.hint == "install the version of `openvino` that `constraints.txt` names"
