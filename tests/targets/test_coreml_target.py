"""Core ML packages: read back with coremltools' own messages, run in the evaluator, compared with reference and integer oracle.

Core ML itself runs on Apple's systems only: nothing here has been opened by it.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import SPEC, WEIGHTS, block_of, message_of, operation_named
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, TensorSpec
from squeeze_export.errors import BadInput, Refused
from squeeze_export.files import read_content, write_draft
from squeeze_export.formats import audited
from squeeze_export.formats.coreml import describe
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Conv, Graph
from squeeze_export.graph.quantized import INT8, SCHEMES, Quantization, QuantizedGraph, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import Architecture, Bypass, fire_modules, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes.coreml import evaluator
from squeeze_export.targets import coreml, target_named
from squeeze_export.targets.coreml import package, weights
from tests.contract.conftest import floats

SIZE_PX = 64
REAL = {"v1.1": "squeezenet1_1.safetensors", "v1.0": "squeezenet1_0_deep_compression.net"}


def tiny(bypass: Bypass = "none", size_px: int = SIZE_PX, kernel: int = 3, conv10_pad: int = 0) -> Graph:
    """A small random network of 10 classes, with labels."""
    fires = fire_modules(count=3, base_e=16, incr_e=16, freq=2, squeeze_ratio=0.25, bypass=bypass)
    arch = Architecture("tiny", 16, kernel, fires, (1,), 10, conv10_pad)
    draw = np.random.default_rng(7)
    tensors = {
        key: draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    labels = tuple(f"class {i} é" for i in range(10))
    return build_graph(arch, tensors, replace(TORCHVISION, crop_px=size_px), labels=labels, checkpoint_sha256="c0ffee" * 10)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return tiny()


@pytest.fixture(scope="module")
def pixels(graph: Graph) -> NDArray[np.uint8]:
    """8 images of large squares."""
    return np.random.default_rng(3).integers(0, 256, (8, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def quantized(graph: Graph, pixels: NDArray[np.uint8]) -> QuantizedGraph:
    return in_integers(graph, pixels)


def in_integers(graph: Graph, pixels: NDArray[np.uint8]) -> QuantizedGraph:
    return quantize(graph, pixels, FloatRunner(graph), INT8, threads=2)


def emitted(network: Graph | QuantizedGraph, scheme: str, **options: Any) -> dict[str, bytes]:
    return coreml.emit(network, scheme_named(scheme), EmitOptions(**options), {})


def model_of(content: Mapping[str, bytes]) -> Any:
    return message_of(content[SPEC])


def kinds(model: Any) -> list[str]:
    return [entry.type for entry in block_of(model).operations if entry.type != "const"]


def sources(content: Mapping[str, bytes], name: str) -> dict[str, str]:
    """Operand -> the tensor that the operation reads."""
    return {operand: bound.arguments[0].name for operand, bound in operation_named(model_of(content), name).inputs.items()}


def classes_of(content: Mapping[str, bytes]) -> list[str]:
    """The keys of a classifier's dictionary, in order."""
    model = model_of(content)
    bound = operation_named(model, "classLabel").inputs["classes"].arguments[0]
    value = operation_named(model, bound.name).attributes["val"] if bound.name else bound.value
    return [entry.immediateValue.tensor.strings.values[0] for entry in value.immediateValue.list.values]


def values(content: Mapping[str, bytes], value: Any, dtype: Any) -> Any:
    """The data of a constant: in the weight file, behind a header of 64 bytes."""
    blob = value.blobFileValue
    assert blob.fileName == "@model_path/weights/weight.bin"
    start = int.from_bytes(content[WEIGHTS][blob.offset + 16 : blob.offset + 24], "little")
    shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
    return np.frombuffer(content[WEIGHTS], dtype, int(np.prod(shape)), start).reshape(shape)


def written(folder: Path, content: Mapping[str, bytes]) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.mlpackage"
    write_draft(path, content)
    return path


def artifact_of(folder: Path, content: Mapping[str, bytes]) -> Artifact:
    path = written(folder, content)
    return Artifact(path, "coreml", "int8", "", 0, *describe(path))


