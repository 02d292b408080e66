"""The Core ML evaluator: each operator against an independent computation, and packages that are damaged or hostile.

The packages are written by coremltools' own builder; what they should give is computed by torch, by coremltools' message classes,
or by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import (
    SPEC,
    WEIGHTS,
    artifact,
    block_of,
    change_model,
    coremltools,
    int8_network,
    operation_of,
    pixels,
    program_in,
    written,
)
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from squeeze_export.core import TORCHVISION, Artifact, EmitOptions, Session
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.files import write_draft
from squeeze_export.formats.coreml import package as coreml_package
from squeeze_export.formats.coreml import values as coreml_values
from squeeze_export.formats.coreml.program import Operation, Output, Program
from squeeze_export.formats.coreml.values import Constant, TensorType, read_value, unpack_bits
from squeeze_export.formats.coreml.wire import Message
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import QuantizedGraph, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.nets.architecture import Architecture, fire_modules, tensor_shapes
from squeeze_export.nets.checkpoints import read_checkpoint
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes.coreml import arguments as coreml_arguments
from squeeze_export.runtimes.coreml import evaluator as coreml_evaluator
from squeeze_export.runtimes.coreml import placement as coreml_placement
from squeeze_export.runtimes.coreml import plan as coreml_plan
from squeeze_export.runtimes.coreml import windows as coreml_windows
from squeeze_export.runtimes.coreml.plan import Plan
from squeeze_export.targets import target_named


def opened(path: Path, threads: int = 1) -> coreml_evaluator.EvaluatorSession:
    return coreml_evaluator.open_session(artifact(path), device="cpu", threads=threads)


def computed(folder: Path, build: Callable[[Any, Any], Any], source: Any, *, ios: int = 17, inner: str = "") -> Any:
    """What the evaluator makes of a program of a few operations: its output, or the tensor `inner`."""
    dtype = "fp16" if source.dtype == np.float16 else "fp32"
    program = program_in(written(folder, build, source.shape, dtype=dtype, ios=ios))
    return Plan(program, program.outputs[0]).run(source, [inner] if inner else [])[inner or program.outputs[0]]


def noise(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.fixture(scope="session")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 network of two convolutions that takes an image of 8 px; writing it takes a second."""
    return written(tmp_path_factory.mktemp("once"), int8_network, color="RGB", name="image")


@pytest.fixture
def package(written_once: Path, tmp_path: Path) -> Path:
    """Its own copy of that network."""
    return Path(shutil.copytree(written_once, tmp_path / "a.mlpackage"))


# ------------------------------------------------------------------------------------------------------------------- sessions


