"""ONNX files: checked by onnx's own checker, run on ONNX Runtime, compared with the reference and the integer oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused
from squeeze_export.formats import audited, format_named
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Concat, Conv, GlobalAveragePool, Graph
from squeeze_export.graph.quantized import FP16, FP32, INT8, INT8_SYMMETRIC, QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.graph.table import read_table, table_bytes
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import Architecture, Bypass, fire_modules, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.recipes import quantize
from squeeze_export.targets import onnx as target
from squeeze_export.targets import target_named

REAL = {"v1.1": "squeezenet1_1.safetensors", "v1.0": "squeezenet1_0_deep_compression.net"}
SHAPES = [  # bypass, size, conv1's kernel, conv10's padding
    ("none", 64, 3, 0),
    ("none", 67, 7, 1),
    ("simple", 65, 3, 0),
    ("complex", 70, 7, 1),
]


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
    labels = tuple(f"class {i} é" for i in range(10))
    return build_graph(arch, tensors, replace(TORCHVISION, crop_px=size_px), labels=labels, checkpoint_sha256="c0")


def noise(graph: Graph, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, *graph.input.shape[1:]), np.uint8)


def in_integers(graph: Graph, pixels: NDArray[np.uint8]) -> QuantizedGraph:
    return quantize(graph, pixels, FloatRunner(graph), INT8, threads=2)


def run(model: bytes, pixels: NDArray[Any], outputs: list[str] | None = None) -> list[NDArray[Any]]:
    """Runs a file as it is, in one piece."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"input": pixels})


def one_by_one(model: bytes, pixels: NDArray[Any]) -> NDArray[np.float32]:
    return np.concatenate([run(model, image[None])[0] for image in pixels])


def showing(model: bytes, names: list[str]) -> bytes:
    """The model with some of its uint8 tensors as further outputs."""
    loaded = onnx.load_model_from_string(model)
    loaded.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    return bytes(loaded.SerializeToString())


def emitted(graph: Graph, scheme: Scheme, quantized: QuantizedGraph | None = None, **options: Any) -> bytes:
    return target.emit(quantized or graph, scheme, EmitOptions(**options), {"tool": "test"})


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
    """A real network and, in its preprocessing, 16 photographs to calibrate on and 24 others."""
    checkpoint = read_checkpoint(assets / "weights" / REAL[request.param])
    network = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:16] + sorted((assets / "images" / "eval").glob("*/*.jpg"))[:96:4]
    return network, np.stack([load_pixels(file, checkpoint.preprocess) for file in files])


@pytest.mark.skipif(not vnni(), reason="without VNNI, u8 x s8 sums saturate on x86")
def test_real_networks_give_the_oracles_integers(real: tuple[Graph, NDArray[np.uint8]]) -> None:
    network, photographs = real
    integers = in_integers(network, photographs[:16])
    model = showing(target.emit(integers, INT8, EmitOptions(batch="dynamic"), {}), ["conv10"])
    seen: list[NDArray[np.uint8]] = []
    pixels = photographs[16:]
    expected = IntegerRunner(integers)(pixels, lambda name, values: seen.append(values) if name == "conv10" else None)
    logits, conv10 = run(model, pixels)
    np.testing.assert_array_equal(conv10.transpose(0, 2, 3, 1), np.concatenate(seen))
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(logits, expected, rtol=1e-4)


def test_real_networks_in_float(real: tuple[Graph, NDArray[np.uint8]]) -> None:
    network, photographs = real[0], real[1][:4]
    reference = FloatRunner(network)(photographs)
    assert sqnr_db(reference, one_by_one(emitted(network, FP32), photographs)) > 100
    assert sqnr_db(reference, one_by_one(emitted(network, FP16), photographs)) > 55


@pytest.mark.parametrize(("bypass", "size_px", "kernel", "conv10_pad"), SHAPES)
def test_every_shape_of_network(bypass: Bypass, size_px: int, kernel: int, conv10_pad: int) -> None:
    """Even and odd pools, bypasses with zero points, a padded conv10."""
    network = tiny(bypass, size_px, kernel, conv10_pad)
    pixels = noise(network, 4)
    reference = FloatRunner(network)(pixels)
    assert sqnr_db(reference, one_by_one(emitted(network, FP32), pixels)) > 100
    assert sqnr_db(reference, one_by_one(emitted(network, FP16), pixels)) > 55
    integers = in_integers(network, pixels)
    expected: dict[str, list[NDArray[np.uint8]]] = {}
    IntegerRunner(integers)(pixels, lambda name, values: expected.setdefault(name, []).append(values))
    model = target.emit(integers, INT8, EmitOptions(batch="dynamic"), {})
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    _, *found = run(showing(model, list(expected)), pixels)
    for name, values in zip(expected, found, strict=True):
        steps = np.abs(values.transpose(0, 2, 3, 1).astype(int) - np.concatenate(expected[name]).astype(int)).max()
        assert steps <= (0 if bypass == "none" and vnni() else 1), name


