"""The proof of INT8 on TFLite files, with its negative controls: files that claim too much, each built by hand."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from squeeze_export.errors import BadInput
from squeeze_export.formats import audited, format_named
from squeeze_export.targets.tflite.writer import Steps, Writer

SIZE = (1, 8, 8, 4)
STEPS = Steps((0.1,), (-128,))
CONV = ("Conv2DOptions", {"padding": 1, "strideW": 1, "strideH": 1})


def conv(
    writer: Writer,
    source: int,
    name: str,
    *,
    activations: str = "int8",
    weights: str = "int8",
    steps: bool = True,
) -> int:
    """A 1x1 convolution of 4 to 4 channels; `steps` False leaves the weights' scales out."""
    integer = activations == "int8"
    scales = Steps((0.01,) * 4, (0,) * 4) if weights == "int8" and steps else None
    kernel = writer.constant(f"{name}/weight", np.ones((4, 1, 1, 4), weights), scales)
    bias = writer.constant(f"{name}/bias", np.zeros(4, "int32" if integer else "float32"), scales if integer else None)
    result = writer.tensor(name, SIZE, activations, STEPS if integer else None)
    writer.operator("CONV_2D", 3 if integer else 1, [source, kernel, bias], result, CONV)
    return result


def quantize(writer: Writer, source: int, name: str) -> int:
    result = writer.tensor(name, SIZE, "int8", STEPS)
    writer.operator("QUANTIZE", 1, [source], result)
    return result


def dequantize(writer: Writer, source: int, name: str) -> int:
    result = writer.tensor(name, SIZE, "float32")
    writer.operator("DEQUANTIZE", 2, [source], result)
    return result


def saved(writer: Writer, source: int, result: int, path: Path) -> Path:
    path.write_bytes(writer.pack(source, result, {}))
    return path


def integer_file(path: Path) -> Path:
    writer = Writer("honest")
    source = writer.tensor("input", SIZE, "float32")
    first = conv(writer, quantize(writer, source, "moved"), "conv1")
    return saved(writer, source, dequantize(writer, conv(writer, first, "conv2"), "logits"), path)


def test_an_integer_file_passes_and_its_float_ends_are_listed(tmp_path: Path) -> None:
    found = audited("tflite", integer_file(tmp_path / "a.tflite"))
    assert found.violations == ()
    assert found.operators == {"CONV_2D": 2, "DEQUANTIZE": 1, "QUANTIZE": 1}
    assert found.float_operators == ("QUANTIZE moved", "DEQUANTIZE logits")
    assert found.float_tensors == ("input float32[1,8,8,4]", "logits float32[1,8,8,4]")
    assert found.weight_bytes == {"int8": 32, "int32": 32}


def test_a_float_convolution_fails(tmp_path: Path) -> None:
    writer = Writer("one layer left in float")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    middle = dequantize(writer, conv(writer, source, "conv1"), "detour")
    result = quantize(writer, conv(writer, middle, "conv2", activations="float32", weights="float32"), "back")
    found = audited("tflite", saved(writer, source, conv(writer, result, "conv3"), tmp_path / "a.tflite"))
    assert found.violations == (
        "CONV_2D `conv2` computes in float: its input `detour` is float32[1,8,8,4], its operand `conv2/weight` is "
        "float32[4,1,1,4], its operand `conv2/bias` is float32[4], its result `conv2` is float32[1,8,8,4]",
        "QUANTIZE `back` computes in float before the last convolution",
        "the constant `conv2/weight` is stored as float32[4,1,1,4]",
        "the constant `conv2/bias` is stored as float32[4]",
    )