def answers(images: Any) -> Any:
    """What `int8_network` should give, computed by torch with its numbers written down again."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(3)
    bias = torch.tensor(draw.normal(size=16).astype(np.float32))

    def weights(*shape: int) -> Any:
        integers = draw.integers(-127, 128, shape, np.int8).astype(np.float32)
        scale = draw.uniform(0.001, 0.003, shape[0]).astype(np.float32)
        return torch.tensor(integers * scale[:, None, None, None])

    def rounded(values: Any, scale: float) -> Any:
        return torch.clamp(torch.round(values / scale), 0, 255) * scale

    x = torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))
    x = rounded(torch.relu(torch.conv2d(x, weights(16, 3, 3, 3), bias)), 1.5)
    x = torch.nn.functional.max_pool2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), 3, 2)
    x = rounded(torch.relu(torch.conv2d(x, weights(12, 16, 1, 1))), 2.5)
    return x.numpy(), x.mean(dim=(2, 3)).numpy()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_answers_and_tells_of_itself(package: Path, threads: int) -> None:
    session: Session = opened(package, threads)
    told = (session.runtime, session.device, session.threads, session.kernels, session.evidence)
    assert told == ("coreml-evaluator", "cpu", threads, "numpy", "emulated")
    found = session.infer(pixels(3))
    assert (found.dtype, found.shape) == (np.float32, (3, 12))
    np.testing.assert_allclose(found, answers(pixels(3))[1], rtol=1e-5, atol=1e-4)
    kept = found.copy()
    session.infer(pixels(1)[:, ::-1])
    np.testing.assert_array_equal(found, kept)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(pixels(1))


def test_several_threads_may_use_one_session_or_several(package: Path) -> None:
    first, second = opened(package), opened(package, 2)
    images = pixels(24)
    expected = first.infer(images)
    with ThreadPoolExecutor(4) as pool:
        rows = [pool.submit((first, second)[index % 2].infer, images[index : index + 1]) for index in range(24)]
    np.testing.assert_array_equal(np.concatenate([row.result() for row in rows]), expected)
    assert not coreml_evaluator._running


def test_the_number_of_blas_threads_is_put_back(package: Path) -> None:
    controller = ThreadpoolController()
    before = [library["num_threads"] for library in controller.info()]
    session = opened(package, 3)
    session.infer(pixels(1))
    assert [library["num_threads"] for library in controller.info()] == before


def test_placement_is_read_from_the_package(package: Path) -> None:
    placement = opened(package).placement
    # conv, relu, pool, conv, relu; the mean is computed in float.
    assert (placement.operator_count, placement.integer_count, placement.integer_mac_share) == (6, 5, 1.0)
    assert placement.float_operators == ("reduce_mean logits",)
    assert "not a device" in placement.source


def test_a_network_whose_first_layer_is_float_says_so(tmp_path: Path) -> None:
    """Negative control: without the `quantize` behind it, a convolution is not counted as integer."""

    def build(mb: Any, x: Any) -> Any:
        scale = {"scale": np.float32(1), "zero_point": np.uint8(0)}
        integers = mb.quantize(input=x, **scale, output_dtype="uint8")
        stored = mb.constexpr_affine_dequantize(
            quantized_data=np.ones((4, 3, 1, 1), np.int8), zero_point=np.int8(0), scale=np.float32(1), axis=np.int32(0)
        )
        x = mb.relu(x=mb.conv(x=mb.dequantize(input=integers, **scale), weight=stored, name="first"))
        x = mb.conv(x=x, weight=noise(2, 4, 1, 1), name="second")
        return mb.reduce_mean(x=x, axes=[2, 3], name="logits")

    placement = opened(written(tmp_path, build, color="RGB")).placement
    assert (placement.integer_count, placement.integer_mac_share) == (0, 0.0)
    assert placement.float_operators[0] == "conv first"


def test_weights_in_another_number_do_not_count_as_int8(package: Path) -> None:
    """Negative control of the weights: the same network with the weights of one convolution in float."""
    program = program_in(package)
    plan = Plan(program, "logits")
    maker = next(operation for operation in program.operations if operation.operator == "constexpr_affine_dequantize")
    plain = dataclasses.replace(maker, operator="const")
    changed = dataclasses.replace(program, operations=tuple(plain if entry is maker else entry for entry in program.operations))
    placement = coreml_placement.read_placement(changed, plan.operations, "all")
    macs = 16 * 3 * 9 * 36, 12 * 16 * 9  # filters * channels * kernel * pixels
    assert placement.integer_mac_share == macs[1] / sum(macs)
    assert placement.float_operators == ("conv conv1_sum", "relu relu_0", "reduce_mean logits")


@pytest.mark.parametrize(("least", "most", "count"), [(1, 0, 5), (3, 0, 7), (1, 20, 19), (2, 4, 5)])
def test_an_array_is_run_in_pieces_of_what_it_takes(tmp_path: Path, least: int, most: int, count: int) -> None:
    def build(mb: Any, x: Any) -> Any:
        x = mb.conv(x=mb.transpose(x=x, perm=[0, 3, 1, 2]), weight=noise(4, 3, 3, 3), pad_type="valid")
        return mb.reduce_mean(x=x, axes=[2, 3], name="logits")

    path = written(tmp_path, build, (least, 6, 6, 3), name="input", most=most)
    taken = coreml_package.read_package(path).input
    assert (taken.image, taken.least, taken.most) == (False, least, most or least)
    images = pixels(count, 6)
    torch = pytest.importorskip("torch")
    expected = torch.conv2d(torch.tensor(images.transpose(0, 3, 1, 2).astype(np.float32)), torch.tensor(noise(4, 3, 3, 3)))
    np.testing.assert_allclose(opened(path).infer(images), expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-3)


def test_halves_may_come_in(tmp_path: Path) -> None:
    path = written(tmp_path, lambda mb, x: mb.reduce_mean(x=x, axes=[1, 2], name="logits"), (1, 8, 8, 3), dtype="fp16")
    found = opened(path).infer(pixels(2))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pixels(2).mean(axis=(1, 2)), rtol=1e-3)


def test_an_image_may_come_as_blue_green_red(tmp_path: Path) -> None:
    path = written(tmp_path, lambda mb, x: mb.reduce_mean(x=x, axes=[2, 3], name="logits"), color="BGR", name="image")
    np.testing.assert_allclose(opened(path).infer(pixels(2)), pixels(2).mean(axis=(1, 2))[:, ::-1], rtol=1e-5)


def classifier(mb: Any, x: Any) -> Any:
    return mb.softmax(x=mb.reduce_mean(x=x, axes=[2, 3], name="sums"), axis=-1, name="probabilities")


@pytest.mark.parametrize("classes", [("zebra", "ant", "bée"), (30, 10, 20)])
def test_a_classifier_gives_its_row_in_class_order(tmp_path: Path, classes: tuple[Any, ...]) -> None:
    path = written(tmp_path, classifier, color="RGB", classes=classes)
    read = coreml_package.read_package(path)
    assert (read.result, read.labels) == ("classLabel_probs", tuple(str(label) for label in classes))
    powers = np.exp(pixels(2).mean(axis=(1, 2)) - pixels(2).mean(axis=(1, 2)).max(axis=1, keepdims=True))
    np.testing.assert_allclose(opened(path).infer(pixels(2)), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)


def test_an_array_beside_the_dictionary_is_the_result(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        logits = mb.reduce_mean(x=x, axes=[2, 3], name="logits")
        return logits, mb.softmax(x=logits, axis=-1, name="probabilities")

    path = written(tmp_path, build, color="RGB", classes=("a", "b", "c"))
    read = coreml_package.read_package(path)
    assert (read.result, read.labels) == ("logits", ())
    np.testing.assert_allclose(opened(path).infer(pixels(2)), pixels(2).mean(axis=(1, 2)), rtol=1e-5)


def test_a_batch_of_another_shape_or_dtype_is_an_error_of_the_caller(package: Path) -> None:
    session = opened(package)
    for batch in (pixels(1).astype(np.float32), pixels(1, 9), pixels(0), pixels(1)[0]):
        with pytest.raises(ValueError, match="takes uint8"):
            session.infer(batch)


def test_a_device_or_thread_count_that_it_has_not(package: Path) -> None:
    assert coreml_evaluator.devices() == ("cpu",)
    with pytest.raises(Unavailable, match="`npu`") as caught:
        coreml_evaluator.open_session(artifact(package), device="npu", threads=1)
    assert caught.value.hint
    with pytest.raises(BadInput, match="`0` threads"):
        opened(package, 0)


def test_inner_values_are_those_of_the_nodes(package: Path) -> None:
    inner, logits = answers(pixels(1))
    found = coreml_evaluator.inner_values(artifact(package), ["fire2/squeeze1x1", "pixels"], pixels(1))
    assert list(found) == ["fire2/squeeze1x1", "pixels"]
    np.testing.assert_array_equal(found["pixels"], pixels(1))
    assert found["fire2/squeeze1x1"].dtype == np.float32
    np.testing.assert_allclose(found["fire2/squeeze1x1"], inner.transpose(0, 2, 3, 1), rtol=1e-6)
    np.testing.assert_allclose(found["fire2/squeeze1x1"].mean(axis=(1, 2)), logits, rtol=1e-5)
    with pytest.raises(Refused, match="no tensor for `fire3/squeeze1x1`"):
        coreml_evaluator.inner_values(artifact(package), ["fire3/squeeze1x1"], pixels(1))
    with pytest.raises(Refused, match=r"`logits` is float32\[1, 12\]"):
        coreml_evaluator.inner_values(artifact(package), ["logits"], pixels(1))


def test_inner_values_of_a_package_that_takes_several_images(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        doubled = mb.mul(x=mb.transpose(x=x, perm=[0, 3, 1, 2]), y=np.float32(2), name="conv1")
        return mb.reduce_mean(x=doubled, axes=[2, 3], name="logits")

    path = written(tmp_path, build, (3, 8, 8, 3), name="input")
    np.testing.assert_array_equal(coreml_evaluator.inner_values(artifact(path), ["conv1"], pixels(1))["conv1"], 2.0 * pixels(1))


def test_it_needs_neither_coremltools_nor_what_writes_packages(package: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.modules['coremltools'] = None\n"
        "from squeeze_export.core import Artifact, TensorSpec\n"
        "from squeeze_export.runtimes.coreml import evaluator as coreml_evaluator\n"
        "nothing = TensorSpec('', (), '', '')\n"
        "artifact = Artifact(Path(sys.argv[1]), '', 'int8', '', 0, nothing, nothing)\n"
        "print(coreml_evaluator.open_session(artifact, device='cpu', threads=1).placement.operator_count)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("6\n", "")
    for path in (*Path(coreml_evaluator.__file__).parent.glob("*.py"), *Path(coreml_package.__file__).parent.glob("*.py")):
        lines = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        foreign = {line for line in lines if line.startswith(("from squeeze_export.graph", "from squeeze_export.targets"))}
        assert foreign <= {"from squeeze_export.graph.quantized import scheme_named"}


# ------------------------------------------------------------------------------------------------------------------ operators


def assert_close(found: Any, expected: Any) -> None:
    """Equal up to the order of sums: 1e-5 in float32, one step of float16 in float16."""
    tolerance = 2e-3 if found.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "size", "batch"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0), (5, 6), 1),
        ((1, 1), (2, 1), (0, 0, 0, 0), (5, 6), 2),
        ((1, 1), (1, 1), (1, 1, 1, 1), (3, 3), 1),
        ((3, 3), (1, 1), (1, 1, 1, 1), (7, 8), 2),
        ((3, 3), (2, 2), (0, 0, 0, 0), (8, 9), 1),
        ((3, 2), (2, 3), (1, 0, 2, 1), (8, 9), 1),
        ((7, 7), (2, 2), (0, 0, 0, 0), (16, 16), 1),
    ],
)
def test_conv(tmp_path: Path, dtype: Any, kernel: Any, stride: Any, pads: Any, size: Any, batch: int) -> None:
    torch = pytest.importorskip("torch")
    x, weight, bias = noise(batch, 5, *size, dtype=dtype), noise(6, 5, *kernel, dtype=dtype, seed=1), noise(6, dtype=dtype, seed=2)
    top, bottom, left, right = pads

    def build(mb: Any, source: Any) -> Any:
        return mb.conv(x=source, weight=weight, bias=bias, strides=list(stride), pad_type="custom", pad=list(pads), groups=1)

    padded = torch.nn.functional.pad(torch.tensor(x).double(), (left, right, top, bottom))
    expected = torch.conv2d(padded, torch.tensor(weight).double(), torch.tensor(bias).double(), stride)
    found = computed(tmp_path, build, x)
    assert found.dtype == dtype
    assert_close(found, expected)


def test_conv_in_halves_rounds_once(tmp_path: Path) -> None:
    """2048 + 1 has no half, so sums that were halves would lose every one of the ones."""
    x, weight = np.ones((1, 65, 1, 1), np.float16), np.ones((1, 65, 1, 1), np.float16)
    weight[0, 0] = 2048
    found = computed(tmp_path, lambda mb, source: mb.conv(x=source, weight=weight), x)
    assert found.item() == 2048 + 64


@pytest.mark.parametrize(("kind", "first", "shape"), [("same", 0, (4, 5)), ("same_lower", 1, (4, 5)), ("valid", 0, (3, 4))])
def test_the_kinds_of_padding(tmp_path: Path, kind: str, first: int, shape: tuple[int, int]) -> None:
    """8 rows with a window of 3 in steps of 2 lack one row; `same` puts it at the end, `same_lower` at the start."""
    torch = pytest.importorskip("torch")
    x, weight = noise(1, 2, 8, 9), noise(3, 2, 3, 3, seed=1)
    found = computed(tmp_path, lambda mb, source: mb.conv(x=source, weight=weight, strides=[2, 2], pad_type=kind), x)
    assert found.shape[2:] == shape
    pads = (0, 0, 0, 0) if kind == "valid" else (1, 1, first, 1 - first)  # left, right, top, bottom
    expected = torch.conv2d(torch.nn.functional.pad(torch.tensor(x), pads), torch.tensor(weight), stride=2)
    assert_close(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "ceil", "size"),
    [
        (3, 2, (0, 0, 0, 0), False, (9, 11)),
        (3, 2, (0, 1, 0, 2), False, (8, 8)),
        (3, 2, (1, 1, 1, 1), False, (7, 8)),
        (3, 2, (0, 0, 0, 0), True, (8, 9)),
        (3, 2, (1, 1, 1, 1), True, (8, 7)),
        (2, 2, (1, 1, 1, 1), True, (5, 6)),
        (2, 3, (0, 0, 0, 0), True, (7, 8)),
    ],
)
def test_max_pool(tmp_path: Path, dtype: Any, kernel: int, stride: int, pads: Any, ceil: bool, size: Any) -> None:
    torch = pytest.importorskip("torch")
    x = noise(2, 3, *size, dtype=dtype) - dtype(9)  # below 0: padding with 0 would win

    def build(mb: Any, source: Any) -> Any:
        sides = {"kernel_sizes": [kernel] * 2, "strides": [stride] * 2}
        return mb.max_pool(x=source, **sides, pad_type="custom", pad=list(pads), ceil_mode=ceil)

    top, bottom, left, right = pads
    if ceil:
        expected = torch.nn.functional.max_pool2d(torch.tensor(x).float(), kernel, stride, top, ceil_mode=True)
    else:
        padded = torch.nn.functional.pad(torch.tensor(x).float(), (left, right, top, bottom), value=-torch.inf)
        expected = torch.nn.functional.max_pool2d(padded, kernel, stride)
    found = computed(tmp_path, build, x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected.numpy().astype(dtype))


def test_a_window_beyond_the_image_is_refused(tmp_path: Path) -> None:
    """Rounded up, 6 pixels have room for a third window of 2 in steps of 3, which would lie behind the last pixel."""
    sides = {"kernel_sizes": [2, 2], "strides": [3, 3], "pad_type": "valid", "ceil_mode": True}
    with pytest.raises(Refused, match="pads of `0` and `2` over `6` pixels"):
        computed(tmp_path, lambda mb, x: mb.max_pool(x=x, **sides), noise(1, 1, 6, 6))


def row(*values: float, dtype: Any = np.float32) -> Any:
    return np.array([values], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_quantize_rounds_halves_to_even_and_clamps(tmp_path: Path, dtype: Any) -> None:
    x = row(-0.3, 0.25, 0.75, 1.25, 1.75, 127.2, 200, -200, dtype=dtype)  # in steps: -.6 .5 1.5 2.5 3.5 254.4 400 -400

    def build(mb: Any, source: Any) -> Any:
        integers = mb.quantize(input=source, scale=dtype(0.5), zero_point=np.uint8(3), output_dtype="uint8", name="integers")
        return mb.dequantize(input=integers, scale=dtype(1))  # a model gives no bytes

    found = computed(tmp_path, build, x, inner="integers")
    assert found.dtype == np.uint8
    assert found.tolist() == [[2, 3, 5, 5, 7, 255, 255, 0]]


def test_quantize_to_int8_along_an_axis(tmp_path: Path) -> None:
    x = np.array([[1.0, -2.0], [300.0, -300.0]], np.float32).T[None]  # (1, 2, 2)

    def build(mb: Any, source: Any) -> Any:
        steps = {"scale": np.array([1, 2], np.float32), "zero_point": np.array([0, -1], np.int8), "axis": -1}
        return mb.dequantize(input=mb.quantize(input=source, **steps, output_dtype="int8", name="integers"), scale=np.float32(1))

    found = computed(tmp_path, build, x, inner="integers")
    assert found.dtype == np.int8
    assert found.tolist() == [[[1, 127], [-2, -128]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dequantize(tmp_path: Path, dtype: Any) -> None:
    def build(mb: Any, source: Any) -> Any:
        integers = mb.quantize(input=source, scale=dtype(1), output_dtype="uint8")
        return mb.dequantize(input=integers, scale=dtype(0.1), zero_point=np.uint8(200))

    found = computed(tmp_path, build, row(0, 199, 200, 255, dtype=dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, (np.array([[-200, -1, 0, 55]], np.float32) * np.float32(dtype(0.1))).astype(dtype))


def test_dequantize_along_an_axis(tmp_path: Path) -> None:
    def build(mb: Any, source: Any) -> Any:
        integers = mb.quantize(input=source, scale=np.float32(1), output_dtype="int8")
        steps = {"scale": np.array([1, 10], np.float32), "zero_point": np.array([1, -1], np.int8)}
        return mb.dequantize(input=integers, **steps, axis=1)

    assert computed(tmp_path, build, row(-5, -5)).tolist() == [[-6, -40]]


def softmax(x: Any) -> Any:
    powers = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


Y = noise(3, 1, seed=5)
SIMPLE: dict[str, tuple[Callable[[Any, Any, Any], Any], Callable[[Any], Any]]] = {
    "relu": (lambda mb, x, y: mb.relu(x=x), lambda x: np.maximum(x, 0)),
    "clip": (lambda mb, x, y: mb.clip(x=x, alpha=x_dtype(y)(-0.5), beta=x_dtype(y)(1)), lambda x: np.clip(x, -0.5, 1)),
    "add": (lambda mb, x, y: mb.add(x=x, y=x), lambda x: x + x),
    "add to a row": (lambda mb, x, y: mb.add(x=x, y=y), lambda x: x + Y.astype(x.dtype)),
    "mul": (lambda mb, x, y: mb.mul(x=y, y=x), lambda x: x * Y.astype(x.dtype)),
    "concat": (lambda mb, x, y: mb.concat(values=[x, x, x], axis=-3), lambda x: np.concatenate([x, x, x], 1)),
    "mean": (lambda mb, x, y: mb.reduce_mean(x=x, axes=[2, -1]), lambda x: x.astype(np.float64).mean(axis=(2, 3))),
    "mean of all": (lambda mb, x, y: mb.reduce_mean(x=x, keep_dims=True), lambda x: x.astype(float).mean(keepdims=True)),
    "softmax": (lambda mb, x, y: mb.softmax(x=x), softmax),
    "softmax of an axis": (lambda mb, x, y: mb.softmax(x=x, axis=1), lambda x: softmax(x.swapaxes(1, 3)).swapaxes(1, 3)),
    "transpose": (lambda mb, x, y: mb.transpose(x=x, perm=[0, 2, 3, 1]), lambda x: x.transpose(0, 2, 3, 1)),
    "reshape": (lambda mb, x, y: mb.reshape(x=x, shape=[6, -1]), lambda x: x.reshape(6, -1)),
    "squeeze": (lambda mb, x, y: mb.squeeze(x=x, axes=[0]), lambda x: x[0]),
    "expand_dims": (lambda mb, x, y: mb.expand_dims(x=x, axes=[-1]), lambda x: x[..., None]),
    "to float32": (lambda mb, x, y: mb.cast(x=x, dtype="fp32"), lambda x: x.astype(np.float32)),
    "to float16": (lambda mb, x, y: mb.cast(x=x, dtype="fp16"), lambda x: x.astype(np.float16)),
}


def x_dtype(array: Any) -> Any:
    return array.dtype.type


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", SIMPLE)
def test_the_other_operators(tmp_path: Path, name: str, dtype: Any) -> None:
    build, expect = SIMPLE[name]
    x = noise(1, 2, 3, 4, dtype=dtype)
    expected = expect(x)
    found = computed(tmp_path, lambda mb, source: build(mb, source, Y.astype(dtype)), x)
    assert found.dtype == (dtype if expected.dtype == np.float64 else expected.dtype)
    assert found.shape == expected.shape
    assert_close(found, expected)


def test_squeeze_without_axes_takes_every_dimension_of_one(tmp_path: Path) -> None:
    assert computed(tmp_path, lambda mb, x: mb.squeeze(x=x), noise(1, 2, 1, 3)).shape == (2, 3)


def test_relu_of_halves_is_exact_for_every_half(tmp_path: Path) -> None:
    """It works on their bits."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)][None]
    np.testing.assert_array_equal(computed(tmp_path, lambda mb, x: mb.relu(x=x), every), np.maximum(every, np.float16(0)))


