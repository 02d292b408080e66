"""The TFLite file: its integers against the integer run, its floats against the float run, and its outer form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from squeeze_export.core import Artifact, EmitOptions, Preprocess, require
from squeeze_export.errors import Refused
from squeeze_export.formats import audited as audited_file
from squeeze_export.formats import format_named
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP16, FP32, INT8, INT8_NPU, INT8_PER_TENSOR, INT16X8, W8, QuantizedGraph, Scheme
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import Architecture, Bypass, Fire, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes.tflite import litert
from squeeze_export.targets import tflite
from squeeze_export.targets.tflite.writer import padding_word

CLASSES = 10


@cache
def small(size_px: int = 64, bypass: Bypass = "none", pad: int = 0, kernel: int = 3) -> tuple[Graph, QuantizedGraph, Any]:
    """A random network of two Fire modules with its table, and 8 random images to run."""
    rng = np.random.default_rng(size_px + kernel)
    first: Bypass = "complex" if bypass == "complex" else "none"
    fires = (Fire(4, 8, 12, first), Fire(6, 8, 12, bypass))
    arch = Architecture("small", 8, kernel, fires, (0,), CLASSES, pad)
    tensors = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in tensor_shapes(arch).items()}
    preprocess = Preprocess(size_px, size_px, "bilinear", "bgr", (120.0, 115.0, 100.0), (60.0, 58.0, 57.0))
    graph = build_graph(arch, tensors, preprocess, labels=tuple(f"label {i}" for i in range(CLASSES)))
    # Low-frequency images: random pixels alone would all give nearly the same logits.
    coarse = rng.integers(0, 256, (24, 4, 4, 3)).astype(np.float32)
    grown = coarse.repeat(-(-size_px // 4), 1).repeat(-(-size_px // 4), 2)[:, :size_px, :size_px]
    pixels = np.clip(grown + rng.normal(0, 20, grown.shape), 0, 255).astype(np.uint8)
    return graph, quantize(graph, pixels[:16], FloatRunner(graph), INT8), pixels[16:]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions = EmitOptions()) -> Path:  # noqa: B008
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tflite"
        path.write_bytes(tflite.emit(network, scheme, options, {"squeeze_export.table_sha256": "ab" * 32}))
        return path

    return emit


def run(path: Path, pixels: Any) -> Any:
    source, result = format_named("tflite").describe(path)
    session = litert.open_session(Artifact(path, "tflite", "int8", "", 0, source, result), device="cpu", threads=1)
    return session.infer(pixels)


def conv10_integers(path: Path, pixels: Any) -> Any:
    """What conv10 gives under XNNPACK, as the table's u8: the same file with that tensor as its output."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    (subgraph,) = model.subgraphs
    index = [tensor.name for tensor in subgraph.tensors].index(b"conv10")
    subgraph.outputs, model.signatureDefs = [index], None
    makers = [position for position, operator in enumerate(subgraph.operators) if list(operator.outputs) == [index]]
    subgraph.operators = subgraph.operators[: makers[0] + 1]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    interpreter = require("ai_edge_litert.interpreter", "tflite").Interpreter(model_content=bytes(builder.Output()))
    interpreter.allocate_tensors()
    assert "DELEGATE" in {node["op_name"] for node in interpreter._get_ops_details()}
    results = []
    for image in pixels:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(index))
    return (np.concatenate(results).astype(np.int16) + 128).astype(np.uint8)


def sqnr_db(reference: Any, result: Any) -> float:
    error = result.astype(np.float64) - reference
    return float(10 * np.log10(np.square(reference, dtype=np.float64).sum() / np.square(error).sum()))


