"""Core ML's evaluator: what its sessions give and tell of themselves, and the programs that they refuse.

The packages are written by coremltools' own builder; what they should give is computed by torch.
"""

from __future__ import annotations

import ast
import re
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
    blobs,
    change_bytes,
    change_model,
    copied,
    operation_of,
    pixels,
    point,
    program_in,
    real,
    set_type,
    value_of,
    written,
)
from threadpoolctl import ThreadpoolController

from squeeze_export.core import Session
from squeeze_export.errors import BadInput, Refused, Unavailable
from squeeze_export.formats.coreml import package as reader
from squeeze_export.formats.coreml.classifier import read_classifier
from squeeze_export.runtimes.coreml import arguments, evaluator
from squeeze_export.runtimes.coreml.placement import read_placement


def opened(path: Path, threads: int = 1) -> evaluator.EvaluatorSession:
    return evaluator.open_session(artifact(path), device="cpu", threads=threads)


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


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture
def package(int8_mlpackage: Path, tmp_path: Path) -> Path:
    """An int8 network of two convolutions that takes an image of 8 px."""
    return copied(int8_mlpackage, tmp_path)


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
    libraries = ThreadpoolController()
    before = [library["num_threads"] for library in libraries.info()]
    first, second = opened(package), opened(package, 2)
    images = pixels(24)
    expected = first.infer(images)
    with ThreadPoolExecutor(4) as pool:
        rows = [pool.submit((first, second)[index % 2].infer, images[index : index + 1]) for index in range(24)]
    np.testing.assert_array_equal(np.concatenate([row.result() for row in rows]), expected)
    assert [library["num_threads"] for library in libraries.info()] == before


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
    """Negative control of the weights: the same network with those of one convolution as another type."""

    def change(model: Any) -> None:
        operation_of(model, "constexpr_affine_dequantize").attributes["quantized_data"].type.tensorType.dataType = 31  # uint8

    change_model(package, change)
    placement = read_placement(program_in(package), "all")
    macs = 16 * 3 * 9 * 36, 12 * 16 * 9  # filters * channels * kernel * pixels
    assert placement.integer_mac_share == macs[1] / sum(macs)
    assert placement.float_operators == ("conv conv1_sum", "relu relu_0", "reduce_mean logits")


@pytest.mark.parametrize(("least", "most", "count"), [(1, 0, 5), (3, 0, 7), (1, 20, 19), (2, 4, 5)])
def test_an_array_is_run_in_pieces_of_what_it_takes(tmp_path: Path, least: int, most: int, count: int) -> None:
    def build(mb: Any, x: Any) -> Any:
        x = mb.conv(x=mb.transpose(x=x, perm=[0, 3, 1, 2]), weight=noise(4, 3, 3, 3), pad_type="valid")
        return mb.reduce_mean(x=x, axes=[2, 3], name="logits")

    path = written(tmp_path, build, (least, 6, 6, 3), name="input", most=most)
    taken = read_classifier(path).pixels
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
    read = read_classifier(path)
    assert (read.result, read.labels) == ("classLabel_probs", tuple(str(label) for label in classes))
    powers = np.exp(pixels(2).mean(axis=(1, 2)) - pixels(2).mean(axis=(1, 2)).max(axis=1, keepdims=True))
    np.testing.assert_allclose(opened(path).infer(pixels(2)), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)


