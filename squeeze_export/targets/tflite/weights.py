"""A convolution's constants as TFLite holds them: weights in OHWI and the bias, in each scheme's own form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import Preprocess
from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import Conv, QuantizedConv
from squeeze_export.graph.quantized import Quantization, Scheme
from squeeze_export.graph.weights import real_weights, symmetric_weights
from squeeze_export.targets.tflite.writer import Steps, Writer


def write_integers(writer: Writer, node: QuantizedConv, source: Quantization, scheme: Scheme) -> tuple[int, int]:
    """Adds the integers of a table.

    Args:
        writer: the file under construction.
        node: of the table.
        source: of what the convolution reads.
        scheme: the table's.

    Returns:
        Weight tensor, bias tensor.
    """
    # In float32, as the runtimes check it: bias scale = input scale * weight scale.
    scales = node.weight_scale[:1] if scheme.per_tensor else node.weight_scale
    products = np.float32(source.scale) * scales
    zeros = (0,) * len(scales)
    bias = node.bias.astype(np.int64 if scheme.activation_bits == 16 else np.int32)
    return (
        writer.constant(f"{node.name}/weight", node.weight.transpose(0, 2, 3, 1), Steps(tuple(scales.tolist()), zeros)),
        writer.constant(f"{node.name}/bias", bias, Steps(tuple(products.tolist()), zeros)),
    )


def write_floats(writer: Writer, node: Conv, scheme: Scheme, pixels: Preprocess | None) -> tuple[int, int]:
    """Adds float constants: as they are, or stored small and widened by a DEQUANTIZE. Of an integer scheme they are those of a
    layer kept in float, as they are.

    Args:
        writer: the file under construction.
        node: the convolution.
        scheme: the file's.
        pixels: how the photograph was prepared, where the convolution reads the pixels themselves.

    Returns:
        Weight tensor, bias tensor.

    Raises:
        Refused: a weight has no half.
    """
    names = (f"{node.name}/weight", f"{node.name}/bias")
    weight = node.weight.transpose(0, 2, 3, 1)
    if scheme.weight_bits and not scheme.integer:
        steps, scale = symmetric_weights(node.weight)
        stored = writer.constant(f"{names[0]}/int8", steps.transpose(0, 2, 3, 1), Steps(tuple(scale.tolist()), (0,) * len(scale)))
        widened = writer.tensor(names[0], weight.shape, "float32")
        writer.operator("DEQUANTIZE", 5, [stored], widened, ("DequantizeOptions", {}))  # version 5: a scale per channel
        held = real_weights(steps, scale).transpose(0, 2, 3, 1)
        return widened, writer.constant(names[1], node.bias if pixels is None else _recentred(node, held, pixels))
    if scheme.float_dtype != "float16":
        return writer.constant(names[0], weight), writer.constant(names[1], node.bias)
    if np.abs(weight).max() > np.finfo(np.float16).max:
        raise Refused(f"`{node.name}` has weights beyond float16's largest, 65504", hint="export it with --scheme fp32")
    half = weight.astype(np.float16)
    widened = writer.tensor(names[0], weight.shape, "float32")
    stored = writer.constant(f"{names[0]}/half", half)
    writer.operator("DEQUANTIZE", 3, [stored], widened, ("DequantizeOptions", {}))  # version 3 added float16
    return widened, writer.constant(names[1], node.bias if pixels is None else _recentred(node, half, pixels))


def _recentred(conv: Conv, held: NDArray[np.floating[Any]], preprocess: Preprocess) -> NDArray[np.float32]:
    """The bias of the first convolution with the mean folded in by its *rounded* weights (OHWI), as in the integer table.

    Pixels lie around the mean, not around 0, so rounding the weights shifts every output: 2.6 (v1.0) to 4 dB (v1.1) of the
    logits' SQNR.
    """
    mean = np.array(preprocess.mean if preprocess.channel_order == "rgb" else preprocess.mean[::-1], np.float64)
    lost = conv.weight.transpose(0, 2, 3, 1).astype(np.float64) - held
    bias: NDArray[np.float32] = (conv.bias + (lost * mean).sum(axis=(1, 2, 3))).astype(np.float32)
    return bias