def check_integers(quantized: QuantizedGraph, path: Path, pixels: Any) -> None:
    """conv10's integers and the best class are the integer run's; the logits too, but for the float mean's last digits."""
    taps: list[Any] = []
    expected = IntegerRunner(quantized)(pixels, lambda name, values: taps.append(values) if name == "conv10" else None)
    np.testing.assert_array_equal(conv10_integers(path, pixels), np.concatenate(taps))
    logits = run(path, pixels)
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size_px", [64, 65, 67, 70])
@pytest.mark.parametrize(("pad", "kernel"), [(0, 3), (1, 7)])
def test_integers_of_even_and_odd_pools_are_the_oracles(write: Any, size_px: int, pad: int, kernel: int) -> None:
    _, quantized, pixels = small(size_px, pad=pad, kernel=kernel)
    check_integers(quantized, write(quantized, INT8), pixels)


@pytest.mark.parametrize("bypass", ["simple", "complex"])
def test_a_bypass_is_within_one_step(write: Any, bypass: Bypass) -> None:
    """XNNPACK adds in fixed point, the oracle in float: a sum may round to the neighbour."""
    _, quantized, pixels = small(bypass=bypass)
    if bypass == "complex":
        assert quantized.tensors["fire2/bypass1x1"].zero_point > 0
    path = write(quantized, INT8)
    assert audited_file("tflite", path).operators["ADD"] == {"simple": 1, "complex": 2}[bypass]
    taps: list[Any] = []
    expected = IntegerRunner(quantized)(pixels, lambda name, values: taps.append(values) if name == "conv10" else None)
    difference = np.abs(conv10_integers(path, pixels).astype(int) - np.concatenate(taps))
    assert difference.max() <= 1
    assert difference.mean() < 0.05
    assert sqnr_db(expected, run(path, pixels)) > 40


@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
@pytest.mark.parametrize(("scheme", "least_db"), [(FP32, 100), (FP16, 55)])
def test_float_schemes_are_close_to_the_float_run(write: Any, scheme: Scheme, least_db: float, bypass: Bypass) -> None:
    graph, _, pixels = small(65, bypass, pad=1)
    assert sqnr_db(FloatRunner(graph)(pixels), run(write(graph, scheme), pixels)) > least_db


@pytest.mark.parametrize("name", ["squeezenet1_1.pth", "squeezenet1_0_deep_compression.net"])
def test_real_networks(write: Any, assets: Path, name: str) -> None:
    checkpoint = read_checkpoint(assets / "weights" / name)
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    files = sorted((assets / "images" / "calib").glob("*.jpg"))[:16] + sorted((assets / "images" / "eval").glob("*/*.jpg"))[:96:4]
    photographs = np.stack([load_pixels(file, checkpoint.preprocess) for file in files])
    seen, unseen = photographs[:16], photographs[16:]
    quantized = quantize(graph, seen, FloatRunner(graph), INT8, threads=2)
    path = write(quantized, INT8)
    check_integers(quantized, path, unseen)
    assert audited_file("tflite", path).violations == ()
    assert path.stat().st_size < 1_400_000
    unseen = unseen[:6]
    reference = FloatRunner(graph)(unseen)
    assert sqnr_db(reference, run(write(graph, FP32), unseen)) > 100
    half = write(graph, FP16)
    assert sqnr_db(reference, run(half, unseen)) > 55
    assert half.stat().st_size < 2_560_000


@pytest.mark.parametrize("scheme", [FP32, FP16, INT8], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(
    "options", [EmitOptions(4), EmitOptions("dynamic"), EmitOptions(1, "float32"), EmitOptions(3, "int8")], ids=str
)
def test_the_outer_form_does_not_change_the_logits(write: Any, scheme: Scheme, options: EmitOptions) -> None:
    graph, quantized, pixels = small()
    network = quantized if scheme.integer else graph
    np.testing.assert_array_equal(run(write(network, scheme, options), pixels[:6]), run(write(network, scheme), pixels[:6]))


def test_int8_pixels_are_the_networks_own_integers(write: Any) -> None:
    """128 lower than uint8 ones, and nothing brings them to the first convolution."""
    _, quantized, pixels = small()
    path = write(quantized, INT8, EmitOptions(input_dtype="int8"))
    source, _ = format_named("tflite").describe(path)
    assert (source.dtype, source.scale, source.zero_point) == ("int8", 1.0, -128)
    operators, usual = (dict(audited_file("tflite", file).operators) for file in (path, write(quantized, INT8)))
    assert usual.pop("QUANTIZE") == 1
    assert operators == usual
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], (pixels[:1].astype(np.int16) - 128).astype(np.int8))
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_array_equal(logits, run(write(quantized, INT8), pixels[:1]))


