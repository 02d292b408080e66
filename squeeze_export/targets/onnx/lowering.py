"""The operators of an ONNX file: in floats, in integers, and in both where a table keeps layers in float."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme
from squeeze_export.graph.weights import real_weights, symmetric_weights
from squeeze_export.targets.onnx.writer import Writer

_UINT8_IN_FLOAT = Quantization(1.0, 0)
_MIDDLE = 128
"""What `int8-symmetric` takes off the pixels: they are -128 to 127 then, with zero point 0, and the first bias makes up for it."""


def integer_body(writer: Writer, network: QuantizedGraph, scheme: Scheme, input_dtype: str) -> str:
    """Every operator between DequantizeLinear and QuantizeLinear, but for what the table keeps in float; the average pool in
    float unless the scheme wants integers. A tensor without a quantization is a float32 one of the same name. Returns the
    logits' name.
    """
    pixels = (_centred_pixels if scheme.symmetric else _byte_pixels)(writer, network.input.name, input_dtype)
    real = {network.input.name: pixels}
    for node in network.nodes:
        sources = [real[name] for name in node.inputs]
        if isinstance(node, GlobalAveragePool):
            return (
                _integer_mean(writer, network, node, sources[0]) if scheme.integer_output else _mean(writer, sources[0], node.name)
            )
        q = network.tensors.get(node.name)
        result = node.name if q is None else f"{node.name}/float"
        if isinstance(node, QuantizedConv):
            result = _integer_conv(writer, node, sources[0], network, scheme)
        elif isinstance(node, Conv):
            if q is not None and node.input in network.tensors:
                hint = f"calibrate again with --keep-float {node.name}"
                raise Refused(f"`{node.name}` is in float between integers: ONNX Runtime would round its weights", hint=hint)
            held = [writer.constant(f"{node.name}/weight", node.weight), writer.constant(f"{node.name}/bias", node.bias)]
            _float_conv(writer, node, [sources[0], *held], result)
        elif isinstance(node, MaxPool):
            _max_pool(writer, node, sources[0], result)
        else:
            _join(writer, node, sources, result)
        real[node.name] = result if q is None else writer.dequantize(writer.quantize(result, node.name, q), q)
    raise ValueError("the graph has no GlobalAveragePool")


def _byte_pixels(writer: Writer, source: str, input_dtype: str) -> str:
    """The pixels, (N, 3, H, W), out of a DequantizeLinear of scale 1."""
    pixels = writer.add("Transpose", [source], "pixels", perm=[0, 3, 1, 2])
    if input_dtype == "float32":
        pixels = writer.quantize(pixels, "pixels_uint8", _UINT8_IN_FLOAT)
    return writer.dequantize(pixels, _UINT8_IN_FLOAT)


def _centred_pixels(writer: Writer, source: str, input_dtype: str) -> str:
    """The same, 128 lower. TensorRT wants uint8 pixels to meet a Cast before anything else."""
    if input_dtype != "float32":
        source = writer.add("Cast", [source], "pixels_float", to=writer.onnx.TensorProto.FLOAT)
    pixels = writer.add("Transpose", [source], "pixels", perm=[0, 3, 1, 2])
    centred = writer.add("Sub", [pixels, writer.constant("pixels/middle", np.array(_MIDDLE, np.float32))], "pixels_centred")
    steps = Quantization(1.0, _MIDDLE)
    return writer.dequantize(writer.quantize(centred, "pixels_int8", steps), steps)


def _integer_mean(writer: Writer, network: QuantizedGraph, node: GlobalAveragePool, source: str) -> str:
    """(N, C, H, W) -> (N, C), an integer behind every operator; what leaves the file are the integers' real values."""
    q, pooled = network.tensors[node.name], f"{node.name}/pooled"
    writer.add("GlobalAveragePool", [source], f"{pooled}/float", name=f"{node.name}/pool")
    pool = writer.dequantize(writer.quantize(f"{pooled}/float", pooled, q), q)
    flat = writer.add("Flatten", [pool], f"{node.name}/float", name=f"{node.name}/flatten")
    return writer.dequantize(writer.quantize(flat, f"{node.name}/integers", q), q, node.name)


def _integer_conv(writer: Writer, conv: QuantizedConv, source: str, network: QuantizedGraph, scheme: Scheme) -> str:
    """Returns the name of what is to be quantized."""
    name, bias_steps = conv.name, conv.bias
    if scheme.symmetric and conv.input == network.input.name:
        if any(conv.pads):
            raise Refused(f"`{name}` is padded with pixels of value 0, which `{scheme.name}` cannot hold", hint="--scheme int8")
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
        writer.constant(f"{name}/bias/scale", np.asarray(np.float32(network.tensors[conv.input].scale) * scale)),
        writer.constant(f"zero_point_int32{channels}", np.zeros(scale.shape, np.int32)),
    ]
    inputs = [
        source,
        writer.add("DequantizeLinear", weight, f"{name}/weight/real", **axis),
        writer.add("DequantizeLinear", bias, f"{name}/bias/real", **axis),
    ]
    result = _conv(writer, conv, inputs, f"{name}/float")
    if conv.relu and network.tensors[name].zero_point:  # with the lowest integer for 0, QuantizeLinear's own saturation is the ReLU
        result = writer.add("Relu", [result], f"{name}/relu")
    return result