def answers(folder: Path, content: Mapping[str, bytes], batch: NDArray[np.uint8]) -> Any:
    """The row of numbers that the evaluator finds, image by image."""
    return evaluator.open_session(artifact_of(folder, content), device="cpu", threads=1).infer(batch)


def sqnr_db(reference: Any, found: Any) -> float:
    noise = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise)) if noise else float("inf")


# ----------------------------------------------------------------------------------------------------------------- what it says


def test_the_target_is_registered() -> None:
    assert target_named("coreml").emit is coreml.emit
    assert set(coreml.SCHEMES) <= set(SCHEMES)
    assert set(coreml.RUNTIMES) == {"coreml", "coreml-evaluator"}


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize(("scheme", "least_db"), [("fp32", 100), ("fp16", 55)])
def test_a_float_package_gives_the_references_answers(
    scheme: str, least_db: float, ios: int, graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert sqnr_db(FloatRunner(graph)(pixels), answers(tmp_path, emitted(graph, scheme, ios=ios), pixels)) > least_db


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize(("scheme", "bits"), [("w8", 8), ("palette8", 8), ("palette6", 6), ("palette4", 4)])
def test_a_weight_only_package_computes_with_its_rounded_weights(
    scheme: str, bits: int, ios: int, graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The reference with the same rounded weights gives the same; with its own ones it does not."""
    mean = np.array(TORCHVISION.mean)[:, None, None]

    def rounded(conv: Conv) -> Conv:
        if scheme == "w8":
            steps, scale = weights.symmetric(conv.weight)
            weight = steps * scale.astype(np.float32)[:, None, None, None]
        else:
            indices, palette = weights.palette_of(conv.weight, bits)
            weight = palette[indices].astype(np.float32)
        lost = ((conv.weight - weight) * mean).sum(axis=(1, 2, 3)) if conv is graph.convs[0] else 0  # at the mean pixel
        return replace(conv, weight=weight, bias=(conv.bias + lost).astype(np.float32))

    nodes = tuple(rounded(node) if isinstance(node, Conv) else node for node in graph.nodes)
    found = answers(tmp_path, emitted(graph, scheme, ios=ios), pixels)
    near, far = (sqnr_db(FloatRunner(net)(pixels), found) for net in (replace(graph, nodes=nodes), graph))
    assert near > 55
    assert far < (near - 3 if scheme == "palette8" else 45)  # 256 values lose little of small layers


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize(
    ("bypass", "size_px", "kernel", "conv10_pad"), [("none", 67, 7, 1), ("simple", 65, 3, 0), ("complex", 70, 7, 1)]
)
def test_an_int8_package_gives_the_tables_integers(
    bypass: Bypass, size_px: int, kernel: int, conv10_pad: int, ios: int, tmp_path: Path
) -> None:
    """In float32 almost every inner integer is the oracle's, and no other is more than a step away."""
    graph = tiny(bypass, size_px, kernel, conv10_pad)
    batch = np.random.default_rng(5).integers(0, 256, (16, *graph.input.shape[1:]), np.uint8)
    quantized = in_integers(graph, batch)
    expected: dict[str, Any] = {}
    run = IntegerRunner(quantized)(batch[:1], lambda name, integers: expected.update({name: integers}))
    artifact = artifact_of(tmp_path, emitted(quantized, "int8", ios=ios))
    session = evaluator.open_session(artifact, device="cpu", threads=1)
    assert session.placement.integer_mac_share == 1.0
    found = session.infer(batch[:1])
    assert np.abs(found - run).max() <= quantized.tensors["conv10"].scale
    for name, real in evaluator.inner_values(artifact, list(expected), batch[:1]).items():
        q = quantized.tensors[name]
        steps = np.rint(real / np.float32(q.scale)) + q.zero_point
        assert (steps == expected[name]).mean() > 0.999, name
        assert np.abs(steps - expected[name]).max() <= 1, name


def test_zero_points_are_written_where_they_are_not_0(tmp_path: Path) -> None:
    graph = tiny("complex", 70)
    batch = np.random.default_rng(5).integers(0, 256, (16, *graph.input.shape[1:]), np.uint8)
    quantized = in_integers(graph, batch)
    model = model_of(emitted(quantized, "int8"))
    for node in quantized.nodes[:-1]:
        written = operation_named(model, node.name.replace("/", "_"))
        assert ("zero_point" in written.inputs) == bool(quantized.tensors[node.name].zero_point)
    assert any(q.zero_point for q in quantized.tensors.values())


@pytest.mark.parametrize("ios", [17, 18])
def test_the_weights_are_the_tables_own(ios: int, quantized: QuantizedGraph) -> None:
    content = emitted(quantized, "int8", ios=ios)
    model = model_of(content)
    for conv in quantized.convs:
        name = conv.name.replace("/", "_")
        unpacked = operation_named(model, f"{name}_weight")
        if ios == 17:
            assert unpacked.type == "constexpr_affine_dequantize"
            steps, scale = unpacked.attributes["quantized_data"], unpacked.attributes["scale"]
        else:
            assert unpacked.type == "constexpr_blockwise_shift_scale"
            steps, scale = (unpacked.inputs[key].arguments[0].value for key in ("data", "scale"))
        np.testing.assert_array_equal(values(content, steps, np.int8), conv.weight)
        found = values(content, scale, np.float32) if scale.WhichOneof("value") == "blobFileValue" else None
        if found is not None:  # fewer than 10 stand in the program itself
            np.testing.assert_array_equal(found.ravel(), conv.weight_scale)
        bias = operation_named(model, f"{name}_bias").attributes["val"]
        if bias.WhichOneof("value") == "blobFileValue":
            real = conv.bias * (np.float64(quantized.tensors[conv.input].scale) * conv.weight_scale)
            np.testing.assert_allclose(values(content, bias, np.float32), real, rtol=1e-6)


def test_float16_between_the_integers(quantized: QuantizedGraph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    content = emitted(quantized, "int8", coreml_compute="float16")
    found, oracle = answers(tmp_path, content, pixels), IntegerRunner(quantized)(pixels)
    assert sqnr_db(oracle, found) > 30
    assert audited("coreml", written(tmp_path, content)).violations == ()
    assert len(content[WEIGHTS]) < len(emitted(quantized, "int8")[WEIGHTS])


# ---------------------------------------------------------------------------------------------------------------- outer form


def test_an_image_goes_in_and_a_label_comes_out(graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    content = emitted(graph, "fp32")
    description = model_of(content).description
    image = description.input[0].type.imageType
    assert [(entry.name, entry.type.WhichOneof("Type")) for entry in description.input] == [("image", "imageType")]
    assert (image.width, image.height, image.ColorSpace.Name(image.colorSpace)) == (64, 64, "RGB")
    assert {entry.name: entry.type.WhichOneof("Type") for entry in description.output} == {
        "classLabel": "stringType",
        "classLabel_probs": "dictionaryType",
        "logits": "multiArrayType",
    }
    assert (description.predictedFeatureName, description.predictedProbabilitiesName) == ("classLabel", "classLabel_probs")
    assert list(next(e.type for e in description.output if e.name == "logits").multiArrayType.shape) == [1, 10]
    assert classes_of(content) == list(graph.labels)
    assert sources(content, "classLabel")["probabilities"] == "class_probabilities"
    assert sources(content, "class_probabilities")["x"] == "logits"
    assert operation_named(model_of(content), "class_probabilities").type == "softmax"
    assert sqnr_db(FloatRunner(graph)(pixels), answers(tmp_path, content, pixels)) > 100


def test_softmax_gives_probabilities_beside_the_labels(graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    content = emitted(graph, "fp16", softmax=True)
    assert [entry.name for entry in model_of(content).description.output] == ["classLabel", "classLabel_probs", "probabilities"]
    row = answers(tmp_path, emitted(graph, "fp16"), pixels)
    powers = np.exp(row - row.max(axis=1, keepdims=True))
    np.testing.assert_allclose(answers(tmp_path, content, pixels), powers / powers.sum(axis=1, keepdims=True), atol=1e-6)
    assert describe(written(tmp_path, content))[1].name == "probabilities"


def test_sigmoid_gives_scores_and_so_do_the_labels(graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    content = emitted(graph, "fp16", sigmoid=True)
    assert [entry.name for entry in model_of(content).description.output] == ["classLabel", "classLabel_probs", "scores"]
    assert {operation_named(model_of(content), name).type for name in ("scores", "class_probabilities")} == {"sigmoid"}
    row = answers(tmp_path, emitted(graph, "fp16"), pixels)
    np.testing.assert_allclose(answers(tmp_path, content, pixels), 1 / (1 + np.exp(-row)), atol=1e-6)
    assert describe(written(tmp_path, content))[1].name == "scores"


def test_without_labels_it_is_no_classifier(graph: Graph) -> None:
    content = emitted(replace(graph, labels=()), "fp32")
    model = model_of(content)
    assert [entry.name for entry in model.description.output] == ["logits"]
    assert not {"classify", "softmax"} & set(kinds(model))
    assert "labels" not in model.description.metadata.userDefined


def test_a_grey_image_that_is_no_square_goes_in() -> None:
    image = model_of(emitted(floats("grey")[0], "fp32")).description.input[0]
    kind = image.type.imageType
    assert (kind.width, kind.height, kind.ColorSpace.Name(kind.colorSpace)) == (48, 40, "GRAYSCALE")
    assert image.shortDescription.startswith("grey image, 48 x 40 px: short side to 48 px")


def test_a_single_number_is_no_classifier() -> None:
    """A softmax over one class is 1, whatever the image."""
    graph = floats("grey")[0]
    last = graph.convs[-1]
    one = replace(last, weight=last.weight[:1], bias=last.bias[:1])
    nodes = tuple(one if node is last else node for node in graph.nodes)
    single = replace(graph, nodes=nodes, output=replace(graph.output, shape=("N", 1)), labels=("age",))
    model = model_of(emitted(single, "fp32"))
    assert [entry.name for entry in model.description.output] == ["logits"]
    assert model.description.metadata.userDefined["labels"] == '["age"]'


def test_labels_that_occur_twice_get_their_index(graph: Graph) -> None:
    twice = ("crane", "bee", "crane", "crane (0)", "d", "d", "d (5)", "d (5)", "i", "")
    labels = classes_of(emitted(replace(graph, labels=twice), "fp32"))
    assert labels[:4] == ["crane (0) (0)", "bee", "crane (2)", "crane (0)"]
    assert len(set(labels)) == 10
    assert all(name.startswith(label) for name, label in zip(labels, twice, strict=True))


def test_floats_in_any_batch(graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    expected = FloatRunner(graph)(pixels)
    four = emitted(graph, "fp32", input_dtype="float32", batch=4)
    assert describe(written(tmp_path, four)) == (
        TensorSpec("input", (4, 64, 64, 3), "float32", "NHWC"),
        TensorSpec("logits", (4, 10), "float32", "NC"),
    )
    assert sqnr_db(expected, answers(tmp_path, four, pixels)) > 100
    dynamic = emitted(graph, "fp32", input_dtype="float32", batch="dynamic")
    assert describe(written(tmp_path, dynamic)) == (
        TensorSpec("input", ("N", 64, 64, 3), "float32", "NHWC"),
        TensorSpec("logits", ("N", 10), "float32", "NC"),
    )
    assert sqnr_db(expected, answers(tmp_path, dynamic, pixels)) > 100
    taken = model_of(dynamic).description.input[0].type.multiArrayType
    assert [(size.lowerBound, size.upperBound) for size in taken.shapeRange.sizeRanges] == [(1, 64), (64, 64), (64, 64), (3, 3)]
    assert json.loads(model_of(four).description.metadata.userDefined["labels"]) == list(graph.labels)


def test_float_pixels_equal_bytes_in_int8(quantized: QuantizedGraph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    floats = emitted(quantized, "int8", input_dtype="float32")
    np.testing.assert_array_equal(answers(tmp_path, floats, pixels), answers(tmp_path, emitted(quantized, "int8"), pixels))
    assert audited("coreml", written(tmp_path, floats)).violations == ()


def test_metadata_and_what_xcode_shows(graph: Graph) -> None:
    told = {"squeeze_export.scheme": "fp16", "squeeze_export.preprocess": '{"mean": [123.675]}'}
    content = coreml.emit(graph, scheme_named("fp16"), EmitOptions(), told)
    model = model_of(content)
    about = model.description.metadata
    assert told.items() <= dict(about.userDefined).items()
    assert not [key for key in about.userDefined if "date" in key]
    assert about.shortDescription == "tiny, fp16: image classifier of 10 classes"
    assert (about.versionString, about.license) == ("c0ffeec0ffee", "")
    assert about.author.startswith("squeeze-export")
    assert "64 x 64 px: short side to 256 px, bilinear" in model.description.input[0].shortDescription
    assert all(output.shortDescription for output in model.description.output)


@pytest.mark.parametrize("ios", [17, 18])
def test_the_oldest_system(ios: int, graph: Graph) -> None:
    model = model_of(emitted(graph, "palette6", ios=ios))
    assert model.specificationVersion == {17: 8, 18: 9}[ios]
    assert model.mlProgram.functions["main"].opset == {17: "CoreML7", 18: "CoreML8"}[ios]


# ------------------------------------------------------------------------------------------------------------------ the bytes


@pytest.mark.parametrize("scheme", coreml.SCHEMES)
def test_the_same_arguments_give_the_same_bytes(
    scheme: str, graph: Graph, quantized: QuantizedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = quantized if scheme == "int8" else graph
    first = emitted(network, scheme)
    with monkeypatch.context() as patch:  # a program that is left half-way
        patch.setattr(package.coremltools(), "convert", lambda *args, **options: 1 / 0)
        with pytest.raises(Refused, match="coremltools refuses the program: division by zero"):
            emitted(network, scheme)
    assert emitted(network, scheme) == first
    assert sorted(first) == [SPEC, WEIGHTS, "Manifest.json"]
    assert emitted(network, scheme, softmax=True)["Manifest.json"] != first["Manifest.json"]


def test_another_process_gives_the_same_bytes_in_silence(tmp_path: Path) -> None:
    """And imports no framework: not torch, TensorFlow or scikit-learn, which coremltools takes where it finds them."""
    script = """
import hashlib, sys
from squeeze_export import demo
from squeeze_export.core import EmitOptions
from squeeze_export.graph.quantized import SCHEMES
from squeeze_export.pipeline.network import open_network
from squeeze_export.targets import coreml
graph = open_network().graph
for scheme in ("fp16", "w8", "palette4"):
    content = coreml.emit(graph, SCHEMES[scheme], EmitOptions(), {})
    print(hashlib.sha256(b"".join(content[name] for name in sorted(content))).hexdigest())
print(sorted(name for name in sys.modules if name in ("torch", "tensorflow", "sklearn", "scipy", "executorch")))
"""
    runs = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.splitlines()[3] == "[]"
    assert runs[0].stderr == ""


def test_nothing_is_printed(graph: Graph, capfd: pytest.CaptureFixture[str]) -> None:
    emitted(graph, "w8")
    assert capfd.readouterr() == ("", "")


def test_apples_own_tools_read_the_package(graph: Graph, tmp_path: Path) -> None:
    content = emitted(graph, "w8")
    path = written(tmp_path, content)
    ct = package.coremltools()
    assert ct.utils.load_spec(str(path)) == model_of(content)
    assert ct.models.MLModel(str(path), skip_model_load=True).user_defined_metadata["com.github.apple.coremltools.version"]


# ----------------------------------------------------------------------------------------------------------------- refusals


def test_an_image_input_takes_one_image(graph: Graph) -> None:
    for batch in (4, "dynamic"):
        with pytest.raises(BadInput, match=f"takes one image, not `{batch}`") as caught:
            emitted(graph, "fp32", batch=batch)
        assert caught.value.hint == "--input float32, or --batch 1"


@pytest.mark.parametrize(("scheme", "part"), [("fp16", "weight"), ("w8", "weight"), ("palette4", "weight"), ("fp16", "bias")])
def test_numbers_beyond_float16(scheme: str, part: str, graph: Graph) -> None:
    conv = graph.convs[2]
    large = replace(conv, **{part: getattr(conv, part) + np.float32(1e5)})
    network = replace(graph, nodes=tuple(large if node is conv else node for node in graph.nodes))
    with pytest.raises(Refused, match=f"`{conv.name.replace('/', '_')}_{part}` reaches `1e"):
        emitted(network, scheme)
    assert emitted(network, "fp32")


@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_a_scale_beyond_float16(scale: float, quantized: QuantizedGraph) -> None:
    tensors = {**quantized.tensors, "conv10": Quantization(float(np.float32(scale)), 0)}
    network = replace(quantized, tensors=tensors)
    with pytest.raises(Refused, match="the scale of `conv10` is") as caught:
        emitted(network, "int8", coreml_compute="float16")
    assert caught.value.hint == "--coreml-compute float32"
    assert emitted(network, "int8")


def test_no_scale_of_weights_is_lost_in_halves(quantized: QuantizedGraph) -> None:
    """conv1's, for whole pixels, would be below the smallest normal half; of a filter that is 0 anyway any scale will do."""
    tiny_half = float(np.finfo(np.float16).tiny)
    first = quantized.convs[0]
    weight, scale = first.weight.copy(), first.weight_scale.copy()
    weight[3], scale[3] = 0, 1e-12
    network = replace(quantized, nodes=(replace(first, weight=weight, weight_scale=scale * np.float32(0.2)), *quantized.nodes[1:]))
    assert scale.min() * 0.2 < tiny_half
    content = emitted(network, "int8", coreml_compute="float16")
    found = values(content, operation_named(model_of(content), "conv1_weight").attributes["scale"], np.float16)
    assert found.min() == tiny_half == found[3]
    np.testing.assert_allclose(np.delete(found, 3), np.delete(scale * 0.2 * 128, 3), rtol=1e-3)


def constant_of(model: Any, name: str, operand: str) -> float:
    """A number that an operation reads."""
    source = operation_named(model, operation_named(model, name).inputs[operand].arguments[0].name)
    data = source.attributes["val"].immediateValue.tensor
    return float(np.frombuffer(data.bytes.values, np.float16)[0])


def test_smaller_scales_of_weights_are_made_up_for(quantized: QuantizedGraph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """By a power of two, which `quantize` takes away again: the integers stay."""
    conv = quantized.convs[1]
    name, scale = conv.name.replace("/", "_"), conv.weight_scale.copy()
    scale[0] = 2e-5
    small = replace(conv, weight_scale=scale)
    network = replace(quantized, nodes=tuple(small if node is conv else node for node in quantized.nodes))
    content = emitted(network, "int8", coreml_compute="float16")
    model = model_of(content)
    assert constant_of(model, f"{name}_uint8", "scale") == 4 * constant_of(model, name, "scale")
    expected: dict[str, Any] = {}
    IntegerRunner(network)(pixels[:1], lambda made, integers: expected.update({made: integers}))
    real = evaluator.inner_values(artifact_of(tmp_path, content), [conv.name], pixels[:1])[conv.name]
    steps = np.rint(real / np.float32(network.tensors[conv.name].scale))
    assert np.abs(steps - expected[conv.name]).max() <= 2  # one of its own, and one that conv1's cost
    assert (steps == expected[conv.name]).mean() > 0.9
    assert audited("coreml", written(tmp_path, content)).violations == ()
    scale[0] = 1e-9
    with pytest.raises(Refused, match="beyond float16") as caught:
        emitted(network, "int8", coreml_compute="float16")
    assert caught.value.hint == "--coreml-compute float32"


def test_two_names_that_core_ml_cannot_tell_apart(graph: Graph) -> None:
    first, *rest = graph.nodes
    assert isinstance(first, Conv)
    nodes = (first, replace(first, name="a/b", input=first.name), replace(first, name="a.b", input=first.name), *rest)
    with pytest.raises(BadInput, match="one name in Core ML"):
        emitted(replace(graph, nodes=nodes), "fp32")


# ------------------------------------------------------------------------------------------------ weights and coremltools' own


def test_palettes_have_the_least_error() -> None:
    """No worse than many random starts of the usual iteration, of which each needs its luck."""
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(20, 10, 5, 5)).astype(np.float32)
    indices, palette = weights.palette_of(weight, 4)
    assert (indices.shape, indices.dtype, indices.max(), palette.shape) == (weight.shape, np.uint8, 15, (16,))
    assert (np.diff(palette) > 0).all()
    best = np.inf
    for _ in range(20):
        centres = np.sort(draw.choice(weight.ravel(), 16, replace=False).astype(np.float64))
        for _ in range(100):
            nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, weight.ravel())
            centres = np.bincount(nearest, weight.ravel(), 16) / np.maximum(np.bincount(nearest, minlength=16), 1)
        best = min(best, np.square(weight.ravel() - centres[nearest]).sum())
    assert np.square(weight - palette[indices]).sum() <= best * 1.001


def test_a_palette_of_few_values_is_exact() -> None:
    weight = np.array([0.5, -1, 2, 0.5], np.float32).reshape(4, 1, 1, 1)
    indices, palette = weights.palette_of(weight, 4)
    np.testing.assert_array_equal(palette[indices], weight)
    assert not palette[3:].any()


def test_symmetric_steps_by_hand() -> None:
    weight = np.array([[1.27, -0.64, 0.006], [0, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    steps, scale = weights.symmetric(weight)
    assert steps.reshape(2, 3).tolist() == [[127, -64, 1], [0, 0, 0]]
    assert scale[0] == np.float16(0.01)
    assert scale[1] > 0


def by_coremltools(content: Mapping[str, bytes], folder: Path) -> Mapping[str, bytes]:
    """The package after `coremltools.optimize.coreml.linear_quantize_weights`."""
    ct = package.coremltools()
    from coremltools.optimize import coreml as optimize

    config = optimize.OptimizationConfig(optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0))
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        model = ct.models.MLModel(str(written(folder, content)), skip_model_load=True)
        optimize.linear_quantize_weights(model, config).save(str(folder / "theirs.mlpackage"))
    found = read_content(folder / "theirs.mlpackage")
    assert not isinstance(found, bytes)
    return found


def steps_of(content: Mapping[str, bytes]) -> Any:
    """Every integer weight of a package, in the order of the convolutions."""
    model, found = model_of(content), []
    for convolution in (entry for entry in block_of(model).operations if entry.type == "conv"):
        weight = operation_named(model, convolution.inputs["weight"].arguments[0].name)
        assert weight.type == "constexpr_affine_dequantize"
        found.append(values(content, weight.attributes["quantized_data"], np.int8).ravel().astype(int))
    return np.concatenate(found)


def test_coremltools_optimize_finds_the_same_steps(graph: Graph, tmp_path: Path) -> None:
    """But for its rounding of halves."""
    ours, theirs = emitted(graph, "w8"), by_coremltools(emitted(graph, "fp16"), tmp_path)
    assert np.abs(steps_of(ours) - steps_of(theirs)).max() <= 1
    assert (steps_of(ours) == steps_of(theirs)).mean() > 0.98


def test_indices_are_packed_as_coremltools_packs_them() -> None:
    package.coremltools()
    from coremltools.optimize._utils import pack_elements_into_bits

    for bits in (4, 6):
        indices = np.random.default_rng(bits).integers(0, 1 << bits, (7, 3, 1, 1), np.uint8)
        np.testing.assert_array_equal(weights.bits_of(indices, bits), pack_elements_into_bits(indices.ravel(), bits))


def test_rounded_weights_are_made_up_for_at_the_mean_pixel(graph: Graph, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """Without it, the rounding of conv1's weights shifts every answer."""
    expected = FloatRunner(graph)(pixels)
    plain = replace(graph, preprocess=replace(graph.preprocess, mean=(0.0, 0.0, 0.0)))  # as if pixels lay around 0
    with_it, without = (sqnr_db(expected, answers(tmp_path, emitted(net, "palette6"), pixels)) for net in (graph, plain))
    assert with_it > without + 1


# ------------------------------------------------------------------------------------------------------------- real networks


@pytest.mark.parametrize("version", REAL)
def test_real_networks(version: str, assets: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(assets / "weights" / REAL[version])
    labels = tuple((assets / "images" / "imagenet_classes.txt").read_text().splitlines())
    graph = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess, labels=labels)
    files = sorted((assets / "images" / "calib").glob("*"))[:6]
    batch = np.stack([load_pixels(file, checkpoint.preprocess) for file in files])
    expected = FloatRunner(graph)(batch)
    content = emitted(graph, "fp16")
    assert classes_of(content)[134::383] == ["crane (134)", "crane (517)", labels[900]]
    assert sqnr_db(expected, answers(tmp_path, content, batch)) > 55
    eight = emitted(graph, "w8")
    assert sqnr_db(expected, answers(tmp_path, eight, batch)) > 25
    assert sum(len(data) for data in eight.values()) < 1_340_000