@pytest.mark.parametrize("scheme", [INT16X8, W8], ids=lambda scheme: scheme.name)
def test_int8_pixels_in_other_schemes(write: Any, scheme: Scheme) -> None:
    graph, _, pixels = small()
    network = quantize(graph, pixels, FloatRunner(graph), scheme) if scheme.integer else graph
    given, usual = (run(write(network, scheme, EmitOptions(input_dtype=dtype)), pixels) for dtype in ("int8", "uint8"))
    np.testing.assert_array_equal(given, usual)


def test_softmax_gives_probabilities(write: Any) -> None:
    _, quantized, pixels = small()
    path = write(quantized, INT8, EmitOptions(softmax=True))
    logits = run(write(quantized, INT8), pixels).astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(run(path, pixels), powers / powers.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
    assert format_named("tflite").describe(path)[1].name == "probabilities"
    assert audited_file("tflite", path).violations == ()


def test_describe_reads_the_interface(write: Any) -> None:
    graph, quantized, _ = small()
    source, result = format_named("tflite").describe(write(quantized, INT8))
    assert (source.name, source.shape, source.dtype, source.layout) == ("input", (1, 64, 64, 3), "uint8", "NHWC")
    assert (source.scale, source.zero_point) == (1.0, 0)
    assert (result.name, result.shape, result.dtype, result.layout) == ("logits", (1, CLASSES), "float32", "NC")
    assert result.scale is None
    source, result = format_named("tflite").describe(write(graph, FP32, EmitOptions("dynamic", "float32")))
    assert (source.shape, source.dtype, source.scale) == (("N", 64, 64, 3), "float32", None)
    assert result.shape == ("N", CLASSES)
    assert format_named("tflite").describe(write(graph, FP16, EmitOptions(3)))[0].shape == (3, 64, 64, 3)


@pytest.mark.parametrize("scheme", [FP32, FP16, INT8], ids=lambda scheme: scheme.name)
def test_the_same_arguments_give_the_same_bytes(scheme: Scheme) -> None:
    graph, quantized, _ = small()
    network = quantized if scheme.integer else graph
    first = tflite.emit(network, scheme, EmitOptions(), {"a": "1", "b": "2"})
    assert first == tflite.emit(network, scheme, EmitOptions(), {"b": "2", "a": "1"})
    assert first != tflite.emit(network, scheme, EmitOptions(), {"a": "1", "b": "3"})


def test_the_file_is_well_formed(write: Any) -> None:
    """Signature, operator versions, both operator codes, constants on 16 bytes, one scale per output channel, our metadata."""
    _, quantized, _ = small(pad=1)
    data = write(quantized, INT8).read_bytes()
    root = schema.Model.GetRootAs(data)
    assert root.Version() == 3
    starts = [root.Buffers(i)._tab.Vector(o) for i in range(root.BuffersLength()) if (o := root.Buffers(i)._tab.Offset(4))]
    assert len(starts) >= 20
    assert all(start % 16 == 0 for start in starts)
    model = schema.ModelT.InitFromObj(root)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    versions = {names[code.builtinCode]: code.version for code in model.operatorCodes}
    assert versions == {
        "QUANTIZE": 1,
        "CONV_2D": 3,
        "MAX_POOL_2D": 2,
        "CONCATENATION": 2,
        "PAD": 2,
        "DEQUANTIZE": 2,
        "MEAN": 1,
    }
    assert all(code.deprecatedBuiltinCode == code.builtinCode for code in model.operatorCodes)
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [entry.name for entry in (*signature.inputs, *signature.outputs)] == [b"input", b"logits"]
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    conv = quantized.convs[1]
    weight, bias = (tensors[f"{conv.name}/{part}"].quantization for part in ("weight", "bias"))
    np.testing.assert_array_equal(weight.scale, conv.weight_scale)
    np.testing.assert_array_equal(bias.scale, np.float32(quantized.tensors[conv.input].scale) * conv.weight_scale)
    assert weight.quantizedDimension == 0
    assert tensors["conv10/padded"].quantization.zeroPoint == tensors["fire3/concat"].quantization.zeroPoint
    stored = {entry.name.decode(): model.buffers[entry.buffer].data.tobytes() for entry in model.metadata}
    assert json.loads(stored["squeeze_export"]) == {"squeeze_export.table_sha256": "ab" * 32}


def test_weights_beyond_float16_are_refused() -> None:
    graph, _, _ = small()
    large = replace(graph.convs[0], weight=graph.convs[0].weight * np.float32(1e9))
    with pytest.raises(Refused, match=r"the weights of `conv1` reach .*, beyond float16"):
        tflite.emit(replace(graph, nodes=(large, *graph.nodes[1:])), FP16, EmitOptions(), {})


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "pads", "word"),
    [
        (54, 3, 2, (0, 0, 1, 1), "SAME"),
        (55, 3, 2, (0, 0, 0, 0), "VALID"),
        (55, 3, 2, (1, 1, 1, 1), "SAME"),
        (55, 3, 2, (0, 0, 1, 1), None),
        (13, 3, 1, (1, 1, 1, 1), "SAME"),
        (13, 1, 1, (1, 1, 1, 1), None),
        (13, 1, 1, (0, 0, 0, 0), "VALID"),
    ],
)
def test_padding_words(side: int, kernel: int, stride: int, pads: Any, word: str | None) -> None:
    assert padding_word((side, side, 8), (kernel, kernel), (stride, stride), pads) == word


