"""Weights to int8: one symmetric scale per output channel, then rounding that makes up for its own error, also in the bias.

Column by column, the error made by rounding one weight is spread over the weights not yet rounded so that the layer's output on the
calibration images moves least (Frantar et al., "GPTQ", ICLR 2023, equations 2 and 3, after Hassibi's Optimal Brain Surgeon).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray

SHARES = np.linspace(1.0, 0.7, 7)
MAX_BIAS = 2**30
"""Biases stay well inside int32: acc + bias must not wrap."""
DAMPING = 0.01
BLOCK = 32


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a layer reads on the calibration images: K values a position, in float and as the integers before it give them.

    Attributes:
        mean: (K,) of the float values x.
        given_mean: (K,) of the given values x_q.
        power: (K,) mean square of x_q.
        moment: (K, K) E[(x_q - mean)(x_q - mean)^T], each less its own mean.
        error_moment: (K, K) E[(x - x_q)(x_q)^T], each less its own mean; None where it was not asked for.
    """

    mean: NDArray[np.float64]
    given_mean: NDArray[np.float64]
    power: NDArray[np.float64]
    moment: NDArray[np.float64]
    error_moment: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, exact: FloatArray, given: FloatArray, *, with_error: bool = False) -> Inputs:
        """From values at the same M positions, each (M, K)."""
        mean, given_mean = exact.mean(axis=0, dtype=np.float64), given.mean(axis=0, dtype=np.float64)
        centred = given - given_mean.astype(np.float32)
        return cls(
            mean,
            given_mean,
            np.square(given).mean(axis=0, dtype=np.float64),
            _product(centred, centred),
            _product(exact - mean.astype(np.float32) - centred, centred) if with_error else None,
        )

    def merged(self, other: Inputs, share: float) -> Inputs:
        """Both together; `share` (0 to 1) of the positions are this one's."""
        rest = 1 - share
        apart = self.given_mean - other.given_mean
        mean, given_mean = (share * a + rest * b for a, b in ((self.mean, other.mean), (self.given_mean, other.given_mean)))
        moment = share * self.moment + rest * other.moment + share * rest * np.outer(apart, apart)
        error_moment = None
        if self.error_moment is not None and other.error_moment is not None:
            between = np.outer(self.mean - other.mean - apart, apart)
            error_moment = share * self.error_moment + rest * other.error_moment + share * rest * between
        return Inputs(mean, given_mean, share * self.power + rest * other.power, moment, error_moment)


def _product(left: FloatArray, right: FloatArray) -> NDArray[np.float64]:
    """(K, K) mean over the positions of the outer products."""
    moment: NDArray[np.float64] = (left.T @ right).astype(np.float64) / len(left)
    return moment


def weight_rows(weight: FloatArray) -> FloatArray:
    """(O, I, k, k) weights as (O, K) rows, K = k * k * I as patches are laid out."""
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(len(weight), -1))


def weight_scales(
    weight: FloatArray, bias: FloatArray, power: NDArray[np.float64], input_scale: float, limit: int, *, shared: bool = False
) -> FloatArray:
    """Per filter, the scale that minimises sum_k E[x_k^2] (w_k - s q_k)^2 when rounding to nearest.

    Args:
        weight: (O, K).
        bias: (O,), which bounds the scale from below: it must fit int32 at scale input_scale * s.
        power: (K,) mean square of each input.
        input_scale: of the input tensor.
        limit: the largest magnitude allowed: 127, or 64 where u8 x s8 pairs may saturate.
        shared: one scale for all filters.

    Returns:
        (O,) float32, above 0 also for dead filters.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64)
    floor = np.maximum(np.abs(bias.astype(np.float64)) / (input_scale * MAX_BIAS), 1e-12)
    if shared:
        largest[:], floor[:] = largest.max(), floor.max()
    best = np.zeros(len(weight), np.float32)
    best_error = np.full(len(weight), np.inf)
    for share in SHARES:
        scale = np.maximum(largest * share / limit, floor).astype(np.float32)
        error = np.square(nearest(weight, scale, limit) * scale[:, None] - weight) @ power
        if shared:
            error[:] = error.sum()
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


def corrected_bias(
    bias: FloatArray,
    weight: FloatArray,
    quantized_weight: FloatArray,
    mean: NDArray[np.float64],
    quantized_mean: NDArray[np.float64],
) -> NDArray[np.float64]:
    """bias + W E[x] - W_q E[x_q]: the mean error that quantization adds to each output channel is taken off its bias.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, with the means
    measured on the calibration images instead of derived from batch norm.

    Args:
        bias: (O,).
        weight: (O, K) float weights.
        quantized_weight: (O, K) the real values of the integer weights.
        mean: (K,) mean of the float input as each weight sees it.
        quantized_mean: (K,) likewise of the quantized input.

    Returns:
        (O,) the corrected bias.
    """
    corrected: NDArray[np.float64] = bias.astype(np.float64) + weight.astype(np.float64) @ mean - quantized_weight @ quantized_mean
    return corrected


def _inverse_factor(moment: NDArray[np.float64]) -> FloatArray:
    """The upper Cholesky factor of the inverse; damped, so that inputs that never vary do no harm."""
    damped = moment + np.eye(len(moment)) * max(DAMPING * float(np.diag(moment).mean()), 1e-12)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T, np.float32)
