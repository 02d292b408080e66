"""Weights to integers: limits, dead filters, rounding that makes up for its own error, and bias correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.quant.rounding import MAX_BIAS, compensated, corrected_bias, nearest, weight_scales


def correlated_inputs(rng: Any, count: int, size: int, rank: int) -> Any:
    """(count, size) inputs that follow `rank` hidden ones, as neighbouring pixels and channels do."""
    return rng.normal(size=(count, rank)) @ rng.normal(size=(rank, size)) + 0.05 * rng.normal(size=(count, size))


def moment_of(inputs: Any) -> Any:
    return inputs.T @ inputs / len(inputs)


def output_error(weight: Any, scale: Any, integers: Any, moment: Any) -> float:
    """Sum over the filters of the mean squared error of the layer's output: d M d'."""
    difference = integers * scale[:, None].astype(np.float64) - weight
    return float(np.einsum("oi,ij,oj->", difference, moment, difference))


def drawn(seed: int, *, size: int, rank: int | None = None, filters: int = 6) -> tuple[Any, Any, Any]:
    """Weights, scales and moment."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.1, (filters, size)).astype(np.float32)
    moment = moment_of(correlated_inputs(rng, 400, size, rank or size))
    scale = weight_scales(weight, np.zeros(filters, np.float32), np.diag(moment).copy(), 1.0, 127)
    return weight, scale, moment


def test_a_shared_scale_is_the_best_one_for_all_filters() -> None:
    weight = np.random.default_rng(3).normal(0, 0.1, (6, 40)).astype(np.float32)
    bias, power = np.zeros(6, np.float32), np.ones(40)
    shared = weight_scales(weight, bias, power, 1.0, 127, shared=True)
    assert len(set(shared.tolist())) == 1

    def error(scale: Any) -> float:
        return float(np.square(nearest(weight, scale, 127) * scale[:, None] - weight).sum())

    largest = np.abs(weight).max() / 127
    assert error(shared) <= min(error(np.full(6, largest * share, np.float32)) for share in (1.0, 0.9, 0.8, 0.7)) * (1 + 1e-6)
    assert error(weight_scales(weight, bias, power, 1.0, 127)) < error(shared)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(1, 20))
def test_compensation_never_does_harm(seed: int, size: int, rank: int) -> None:
    weight, scale, moment = drawn(seed, size=size, rank=rank)
    plain = output_error(weight, scale, nearest(weight, scale, 127), moment)
    assert output_error(weight, scale, compensated(weight, scale, 127, moment), moment) <= 1.02 * plain


@pytest.mark.parametrize("size", [32, 64, 65, 200])  # within one block, at its end, and beyond
def test_compensation_pays_where_inputs_follow_each_other(size: int) -> None:
    weight, scale, moment = drawn(1, size=size, rank=4)
    plain = output_error(weight, scale, nearest(weight, scale, 127), moment)
    assert output_error(weight, scale, compensated(weight, scale, 127, moment), moment) < 0.3 * plain


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    weight, scale, _ = drawn(2, size=40)
    moment = np.diag(np.random.default_rng(2).uniform(0.5, 2, 40))
    np.testing.assert_array_equal(compensated(weight, scale, 127, moment), nearest(weight, scale, 127))


def test_compensation_by_hand() -> None:
    """Two inputs that are always equal: 1.4 rounds to 1, and the 0.4 left over makes the other 1.3 a 1.7, so 2."""
    weight = np.array([[1.4, 1.3]], np.float32)
    moment = np.array([[1.0, 0.999999], [0.999999, 1.0]])
    assert nearest(weight, np.ones(1, np.float32), 127).tolist() == [[1, 1]]
    assert compensated(weight, np.ones(1, np.float32), 127, moment).tolist() == [[1, 2]]


def test_inputs_that_matter_most_are_rounded_first() -> None:
    """The loud second input is rounded to nearest; only the quiet first one gives way."""
    weight = np.array([[1.4, 1.3]], np.float32)
    moment = np.array([[1.0, 1.99], [1.99, 4.0]])
    assert compensated(weight, np.ones(1, np.float32), 127, moment).tolist() == [[2, 1]]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 127]), st.floats(0.001, 3))
def test_limits_hold_whatever_the_scale(seed: int, limit: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, spread, (5, 70)).astype(np.float32)
    moment = moment_of(correlated_inputs(rng, 100, 70, 3))
    scale = np.full(5, 0.01, np.float32)
    for integers in (compensated(weight, scale, limit, moment), nearest(weight, scale, limit)):
        assert np.abs(integers).max() <= limit
        np.testing.assert_array_equal(integers, np.rint(integers))