def on_padded_pixels(*others: Conv) -> Graph:
    """A network whose first convolution pads the pixels themselves, which a mean of 0 allows, joined with other ones there."""
    rng = np.random.default_rng(5)
    weight, head = rng.normal(0, 0.3, (8, 3, 3, 3)) / 255, rng.normal(0, 0.5, (5, 8 + 4 * len(others), 1, 1))
    first = Conv(
        "conv1",
        "input",
        weight.astype(np.float32),
        np.zeros(8, np.float32),
        (1, 1),
        (1, 2, 1, 0) if not others else (1, 1, 1, 1),
        True,
    )
    join = (Concat("joined", ("conv1", *(conv.name for conv in others))),) if others else ()
    source = "joined" if others else "conv1"
    last = Conv("conv10", source, head.astype(np.float32), np.zeros(5, np.float32), (1, 1), (0, 0, 0, 0), False)
    nodes = (first, *others, *join, last, GlobalAveragePool("logits", "conv10"))
    pixels = TensorSpec("input", ("N", 12, 12, 3), "uint8", "NHWC", 1.0, 0)
    preprocess = replace(TORCHVISION, crop_px=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    return Graph("padded", nodes, pixels, TensorSpec("logits", ("N", 5), "float32", "NC"), preprocess, (), "c0")


def one_px(name: str, pads: tuple[int, int, int, int]) -> Conv:
    weight = np.random.default_rng(6).normal(0, 1 / 255, (4, 3, 1, 1)).astype(np.float32)
    return Conv(name, "input", weight, np.zeros(4, np.float32), (1, 1), pads, True)


@pytest.mark.parametrize("input_dtype", ["uint8", "float32"])
def test_padded_pixels_lower_by_128_are_padded_before(input_dtype: str, tmp_path: Path) -> None:
    """A zero of ONNX's padding would be a pixel of 128."""
    network = on_padded_pixels()
    pixels = noise(network, 4) // 3  # dark, so that a border of 128 shows
    integers = quantize(network, pixels, FloatRunner(network), INT8_SYMMETRIC)
    model = emitted(network, INT8_SYMMETRIC, integers, input_dtype=input_dtype)
    expected = IntegerRunner(integers)(pixels)
    np.testing.assert_allclose(one_by_one(model, pixels.astype(input_dtype)), expected, rtol=1e-3, atol=1e-3)
    assert sqnr_db(FloatRunner(network)(pixels), expected) > 30
    (tmp_path / "net.onnx").write_bytes(model)
    assert audited("onnx", tmp_path / "net.onnx").violations == ()
    changed = onnx.load_model_from_string(model)
    (pad,) = [node for node in changed.graph.node if node.op_type == "Pad"]
    fill = onnx.helper.make_tensor("fill", onnx.TensorProto.FLOAT, [], [128.0])
    changed.graph.initializer.append(fill)
    pad.input.append("fill")
    control = one_by_one(changed.SerializeToString(), pixels.astype(input_dtype))
    assert np.abs(control - expected).max() > 1e-2


def test_pixels_padded_in_two_ways_are_refused_where_128_is_subtracted() -> None:
    network = on_padded_pixels(one_px("b", (0, 0, 0, 0)))
    pixels = noise(network, 4)
    with pytest.raises(Refused, match="`conv1` and `b` pad the pixels differently"):
        emitted(network, INT8_SYMMETRIC, quantize(network, pixels, FloatRunner(network), INT8_SYMMETRIC))


@pytest.mark.parametrize("scheme", [FP32, FP16, INT8], ids=lambda scheme: scheme.name)
def test_outer_forms(graph: Graph, quantized: QuantizedGraph, scheme: Scheme) -> None:
    """Batch 4, a dynamic batch and float32 pixels change nothing; softmax is the softmax of the logits."""
    integers = quantized if scheme.integer else None
    pixels = noise(graph, 4)
    expected = one_by_one(emitted(graph, scheme, integers), pixels)
    for batch in (4, "dynamic"):
        np.testing.assert_allclose(run(emitted(graph, scheme, integers, batch=batch), pixels)[0], expected, rtol=1e-5, atol=1e-5)
    floats = emitted(graph, scheme, integers, input_dtype="float32")
    np.testing.assert_allclose(one_by_one(floats, pixels.astype(np.float32)), expected, rtol=1e-5, atol=1e-5)
    exponentials = np.exp(expected.astype(np.float64))
    probabilities = one_by_one(emitted(graph, scheme, integers, softmax=True), pixels)
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("scheme", [FP32, FP16, INT8], ids=lambda scheme: scheme.name)
def test_the_same_network_gives_the_same_bytes(graph: Graph, quantized: QuantizedGraph, scheme: Scheme, tmp_path: Path) -> None:
    network: Graph | QuantizedGraph = tiny()
    if scheme.integer:
        (tmp_path / "table").write_bytes(table_bytes(quantized))
        network = read_table(tmp_path / "table")
    first = target.emit(quantized if scheme.integer else graph, scheme, EmitOptions(), {"a": "1", "b": "2"})
    assert target.emit(network, scheme, EmitOptions(), {"b": "2", "a": "1"}) == first


@pytest.mark.parametrize("scheme", [FP32, FP16, INT8], ids=lambda scheme: scheme.name)
def test_header(graph: Graph, quantized: QuantizedGraph, scheme: Scheme) -> None:
    model = onnx.load_model_from_string(emitted(graph, scheme, quantized if scheme.integer else None))
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version, len(model.opset_import)) == (7, 13, 1)
    assert model.producer_name == "squeeze-export"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert list(metadata) == ["labels", "tool"]
    assert json.loads(metadata["labels"]) == list(graph.labels)
    stored = {"fp32": {1}, "fp16": {10}, "int8": {1, 2, 3, 6}}[scheme.name]
    assert {tensor.data_type for tensor in model.graph.initializer} == stored


