"""Bias correction: the mean error that quantization adds to each output channel is taken off its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, with the means
measured on the calibration images instead of derived from batch norm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray


def corrected_bias(
    bias: FloatArray,
    weight: FloatArray,
    quantized_weight: FloatArray,
    mean: NDArray[np.float64],
    quantized_mean: NDArray[np.float64],
) -> NDArray[np.float64]:
    """bias + W E[x] - W_q E[x_q].

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