def float_body(
    writer: Writer, graph: Graph, pixels: str, input_dtype: str, scheme: Scheme, taps: frozenset[str] = frozenset()
) -> str:
    """Conv and Relu in the scheme's floats, for `w8` in float32; the average pool in float32. Returns the logits' name."""
    dtype = np.dtype(np.float32 if scheme.weight_bits else scheme.float_dtype)
    for conv in graph.convs if dtype == np.float16 else ():
        largest = max(np.abs(conv.weight).max(), np.abs(conv.bias).max())
        if largest > np.finfo(np.float16).max:
            raise Refused(f"the weights of `{conv.name}` reach `{largest:.4g}`, beyond float16", hint="export it in fp32")
    to = writer.onnx.helper.np_dtype_to_tensor_dtype
    if input_dtype != dtype.name:
        pixels = writer.add("Cast", [pixels], f"pixels_{dtype.name}", to=to(dtype))
    made = {graph.input.name: pixels}
    for node in graph.nodes:
        sources = [made[name] for name in node.inputs]
        name = f"{node.name}/nchw" if node.name in taps else node.name
        if isinstance(node, GlobalAveragePool):
            if dtype != np.float32:  # a mean of hundreds of values would lose what half precision has left
                sources = [writer.add("Cast", sources, f"{node.input}/float32", to=to(np.dtype(np.float32)))]
            return _mean(writer, sources[0], node.name)
        if isinstance(node, Conv):
            inputs = [sources[0], *_float_constants(writer, node, graph, scheme, dtype)]
            _float_conv(writer, node, inputs, name)
        elif isinstance(node, MaxPool):
            _max_pool(writer, node, sources[0], name)
        else:
            _join(writer, node, sources, name)
        made[node.name] = name
        if node.name in taps:
            writer.add("Transpose", [name], node.name, name=f"{node.name}/nhwc", perm=[0, 2, 3, 1])
    raise ValueError("the graph has no GlobalAveragePool")


def _float_conv(writer: Writer, conv: Conv, inputs: list[str], output: str) -> None:
    result = _conv(writer, conv, inputs, f"{conv.name}/conv" if conv.relu else output)
    if conv.relu:
        writer.add("Relu", [result], output, name=f"{conv.name}/relu")


def _conv(writer: Writer, conv: Conv | QuantizedConv, inputs: list[str], output: str) -> str:
    side, stride = [conv.kernel] * 2, [conv.stride] * 2
    return writer.add("Conv", inputs, output, name=conv.name, kernel_shape=side, strides=stride, pads=list(conv.pads))


def _max_pool(writer: Writer, pool: MaxPool, source: str, output: str) -> None:
    side, stride = [pool.kernel] * 2, [pool.stride] * 2
    writer.add("MaxPool", [source], output, name=pool.name, kernel_shape=side, strides=stride, pads=list(pool.pads))


def _join(writer: Writer, node: Concat | Add, sources: list[str], output: str) -> None:
    if isinstance(node, Concat):
        writer.add("Concat", sources, output, name=node.name, axis=1)
    else:
        writer.add("Add", sources, output, name=node.name)


def _mean(writer: Writer, source: str, output: str) -> str:
    """(N, C, H, W) -> (N, C). As fast as ReduceMean, and written alike in every opset."""
    return writer.add("Flatten", [writer.add("GlobalAveragePool", [source], f"{output}/pool")], output)


def _float_constants(writer: Writer, conv: Conv, graph: Graph, scheme: Scheme, dtype: np.dtype[Any]) -> list[str]:
    """Names of the weight, in 8 bits behind a DequantizeLinear where the scheme says so, and of the bias.

    conv1 reads raw pixels, far from 0 on average, so what rounding takes off its weights would come back as an offset: its bias
    makes up for that at the mean pixel (on v1.1 this halves the error of the logits).
    """
    name = f"{conv.name}/weight"
    weight: NDArray[np.generic] = conv.weight.astype(dtype)
    held = weight.astype(np.float64)
    if scheme.weight_bits:
        steps, scale = symmetric_weights(conv.weight)
        held = real_weights(steps, scale).astype(np.float64)
        zero = writer.constant(f"zero_point_int8_{len(scale)}", np.zeros(len(scale), np.int8))
        operands = [writer.constant(name, steps), writer.constant(f"{name}/scale", scale), zero]
        stored = writer.add("DequantizeLinear", operands, f"{name}/real", axis=0)
    else:
        stored = writer.constant(name, weight)
    bias = conv.bias.astype(np.float64)
    if conv.input == graph.input.name:
        mean = np.array(graph.preprocess.mean)  # in the network's order of channels; the graph reads RGB
        rgb = mean[::-1] if graph.preprocess.channel_order == "bgr" else mean
        bias -= ((held - conv.weight) * rgb[:, None, None]).sum(axis=(1, 2, 3))
    return [stored, writer.constant(f"{conv.name}/bias", bias.astype(dtype))]
