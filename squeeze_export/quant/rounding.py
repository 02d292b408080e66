"""Weights to int8: one symmetric scale per output channel, then rounding that makes up for its own error.

Column by column, the error made by rounding one weight is spread over the weights not yet rounded so that the layer's output on the
calibration images moves least (Frantar et al., "GPTQ", ICLR 2023, equations 2 and 3, after Hassibi's Optimal Brain Surgeon).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray

SHARES = np.linspace(1.0, 0.7, 7)
MAX_BIAS = 2**30
"""Biases stay well inside int32: acc + bias must not wrap."""
DAMPING = 0.01
BLOCK = 32


def weight_scales(weight: FloatArray, bias: FloatArray, power: NDArray[np.float64], input_scale: float, limit: int) -> FloatArray:
    """Per filter, the scale that minimises sum_k E[x_k^2] (w_k - s q_k)^2 when rounding to nearest.

    Args:
        weight: (O, K).
        bias: (O,), which bounds the scale from below: it must fit int32 at scale input_scale * s.
        power: (K,) mean square of each input.
        input_scale: of the input tensor.
        limit: the largest magnitude allowed: 127, or 64 where u8 x s8 pairs may saturate.

    Returns:
        (O,) float32, above 0 also for dead filters.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64)
    floor = np.maximum(np.abs(bias.astype(np.float64)) / (input_scale * MAX_BIAS), 1e-12)
    best = np.zeros(len(weight), np.float32)
    best_error = np.full(len(weight), np.inf)
    for share in SHARES:
        scale = np.maximum(largest * share / limit, floor).astype(np.float32)
        error = np.square(nearest(weight, scale, limit) * scale[:, None] - weight) @ power
        better = error < best_error
        best[better], best_error[better] = scale[better], error[better]
    return best


def nearest(weight: FloatArray, scale: FloatArray, limit: int) -> FloatArray:
    """(O, K) integers within +-limit, rounded to nearest, as float32."""
    rounded: FloatArray = np.clip(np.rint(weight / scale[:, None]), -limit, limit)
    return rounded


def compensated(weight: FloatArray, scale: FloatArray, limit: int, moment: NDArray[np.float64]) -> FloatArray:
    """Rounds with error compensation.

    Args:
        weight: (O, K).
        scale: (O,).
        limit: the largest magnitude allowed.
        moment: (K, K) second moment of the inputs, symmetric, positive semi-definite.

    Returns:
        (O, K) integers within +-limit, as float32.
    """
    order = np.argsort(-np.diag(moment), kind="stable")  # the inputs that matter most are rounded first
    upper = _inverse_factor(moment[np.ix_(order, order)])
    remaining = np.ascontiguousarray((weight / scale[:, None]).T[order])  # (K, O) in steps, so that rounding is np.rint
    rounded = np.empty_like(remaining)
    count = len(remaining)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.empty((stop - start, len(weight)), np.float32)
        for i in range(start, stop):
            np.clip(np.rint(remaining[i]), -limit, limit, out=rounded[i])
            error = errors[i - start] = (remaining[i] - rounded[i]) / upper[i, i]
            remaining[i + 1 : stop] -= upper[i, i + 1 : stop, None] * error
        remaining[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty_like(weight)
    result[:, order] = rounded.T
    return result


def _inverse_factor(moment: NDArray[np.float64]) -> FloatArray:
    """The upper Cholesky factor of the inverse; damped, so that inputs that never vary do no harm."""
    damped = moment + np.eye(len(moment)) * max(DAMPING * float(np.diag(moment).mean()), 1e-12)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T, np.float32)