def test_what_depends_on_constants_alone_is_computed_once(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        doubled = mb.add(x=np.array([[1, 2, 3]], np.float32), y=np.array([[1, 2, 3]], np.float32), name="doubled")
        return mb.add(x=x, y=doubled, name="sum")

    program = program_in(written(tmp_path, build, (1, 3)))
    plan = Plan(program, "sum")
    assert [operation.name for operation in plan.operations] == ["sum"]
    assert plan.run(row(1, 1, 1))["sum"].tolist() == [[3, 5, 7]]
    with pytest.raises(Refused, match=r"an input of float32\[1, 4\]"):
        plan.run(row(1, 1, 1, 1))


# ------------------------------------------------------------------------------------------------------------------ constants


def constant(folder: Path, build: Callable[[Any], Any], shape: tuple[int, ...], *, ios: int, dtype: Any = np.float32) -> Any:
    """What a constant operator unpacks to: it is added to zeros."""
    return computed(folder, lambda mb, x: mb.add(x=x, y=build(mb)), np.zeros(shape, dtype), ios=ios)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("axis", [0, -1])
def test_constexpr_affine_dequantize(tmp_path: Path, axis: int, dtype: Any) -> None:
    data = np.array([[-128, -1, 0], [1, 5, 127]], np.int8)
    scale = np.array([0.5, 0.1] if axis == 0 else [0.5, 0.1, 3], dtype)
    zero = np.array([0, 1] if axis == 0 else [0, 1, -2], np.int8)

    def build(mb: Any) -> Any:
        return mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero, scale=scale, axis=np.int32(axis))

    found = constant(tmp_path, build, data.shape, ios=17, dtype=dtype)
    wide = (slice(None), None) if axis == 0 else (None, slice(None))
    expected = (data.astype(np.float32) - zero[wide].astype(np.float32)) * scale[wide].astype(np.float32)
    np.testing.assert_array_equal(found, expected.astype(dtype))


@pytest.mark.parametrize("offset", [None, "whole", "float"])
def test_constexpr_blockwise_shift_scale(tmp_path: Path, offset: str | None) -> None:
    data = np.array([[-100, -1, 0, 1], [1, 5, 100, 127]], np.int8)
    scale = np.array([[0.5, 2], [0.1, 3]], np.float32)  # blocks of (1, 2)
    offsets = {"whole": np.array([[1, -2], [3, 4]], np.int8), "float": np.array([[0.5, 0], [0, -1]], np.float32)}
    given = {"offset": offsets[offset]} if offset else {}
    found = constant(tmp_path, lambda mb: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **given), data.shape, ios=18)
    shift = np.repeat(offsets[offset], 2, 1) if offset else 0
    np.testing.assert_allclose(found, (data - shift) * np.repeat(scale, 2, 1), rtol=1e-6)