def test_a_dynamic_range_file_fails(tmp_path: Path) -> None:
    writer = Writer("integer weights, float activations")
    source = writer.tensor("input", SIZE, "float32")
    result = conv(writer, source, "conv1", activations="float32")
    found = audited("tflite", saved(writer, source, result, tmp_path / "a.tflite"))
    assert found.violations == (
        "CONV_2D `conv1`: dynamic-range quantization, its weights are int8, and its kernel quantizes the activations, which are "
        "floats, while it runs",
    )
    assert found.float_operators == ("CONV_2D conv1",)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_weights_fail(tmp_path: Path, dtype: str) -> None:
    writer = Writer("weights stored in float, widened on the way")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    stored = writer.constant("conv2/weight/half", np.ones((4, 1, 1, 4), dtype))
    widened = writer.tensor("conv2/weight", (4, 1, 1, 4), "float32")
    writer.operator("DEQUANTIZE", 3, [stored], widened)
    result = writer.tensor("conv2", SIZE, "int8", STEPS)
    writer.operator("CONV_2D", 1, [conv(writer, source, "conv1"), widened], result, CONV)
    found = audited("tflite", saved(writer, source, result, tmp_path / "a.tflite"))
    assert found.violations == (
        f"CONV_2D `conv2` computes in float: its operand `conv2/weight` is float32[4,1,1,4], unpacked from {dtype}[4,1,1,4]",
        f"the constant `conv2/weight/half` is stored as {dtype}[4,1,1,4]",
    )
    assert found.weight_bytes[dtype] == 16 * np.dtype(dtype).itemsize


def test_a_float_pool_fails(tmp_path: Path) -> None:
    writer = Writer("a pool in float")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    middle = dequantize(writer, conv(writer, source, "conv1"), "detour")
    result = writer.tensor("pool", SIZE, "float32")
    writer.operator("MAX_POOL_2D", 1, [middle], result, ("Pool2DOptions", {"strideW": 1, "strideH": 1}))
    found = audited("tflite", saved(writer, source, result, tmp_path / "a.tflite"))
    assert found.violations == ("MAX_POOL_2D `pool` computes in float behind the last convolution",)


def test_a_detour_under_the_inputs_name_fails(tmp_path: Path) -> None:
    writer = Writer("an inner tensor that is called as the input is")
    source = writer.tensor("input", SIZE, "float32")
    middle = dequantize(writer, conv(writer, quantize(writer, source, "moved"), "conv1"), "input")
    result = conv(writer, quantize(writer, middle, "back"), "conv2")
    found = audited("tflite", saved(writer, source, result, tmp_path / "a.tflite"))
    assert found.violations == ("QUANTIZE `back` computes in float before the last convolution",)


def test_a_float_tail_breaks_the_promise_of_int8_npu(tmp_path: Path) -> None:
    for scheme, expected in (
        ("int8", ()),
        ("int8-npu", ("DEQUANTIZE `logits` computes in float, in a file of the scheme `int8-npu`",)),
    ):
        writer = Writer("says what it is")
        source = writer.tensor("input", SIZE, "float32")
        result = dequantize(writer, conv(writer, quantize(writer, source, "moved"), "conv1"), "logits")
        metadata = {"squeeze_export": json.dumps({"squeeze_export.scheme": scheme}).encode()}
        (tmp_path / "a.tflite").write_bytes(writer.pack(source, result, metadata))
        assert audited("tflite", tmp_path / "a.tflite").violations == expected


@pytest.mark.parametrize("metadata", [b"no JSON", b"[]", b"\xff", b"[" * 100_000], ids=["text", "list", "bytes", "deep"])
def test_damaged_metadata_is_refused(metadata: bytes, tmp_path: Path) -> None:
    writer = Writer("says nothing")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    (tmp_path / "a.tflite").write_bytes(writer.pack(source, conv(writer, source, "conv1"), {"squeeze_export": metadata}))
    with pytest.raises(BadInput, match="damaged TFLite file"):
        audited("tflite", tmp_path / "a.tflite")


def test_weights_without_scales_fail(tmp_path: Path) -> None:
    writer = Writer("integers that stand for nothing")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    found = audited("tflite", saved(writer, source, conv(writer, source, "conv1", steps=False), tmp_path / "a.tflite"))
    assert found.violations[0] == "CONV_2D `conv1`: its integers `conv1/weight` have no scale"


def test_a_file_without_convolutions_fails(tmp_path: Path) -> None:
    writer = Writer("nothing inside")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    path = saved(writer, source, dequantize(writer, source, "logits"), tmp_path / "a.tflite")
    assert audited("tflite", path).violations[0] == "the file holds no convolution"
    with pytest.raises(BadInput, match=r"is no image classifier: it takes `int8` `\(1, 8, 8, 4\)`"):
        format_named("tflite").describe(path)


