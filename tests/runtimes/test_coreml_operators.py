"""The evaluator's operators, each against an independent computation: by torch, by numpy or by hand; and what they refuse.

The programs are written by coremltools' own builder, but for those that it refuses to write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import coremltools, program_in, written

from squeeze_export.errors import Refused
from squeeze_export.formats.coreml.program import Operation, Program, Variable
from squeeze_export.formats.coreml.values import ELEMENTS, Constant, TensorType
from squeeze_export.formats.coreml.values import constant as held
from squeeze_export.runtimes.coreml.evaluator import Executable
from squeeze_export.runtimes.coreml.placement import read_placement


def noise(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def computed(folder: Path, build: Callable[[Any, Any], Any], source: Any, *, ios: int = 17, inner: str = "") -> Any:
    """What the evaluator makes of a program of a few operations: its output, or the tensor `inner`."""
    dtype = "fp16" if source.dtype == np.float16 else "fp32"
    program = program_in(written(folder, build, source.shape, dtype=dtype, ios=ios))
    return Executable(program, program.outputs[0]).run(source, [inner] if inner else [])[inner or program.outputs[0]]


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
    "sigmoid": (lambda mb, x, y: mb.sigmoid(x=x), lambda x: 1 / (1 + np.exp(-x.astype(np.float64)))),
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
    plan = Executable(program, "sum")
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


def value(array: Any, dtype: str = "") -> Constant:
    array = np.asarray(array)
    return held(array, dtype or ("string" if array.dtype.kind in "OU" else ""))


def integers(*values: int) -> Constant:
    return value(np.array(values, np.int32))


IMAGE = noise(1, 2, 4, 4)


def program_of(operation: Operation, shape: tuple[int, ...]) -> Program:
    """A program of one operation, made without coremltools, which refuses to write most of these."""
    return Program("CoreML7", (Variable("x", floats(shape)),), (operation,), ("y",))


def floats(shape: tuple[int | None, ...]) -> TensorType:
    return TensorType(ELEMENTS["float32"], shape)


def lone(operator: str, arguments: dict[str, Any], source: Any = IMAGE, declared: tuple[int | None, ...] | None = None) -> Any:
    """Runs one operation."""
    bound = {key: entry if isinstance(entry, tuple) else (entry,) for key, entry in arguments.items()}
    operation = Operation(operator, bound, (Variable("y", floats(declared or source.shape)),))
    return Executable(program_of(operation, source.shape), "y").run(source)["y"]


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
GREEDY: dict[str, tuple[str, dict[str, Any], Any, tuple[int | None, ...], str]] = {
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
        {"x": "x", "weight": value(np.broadcast_to(np.float32(0), (1, 2**20, 1, 1)))}
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
        {"x": "x", "y": value(np.broadcast_to(np.float32(0), (2**11, 1, 1, 1)))},
        FAR,
        (None, 2**20, 1, 1),
        "needs a result of",
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_what_would_fill_the_memory_is_refused_before_it_is_allocated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, arguments, source, declared, reason = GREEDY[name]

    def full(*_: object, **__: object) -> Any:
        raise AssertionError("it was allocated")

    monkeypatch.setattr(np, "full", full)
    with pytest.raises(Refused) as caught:
        lone(operator, arguments, source, declared)
    assert reason in caught.value.message


def test_the_single_operation_runs_where_nothing_is_wrong() -> None:
    """The control of the test above."""
    np.testing.assert_array_equal(lone("relu", {"x": "x"}), np.maximum(IMAGE, 0))
    expected = np.einsum("oi,bihw->bohw", KERNEL.array[:, :, 0, 0], IMAGE)
    found = lone("conv", {"x": "x", "weight": KERNEL}, declared=(1, 3, 4, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_written_on_the_spot_are_counted() -> None:
    operation = Operation("conv", {"x": ("x",), "weight": (KERNEL,)}, (Variable("y", floats((1, 3, 4, 4))),))
    pool = Operation("max_pool", {"x": ("y",)}, (Variable("z", floats((1, 3, 4, 4))),))
    program = program_of(operation, IMAGE.shape)
    placement = read_placement(replace(program, operations=(operation, pool)), "all")
    assert (placement.operator_count, placement.integer_mac_share) == (2, 0.0)
    assert placement.float_operators == ("conv y", "max_pool z")


def test_an_operation_of_two_results_is_refused() -> None:
    operation = Operation("relu", {"x": ("x",)}, tuple(Variable(name, floats(IMAGE.shape)) for name in "yz"))
    with pytest.raises(Refused, match="gives `2` results"):
        Executable(program_of(operation, IMAGE.shape), "y")
