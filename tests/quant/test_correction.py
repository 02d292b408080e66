"""Bias correction: worked by hand, and that it takes the mean error away."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze_export.quant.correction import corrected_bias


def test_by_hand() -> None:
    # Wanted: 1 * 2 + 3 * 4 = 14. Given: 2 * 2.5 + 2 * 4 = 13. The bias makes up for the 1 that is missing.
    weight, rounded = np.array([[1.0, 3.0]], np.float32), np.array([[2.0, 2.0]], np.float32)
    found = corrected_bias(np.array([10], np.float32), weight, rounded, np.array([2.0, 4.0]), np.array([2.5, 4.0]))
    assert found.tolist() == [11.0]


def test_no_error_no_correction() -> None:
    weight, mean = np.ones((3, 4), np.float32), np.arange(4.0)
    bias = np.array([0.1, -2, 7], np.float32)
    np.testing.assert_array_equal(corrected_bias(bias, weight, weight, mean, mean), bias.astype(np.float64))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_mean_output_is_the_wanted_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(0, 3, (50, 8))
    given_inputs = np.rint(inputs * 4) / 4
    weight, bias = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    rounded = np.rint(weight * 8) / np.float32(8)
    corrected = corrected_bias(bias, weight, rounded, inputs.mean(axis=0), given_inputs.mean(axis=0))
    wanted = (inputs @ weight.T + bias).mean(axis=0)
    np.testing.assert_allclose((given_inputs @ rounded.T + corrected).mean(axis=0), wanted, atol=1e-5)
    assert np.abs((given_inputs @ rounded.T + bias).mean(axis=0) - wanted).max() > 1e-4  # without it, they differ