def model_of(scheme: Scheme) -> Any:
    """The parsed file of the bypass network in an integer scheme, and its table."""
    graph, _, _ = small(bypass="complex")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    quantized = quantize(graph, pixels, FloatRunner(graph), scheme)
    return schema.ModelT.InitFromPackedBuf(tflite.emit(quantized, scheme, EmitOptions(), {})).subgraphs[0], quantized


def dtypes_of(subgraph: Any) -> set[int]:
    return {tensor.type for tensor in subgraph.tensors}


def test_int8_npu_holds_no_float() -> None:
    subgraph, quantized = model_of(INT8_NPU)
    assert schema.TensorType.FLOAT32 not in dtypes_of(subgraph)
    result = subgraph.tensors[subgraph.outputs[0]]
    q = quantized.tensors["logits"]
    assert result.type == schema.TensorType.INT8
    assert (result.quantization.scale[0], result.quantization.zeroPoint[0]) == (np.float32(q.scale), q.zero_point - 128)


def test_int16x8_has_int64_biases_and_no_zero_points() -> None:
    subgraph, quantized = model_of(INT16X8)
    assert {schema.TensorType.INT16, schema.TensorType.INT64} < dtypes_of(subgraph)
    wide = [tensor for tensor in subgraph.tensors if tensor.type == schema.TensorType.INT16]
    assert len(wide) == len(quantized.tensors)
    assert not any(tensor.quantization.zeroPoint[0] for tensor in wide)


def test_int8_per_tensor_has_one_scale_a_layer() -> None:
    subgraph, quantized = model_of(INT8_PER_TENSOR)
    kernels = [tensor for tensor in subgraph.tensors if tensor.name.endswith((b"/weight", b"/bias"))]
    assert len(kernels) == 2 * len(quantized.convs)
    assert {len(tensor.quantization.scale) for tensor in kernels} == {1}