def test_int4_weights(tmp_path: Path) -> None:
    tools = coremltools()
    data = np.array([[-8, -1, 0, 7, 3]], np.int8)
    stored = data.astype(tools.converters.mil.mil.types.np_int4_dtype)
    build: Callable[[Any], Any] = lambda mb: mb.constexpr_blockwise_shift_scale(data=stored, scale=np.ones((1, 1), np.float32))  # noqa: E731
    np.testing.assert_array_equal(constant(tmp_path, build, data.shape, ios=18), data)


def test_a_palette_of_ios_16_unpacked_by_hand(tmp_path: Path) -> None:
    """Indices 0, 3, 2, 1, 3 of 2 bits each, the first in the lowest bits: 01 10 11 00 and 11."""
    palette = np.array([10, 20, 30, 40], np.float32)
    packed = np.array([0b01101100, 0b00000011], np.uint8)

    def build(mb: Any) -> Any:
        return mb.constexpr_lut_to_dense(indices=packed, lut=palette, shape=np.array([1, 5], np.uint32))

    assert constant(tmp_path, build, (1, 5), ios=17).tolist() == [[10, 40, 30, 20, 40]]


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_a_palette_of_ios_16(tmp_path: Path, bits: int) -> None:
    indices = np.random.default_rng(bits).integers(0, 2**bits, (3, 7))
    ones = [(int(index) >> place) & 1 for index in indices.ravel() for place in range(bits)]
    packed = np.packbits(ones, bitorder="little")
    palette = noise(2**bits, dtype=np.float16)

    def build(mb: Any) -> Any:
        return mb.constexpr_lut_to_dense(indices=packed, lut=palette, shape=np.array([3, 7], np.uint32))

    found = constant(tmp_path, build, (3, 7), ios=17, dtype=np.float16)
    np.testing.assert_array_equal(found, palette[indices])


@pytest.mark.parametrize("blob", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_a_palette_of_ios_18(tmp_path: Path, bits: int, blob: bool) -> None:
    """Small tensors of indices stand in the model file, larger ones in `weight.bin`."""
    types = coremltools().converters.mil.mil.types
    shape = (3, 7) if blob else (1, 7)
    indices = np.random.default_rng(bits).integers(0, 2**bits, shape).astype(np.uint8)
    stored = indices if bits == 8 else indices.astype(getattr(types, f"np_uint{bits}_dtype"))
    palette = noise(2**bits, dtype=np.float16)

    def build(mb: Any) -> Any:
        return mb.constexpr_lut_to_dense(indices=stored, lut=palette.reshape(1, 1, -1, 1))

    found = constant(tmp_path, build, shape, ios=18, dtype=np.float16)
    np.testing.assert_array_equal(found, palette[indices])


def test_a_palette_of_ios_18_for_each_block(tmp_path: Path) -> None:
    """The example of the operator's documentation: two palettes over the first axis."""
    types = coremltools().converters.mil.mil.types
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2).astype(types.np_uint2_dtype)
    palettes = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float16).reshape(2, 1, 4, 1)
    found = constant(
        tmp_path, lambda mb: mb.constexpr_lut_to_dense(indices=indices, lut=palettes), (6, 2), ios=18, dtype=np.float16
    )
    assert found.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]


@pytest.mark.parametrize("ios", [17, 18])
def test_constexpr_cast(tmp_path: Path, ios: int) -> None:
    halves = noise(3, 5, dtype=np.float16)
    found = constant(tmp_path, lambda mb: mb.constexpr_cast(source_val=halves, output_dtype="fp32"), (3, 5), ios=ios)
    np.testing.assert_array_equal(found, halves.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("count", [3, 64])
def test_constants_of_every_type(tmp_path: Path, dtype: str, count: int) -> None:
    """In the model file and in `weight.bin`; compared with the array that coremltools was given."""
    values = np.random.default_rng(1).normal(0, 40, (1, count)).astype(dtype)

    def build(mb: Any, x: Any) -> Any:
        mb.const(val=values, name="held")
        return mb.add(x=x, y=x, name="sum")

    path = written(tmp_path, build, (1, 3), ios=18)
    held = next(operation for operation in program_in(path).operations if operation.name == "held")
    found = held.arguments["val"][0]
    assert not isinstance(found, str)
    assert found.dtype == found.array.dtype.name == dtype
    np.testing.assert_array_equal(found.array, values)
    assert ((path / WEIGHTS).exists() and (path / WEIGHTS).stat().st_size > 64) == (count == 64)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
def test_bits_unpack_to_what_was_packed(bits: int, values: list[int]) -> None:
    numbers = [value % (1 << bits) for value in values]
    whole = sum(number << (bits * place) for place, number in enumerate(numbers))
    data = whole.to_bytes(-(-len(numbers) * bits // 8), "little")
    assert unpack_bits(data, bits, len(numbers)).tolist() == numbers


def test_bits_behind_the_last_number_are_refused() -> None:
    with pytest.raises(ValueError, match="bits behind the last number"):
        unpack_bits(b"\xff", 2, 3)
    with pytest.raises(ValueError, match="`3` numbers of `2` bits in `2` bytes"):
        unpack_bits(b"\x3f\x00", 2, 3)


# ----------------------------------------------------------------------------------------------------------- the wire format


def test_a_model_file_reads_as_coremltools_reads_it(package: Path) -> None:
    coremltools()
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString((package / SPEC).read_bytes())
    expected = block_of(model)
    program = program_in(package)
    assert program.outputs == tuple(expected.outputs)
    assert len(program.operations) == len(expected.operations) > 40
    for found, operation in zip(program.operations, expected.operations, strict=True):
        assert found.operator == operation.type
        assert [output.name for output in found.outputs] == [output.name for output in operation.outputs]
        names = {key: [entry.name for entry in value.arguments] for key, value in operation.inputs.items()}
        assert {key: list(found.arguments[key]) for key in names} == names
        for output, declared in zip(found.outputs, operation.outputs, strict=True):
            sizes = [dimension.constant.size for dimension in declared.type.tensorType.dimensions]
            assert output.type is not None
            assert list(output.type.shape) == sizes


def test_numbers_are_signed_and_packed_or_not() -> None:
    # Field 1: -2 as ten bytes; field 2: packed 1, 300; field 2 again: single 5; field 3: packed floats; field 4: one float.
    data = b"\x08" + b"\xfe" + b"\xff" * 8 + b"\x01" + b"\x12\x03\x01\xac\x02" + b"\x10\x05"
    data += b"\x1a\x08" + struct.pack("<2f", 1.5, -2) + b"\x1d" + struct.pack("<f", 3)
    message = Message(memoryview(data), "M")
    assert message.integer(1) == -2
    assert message.integers(2) == [1, 300, 5]
    assert message.floats(3).tolist() == [1.5, -2, 3]
    assert (message.integer(9, 7), message.text(9), message.texts(9)) == (7, "", [])


@pytest.mark.parametrize(
    ("data", "asked", "reason"),
    [
        (b"\x08", None, "end inside a number"),
        (b"\x08" + b"\xff" * 10, None, "more than 64 bits"),
        (b"\x0a\x05ab", None, "`5` bytes, where `2` are left"),
        (b"\x00\x01", None, "the number 0"),
        (b"\x0b", None, "wire type `3`"),
        (b"\x30\x01", None, "`M` has a field `6`"),
        (b"\x08\x01\x08\x02", lambda m: m.integer(1), "is there `2` times"),
        (b"\x08\x01", lambda m: m.content(1), "is no bytes"),
        (b"\x08\x01", lambda m: m.message(1, "N"), "is no message"),
        (b"\x08\x01", lambda m: m.messages(1, "N"), "is an integer"),
        (b"\x0a\x01a", lambda m: m.integer(1), "is no integer"),
        (b"\x0a\x01\xff", lambda m: m.text(1), "utf-8"),
        (b"\x0a\x03\x0a\x01a" * 2, lambda m: m.entries(1, "N"), "`a` twice"),
        (b"\x08\x01", lambda m: m.only(2, 3), "`0` of the fields"),
    ],
)
def test_bytes_that_are_no_message(data: bytes, asked: Callable[[Message], Any] | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        (asked or Message.integer)(Message(memoryview(data), "M", (1, 2, 3)))  # type: ignore[call-arg]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = Message(memoryview(data), "M")
        message.messages(1, "N")
        read_value(message, {})
    except (ValueError, OverflowError):
        pass


# ------------------------------------------------------------------------------------------------------------ damaged packages


def refusal(path: Path) -> str:
    """The message with which a package is refused: one line."""
    with pytest.raises(Refused) as caught:
        opened(path).infer(pixels(2))
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def outcome(path: Path) -> Any:
    """What a package answers, or the message with which it is refused."""
    try:
        return opened(path).infer(pixels(4))
    except Refused as err:
        return err.message


def changed_bytes(file: Path, at: int, value: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[at : at + len(value)] = value
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\xff", "announces `255` blobs and ends"),
        (0, b"\x01", "goes on behind the last"),
        (4, b"\x01", "no header of version `2`"),
        (20, b"\x01", "no header of version `2`"),
        (64, b"\x00", "no blob at `64`"),
        (68, b"\x03", "has the data type `3`"),
        (68, b"\x63", "has the data type `99`"),
        (72, b"\x01", "something behind the blob"),
        (72, struct.pack("<Q", 2**63), "claims `9223372036854775808` bytes"),
        (80, b"\x81", "no blob at `64`"),
        (88, b"\x01", "leaves `1` bits unused"),
        (88, b"\x08", "no blob at `64`"),
        (100, b"\x01", "no blob at `64`"),
    ],
)
def test_a_changed_header_in_weight_bin_is_refused(package: Path, at: int, value: bytes, reason: str) -> None:
    opened(package).infer(pixels(2))
    changed_bytes(package / WEIGHTS, at, value)
    assert reason in refusal(package)


def blobs(path: Path) -> list[tuple[int, int]]:
    """Where the data in `weight.bin` begin and how long they are, read without the project's reader."""
    content = (path / WEIGHTS).read_bytes()
    found, at = [], 64
    for _ in range(struct.unpack_from("<I", content)[0]):
        size, start = struct.unpack_from("<QQ", content, at + 8)
        found.append((start, size))
        at = (start + size + 63) // 64 * 64
    return found


def test_every_changed_part_of_the_data_changes_the_result(package: Path) -> None:
    before = opened(package).infer(pixels(4))
    original = (package / WEIGHTS).read_bytes()
    assert len(blobs(package)) >= 5  # weights, scales and biases
    for start, size in blobs(package):
        for at in (start, start + size // 2 // 4 * 4, start + size - 4):
            # Large enough to be seen after rounding to 8 bits, in any type: the exponent of a float is in the last byte.
            flipped = bytes(byte ^ mask for byte, mask in zip(original[at : at + 4], (0x55, 0x55, 0x55, 0x41), strict=True))
            changed_bytes(package / WEIGHTS, at, flipped)
            found = outcome(package)
            assert isinstance(found, str) or not np.array_equal(found, before), (start, size, at)
            (package / WEIGHTS).write_bytes(original)
    np.testing.assert_array_equal(opened(package).infer(pixels(4)), before)


def test_a_number_that_is_not_finite_is_refused(package: Path) -> None:
    content = (package / WEIGHTS).read_bytes()
    floats = next(start for start, size in blobs(package) if struct.unpack_from("<I", content, start - 60)[0] == 2)
    changed_bytes(package / WEIGHTS, floats, struct.pack("<f", float("nan")))
    assert "no finite number" in refusal(package)


def test_a_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.reduce_mean(x=mb.mul(x=mb.mul(x=x, y=np.float32(3e38)), y=np.float32(3e38)), axes=[2, 3])

    assert "gives what is no finite number" in refusal(written(tmp_path, build, color="RGB"))


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 100, 200, -1])
def test_a_truncated_weight_bin_is_refused(package: Path, keep: int) -> None:
    content = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(content[:keep])
    assert "`weight.bin`" in refusal(package)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_truncated_model_file_is_refused(package: Path, share: float) -> None:
    content = (package / SPEC).read_bytes()
    (package / SPEC).write_bytes(content[: int(len(content) * share)])
    refusal(package)


def test_a_changed_model_file_is_read_or_refused_and_never_breaks(package: Path) -> None:
    content = (package / SPEC).read_bytes()
    draw = np.random.default_rng(5)
    found = []
    for _ in range(300):
        at = int(draw.integers(len(content)))
        changed_bytes(package / SPEC, at, bytes([content[at] ^ int(draw.integers(1, 256))]))
        found.append(outcome(package))
        (package / SPEC).write_bytes(content)
    messages = [entry for entry in found if isinstance(entry, str)]
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)


def test_what_is_no_folder_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.mlpackage").write_bytes(b"no package")
    assert "a package is a folder" in refusal(tmp_path / "a.mlpackage")
    with pytest.raises(BadInput, match="cannot be read"):
        opened(tmp_path / "b.mlpackage")
    (tmp_path / "c.mlpackage").mkdir()
    assert "no `Manifest.json`" in refusal(tmp_path / "c.mlpackage")


def test_a_link_in_a_package_is_refused(package: Path) -> None:
    (package / WEIGHTS).rename(package.parent / "weight.bin")
    (package / WEIGHTS).symlink_to(package.parent / "weight.bin")
    with pytest.raises(BadInput, match="no plain file"):
        opened(package)


def changed_manifest(package: Path, change: Callable[[Any], Any]) -> None:
    path = package / "Manifest.json"
    manifest = json.loads(path.read_bytes())
    changed = change(manifest)
    path.write_text(json.dumps(manifest if changed is None else changed))


def redirected(name: str, path: str) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        for entry in manifest["itemInfoEntries"].values():
            if entry["name"] == name:
                entry["path"] = path

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (redirected("model.mlmodel", "../../../../../../etc/passwd"), "`../../../../../../etc/passwd`, which leads out"),
        (redirected("model.mlmodel", "/etc/passwd"), "`/etc/passwd`, which leads out"),
        (redirected("weights", "../.."), "`../..`, which leads out"),
        (redirected("model.mlmodel", "com.apple.CoreML/other.mlmodel"), "which is no file in it"),
        (redirected("model.mlmodel", "com.apple.CoreML/weights/weight.bin"), "the number 0"),
        (redirected("weights", "com.apple.CoreML/other"), "no weight file that the manifest names"),
        (lambda manifest: manifest.pop("rootModelIdentifier") and None, "rootModelIdentifier"),
        (lambda manifest: [1], "indices"),
        (lambda manifest: {"itemInfoEntries": [], "rootModelIdentifier": ""}, "items"),
        (lambda manifest: manifest | {"more": "x" * 1_000_001}, "`Manifest.json` has"),
    ],
)
def test_a_hostile_manifest_is_refused(package: Path, change: Callable[[Any], Any], reason: str) -> None:
    changed_manifest(package, change)
    assert reason in refusal(package)


