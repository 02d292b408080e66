"""The emulated CPU without VNNI against python loops, and against what may never change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.core import CAFFE, TensorSpec
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import GlobalAveragePool, Pair, QuantizedConv
from squeeze_export.graph.quantized import INT8, Quantization, QuantizedGraph
from squeeze_export.graph.saturation import SaturatingProducts, pair_count, slots_at_risk


def clamped(value: int) -> int:
    return min(max(value, -32768), 32767)


def slow_error(conv: QuantizedConv, image: Any, zero_point: int) -> tuple[Any, int]:
    """(Ho, Wo, O) the saturated sums less the exact ones, and how many pairs saturated; image is (H, W, I)."""
    top, left, bottom, right = conv.pads
    out_channels, in_channels, rows, columns = conv.weight.shape
    down, across = conv.strides
    height = (image.shape[0] + top + bottom - rows) // down + 1
    width = (image.shape[1] + left + right - columns) // across + 1
    error, count = np.zeros((height, width, out_channels), np.int32), 0

    def value(row: int, column: int, channel: int) -> int:
        inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
        return int(image[row, column, channel]) if inside else zero_point

    for y, x, o in np.ndindex(height, width, out_channels):
        for i, j in np.ndindex(rows, columns):
            row, column = y * down + i - top, x * across + j - left
            for first in range(0, in_channels, 2):
                pair = sum(value(row, column, c) * int(conv.weight[o, c, i, j]) for c in range(first, min(first + 2, in_channels)))
                error[y, x, o] += clamped(pair) - pair
                count += clamped(pair) != pair
    return error, count


def one_conv(
    weight: Any, *, strides: Pair = (1, 1), pad: int = 0, zero_point: int = 0, size: tuple[int, int] = (5, 6)
) -> QuantizedGraph:
    weight = np.asarray(weight, np.int8)
    scale, bias = np.full(len(weight), 0.01, np.float32), np.zeros(len(weight), np.int32)
    conv = QuantizedConv("a", "input", weight, scale, bias, strides, (pad,) * 4, True)
    source = TensorSpec("input", ("N", *size, weight.shape[1]), "uint8", "NHWC", 1.0, 0)
    result = TensorSpec("logits", ("N", len(weight)), "float32", "NC")
    tensors = {"input": Quantization(1.0, zero_point), "a": Quantization(8.0, 0)}
    return QuantizedGraph("hand", (conv, GlobalAveragePool("logits", "a")), source, result, tensors, INT8, CAFFE, (), {})


def error_of(quantized: QuantizedGraph, image: Any) -> tuple[Any, int]:
    products = SaturatingProducts(quantized)
    error = products(quantized.convs[0], image[None])
    assert error.dtype == np.int32
    return error[0], products.saturated.get("a", 0)


# Weights at both ends and pixels near 255, so that saturation is the rule and not the exception.
weights = st.sampled_from([-128, -127, -90, -65, -64, -1, 0, 1, 63, 64, 65, 90, 127])
pixels = st.sampled_from([0, 1, 128, 250, 253, 254, 255])


@settings(max_examples=60)
@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 5),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(0, 1),
    st.sampled_from([0, 128, 255]),
)
def test_the_error_is_that_of_the_loop(
    data: st.DataObject, filters: int, channels: int, kernel: Pair, strides: Pair, pad: int, zero_point: int
) -> None:
    count = filters * channels * kernel[0] * kernel[1]
    drawn = data.draw(st.lists(weights, min_size=count, max_size=count))
    weight = np.array(drawn, np.int8).reshape(filters, channels, *kernel)
    image = np.array(data.draw(st.lists(pixels, min_size=20 * channels, max_size=20 * channels)), np.uint8).reshape(4, 5, channels)
    quantized = one_conv(weight, strides=strides, pad=pad, zero_point=zero_point, size=(4, 5))
    expected, expected_count = slow_error(quantized.convs[0], image, zero_point)
    error, saturated = error_of(quantized, image)
    np.testing.assert_array_equal(error, expected)
    assert saturated == expected_count


def test_the_loop_sees_saturation_at_both_ends() -> None:
    """What the comparison above is worth."""
    image = np.full((1, 1, 2), 255, np.uint8)
    for sign in (-1, 1):
        quantized = one_conv(np.full((1, 2, 1, 1), sign * 127), size=(1, 1))
        error, count = slow_error(quantized.convs[0], image, 0)
        assert count == 1
        assert np.sign(error.item()) == -sign


@pytest.mark.parametrize(
    ("pixel", "weight", "error"),
    [
        ((255, 255), (64, 64), 0),  # 32640
        ((255, 255), (64, 65), 32767 - 32895),
        ((255, 255), (127, 127), 32767 - 64770),
        ((255, 255), (-64, -64), 0),
        ((255, 255), (-64, -65), 32895 - 32768),
        ((255, 255), (127, -127), 0),
        ((255, 0), (127, 127), 0),
        ((129, 129), (127, 127), 0),  # 32766
        ((130, 129), (127, 127), 32767 - 32893),
    ],
)
def test_worked_by_hand(pixel: tuple[int, int], weight: tuple[int, int], error: int) -> None:
    quantized = one_conv(np.array(weight).reshape(1, 2, 1, 1), size=(1, 1))
    assert error_of(quantized, np.array(pixel, np.uint8).reshape(1, 1, 2))[0].item() == error


def test_neighbours_are_channels_0_and_1_then_2_and_3_and_a_last_one_stands_alone() -> None:
    image = np.full((1, 1, 3), 255, np.uint8)
    apart = one_conv(np.array([0, 127, 127]).reshape(1, 3, 1, 1), size=(1, 1))
    beside = one_conv(np.array([127, 127, 0]).reshape(1, 3, 1, 1), size=(1, 1))
    assert error_of(apart, image) == (0, 0)
    assert error_of(beside, image)[1] == 1


def test_two_positions_of_a_kernel_are_not_paired() -> None:
    quantized = one_conv(np.full((1, 1, 3, 3), 127))
    assert slots_at_risk(quantized.convs[0].weight) == ()
    assert error_of(quantized, np.full((5, 6, 1), 255, np.uint8))[1] == 0


def test_weights_within_64_are_never_at_risk() -> None:
    """Why the first layer's limit is 64."""
    assert slots_at_risk(np.full((4, 3, 7, 7), 64, np.int8)) == ()
    assert slots_at_risk(np.full((4, 3, 7, 7), -64, np.int8)) == ()
    assert len(slots_at_risk(np.full((4, 3, 7, 7), 65, np.int8))) == 7 * 7