def test_no_labels_no_entry(graph: Graph) -> None:
    model = onnx.load_model_from_string(target.emit(replace(graph, labels=()), FP32, EmitOptions(), {}))
    assert not model.metadata_props


def test_joined_tensors_share_one_scale_initializer(graph: Graph, quantized: QuantizedGraph) -> None:
    model = onnx.load_model_from_string(emitted(graph, INT8, quantized))
    scale = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for fire in ("fire2", "fire3", "fire4", "fire5"):
        assert len({scale[f"{fire}/{part}"] for part in ("expand1x1", "expand3x3", "concat")}) == 1
    assert scale["pool3"] == scale["fire3/concat"] != scale["fire2/concat"]


def test_fp16_bias_of_conv1_makes_up_for_its_weights_at_the_mean_pixel(graph: Graph) -> None:
    """By hand: one channel, channels in BGR, weights that half precision cannot hold."""
    weight = np.array([0.1, 0.2, 0.3], np.float32).reshape(1, 3, 1, 1)
    conv = Conv("conv1", "input", weight, np.zeros(1, np.float32), (2, 2), (0, 0, 0, 0), True)
    preprocess = replace(graph.preprocess, mean=(30.0, 20.0, 10.0), channel_order="bgr")
    changed = replace(graph, nodes=(conv, replace(graph.nodes[-1], input="conv1")), preprocess=preprocess)
    model = onnx.load_model_from_string(target.emit(changed, FP16, EmitOptions(), {}))
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    halves = np.array([0.1, 0.2, 0.3], np.float16)
    offset = (halves.astype(np.float64) - weight.ravel()) @ np.array([10.0, 20.0, 30.0])
    np.testing.assert_array_equal(stored["conv1/weight"].ravel(), halves)
    assert stored["conv1/bias"] == np.float16(-offset) != 0


def test_taps_are_the_reference_runs_tensors(graph: Graph) -> None:
    names = ["fire2/concat", "conv1", "conv10"]
    model = target.emit_with_taps(graph, names)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    pixels = noise(graph, 1)
    expected: dict[str, NDArray[np.float32]] = {}
    logits = FloatRunner(graph)(pixels, expected.__setitem__)
    declared = [entry.name for entry in onnx.load_model_from_string(model).graph.output]
    assert declared == ["logits", "conv1", "fire2/concat", "conv10"]
    found = dict(zip(declared, run(model, pixels), strict=True))
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-4)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_describe_reads_the_file(graph: Graph, quantized: QuantizedGraph, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(emitted(graph, INT8, quantized))
    taken = TensorSpec("input", (1, 64, 64, 3), "uint8", "NHWC", 1.0, 0)
    assert format_named("onnx").describe(path) == (taken, TensorSpec("logits", (1, 10), "float32", "NC"))
    path.write_bytes(emitted(graph, FP32, input_dtype="float32", batch="dynamic", softmax=True))
    taken = TensorSpec("input", ("N", 64, 64, 3), "float32", "NHWC")
    assert format_named("onnx").describe(path) == (taken, TensorSpec("probabilities", ("N", 10), "float32", "NC"))


def test_describe_refuses_what_is_no_image_classifier(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(target.emit_with_taps(graph, ["conv1"]))
    with pytest.raises(BadInput, match="`1` inputs and `2` outputs"):
        format_named("onnx").describe(path)
    model = onnx.load_model_from_string(emitted(graph, FP32))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="it takes `int8`"):
        format_named("onnx").describe(path)


def test_a_graph_without_its_pool_is_refused(graph: Graph, quantized: QuantizedGraph) -> None:
    for network, scheme in ((graph, FP32), (quantized, INT8)):
        with pytest.raises(ValueError, match="no GlobalAveragePool"):
            target.emit(replace(network, nodes=network.nodes[:-1]), scheme, EmitOptions(), {})


def test_fp16_refuses_weights_beyond_its_range(graph: Graph) -> None:
    huge = replace(graph.convs[0], bias=np.full(16, 70_000, np.float32))
    with pytest.raises(Refused, match=r"`conv1` reach `7e\+04`"):
        target.emit(replace(graph, nodes=(huge, *graph.nodes[1:])), FP16, EmitOptions(), {})


def test_registered() -> None:
    assert target_named("onnx").emit is target.emit
    assert (target.NAME, target.SUFFIX, target.RUNTIMES) == ("onnx", ".onnx", ("onnxruntime", "torch"))