def test_a_manifest_that_is_no_json(package: Path) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        (package / "Manifest.json").write_bytes(content)
        refusal(package)


def test_a_model_file_above_the_limit_is_not_parsed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_package, "MAX_SPEC_BYTES", 1000)
    assert "`1000` are possible" in refusal(package)


def test_a_tensor_above_the_limit_is_not_allocated(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_values, "MAX_ELEMENTS", 500)
    assert "`1` to `500` are possible" in refusal(package)


# ------------------------------------------------------------------------------------------------------------- hostile models


def test_an_operator_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.reduce_mean(x=mb.sigmoid(x=x), axes=[2, 3], name="logits")

    path = written(tmp_path, build, color="RGB")
    with pytest.raises(Refused, match="the evaluator knows no operator `sigmoid`") as caught:
        opened(path)
    assert caught.value.hint is not None
    assert "conv" in caught.value.hint


def set_type(name: str, code: int = 0, sizes: tuple[int, ...] | None = None, rank: int | None = None) -> Callable[[Any], None]:
    """Changes the declared type of a tensor."""

    def change(model: Any) -> None:
        for operation in block_of(model).operations:
            for output in operation.outputs:
                if output.name == name:
                    tensor = output.type.tensorType
                    tensor.dataType = code or tensor.dataType
                    if sizes is not None:
                        del tensor.dimensions[:]
                        for size in sizes:
                            tensor.dimensions.add().constant.size = size
                        tensor.rank = len(sizes)
                    tensor.rank = tensor.rank if rank is None else rank

    return change


def rename(operator: str, key: str, wanted: str) -> Callable[[Any], None]:
    """Gives an argument another name."""

    def change(model: Any) -> None:
        inputs = operation_of(model, operator).inputs
        inputs[wanted].CopyFrom(inputs[key])
        del inputs[key]

    return change


