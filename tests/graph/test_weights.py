"""Weights in 8 bits, for files whose activations stay float."""

from __future__ import annotations

import numpy as np

from squeeze_export.graph.weights import real_weights, symmetric_weights


def test_by_hand() -> None:
    weight = np.array([[1.27, -0.635], [0, 0]], np.float32).reshape(2, 2, 1, 1)
    steps, scale = symmetric_weights(weight)
    assert steps.reshape(2, 2).tolist() == [[127, -64], [0, 0]]  # -63.5 to the even neighbour
    np.testing.assert_allclose(scale[0], 0.01)
    assert (scale > 0).all()  # of a dead filter too


def test_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 4, 3, 3)).astype(np.float32)
    steps, scale = symmetric_weights(weight)
    assert (np.abs(real_weights(steps, scale) - weight) <= 0.5001 * scale[:, None, None, None]).all()
    assert (np.abs(steps.astype(int)).max(axis=(1, 2, 3)) == 127).all()
