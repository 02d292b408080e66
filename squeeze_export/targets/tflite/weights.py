"""A convolution's constants in TFLite: weights in OHWI and the bias, in the form of each scheme."""

from __future__ import annotations

import numpy as np

from squeeze_export.graph.nodes import Conv, Graph, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme
from squeeze_export.graph.weights import stored_conv
from squeeze_export.targets.tflite.writer import Steps, Writer


def write_integers(writer: Writer, node: QuantizedConv, source: Quantization, scheme: Scheme) -> tuple[int, int]:
    """Adds the constants of an integer convolution, whose input has the quantization `source`. Returns (weight, bias) tensors."""
    # In float32, as the runtimes check it: bias scale = input scale * weight scale.
    scales = node.weight_scale[:1] if scheme.per_tensor else node.weight_scale
    products = np.float32(source.scale) * scales
    zeros = (0,) * len(scales)
    bias = node.bias.astype(np.int64 if scheme.activation_bits == 16 else np.int32)
    return (
        writer.constant(f"{node.name}/weight", node.weight.transpose(0, 2, 3, 1), Steps(tuple(scales.tolist()), zeros)),
        writer.constant(f"{node.name}/bias", bias, Steps(tuple(products.tolist()), zeros)),
    )


def write_floats(writer: Writer, node: Conv, network: Graph | QuantizedGraph, scheme: Scheme) -> tuple[int, int]:
    """Adds the constants of a float convolution, with a DEQUANTIZE for weights that the scheme stores in fewer bits. Returns weight
    tensor and bias tensor.

    Raises:
        Refused: a weight is too large for float16.
    """
    name, stored = f"{node.name}/weight", stored_conv(node, network, scheme)
    weight = stored.weight.transpose(0, 2, 3, 1)
    if stored.scale is not None:
        small = writer.constant(f"{name}/int8", weight, Steps(tuple(stored.scale.tolist()), (0,) * len(stored.scale)))
        wide = writer.tensor(name, weight.shape, "float32")
        writer.operator("DEQUANTIZE", 5, [small], wide, ("DequantizeOptions", {}))  # version 5: a scale per channel
    elif weight.dtype == np.float16:
        wide = writer.tensor(name, weight.shape, "float32")
        small = writer.constant(f"{name}/half", weight)
        writer.operator("DEQUANTIZE", 3, [small], wide, ("DequantizeOptions", {}))  # version 3 added float16
    else:
        wide = writer.constant(name, weight)
    return wide, writer.constant(f"{node.name}/bias", stored.bias.astype(np.float32))