def drop(operator: str, key: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del operation_of(model, operator).inputs[key]

    return change


def point(operator: str, key: str, *tensors: str) -> Callable[[Any], None]:
    """Binds an argument to other tensors."""

    def change(model: Any) -> None:
        argument = operation_of(model, operator).inputs[key]
        del argument.arguments[:]
        for tensor in tensors:
            argument.arguments.add().name = tensor

    return change


def program_change(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.mlProgram)


def add_function(program: Any) -> None:
    program.functions["other"].CopyFrom(program.functions["main"])


def old_opset(program: Any) -> None:
    function = program.functions["main"]
    function.block_specializations["CoreML5"].CopyFrom(function.block_specializations[function.opset])
    del function.block_specializations[function.opset]
    function.opset = "CoreML5"


def second_input(program: Any) -> None:
    program.functions["main"].inputs.add().CopyFrom(program.functions["main"].inputs[0])


def make_twice(model: Any) -> None:
    block_of(model).operations.add().CopyFrom(operation_of(model, "conv"))


def lone_block(model: Any) -> None:
    operation_of(model, "conv").blocks.add()


def no_output(model: Any) -> None:
    del operation_of(model, "relu").outputs[:]


def both_ways(model: Any) -> None:
    operation = operation_of(model, "conv")
    operation.attributes["pad_type"].CopyFrom(operation_of(model, "const").attributes["val"])


def scale_of_quantize(value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        name = operation_of(model, "quantize").inputs["scale"].arguments[0].name
        held = next(entry for entry in block_of(model).operations if entry.outputs[0].name == name)
        held.attributes["val"].immediateValue.tensor.floats.values[0] = value

    return change


def value_of(operator: str, key: str, change_value: Callable[[Any], None]) -> Callable[[Any], None]:
    """Changes the constant that an argument is bound to."""

    def change(model: Any) -> None:
        name = operation_of(model, operator).inputs[key].arguments[0].name
        held = next(entry for entry in block_of(model).operations if entry.outputs[0].name == name)
        change_value(held.attributes["val"])

    return change


def numbers(*values: int) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        del value.immediateValue.tensor.ints.values[:]
        value.immediateValue.tensor.ints.values.extend(values)

    return change


def text(wanted: str) -> Callable[[Any], None]:
    def change(value: Any) -> None:
        value.immediateValue.tensor.strings.values[0] = wanted.encode()

    return change


def blob_elsewhere(name: str, offset: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        stored = operation_of(model, "constexpr_affine_dequantize").attributes["quantized_data"].blobFileValue
        stored.fileName, stored.offset = name or stored.fileName, offset

    return change


def described(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.description)


def grey(description: Any) -> None:
    description.input[0].type.imageType.colorSpace = 10


def wider(description: Any) -> None:
    description.input[0].type.imageType.width = 9


def two_inputs(description: Any) -> None:
    description.input.add().CopyFrom(description.input[0])


def renamed(description: Any) -> None:
    description.output[0].name = "other"


def called_classifier(description: Any) -> None:
    description.predictedProbabilitiesName = "logits"


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no program": (lambda model: model.ClearField("mlProgram"), "no ML program"),
    "another kind": (lambda model: model.neuralNetwork.SetInParent(), "no ML program"),
    "program version": (program_change(lambda program: setattr(program, "version", 2)), "a program of version `2`"),
    "two functions": (program_change(add_function), "not 1 with `main`"),
    "attributes": (program_change(lambda program: program.attributes["fast"].SetInParent()), "the attributes `.*fast"),
    "opset": (program_change(old_opset), "operator set `CoreML5`"),
    "second input": (program_change(second_input), "`2` inputs"),
    "nested block": (lone_block, "`Operation` has a field `4`"),
    "no result": (no_output, "gives nothing"),
    "made twice": (make_twice, "`conv1_sum` is made twice"),
    "bound twice": (both_ways, "both as an attribute and as an input"),
    "unknown argument": (rename("relu", "x", "y"), "has no `x`"),
    "new argument": (rename("conv", "bias", "shift"), "argument `shift`, which the evaluator does not know"),
    "nothing bound": (point("conv", "x"), "has nothing for `x`"),
    "two bound": (point("conv", "x", "pixels", "pixels"), "has `2` tensors as `x`"),
    "not yet made": (point("conv", "x", "logits"), "takes `logits`, which nothing before it makes"),
    "computed weights": (point("conv", "weight", "pixels"), "computes its `weight`"),
    "integers to a convolution": (point("conv", "x", "quantize_0"), r"takes a uint8\[1, 3, 8, 8\]"),
    "integers to relu": (point("relu", "x", "quantize_0"), "where floats are needed"),
    "floats to dequantize": (point("dequantize", "input", "image"), r"takes a float32\[1, 3, 8, 8\]"),
    "integers to max_pool": (point("max_pool", "x", "quantize_1"), r"takes a uint8"),
    "unknown output": (lambda model: block_of(model).outputs.append("other"), "`other`, which nothing makes"),
    "no outputs": (lambda model: block_of(model).ClearField("outputs"), "gives ``"),
    "unknown dtype": (set_type("conv1", 13), "unknown data type `13`"),
    "wrong dtype": (set_type("conv1", 10), "it is declared as `float16"),
    "wrong shape": (set_type("conv1_sum", 0, (1, 16, 5, 6)), r"gives `\[1, 16, 6, 6\]`"),
    "wrong mean": (set_type("logits", 0, (1, 13)), r"gives float32\[1, 12\], it is declared as `float32\[1, 13\]`"),
    "huge": (set_type("conv1", 0, (1, 2**20, 2**20, 1)), "elements"),
    "negative": (set_type("conv1", 0, (1, 0, 6, 6)), "elements"),
    "many dimensions": (set_type("conv1", 0, (1,) * 7), "`6` are possible"),
    "rank": (set_type("conv1", 0, None, 3), "rank `3` has `4` dimensions"),
    "scale 0": (scale_of_quantize(0), "not above 0"),
    "scale infinite": (scale_of_quantize(float("inf")), "no finite number"),
    "strides": (value_of("max_pool", "strides", numbers(2, 2, 2)), "has `3`"),
    "stride 0": (value_of("max_pool", "strides", numbers(0, 1)), "has the window"),
    "huge window": (value_of("max_pool", "kernel_sizes", numbers(2**30, 3)), "has the window"),
    "window": (value_of("max_pool", "kernel_sizes", numbers(9, 3)), "a window of `9`"),
    "pads": (value_of("max_pool", "pad", numbers(0, 3, 0, 0)), "pads of `0` and `3`"),
    "negative pads": (value_of("max_pool", "pad", numbers(0, -1, 0, 0)), "has the window"),
    "pad type": (value_of("max_pool", "pad_type", text("mirror")), "the padding `mirror`"),
    "output type": (value_of("quantize", "output_dtype", text("int4")), "output type `int4`"),
    "axis": (value_of("reduce_mean", "axes", numbers(2, 9)), "cannot be computed"),
    "blob file": (blob_elsewhere("/etc/passwd", 64), "`/etc/passwd`, which is no weight file"),
    "blob path": (blob_elsewhere("@model_path/../../Manifest.json", 64), "no weight file"),
    "blob offset": (blob_elsewhere("", 65), "no blob at `65`"),
    "another blob": (blob_elsewhere("", 2**40), "no blob at"),
    "grey": (described(grey), "colour space `10`"),
    "width": (described(wider), r"its input `image` is `\[1, 3, 8, 9\]`"),
    "two inputs": (described(two_inputs), "its model has `2` inputs"),
    "another output": (described(renamed), "names `image, other`, its program otherwise"),
    "classifier": (described(called_classifier), "on whether it is a classifier"),
    "state": (described(lambda description: description.state.add().SetInParent()), "has a field `13`"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused(package: Path, name: str) -> None:
    change, reason = HOSTILE[name]
    change_model(package, change)
    message = refusal(package)
    assert re.search(reason, message), message


# ------------------------------------------------------------------------------------- single operations, and what they refuse


def value(array: Any, dtype: str = "") -> Constant:
    array = np.asarray(array)
    return Constant(dtype or ("string" if array.dtype.kind in "OU" else array.dtype.name), array)


def integers(*values: int) -> Constant:
    return value(np.array(values, np.int32))


ELEMENTS = {element.name: element for element in coreml_values._ELEMENTS.values()}
IMAGE = noise(1, 2, 4, 4)


def lone(operator: str, arguments: dict[str, Any], source: Any = IMAGE, declared: tuple[int, ...] | None = None) -> Any:
    """Runs a program of one operation, made without coremltools, which refuses to write most of these."""
    bound = {key: entry if isinstance(entry, tuple) else (entry,) for key, entry in arguments.items()}
    shape = declared or source.shape
    result = Output("y", TensorType(ELEMENTS["float32"], shape))
    taken = TensorType(ELEMENTS[source.dtype.name], source.shape)
    program = Program("x", taken, (Operation(operator, bound, (result,)),), ("y",))
    return Plan(program, "y").run(source)["y"]


KERNEL = value(noise(3, 2, 1, 1))
POOL: dict[str, Any] = {"x": "x", "kernel_sizes": integers(2, 2), "pad_type": value("custom")}
BYTES, PALETTE, SCALE = value(np.zeros((2, 2), np.int8)), value(noise(4)), value(np.float32(1))
TYPED = value(np.zeros((2, 2), np.uint8), "uint2")
AFFINE: dict[str, Any] = {"quantized_data": BYTES, "scale": SCALE, "zero_point": value(np.int8(0)), "axis": value(np.int32(0))}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "weights of rank 3": ("conv", {"x": "x", "weight": value(noise(3, 2, 1))}, "weights of the shape"),
    "biases": ("conv", {"x": "x", "weight": KERNEL, "bias": value(noise(2))}, "`[2]` biases for `3` filters"),
    "bias of another type": ("conv", {"x": "x", "weight": KERNEL, "bias": value(noise(3, dtype=np.float16))}, "of `float16`"),
    "groups": ("conv", {"x": "x", "weight": KERNEL, "groups": value(np.int32(2))}, "has `2` groups"),
    "dilations": ("conv", {"x": "x", "weight": KERNEL, "dilations": integers(1, 2)}, "the dilations `[1, 2]`"),
    "channels": ("conv", {"x": "x", "weight": value(noise(3, 4, 1, 1))}, "takes a float32[1, 2, 4, 4] with float32[3, 4, 1, 1]"),
    "three strides": ("max_pool", POOL | {"strides": integers(1, 1, 1)}, "has `strides` of the shape `[3]`"),
    "ceiling": ("max_pool", POOL | {"pad": integers(0, 1, 0, 0), "ceil_mode": value(True)}, "differs at the two ends"),
    "ceiling of same": ("max_pool", POOL | {"pad_type": value("same"), "ceil_mode": value(True)}, "differs at the two ends"),
    "axis as a vector": ("softmax", {"x": "x", "axis": integers(1)}, "not a single value"),
    "axis as text": ("softmax", {"x": "x", "axis": value("1")}, "has a `axis` of `string`; int32 is needed"),
    "interleave": ("concat", {"values": ("x", "x"), "axis": value(np.int32(1)), "interleave": value(True)}, "interleaves"),
    "nothing to join": ("concat", {"axis": value(np.int32(1))}, "has no `values`"),
    "cast": ("cast", {"x": "x", "dtype": value("int32")}, "casts to `int32`"),
    "reshape": ("reshape", {"x": "x", "shape": integers(0, -1)}, "has the shape `[0, -1]`"),
    "two types": ("add", {"x": "x", "y": value(np.float16(1))}, "takes float32 and float16"),
    "quantize": (
        "quantize",
        {"input": "x", "scale": value(np.float16(1)), "output_dtype": value("uint8")},
        "divides float32 by float16",
    ),
    "zero point": (
        "quantize",
        {"input": "x", "scale": SCALE, "output_dtype": value("uint8"), "zero_point": value(np.int8(0))},
        "has a `zero_point` of `int8`; uint8 is needed",
    ),
    "scales": (
        "quantize",
        {"input": "x", "scale": value(np.ones(2, np.float32)), "output_dtype": value("uint8")},
        "along axis `None` of `[1, 2, 4, 4]`",
    ),
    "classes": ("classify", {"probabilities": "x", "classes": value(["a", "b"])}, "for `2` classes"),
    "axis of scales": (
        "constexpr_affine_dequantize",
        AFFINE | {"axis": value(np.int32(2)), "scale": value(np.ones(2, np.float32))},
        "along axis `2` of `[2, 2]`",
    ),
    "scales do not fit": ("constexpr_affine_dequantize", AFFINE | {"scale": value(np.ones(3, np.float32))}, "`[3]` scales"),
    "scales for a dimension of 1": (
        "quantize",
        {"input": "x", "scale": value(np.ones(9, np.float32)), "output_dtype": value("uint8"), "axis": value(np.int32(0))},
        "`[9]` scales or zero points along axis `0` of `[1, 2, 4, 4]`",
    ),
    "blocks": ("constexpr_blockwise_shift_scale", {"data": BYTES, "scale": value(np.ones((1, 3), np.float32))}, "`[1, 3]` scales"),
    "offsets": (
        "constexpr_blockwise_shift_scale",
        {"data": BYTES, "scale": value(np.ones((1, 1), np.float32)), "offset": value(np.ones((2, 1), np.int8))},
        "`[2, 1]` offsets for `[1, 1]` scales",
    ),
    "float data": ("constexpr_blockwise_shift_scale", {"data": KERNEL, "scale": SCALE}, "has `data` of `float32`"),
    "palette of 3": (
        "constexpr_lut_to_dense",
        {"lut": value(noise(3)), "indices": value(np.zeros(1, np.uint8)), "shape": value(np.array([4], np.uint32))},
        "a palette of `3` colours",
    ),
    "palette as a table": (
        "constexpr_lut_to_dense",
        {"lut": value(noise(2, 2)), "indices": value(np.zeros(1, np.uint8)), "shape": value(np.array([4], np.uint32))},
        "not a vector of each",
    ),
    "too few indices": (
        "constexpr_lut_to_dense",
        {"lut": PALETTE, "indices": value(np.zeros(7, np.uint8)), "shape": value(np.array([1, 2, 4, 4], np.uint32))},
        "cannot be unpacked: `32` numbers of `2` bits in `7` bytes",
    ),
    "a vector for an index": ("constexpr_lut_to_dense", {"lut": value(noise(1, 1, 4, 2)), "indices": TYPED}, "one colour an index"),
    "palette of rank 2": ("constexpr_lut_to_dense", {"lut": value(noise(4, 1)), "indices": TYPED}, "one colour an index"),
    "indices of other bits": ("constexpr_lut_to_dense", {"lut": value(noise(1, 1, 8, 1)), "indices": TYPED}, "of `uint2` into `8`"),
    "constant cast": (
        "constexpr_cast",
        {"source_val": value(noise(3, dtype=np.float16)), "output_dtype": value("fp16")},
        "casts to `fp16`",
    ),
    "constant output": ("relu", {"x": value(IMAGE)}, "the output `y` does not depend on the input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_that_it_does_not_handle_is_refused(name: str) -> None:
    operator, arguments, reason = REFUSED[name]
    with pytest.raises(Refused) as caught:
        lone(operator, arguments)
    assert reason in caught.value.message
    assert "\n" not in caught.value.message


FAR = np.broadcast_to(np.float32(0), (1, 2**20, 1, 1))
"""A large tensor that takes no memory."""
WIDE = value(np.zeros((1, 2, 64, 64), np.float32))
GREEDY: dict[str, tuple[str, dict[str, Any], Any, tuple[int, ...], str]] = {
    "a padded pool": (
        "max_pool",
        {"x": "x", "kernel_sizes": integers(64, 64), "strides": integers(64, 64), "pad_type": value("custom")}
        | {"pad": integers(63, 63, 63, 63)},
        FAR,
        (1, 2**20, 1, 1),
        f"needs a padded image of `[1, {2**20}, 127, 127]`",
    ),
    "a padded image": (
        "conv",
        {"x": "x", "weight": Constant("float32", np.broadcast_to(np.float32(0), (1, 2**20, 1, 1)))}
        | {"pad_type": value("custom"), "pad": integers(64, 64, 64, 64)},
        FAR,
        (1, 1, 129, 129),
        f"needs a padded image of `[{2**20}, 129, 129]`",
    ),
    "the columns of a convolution": (
        "conv",
        {"x": "x", "weight": WIDE},
        np.broadcast_to(np.float32(0), (1, 2, 8000, 8000)),
        (1, 1, 7937, 7937),
        "needs a matrix of `[8192, 7937, 7937]`",
    ),
    "an outer sum": (
        "add",
        {"x": "x", "y": Constant("float32", np.broadcast_to(np.float32(0), (2**11, 1, 1, 1)))},
        FAR,
        (2**11, 2**20, 1, 1),
        "needs a result of",
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_what_would_fill_the_memory_is_refused_before_it_is_allocated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, arguments, source, declared, reason = GREEDY[name]

    def full(*_: object) -> Any:
        raise AssertionError("it was allocated")

    monkeypatch.setattr(coreml_windows, "_padded", full)
    with pytest.raises(Refused) as caught:
        lone(operator, arguments, source, declared)
    assert reason in caught.value.message


def test_a_network_of_2048_px_is_within_the_bounds() -> None:
    """The control: conv1 of SqueezeNet 1.0, whose matrix is the largest, on the evaluator's 8 images at once."""
    places = (2048 - 7) // 2 + 1
    assert 7 * 7 * 3 * places**2 <= coreml_arguments.MAX_WORKING_ELEMENTS
    assert coreml_evaluator.MAX_OPEN_BATCH * 96 * places**2 <= coreml_arguments.MAX_RESULT_ELEMENTS


def test_many_tensors_at_once_are_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(package)
    monkeypatch.setattr(coreml_plan, "MAX_ALIVE_ELEMENTS", 700)
    with pytest.raises(Refused, match="more than `700` elements at once"):
        session.infer(pixels(1))
    monkeypatch.setattr(coreml_plan, "MAX_ALIVE_ELEMENTS", 100)
    assert "more than `100` elements at once" in refusal(package)


def test_a_machine_without_memory_refuses(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Any:
        raise MemoryError("Unable to allocate 8.00 TiB")

    session = opened(package)
    with monkeypatch.context() as patch:
        patch.setattr(coreml_windows, "_columns", full)
        with pytest.raises(Refused, match=r"`conv` .* cannot be computed: Unable to allocate"):
            session.infer(pixels(1))
    with monkeypatch.context() as patch:
        patch.setattr(np, "ascontiguousarray", full)
        with pytest.raises(Refused, match="does not fit into memory"):
            session.infer(pixels(1))
    with monkeypatch.context() as patch:
        patch.setattr(coreml_package, "read_program", full)
        assert "Unable to allocate" in refusal(package)
    with monkeypatch.context() as patch:
        patch.setitem(coreml_plan.UNPACKERS, "const", full)  # type: ignore[arg-type]
        assert "cannot be unpacked: Unable to allocate" in refusal(package)


def test_the_single_operation_runs_where_nothing_is_wrong() -> None:
    """The control of the test above."""
    np.testing.assert_array_equal(lone("relu", {"x": "x"}), np.maximum(IMAGE, 0))
    expected = np.einsum("oi,bihw->bohw", KERNEL.array[:, :, 0, 0], IMAGE)
    found = lone("conv", {"x": "x", "weight": KERNEL}, declared=(1, 3, 4, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_written_on_the_spot_are_counted() -> None:
    floats = TensorType(ELEMENTS["float32"], IMAGE.shape)
    result = TensorType(ELEMENTS["float32"], (1, 3, 4, 4))
    operation = Operation("conv", {"x": ("x",), "weight": (KERNEL,)}, (Output("y", result),))
    assert coreml_placement._macs(operation, {}) == 3 * 2 * 16
    placement = coreml_placement.read_placement(Program("x", floats, (operation,), ("y",)), [operation], "all")
    assert (placement.integer_mac_share, placement.float_operators) == (0.0, ("conv y",))


def test_an_operation_of_two_results_is_refused() -> None:
    floats = TensorType(ELEMENTS["float32"], IMAGE.shape)
    operation = Operation("relu", {"x": ("x",)}, (Output("y", floats), Output("z", floats)))
    with pytest.raises(Refused, match="gives `2` results"):
        Plan(Program("x", floats, (operation,), ("y",)), "y")


def outputs_of_other_shapes(mb: Any, x: Any) -> Any:
    return mb.reduce_mean(x=x, axes=[3], name="logits")


def two_outputs(mb: Any, x: Any) -> Any:
    sums = mb.reduce_mean(x=x, axes=[2, 3], name="sums")
    return sums, mb.softmax(x=sums, name="probabilities")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (outputs_of_other_shapes, "gives float32[1, 3, 8], not one row of numbers an image"),
        (two_outputs, "where one array is needed"),
    ],
)
def test_a_program_that_gives_no_row_an_image_is_refused(tmp_path: Path, build: Any, reason: str) -> None:
    assert reason in refusal(written(tmp_path, build, color="RGB"))


def same_labels(model: Any) -> None:
    classes = operation_of(model, "classify").inputs["classes"].arguments[0].value.immediateValue.list
    classes.values[1].CopyFrom(classes.values[0])


def mixed_labels(model: Any) -> None:
    classes = operation_of(model, "classify").inputs["classes"].arguments[0].value.immediateValue.list
    classes.values[1].type.tensorType.dataType = 24
    classes.values[1].immediateValue.tensor.longInts.values.append(1)


def integer_label(model: Any) -> None:
    classes = operation_of(model, "classify").inputs["classes"].arguments[0].value.immediateValue.list
    classes.values[1].immediateValue.tensor.longInts.values.append(1)


def no_labels(model: Any) -> None:
    del operation_of(model, "classify").inputs["classes"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (same_labels, "a list of classes that all differ"),
        (no_labels, "a list of classes that all differ"),
        (mixed_labels, "a list of other things"),
        (integer_label, "are of another type"),
        (described(lambda description: description.ClearField("predictedProbabilitiesName")), "whether it is a classifier"),
    ],
)
def test_a_classifier_without_classes_is_refused(tmp_path: Path, change: Callable[[Any], None], reason: str) -> None:
    path = written(tmp_path, classifier, color="RGB", classes=("a", "b", "c"))
    change_model(path, change)
    assert reason in refusal(path)


def ranges(*bounds: tuple[int, int]) -> Callable[[Any], None]:
    def change(description: Any) -> None:
        array = description.input[0].type.multiArrayType
        del array.shapeRange.sizeRanges[:]
        for low, high in bounds:
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)

    return change


def planes(description: Any) -> None:
    description.input[0].type.multiArrayType.shape[:] = [1, 3, 8, 8]


def whole_numbers(description: Any) -> None:
    description.input[0].type.multiArrayType.dataType = 131104


def variadic(model: Any) -> None:
    model.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[0].unknown.variadic = True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (described(planes), "floats of (N, H, W, 3) are read"),
        (described(whole_numbers), "floats of (N, H, W, 3) are read"),
        (described(ranges((1, 4), (8, 9), (8, 8), (3, 3))), "only the number of images may be open"),
        (described(ranges((0, 4), (8, 8), (8, 8), (3, 3))), "takes `0` to `4` images"),
        (described(ranges((1, -1), (8, 8), (8, 8), (3, 3))), "takes `1` to `-1` images"),
        (described(ranges((2**40, 2**41), (8, 8), (8, 8), (3, 3))), f"takes `{2**40}` to"),
        (described(ranges()), "only the number of images may be open"),
        (variadic, "a tensor of variable rank"),
    ],
)
def test_an_array_that_is_no_batch_of_images_is_refused(tmp_path: Path, change: Callable[[Any], None], reason: str) -> None:
    path = written(tmp_path, lambda mb, x: mb.reduce_mean(x=x, axes=[1, 2], name="logits"), (1, 8, 8, 3), name="input", most=4)
    opened(path).infer(pixels(5))
    change_model(path, change)
    assert reason in refusal(path)


def bound_value(change: Callable[[Any], None]) -> Callable[[Any], None]:
    """Changes the value that the first convolution's scale is stored as."""
    return lambda model: change(operation_of(model, "constexpr_affine_dequantize").attributes["zero_point"])


def set_open(stored: Any) -> None:
    stored.type.tensorType.rank = 1
    stored.type.tensorType.dimensions.add().unknown.variadic = False


def set_list(stored: Any) -> None:
    stored.type.listType.SetInParent()
    stored.immediateValue.list.SetInParent()


def set_list_of_vectors(stored: Any) -> None:
    vector = type(stored)()
    vector.type.tensorType.dataType, vector.type.tensorType.rank = 21, 1
    vector.type.tensorType.dimensions.add().constant.size = 1
    vector.immediateValue.tensor.bytes.values = b"a"
    stored.type.listType.SetInParent()
    stored.immediateValue.list.values.add().CopyFrom(vector)


def set_other_field(stored: Any) -> None:
    stored.immediateValue.tensor.ints.values.append(1)


def set_two_bytes(stored: Any) -> None:
    stored.immediateValue.tensor.bytes.values = b"ab"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_open, "a constant of no fixed size"),
        (set_list, "a list of other things"),
        (set_list_of_vectors, "a list of other things"),
        (set_other_field, "are of another type"),
        (set_two_bytes, "`1` numbers of `int8` in `2` bytes"),
    ],
)
def test_a_damaged_constant_is_refused(package: Path, change: Callable[[Any], None], reason: str) -> None:
    change_model(package, bound_value(change))
    assert reason in refusal(package)


# --------------------------------------------------------------------------------------------------- what this project writes


def emitted(folder: Path, network: Graph | QuantizedGraph, scheme: str, **options: Any) -> Artifact:
    coremltools()
    path = folder / f"{scheme}.mlpackage"
    write_draft(path, target_named("coreml").emit(network, scheme_named(scheme), EmitOptions(**options), {}))
    return artifact(path)


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A short network with simple and complex bypass, untrained, for images of 64 px."""
    fires = fire_modules(count=3, base_e=16, incr_e=16, freq=2, squeeze_ratio=0.25, bypass="complex")
    arch = Architecture("tiny", 16, 3, fires, (1,), 10)
    draw = np.random.default_rng(5)
    tensors = {
        key: draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    return build_graph(arch, tensors, dataclasses.replace(TORCHVISION, crop_px=64))


@pytest.fixture(scope="module")
def table(graph: Graph) -> QuantizedGraph:
    return quantize(graph, pixels(16, 64), FloatRunner(graph), scheme_named("int8"))


@pytest.mark.parametrize("ios", [17, 18])
@pytest.mark.parametrize(("scheme", "least_db"), [("fp32", 110), ("fp16", 50)])
def test_a_float_package_answers_as_the_float_run(graph: Graph, tmp_path: Path, scheme: str, least_db: int, ios: int) -> None:
    session = coreml_evaluator.open_session(emitted(tmp_path, graph, scheme, ios=ios), device="cpu", threads=1)
    expected, found = FloatRunner(graph)(pixels(4, 64)), session.infer(pixels(4, 64))
    noise_db = 10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum())
    assert noise_db > least_db
    assert session.placement.integer_mac_share == 0


@pytest.mark.parametrize("ios", [17, 18])
def test_an_int8_package_has_the_integers_of_the_table_in_every_layer(table: QuantizedGraph, tmp_path: Path, ios: int) -> None:
    """Within one step: a sum that float32 does not hold exactly may round the other way."""
    written_package = emitted(tmp_path, table, "int8", ios=ios)
    exact: dict[str, Any] = {}
    logits = IntegerRunner(table)(pixels(1, 64), lambda name, integers: exact.update({name: integers.astype(np.float32)}))
    found = coreml_evaluator.inner_values(written_package, list(exact), pixels(1, 64))
    assert any("/" in name for name in found)
    for name, values in found.items():
        steps = values / np.float32(table.tensors[name].scale) + table.tensors[name].zero_point
        assert np.abs(steps - exact[name]).max() < 1.01, name
        assert (np.abs(steps - exact[name]) > 0.01).mean() < 0.01, name
    session = coreml_evaluator.open_session(written_package, device="cpu", threads=1)
    assert session.placement.integer_mac_share == 1.0
    assert np.abs(session.infer(pixels(1, 64)) - logits).max() <= table.tensors["conv10"].scale


def test_a_real_network_answers_as_the_float_run(assets: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(assets / "weights" / "squeezenet1_1.safetensors")
    network = build_graph(checkpoint.architecture, checkpoint.tensors, checkpoint.preprocess)
    photographs = sorted((assets / "images" / "eval").rglob("*.jp*g"))[:4]
    images = np.stack([load_pixels(file, checkpoint.preprocess) for file in photographs])
    session = coreml_evaluator.open_session(emitted(tmp_path, network, "fp32"), device="cpu", threads=1)
    np.testing.assert_allclose(session.infer(images), FloatRunner(network)(images), atol=1e-3)