@pytest.mark.parametrize(
    "moment", [np.zeros((20, 20)), np.ones((20, 20)), np.diag([1.0] + [0.0] * 19)], ids=["dead", "flat", "one"]
)
def test_inputs_that_never_vary_do_no_harm(moment: Any) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (4, 20)).astype(np.float32)
    scale = weight_scales(weight, np.zeros(4, np.float32), np.diag(moment).copy(), 1.0, 127)
    integers = compensated(weight, scale, 127, moment)
    assert np.isfinite(integers).all()
    assert np.abs(integers * scale[:, None] - weight).max() < 0.5


def test_rounding_changes_nothing_of_its_arguments() -> None:
    weight, scale, moment = drawn(3, size=10)
    copies = weight.copy(), moment.copy()
    compensated(weight, scale, 127, moment)
    np.testing.assert_array_equal(weight, copies[0])
    np.testing.assert_array_equal(moment, copies[1])


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 127]))
def test_scales_are_no_worse_than_the_largest_weights(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (6, 50)).astype(np.float32)
    power = rng.uniform(0, 4, 50)

    def error(scale: Any) -> Any:
        return np.square(nearest(weight, scale, limit) * scale[:, None] - weight) @ power

    scale = weight_scales(weight, np.zeros(6, np.float32), power, 1.0, limit)
    largest = np.abs(weight).max(axis=1)
    assert (error(scale) <= error((largest / limit).astype(np.float32)) * (1 + 1e-6)).all()
    assert (scale <= largest / limit * (1 + 1e-6)).all()
    assert (scale >= 0.7 * largest / limit * (1 - 1e-6)).all()


def test_an_outlier_on_a_silent_input_is_clipped() -> None:
    weight = np.array([[1.0, 0.25, 0.5, 0.75, -0.25]], np.float32)
    scale = weight_scales(weight, np.zeros(1, np.float32), np.array([0.0, 1, 1, 1, 1]), 1.0, 3)
    assert scale.tolist() == [0.25]  # all but the outlier without error


def test_dead_filters_have_a_scale_above_0() -> None:
    scale = weight_scales(np.zeros((2, 9), np.float32), np.array([0, 5], np.float32), np.ones(9), 0.5, 127)
    assert (scale > 0).all()
    np.testing.assert_array_equal(nearest(np.zeros((2, 9), np.float32), scale, 127), 0)


@settings(max_examples=60)
@given(st.floats(-1e6, 1e6, width=32), st.floats(1e-6, 1e3), st.sampled_from([0.0, 1e-20, 1e-6, 1.0]))
def test_the_bias_fits_int32(bias: float, input_scale: float, size: float) -> None:
    weight = np.full((1, 9), size, np.float32)
    scale = weight_scales(weight, np.array([bias], np.float32), np.ones(9), input_scale, 127)
    assert np.isfinite(scale).all()
    assert abs(bias / (input_scale * np.float64(scale[0]))) <= MAX_BIAS * (1 + 1e-6)


def test_nearest_by_hand() -> None:
    weight = np.array([[0.5, 1.5, -2.5, 9, -9]], np.float32)
    assert nearest(weight, np.ones(1, np.float32), 7).tolist() == [[0, 2, -2, 7, -7]]


def test_bias_correction_by_hand() -> None:
    # Wanted: 1 * 2 + 3 * 4 = 14. Given: 2 * 2.5 + 2 * 4 = 13. The bias makes up for the 1 that is missing.
    weight, rounded = np.array([[1.0, 3.0]], np.float32), np.array([[2.0, 2.0]], np.float32)
    found = corrected_bias(np.array([10], np.float32), weight, rounded, np.array([2.0, 4.0]), np.array([2.5, 4.0]))
    assert found.tolist() == [11.0]


def test_without_an_error_the_bias_stays() -> None:
    weight, mean = np.ones((3, 4), np.float32), np.arange(4.0)
    bias = np.array([0.1, -2, 7], np.float32)
    np.testing.assert_array_equal(corrected_bias(bias, weight, weight, mean, mean), bias.astype(np.float64))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_a_corrected_bias_gives_the_wanted_mean_output(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(0, 3, (50, 8))
    given_inputs = np.rint(inputs * 4) / 4
    weight, bias = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    rounded = np.rint(weight * 8) / np.float32(8)
    corrected = corrected_bias(bias, weight, rounded, inputs.mean(axis=0), given_inputs.mean(axis=0))
    wanted = (inputs @ weight.T + bias).mean(axis=0)
    np.testing.assert_allclose((given_inputs @ rounded.T + corrected).mean(axis=0), wanted, atol=1e-5)
    assert np.abs((given_inputs @ rounded.T + bias).mean(axis=0) - wanted).max() > 1e-4  # without it, they differ
