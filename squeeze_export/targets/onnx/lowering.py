"""The operators of an ONNX file: in floats, in integers, and in both where a table keeps layers in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import Concat, Conv, GlobalAveragePool, Graph, MaxPool, Pads, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme
from squeeze_export.graph.weights import half, stored_conv
from squeeze_export.targets.onnx.writer import Writer

_MIDDLE = 128
"""`int8-symmetric` subtracts it from the pixels, so that they are -128 to 127 with zero point 0; the first bias compensates."""
_NO_PADS: Pads = (0, 0, 0, 0)


def write_nodes(
    writer: Writer, network: Graph | QuantizedGraph, scheme: Scheme, input_dtype: str, taps: Collection[str] = ()
) -> str:
    """Writes every node. A tensor that the table quantizes passes QuantizeLinear and DequantizeLinear; any other is a float tensor
    named after its node. The average pool is float32 unless the scheme has integer logits.

    Args:
        writer: the file under construction.
        network: a `QuantizedGraph` for an integer scheme, else a `Graph`.
        scheme: how numbers are carried.
        input_dtype: `uint8` or `float32`.
        taps: nodes of a float network whose tensors are also wanted as (N, H, W, C), under the nodes' names.

    Returns:
        The name of the logits.

    Raises:
        Refused: see `targets.onnx.emit`.
    """
    steps: Mapping[str, Quantization] = network.tensors if isinstance(network, QuantizedGraph) else {}
    pads = _pixel_pads(network, scheme)
    real = {network.input.name: _pixels(writer, network.input.name, scheme, input_dtype, pads)}
    for node in network.nodes:
        sources = [real[name] for name in node.inputs]
        q = steps.get(node.name)
        result = f"{node.name}/nchw" if node.name in taps else node.name if q is None else f"{node.name}/float"
        if isinstance(node, GlobalAveragePool):
            real[node.name] = _mean(writer, node, sources[0], scheme) if q is None else _integer_mean(writer, node, sources[0], q)
            continue
        if isinstance(node, QuantizedConv):
            on_pixels = node.input == network.input.name
            conv = replace(node, pads=_NO_PADS) if on_pixels and any(pads) else node
            result = _integer_conv(writer, conv, sources[0], steps, scheme, reads_pixels=on_pixels)
        elif isinstance(node, Conv):
            if q is not None and node.input in steps:
                hint = f"calibrate again with --keep-float {node.name}"
                raise Refused(f"`{node.name}` is in float between integers: ONNX Runtime would round its weights", hint=hint)
            _float_conv(writer, node, sources[0], result, network, scheme)
        elif isinstance(node, MaxPool):
            writer.add("MaxPool", sources, result, name=node.name, **_window(node))
        elif isinstance(node, Concat):
            writer.add("Concat", sources, result, name=node.name, axis=1)
        else:
            relu = node.relu and (q is None or q.zero_point > 0)  # as behind a convolution
            total = writer.add("Add", sources, f"{node.name}/sum" if relu else result, name=node.name)
            if relu:
                writer.add("Relu", [total], result, name=f"{node.name}/relu")
        real[node.name] = result if q is None else writer.dequantize(writer.quantize(result, node.name, q), q)
        if node.name in taps:
            writer.add("Transpose", [result], node.name, name=f"{node.name}/nhwc", perm=[0, 2, 3, 1])
    if network.output.name not in real:
        raise ValueError("the graph has no GlobalAveragePool")
    return real[network.output.name]


def _compute_dtype(scheme: Scheme) -> np.dtype[Any]:
    """What operators compute in outside the integers. `w8` weights become float32."""
    return np.dtype(np.float32 if scheme.weight_bits else scheme.float_dtype)


def _pixel_pads(network: Graph | QuantizedGraph, scheme: Scheme) -> Pads:
    """The padding that pixels need themselves: where 128 is subtracted, a convolution's own zeros would be pixels of 128."""
    readers = [node for node in network.consumers[network.input.name] if isinstance(node, Conv | QuantizedConv)]
    found = {node.pads for node in readers if scheme.integer and scheme.symmetric} or {_NO_PADS}
    if len(found) > 1:
        names = " and ".join(f"`{node.name}`" for node in readers)
        raise Refused(f"{names} pad the pixels differently, which `{scheme.name}` cannot", hint="--scheme int8")
    return found.pop()