def test_an_array_beside_the_dictionary_is_the_result(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        logits = mb.reduce_mean(x=x, axes=[2, 3], name="logits")
        return logits, mb.softmax(x=logits, axis=-1, name="probabilities")

    path = written(tmp_path, build, color="RGB", classes=("a", "b", "c"))
    read = read_classifier(path)
    assert (read.result, read.labels) == ("logits", ())
    np.testing.assert_allclose(opened(path).infer(pixels(2)), pixels(2).mean(axis=(1, 2)), rtol=1e-5)


def test_a_batch_of_another_shape_or_dtype_is_an_error_of_the_caller(package: Path) -> None:
    session = opened(package)
    for batch in (pixels(1).astype(np.float32), pixels(1, 9), pixels(0), pixels(1)[0]):
        with pytest.raises(ValueError, match="takes uint8"):
            session.infer(batch)


def test_a_device_or_thread_count_that_it_has_not(package: Path) -> None:
    assert evaluator.devices() == ("cpu",)
    with pytest.raises(Unavailable, match="`npu`") as caught:
        evaluator.open_session(artifact(package), device="npu", threads=1)
    assert caught.value.hint
    with pytest.raises(BadInput, match="`0` threads"):
        opened(package, 0)


def test_inner_values_are_those_of_the_nodes(package: Path) -> None:
    inner, logits = answers(pixels(1))
    found = evaluator.inner_values(artifact(package), ["fire2/squeeze1x1", "pixels"], pixels(1))
    assert list(found) == ["fire2/squeeze1x1", "pixels"]
    np.testing.assert_array_equal(found["pixels"], pixels(1))
    assert found["fire2/squeeze1x1"].dtype == np.float32
    np.testing.assert_allclose(found["fire2/squeeze1x1"], inner.transpose(0, 2, 3, 1), rtol=1e-6)
    np.testing.assert_allclose(found["fire2/squeeze1x1"].mean(axis=(1, 2)), logits, rtol=1e-5)
    with pytest.raises(Refused, match="no tensor for `fire3/squeeze1x1`"):
        evaluator.inner_values(artifact(package), ["fire3/squeeze1x1"], pixels(1))
    with pytest.raises(Refused, match=r"`logits` is float32\[1, 12\]"):
        evaluator.inner_values(artifact(package), ["logits"], pixels(1))


def test_inner_values_of_a_package_that_takes_several_images(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        doubled = mb.mul(x=mb.transpose(x=x, perm=[0, 3, 1, 2]), y=np.float32(2), name="conv1")
        return mb.reduce_mean(x=doubled, axes=[2, 3], name="logits")

    path = written(tmp_path, build, (3, 8, 8, 3), name="input")
    np.testing.assert_array_equal(evaluator.inner_values(artifact(path), ["conv1"], pixels(1))["conv1"], 2.0 * pixels(1))


def test_it_needs_neither_coremltools_nor_what_writes_packages(package: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.modules['coremltools'] = sys.modules['google.protobuf'] = None\n"
        "from squeeze_export.core import Artifact, TensorSpec\n"
        "from squeeze_export.runtimes.coreml import evaluator\n"
        "nothing = TensorSpec('', (), '', '')\n"
        "artifact = Artifact(Path(sys.argv[1]), '', 'int8', '', 0, nothing, nothing)\n"
        "print(evaluator.open_session(artifact, device='cpu', threads=1).placement.operator_count)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("6\n", "")
    for path in (*Path(evaluator.__file__).parent.glob("*.py"), *Path(reader.__file__).parent.glob("*.py")):
        lines = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        foreign = {line for line in lines if line.startswith(("from squeeze_export.graph", "from squeeze_export.targets"))}
        assert foreign <= {"from squeeze_export.graph.quantized import scheme_named"}


def test_an_operator_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.reduce_mean(x=mb.tanh(x=x), axes=[2, 3], name="logits")

    path = written(tmp_path, build, color="RGB")
    with pytest.raises(Refused, match="the evaluator knows no operator `tanh`") as caught:
        opened(path)
    assert caught.value.hint is not None
    assert "conv" in caught.value.hint


def test_a_network_of_2048_px_is_within_the_bounds() -> None:
    """The control: conv1 of SqueezeNet 1.0, whose matrix is the largest, on the evaluator's 8 images at once."""
    places = (2048 - 7) // 2 + 1
    assert 7 * 7 * 3 * places**2 <= arguments.MAX_WORKING_ELEMENTS
    assert evaluator.MAX_OPEN_BATCH * 96 * places**2 <= arguments.MAX_RESULT_ELEMENTS


def test_many_tensors_at_once_are_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(package)
    monkeypatch.setattr(evaluator, "MAX_ALIVE_ELEMENTS", 700)
    with pytest.raises(Refused, match="more than `700` elements at once"):
        session.infer(pixels(1))
    monkeypatch.setattr(evaluator, "MAX_ALIVE_ELEMENTS", 100)
    assert "more than `100` elements at once" in refusal(package)


def test_a_machine_without_memory_refuses(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Any:
        raise MemoryError("Unable to allocate 8.00 TiB")

    session, images = opened(package), pixels(1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", full)
        with pytest.raises(Refused, match=r"`conv` .* cannot be computed: Unable to allocate"):
            session.infer(images)
    with monkeypatch.context() as patch:
        patch.setattr(np, "ascontiguousarray", full)
        with pytest.raises(Refused, match="does not fit into memory"):
            session.infer(images)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_program", full)
        assert "Unable to allocate" in refusal(package)
    with monkeypatch.context() as patch:
        patch.setitem(evaluator.UNPACKERS, "const", full)  # type: ignore[arg-type]
        assert "cannot be unpacked: Unable to allocate" in refusal(package)


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


def test_every_changed_part_of_the_data_changes_the_result(package: Path) -> None:
    before = opened(package).infer(pixels(4))
    original = (package / WEIGHTS).read_bytes()
    assert len(blobs(package)) >= 5  # weights, scales and biases
    for start, size in blobs(package):
        for at in (start, start + size // 2 // 4 * 4, start + size - 4):
            # Large enough to be seen after rounding to 8 bits, in any type: the exponent of a float is in the last byte.
            flipped = bytes(byte ^ mask for byte, mask in zip(original[at : at + 4], (0x55, 0x55, 0x55, 0x41), strict=True))
            change_bytes(package / WEIGHTS, at, flipped)
            found = outcome(package)
            assert isinstance(found, str) or not np.array_equal(found, before), (start, size, at)
            (package / WEIGHTS).write_bytes(original)
    np.testing.assert_array_equal(opened(package).infer(pixels(4)), before)


def test_a_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    def build(mb: Any, x: Any) -> Any:
        return mb.reduce_mean(x=mb.mul(x=mb.mul(x=x, y=np.float32(3e38)), y=np.float32(3e38)), axes=[2, 3])

    assert "gives what is no finite number" in refusal(written(tmp_path, build, color="RGB"))


@pytest.mark.uncounted  # the same lines a thousand times
def test_a_changed_model_file_is_read_or_refused_and_never_breaks(package: Path) -> None:
    content = (package / SPEC).read_bytes()
    draw = np.random.default_rng(5)
    found = []
    for _ in range(300):
        at = int(draw.integers(len(content)))
        change_bytes(package / SPEC, at, bytes([content[at] ^ int(draw.integers(1, 256))]))
        found.append(outcome(package))
        (package / SPEC).write_bytes(content)
    messages = [entry for entry in found if isinstance(entry, str)]
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)


def test_a_tensor_above_the_limit_is_not_allocated(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_ELEMENTS", 500)
    assert "`1` to `500` are possible" in refusal(package)


def old_opset(model: Any) -> None:
    function = model.mlProgram.functions["main"]
    function.block_specializations["CoreML5"].CopyFrom(function.block_specializations[function.opset])
    del function.block_specializations[function.opset]
    function.opset = "CoreML5"


def rename(operator: str, key: str, wanted: str) -> Callable[[Any], None]:
    """Gives an argument another name."""

    def change(model: Any) -> None:
        inputs = operation_of(model, operator).inputs
        inputs[wanted].CopyFrom(inputs[key])
        del inputs[key]

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


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "opset": (old_opset, "operator set `CoreML5`"),
    "nested block": (lambda model: operation_of(model, "conv").blocks.add(), "`conv` `conv1_sum` has operators inside"),
    "unknown argument": (rename("relu", "x", "y"), "has no `x`"),
    "new argument": (rename("conv", "bias", "shift"), "argument `shift`, which the evaluator does not know"),
    "two bound": (point("conv", "x", "pixels", "pixels"), "has `2` tensors as `x`"),
    "computed weights": (point("conv", "weight", "pixels"), "computes its `weight`"),
    "integers to a convolution": (point("conv", "x", "quantize_0"), r"takes a uint8\[1, 3, 8, 8\]"),
    "integers to relu": (point("relu", "x", "quantize_0"), "where floats are needed"),
    "floats to dequantize": (point("dequantize", "input", "image"), r"takes a float32\[1, 3, 8, 8\]"),
    "integers to max_pool": (point("max_pool", "x", "quantize_1"), r"takes a uint8"),
    "unknown dtype": (set_type("conv1", 13), "a tensor of `bfloat16`, which"),
    "wrong dtype": (set_type("conv1", 10), "it is declared as `float16"),
    "wrong shape": (set_type("conv1_sum", 0, (1, 16, 5, 6)), r"gives `\[1, 16, 6, 6\]`"),
    "wrong mean": (set_type("logits", 0, (1, 13)), r"gives float32\[1, 12\], it is declared as `float32\[1, 13\]`"),
    "huge": (set_type("conv1", 0, (1, 2**20, 2**20, 1)), "elements"),
    "negative": (set_type("conv1", 0, (1, 0, 6, 6)), "elements"),
    "many dimensions": (set_type("conv1", 0, (1,) * 7), "`6` are possible"),
    "scale 0": (value_of("quantize", "scale", real(0)), "not above 0"),
    "strides": (value_of("max_pool", "strides", numbers(2, 2, 2)), "has `3`"),
    "stride 0": (value_of("max_pool", "strides", numbers(0, 1)), "has the window"),
    "huge window": (value_of("max_pool", "kernel_sizes", numbers(2**30, 3)), "has the window"),
    "window": (value_of("max_pool", "kernel_sizes", numbers(9, 3)), "a window of `9`"),
    "pads": (value_of("max_pool", "pad", numbers(0, 3, 0, 0)), "pads of `0` and `3`"),
    "negative pads": (value_of("max_pool", "pad", numbers(0, -1, 0, 0)), "has the window"),
    "pad type": (value_of("max_pool", "pad_type", text("mirror")), "the padding `mirror`"),
    "output type": (value_of("quantize", "output_dtype", text("int4")), "output type `int4`"),
    "axis": (value_of("reduce_mean", "axes", numbers(2, 9)), "cannot be computed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_refused(package: Path, name: str) -> None:
    change, reason = HOSTILE[name]
    change_model(package, change)
    assert re.search(reason, refusal(package))