def test_the_run_uses_it() -> None:
    quantized = one_conv(np.full((1, 2, 1, 1), 127), size=(1, 1))
    image = np.full((1, 1, 1, 2), 255, np.uint8)
    # 64770 * 0.01 / 8 = 80.96, to 81; 32767 * 0.01 / 8 = 40.96, to 41; a step is 8.
    assert IntegerRunner(quantized)(image).item() == 81 * 8
    assert IntegerRunner(quantized, SaturatingProducts(quantized))(image).item() == 41 * 8


def test_without_pairs_at_risk_the_run_is_the_exact_one() -> None:
    draw = np.random.default_rng(3)
    quantized = one_conv(draw.integers(-64, 65, (4, 6, 3, 3)), pad=1, strides=(2, 2))
    image = draw.integers(0, 256, (2, 5, 6, 6), np.uint8)
    products = SaturatingProducts(quantized)
    np.testing.assert_array_equal(IntegerRunner(quantized, products)(image), IntegerRunner(quantized)(image))
    assert products.saturated == {}


def test_counts_add_up_over_images_and_threads() -> None:
    quantized = one_conv(np.full((3, 2, 1, 1), 127), size=(5, 6))
    products = SaturatingProducts(quantized)
    run = IntegerRunner(quantized, products)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, [np.full((1, 5, 6, 2), 255, np.uint8)] * 20))
    assert products.saturated == {"a": 20 * 5 * 6 * 3}


def test_pairs_are_counted() -> None:
    quantized = one_conv(np.zeros((4, 3, 3, 3)), pad=1, strides=(2, 2))
    assert pair_count(quantized) == 3 * 3 * 4 * 9 * 2
    assert pair_count(one_conv(np.zeros((4, 3, 3, 2)), strides=(2, 1))) == 2 * 5 * 4 * 6 * 2
    twice = replace(quantized, nodes=(quantized.nodes[0], replace(quantized.convs[0], name="b"), quantized.nodes[1]))
    assert pair_count(twice) == 2 * pair_count(quantized)