def _pixels(writer: Writer, source: str, scheme: Scheme, input_dtype: str, pads: Pads = _NO_PADS) -> str:
    """The pixels as floats, (N, 3, H, W); in an integer scheme they come out of a DequantizeLinear of scale 1."""
    if scheme.symmetric and input_dtype != "float32":  # TensorRT accepts uint8 pixels only where a Cast reads them first
        source = writer.cast(source, "pixels_float", np.dtype(np.float32))
    pixels = writer.add("Transpose", [source], "pixels", perm=[0, 3, 1, 2])
    if not scheme.integer:
        dtype = _compute_dtype(scheme)
        return pixels if input_dtype == dtype.name else writer.cast(pixels, f"pixels_{dtype.name}", dtype)
    if scheme.symmetric:
        if any(pads):
            amounts = writer.constant("pixels/pads", np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64))
            pixels = writer.add("Pad", [pixels, amounts], "pixels_padded")
        middle = writer.constant("pixels/middle", np.array(_MIDDLE, np.float32))
        centred = writer.add("Sub", [pixels, middle], "pixels_centred")
        q = Quantization(1.0, _MIDDLE)
        return writer.dequantize(writer.quantize(centred, "pixels_int8", q), q)
    q = Quantization(1.0, 0)
    return writer.dequantize(writer.quantize(pixels, "pixels_uint8", q) if input_dtype == "float32" else pixels, q)


def _mean(writer: Writer, node: GlobalAveragePool, source: str, scheme: Scheme) -> str:
    """(N, C, H, W) -> (N, C) float32. As fast as ReduceMean, and the same in every opset."""
    if _compute_dtype(scheme) != np.float32:  # float16 is too coarse for the sum of hundreds of values
        source = writer.cast(source, f"{node.input}/float32", np.dtype(np.float32))
    return writer.add("Flatten", [writer.add("GlobalAveragePool", [source], f"{node.name}/pool")], node.name)


def _integer_mean(writer: Writer, node: GlobalAveragePool, source: str, q: Quantization) -> str:
    """(N, C, H, W) -> (N, C): every operator gives integers, and the file's output is their real values."""
    pooled = f"{node.name}/pooled"
    writer.add("GlobalAveragePool", [source], f"{pooled}/float", name=f"{node.name}/pool")
    pool = writer.dequantize(writer.quantize(f"{pooled}/float", pooled, q), q)
    flat = writer.add("Flatten", [pool], f"{node.name}/float", name=f"{node.name}/flatten")
    return writer.dequantize(writer.quantize(flat, f"{node.name}/integers", q), q, node.name)


def _integer_conv(
    writer: Writer, conv: QuantizedConv, source: str, steps: Mapping[str, Quantization], scheme: Scheme, *, reads_pixels: bool
) -> str:
    """Returns the name of the float tensor that is to be quantized."""
    name, bias_steps = conv.name, conv.bias
    if scheme.symmetric and reads_pixels:
        bias_steps = bias_steps + _MIDDLE * conv.weight.sum(axis=(1, 2, 3), dtype=np.int32)
    scale = conv.weight_scale[0] if scheme.per_tensor else conv.weight_scale
    channels = "" if scheme.per_tensor else f"_{len(conv.bias)}"
    axis: dict[str, Any] = {} if scheme.per_tensor else {"axis": 0}
    weight = [
        writer.constant(f"{name}/weight", conv.weight),
        writer.constant(f"{name}/weight/scale", np.asarray(scale)),
        writer.constant(f"zero_point_int8{channels}", np.zeros(scale.shape, np.int8)),
    ]
    bias = [
        writer.constant(f"{name}/bias", bias_steps),
        writer.constant(f"{name}/bias/scale", np.asarray(np.float32(steps[conv.input].scale) * scale)),
        writer.constant(f"zero_point_int32{channels}", np.zeros(scale.shape, np.int32)),
    ]
    inputs = [
        source,
        writer.add("DequantizeLinear", weight, f"{name}/weight/real", **axis),
        writer.add("DequantizeLinear", bias, f"{name}/bias/real", **axis),
    ]
    result = writer.add("Conv", inputs, f"{name}/float", name=name, **_window(conv))
    if conv.relu and steps[name].zero_point:  # where the lowest integer means 0, QuantizeLinear's saturation is the ReLU
        result = writer.add("Relu", [result], f"{name}/relu")
    return result


def _float_conv(writer: Writer, conv: Conv, source: str, output: str, network: Graph | QuantizedGraph, scheme: Scheme) -> None:
    name, stored = f"{conv.name}/weight", stored_conv(conv, network, scheme)
    if stored.scale is None:
        weight = writer.constant(name, stored.weight)
    else:
        zero = writer.constant(f"zero_point_int8_{len(stored.scale)}", np.zeros(len(stored.scale), np.int8))
        operands = [writer.constant(name, stored.weight), writer.constant(f"{name}/scale", stored.scale), zero]
        weight = writer.add("DequantizeLinear", operands, f"{name}/real", axis=0)
    bias = half(stored.bias, conv) if stored.weight.dtype == np.float16 else stored.bias.astype(np.float32)
    inputs = [source, weight, writer.constant(f"{conv.name}/bias", bias)]
    result = writer.add("Conv", inputs, f"{conv.name}/conv" if conv.relu else output, name=conv.name, **_window(conv))
    if conv.relu:
        writer.add("Relu", [result], output, name=f"{conv.name}/relu")


def _window(node: Conv | QuantizedConv | MaxPool) -> dict[str, list[int]]:
    return {"kernel_shape": list(node.kernel), "strides": list(node.strides), "pads": list(node.pads)}