def test_a_description_needs_one_input_and_one_output(tmp_path: Path) -> None:
    writer = Writer("two outputs")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    content = writer.pack(source, source, {})
    model = writer.schema.ModelT.InitFromPackedBuf(content)
    model.subgraphs[0].outputs = [0, 0]
    (tmp_path / "a.tflite").write_bytes(packed(model))
    with pytest.raises(BadInput, match="`1` inputs and `2` outputs"):
        format_named("tflite").describe(tmp_path / "a.tflite")


def test_bad_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tflite"
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        audited("tflite", path)
    path.write_bytes(b"PK not a model")
    with pytest.raises(BadInput, match="is no TFLite file"):
        audited("tflite", path)
    good = integer_file(path).read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(BadInput, match="is a damaged TFLite file"):
        audited("tflite", path)
    model = Writer("").schema.ModelT.InitFromPackedBuf(good)
    model.subgraphs[0].operators[1].inputs = [0]
    path.write_bytes(packed(model))
    with pytest.raises(BadInput, match="CONV_2D with 1 inputs"):
        audited("tflite", path)
    model.subgraphs[0].operators[1].inputs = [-2, 0]
    path.write_bytes(packed(model))
    with pytest.raises(BadInput, match="tensor index -2"):
        audited("tflite", path)
    model.subgraphs = []
    path.write_bytes(packed(model))
    with pytest.raises(BadInput, match="without a graph"):
        audited("tflite", path)
    monkeypatch.setattr("squeeze_export.formats.tflite.MAX_BYTES", 10)
    with pytest.raises(BadInput, match="larger than 0 MiB"):
        audited("tflite", path)


@pytest.mark.parametrize("seed", range(60))
def test_a_mutated_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(integer_file(tmp_path / "a.tflite").read_bytes())
    for position in rng.integers(0, len(content), 4):
        content[position] = rng.integers(0, 256)
    (tmp_path / "b.tflite").write_bytes(content[: rng.integers(8, len(content))] if seed % 2 else content)
    with contextlib.suppress(BadInput):
        audited("tflite", tmp_path / "b.tflite")


def packed(model: object) -> bytes:
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")  # type: ignore[attr-defined]
    return bytes(builder.Output())


def test_other_converters_forms_are_no_fault(tmp_path: Path) -> None:
    """Pixels scaled in floats in front, uint8 tensors with one scale, a bias without a scale, a float tail."""
    writer = Writer("as other converters write")
    raw = writer.tensor("input", SIZE, "float32")
    scaled = writer.tensor("scaled", SIZE, "float32")
    writer.operator("MUL", 1, [raw, writer.constant("factor", np.full(1, 1 / 255, np.float32))], scaled)
    steps = Steps((0.1,), (128,))
    integers = writer.tensor("integers", SIZE, "uint8", steps)
    writer.operator("QUANTIZE", 1, [scaled], integers)
    kernel = writer.constant("weight", np.ones((4, 1, 1, 4), "uint8"), steps)
    made = writer.tensor("conv", SIZE, "uint8", steps)
    writer.operator("CONV_2D", 1, [integers, kernel, writer.constant("bias", np.zeros(4, "int32"))], made, CONV)
    real = dequantize(writer, made, "real")
    logits = writer.tensor("logits", SIZE, "float32")
    writer.operator("LOGISTIC", 1, [real], logits)
    found = audited("tflite", saved(writer, raw, logits, tmp_path / "a.tflite"))
    assert (found.violations, found.untold) == ((), ())
    assert "factor float32[1]" in found.float_tensors


def test_a_float_operator_between_integers_is_still_found(tmp_path: Path) -> None:
    """The same multiplication between two convolutions is no preparation."""
    writer = Writer("a product in between")
    source = writer.tensor("input", SIZE, "int8", STEPS)
    real = dequantize(writer, conv(writer, source, "conv1"), "real")
    scaled = writer.tensor("scaled", SIZE, "float32")
    writer.operator("MUL", 1, [real, writer.constant("factor", np.full(1, 0.5, np.float32))], scaled)
    last = conv(writer, quantize(writer, scaled, "again"), "conv2")
    found = audited("tflite", saved(writer, source, last, tmp_path / "a.tflite"))
    assert "MUL `scaled` computes in float before the last convolution" in found.violations
