"""The integer run against a slow, obvious one: python integers, loops, rounding written out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TensorSpec
from squeeze_export.graph import integer
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Concat, GlobalAveragePool, MaxPool, Pads, Pair, QuantizedConv, QuantizedNode
from squeeze_export.graph.quantized import INT8, Quantization, QuantizedGraph, requantization

PIXELS = Quantization(1.0, 0)


def half_even(value: float) -> int:
    """Rounds to nearest, halves to the even neighbour."""
    low = math.floor(value)
    rest = value - low
    return low if rest < 0.5 or (rest == 0.5 and low % 2 == 0) else low + 1


def clamp(value: int, low: int) -> int:
    return min(max(value, low), 255)


def slow_conv(conv: QuantizedConv, values: Any, source: Quantization, result: Quantization) -> Any:
    """(H, W, I) integers to (Ho, Wo, O); outside the map lies the real value 0, which adds nothing."""
    top, left, bottom, right = conv.pads
    (rows, columns), (down, across) = conv.weight.shape[2:], conv.strides
    height = (len(values) + top + bottom - rows) // down + 1
    width = (len(values[0]) + left + right - columns) // across + 1
    output = np.zeros((height, width, len(conv.bias)), np.uint8)
    for y, x, o in np.ndindex(output.shape):
        acc = int(conv.bias[o])
        for i, j, c in np.ndindex(rows, columns, conv.weight.shape[1]):
            row, column = y * down + i - top, x * across + j - left
            if 0 <= row < len(values) and 0 <= column < len(values[0]):
                acc += (int(values[row][column][c]) - source.zero_point) * int(conv.weight[o, c, i, j])
        multiplier = np.float32(np.float32(source.scale) * conv.weight_scale[o]) / np.float32(result.scale)
        scaled = half_even(float(np.float32(acc) * multiplier))
        output[y, x, o] = clamp(scaled + result.zero_point, result.zero_point if conv.relu else 0)
    return output


def slow_pool(pool: MaxPool, values: Any) -> Any:
    top, left, bottom, right = pool.pads
    (rows, columns), (down, across) = pool.kernel, pool.strides
    height = (values.shape[0] + top + bottom - rows) // down + 1
    width = (values.shape[1] + left + right - columns) // across + 1
    output = np.zeros((height, width, values.shape[2]), np.uint8)
    for y, x in np.ndindex(height, width):
        seen_rows = range(max(y * down - top, 0), min(y * down - top + rows, values.shape[0]))
        seen_columns = range(max(x * across - left, 0), min(x * across - left + columns, values.shape[1]))
        output[y, x] = np.max([values[i, j] for i in seen_rows for j in seen_columns], axis=0)
    return output


def slow_add(values: list[Any], operands: list[Quantization], result: Quantization, relu: bool = False) -> Any:
    output, low = np.zeros(values[0].shape, np.uint8), result.zero_point if relu else 0
    for at in np.ndindex(output.shape):
        real = [np.float32(int(v[at]) - q.zero_point) * np.float32(q.scale) for v, q in zip(values, operands, strict=True)]
        output[at] = clamp(half_even(float((real[0] + real[1]) / np.float32(result.scale))) + result.zero_point, low)
    return output


def slow_run(quantized: QuantizedGraph, image: Any) -> dict[str, Any]:
    """Every tensor of one image, (H, W, C); the logits are (classes,)."""
    values: dict[str, Any] = {"input": image}
    q = quantized.tensors
    for node in quantized.nodes:
        sources = [values[name] for name in node.inputs]
        if isinstance(node, QuantizedConv):
            values[node.name] = slow_conv(node, sources[0], q[node.input], q[node.name])
        elif isinstance(node, MaxPool):
            values[node.name] = slow_pool(node, sources[0])
        elif isinstance(node, Concat):
            values[node.name] = np.concatenate(sources, axis=2)
        elif isinstance(node, Add):
            values[node.name] = slow_add(sources, [q[name] for name in node.inputs], q[node.name], node.relu)
        else:
            total = sources[0].astype(int).sum(axis=(0, 1)) / (sources[0].shape[0] * sources[0].shape[1])
            values[node.name] = ((total - q[node.inputs[0]].zero_point) * q[node.inputs[0]].scale).astype(np.float32)
    return values


def graph_of(
    nodes: tuple[QuantizedNode, ...], tensors: Mapping[str, Quantization], size: tuple[int, int] = (7, 8)
) -> QuantizedGraph:
    source = TensorSpec("input", ("N", *size, 3), "uint8", "NHWC", 1.0, 0)
    result = TensorSpec("logits", ("N", 4), "float32", "NC")
    return QuantizedGraph("hand", nodes, source, result, {"input": PIXELS, **tensors}, INT8, CAFFE, (), {})


def random_conv(
    rng: Any, name: str, source: str, channels: tuple[int, int], kernel: Pair, strides: Pair, pads: Pads, relu: bool
) -> QuantizedConv:
    weight = rng.integers(-127, 128, (channels[1], channels[0], *kernel), np.int8)
    scale = rng.uniform(0.001, 0.02, channels[1]).astype(np.float32)
    bias = rng.integers(-(2**14), 2**14, channels[1], np.int32)
    return QuantizedConv(name, source, weight, scale, bias, strides, pads, relu)


def random_network(seed: int) -> QuantizedGraph:
    """Every kind of node, with zero points, a signed bypass and scales that do saturate; no window needs to be square."""
    rng = np.random.default_rng(seed)

    def drawn(low: int, high: int, count: int = 2) -> Any:
        return tuple(rng.integers(low, high, count).tolist())

    point, none = (1, 1), (0, 0, 0, 0)
    nodes: tuple[QuantizedNode, ...] = (
        random_conv(rng, "a", "input", (3, 4), drawn(1, 4), drawn(1, 3), drawn(0, 3, 4), bool(rng.integers(2))),
        MaxPool("pool", "a", drawn(2, 4), drawn(1, 3), drawn(0, 2, 4)),
        random_conv(rng, "b", "pool", (4, 2), point, point, none, True),
        random_conv(rng, "c", "pool", (4, 1), (3, 1), point, (2, 0, 0, 0), True),
        random_conv(rng, "d", "pool", (4, 1), (1, 2), point, (0, 1, 0, 0), True),
        Concat("joined", ("b", "c", "d")),
        random_conv(rng, "bypass", "pool", (4, 4), point, point, none, False),
        Add("sum", ("joined", "bypass"), bool(rng.integers(2))),
        GlobalAveragePool("logits", "sum"),
    )

    def steps() -> Quantization:
        return Quantization(float(np.float32(rng.uniform(0.5, 20))), int(rng.integers(0, 256)))

    first, joined = steps(), steps()
    shared = {"a": first, "pool": first} | dict.fromkeys(("b", "c", "d", "joined"), joined)
    return graph_of(nodes, shared | {"bypass": steps(), "sum": steps()})


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_every_tensor_equals_the_slow_run(seed: int) -> None:
    quantized = random_network(seed)
    image = np.random.default_rng(seed).integers(0, 256, (7, 8, 3), np.uint8)
    expected = slow_run(quantized, image)
    seen: dict[str, Any] = {}
    logits = IntegerRunner(quantized)(image[None], seen.__setitem__)
    assert list(seen) == [node.name for node in quantized.nodes[:-1]]
    for name, values in seen.items():
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(values[0], expected[name], err_msg=name)
    np.testing.assert_array_equal(logits, expected["logits"][None])


def test_the_slow_run_sees_saturation_and_zero_points() -> None:
    """What the comparison above is worth: over its seeds the interesting cases do occur."""
    found = []
    for seed in range(20):
        quantized = random_network(seed)
        values = slow_run(quantized, np.random.default_rng(seed).integers(0, 256, (7, 8, 3), np.uint8))
        found += [(values[name] == edge).any() for name in ("bypass", "sum") for edge in (0, 255)]
        assert len({q.zero_point for q in quantized.tensors.values()}) > 2
    assert any(found[0::4])
    assert any(found[1::4])
    assert any(found[2::4])
    assert any(found[3::4])


def one_conv(weight: Any, bias: Any, scale: float, *, relu: bool = True, result: Quantization = PIXELS) -> QuantizedGraph:
    """A 1x1 convolution with one weight scale, the average pool behind it."""
    weight = np.asarray(weight, np.int8).reshape(len(bias), 3, 1, 1)
    scales = np.full(len(bias), scale, np.float32)
    conv = QuantizedConv("a", "input", weight, scales, np.asarray(bias, np.int32), (1, 1), (0, 0, 0, 0), relu)
    return graph_of((conv, GlobalAveragePool("logits", "a")), {"a": result}, (1, 1))


def integers_of(quantized: QuantizedGraph, *pixel: int) -> list[int]:
    seen: dict[str, Any] = {}
    IntegerRunner(quantized)(np.array(pixel, np.uint8).reshape(1, 1, 1, 3), seen.__setitem__)
    return [int(value) for value in seen["a"].ravel()]


def test_worked_by_hand() -> None:
    # Filter 0: 10 + 2 * 20 - 30 + 5 = 25, halved: 12.5, to the even 12. Filter 1: 3 * 10 - 3 = 27: 13.5, to 14.
    quantized = one_conv([[1, 2, -1], [3, 0, 0]], [5, -3], 0.5)
    assert integers_of(quantized, 10, 20, 30) == [12, 14]
    np.testing.assert_array_equal(IntegerRunner(quantized)(np.array([[[[10, 20, 30]]]], np.uint8)), [[12, 14]])


def test_halves_go_to_the_even_neighbour() -> None:
    assert [integers_of(one_conv([[1, 0, 0]], [0], 0.5), value, 0, 0)[0] for value in (1, 3, 5, 7)] == [0, 2, 2, 4]


def test_results_saturate_at_both_ends() -> None:
    weight = [[1, 0, 0], [-1, 0, 0]]
    assert integers_of(one_conv(weight, [0, 0], 2.0, relu=False), 200, 0, 0) == [255, 0]


def test_relu_cuts_at_the_zero_point_not_at_0() -> None:
    weight, result = [[1, 0, 0], [-1, 0, 0]], Quantization(1.0, 100)
    assert integers_of(one_conv(weight, [0, 0], 1.0, result=result), 30, 0, 0) == [130, 100]
    assert integers_of(one_conv(weight, [0, 0], 1.0, result=result, relu=False), 30, 0, 0) == [130, 70]


def test_logits_are_the_real_mean_around_the_zero_point() -> None:
    quantized = one_conv([[1, 0, 0]], [0], 0.5, result=Quantization(0.5, 7))
    # 8 * 0.5 / 0.5 + 7 = 15; (15 - 7) * 0.5 = 4.
    np.testing.assert_array_equal(IntegerRunner(quantized)(np.array([[[[8, 0, 0]]]], np.uint8)), [[4.0]])


def test_add_by_hand() -> None:
    first, second, result = Quantization(0.5, 0), Quantization(0.25, 128), Quantization(1.0, 10)
    found = slow_add([np.array([[[9]]]), np.array([[[118]]])], [first, second], result)
    assert found.item() == 12  # 4.5 - 2.5 = 2 on a step of 1, above 10
    nodes: tuple[QuantizedNode, ...] = (
        replace(one_conv([[1, 0, 0]], [0], 0.5).convs[0], name="x"),
        replace(one_conv([[0, 1, 0]], [0], 0.25).convs[0], name="y", relu=False),
        Add("sum", ("x", "y")),
        GlobalAveragePool("logits", "sum"),
    )
    quantized = graph_of(nodes, {"x": first, "y": second, "sum": result}, (1, 1))
    seen: dict[str, Any] = {}
    IntegerRunner(quantized)(np.array([[[[9, 246, 0]]]], np.uint8), seen.__setitem__)
    # y: 246 + 128 saturates at 255, so 9 * 0.5 + 127 * 0.25 = 36.25, to 36, above 10.
    assert [int(seen[name].item()) for name in ("x", "y", "sum")] == [9, 255, 46]


def beyond_float32() -> tuple[QuantizedGraph, Any]:
    """Sums of 40 * 40 * 3 products of 255 * 127, taken back by the bias to 3: float32 would lose the difference."""
    conv = QuantizedConv(
        "a",
        "input",
        np.full((1, 3, 40, 40), 127, np.int8),
        np.ones(1, np.float32),
        np.array([3 - (40 * 40 * 3 * 255 * 127 - 127)], np.int32),
        (1, 1),
        (0, 0, 0, 0),
        True,
    )
    image = np.full((1, 40, 40, 3), 255, np.uint8)
    image[0, 17, 3, 1] = 254
    return graph_of((conv, GlobalAveragePool("logits", "a")), {"a": PIXELS}, (40, 40)), image


def test_sums_beyond_float32_are_exact() -> None:
    quantized, image = beyond_float32()
    np.testing.assert_array_equal(IntegerRunner(quantized)(image), [[3]])


def test_float32_alone_would_lose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the choice of the wider float is what the test above tests."""
    monkeypatch.setattr(integer, "_FLOAT32_EXACT", 2**62)
    quantized, image = beyond_float32()
    assert IntegerRunner(quantized)(image).item() != 3


def test_both_floats_give_the_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = random_network(5)
    pixels = np.random.default_rng(5).integers(0, 256, (2, 7, 8, 3), np.uint8)
    expected = IntegerRunner(quantized)(pixels)
    monkeypatch.setattr(integer, "_FLOAT32_EXACT", 0)
    np.testing.assert_array_equal(IntegerRunner(quantized)(pixels), expected)


def test_requantization_is_float32_arithmetic() -> None:
    conv = replace(one_conv([[1, 0, 0]], [0], 0.1).convs[0])
    found = requantization(conv, {"input": Quantization(float(np.float32(0.3)), 0), "a": Quantization(float(np.float32(0.7)), 0)})
    assert found.dtype == np.float32
    assert found.tolist() == [float((np.float32(0.3) * np.float32(0.1)) / np.float32(0.7))]


def test_a_graph_without_an_average_pool_is_a_bug() -> None:
    quantized = one_conv([[1, 0, 0]], [0], 0.5)
    with pytest.raises(ValueError, match="no GlobalAveragePool"):
        IntegerRunner(replace(quantized, nodes=quantized.nodes[:-1]))(np.zeros((1, 1, 1, 3), np.uint8))
