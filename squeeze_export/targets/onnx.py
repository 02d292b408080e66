"""ONNX. Floats as Conv and Relu; integers as QuantizeLinear / DequantizeLinear pairs around each operator (QDQ).

Activations are uint8: with int8 ones ONNX Runtime leaves every convolution in float on x86. Max-pools carry explicit pads,
which every runtime reads alike; `ceil_mode` they do not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export import __version__
from squeeze_export.core import Audit, EmitOptions, TensorSpec, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.nodes import Add, Concat, Conv, GlobalAveragePool, Graph, MaxPool, QuantizedConv
from squeeze_export.graph.quantized import Quantization, QuantizedGraph, Scheme

NAME = "onnx"
SUFFIX = ".onnx"
SCHEMES = ("fp32", "fp16", "int8")
RUNTIMES = ("onnxruntime",)
PACKAGES = ("onnx",)

OPSET = 13
"""The first with a scale per channel, which is all that int8 needs: readers from 2020 on open the file, those included that
stop short of opset 21 (16-bit QDQ). ONNX Runtime turns both into the same operators."""
IR_VERSION = 7
"""The one that belongs to opset 13. Written by hand: `onnx` would put its own newest, which older runtimes refuse."""

_DTYPES: Mapping[int, str] = {1: "float32", 2: "uint8"}  # TensorProto.FLOAT, TensorProto.UINT8
_UINT8_IN_FLOAT = Quantization(1.0, 0)


def emit(network: Graph | QuantizedGraph, scheme: Scheme, options: EmitOptions, metadata: Mapping[str, str]) -> bytes:
    """Writes the network as an ONNX model: (N, H, W, 3) pixels 0 to 255 in, (N, classes) float32 out.

    Args:
        network: a `QuantizedGraph` for int8, a `Graph` for fp32 and fp16.
        scheme: one of `SCHEMES`.
        options: the outer form. A dynamic batch is the symbolic dimension `N`.
        metadata: into `metadata_props`, sorted; `labels` is added as a JSON list where the network has labels.

    Returns:
        The file's bytes; the same arguments give the same bytes.

    Raises:
        BadInput: the scheme is not carried, or the batch is below 1.
        Refused: a weight is too large for float16.
        Unavailable: `onnx` is not installed.
    """
    if scheme.name not in SCHEMES:
        raise BadInput(f"ONNX files do not carry the scheme `{scheme.name}`", hint=f"one of: {', '.join(SCHEMES)}")
    if isinstance(options.batch, int) and options.batch < 1:
        raise BadInput(f"a batch of `{options.batch}` images", hint="--batch N with N at least 1, or --batch dynamic")
    if scheme.integer != isinstance(network, QuantizedGraph):
        raise ValueError(f"{type(network).__name__} for the scheme {scheme.name}")
    sheet = _Sheet(require("onnx", "onnx"))
    pixels = sheet.add("Transpose", [network.input.name], "pixels", perm=[0, 3, 1, 2])
    if isinstance(network, QuantizedGraph):
        logits = _integer_body(sheet, network, pixels, options.input_dtype)
    else:
        logits = _float_body(sheet, network, pixels, options.input_dtype, np.dtype(scheme.float_dtype))
    if options.softmax:
        logits = sheet.add("Softmax", [logits], "probabilities", axis=1)
    return sheet.model(network, options, {logits: (network.output.shape[1],)}, metadata)


def emit_with_taps(graph: Graph, names: Collection[str]) -> bytes:
    """Writes the float network for calibration: batch 1, fp32, and the named tensors as further outputs.

    Args:
        graph: the float graph.
        names: of tensors that nodes make.

    Returns:
        An ONNX model whose first output is the logits; then come the named tensors in the order in which the graph makes
        them, (1, H, W, C) each, under their own names.
    """
    sheet = _Sheet(require("onnx", "onnx"))
    pixels = sheet.add("Transpose", [graph.input.name], "pixels", perm=[0, 3, 1, 2])
    logits = _float_body(sheet, graph, pixels, "uint8", np.dtype(np.float32), taps=frozenset(names))
    taps = {node.name: graph.sizes[node.name] for node in graph.nodes if node.name in names}
    return sheet.model(graph, EmitOptions(), {logits: (graph.output.shape[1],), **taps}, {})


def describe(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output, read from the file.

    Raises:
        BadInput: no ONNX model, or not one image tensor in and one row of numbers out.
        Unavailable: `onnx` is not installed.
    """
    from squeeze_export.targets._onnx_audit import read_model

    model = read_model(require("onnx", "onnx"), path)
    specs = []
    for values, rank, layout in ((model.graph.input, 4, "NHWC"), (model.graph.output, 2, "NC")):
        tensor = values[0].type.tensor_type if len(values) == 1 else None
        if tensor is None or len(tensor.shape.dim) != rank or tensor.elem_type not in _DTYPES:
            side = "takes" if layout == "NHWC" else "gives"
            raise BadInput(f"`{path}` is none of ours: it {side} something else than one {layout} tensor of uint8 or float32")
        shape = tuple(dim.dim_param or int(dim.dim_value) for dim in tensor.shape.dim)
        dtype = _DTYPES[tensor.elem_type]
        scale, zero_point = (1.0, 0) if dtype == "uint8" else (None, None)
        specs.append(TensorSpec(values[0].name, shape, dtype, layout, scale, zero_point))
    return specs[0], specs[1]


def audit(path: Path) -> Audit:
    """What is inside the file; see `_onnx_audit`."""
    from squeeze_export.targets._onnx_audit import audit_model, read_model

    onnx = require("onnx", "onnx")
    return audit_model(onnx, read_model(onnx, path))


class _Sheet:
    """The model while it is being written: nodes in order, constants by name."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[np.generic]] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, operator: str, inputs: list[str], output: str, *, name: str = "", **attributes: object) -> str:
        """Adds a node, called after its output unless named. Returns the output."""
        self._nodes.append(self.onnx.helper.make_node(operator, inputs, [output], name=name or output, **attributes))
        return output

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Adds an initializer, or returns the name of one with the same content: a shared scale is one initializer."""
        found = self._known.setdefault((values.dtype.str, values.shape, values.tobytes()), name)
        if found == name:
            self._constants[name] = values
        return found

    def quantize(self, source: str, output: str, q: Quantization) -> str:
        """float -> uint8."""
        return self.add("QuantizeLinear", [source, *self._parameters(output, q)], output, name=f"{output}/quantize")

    def dequantize(self, source: str, q: Quantization) -> str:
        """uint8 -> float, under the name `source/real`."""
        return self.add("DequantizeLinear", [source, *self._parameters(source, q)], f"{source}/real")

    def _parameters(self, name: str, q: Quantization) -> list[str]:
        zero_point = self.constant(f"zero_point_{q.zero_point}", np.array(q.zero_point, np.uint8))
        return [self.constant(f"{name}/scale", np.array(q.scale, np.float32)), zero_point]

    def model(
        self,
        network: Graph | QuantizedGraph,
        options: EmitOptions,
        outputs: Mapping[str, tuple[int | str, ...]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """The finished file. `outputs`: name -> shape without the batch; all float32."""
        onnx, helper = self.onnx, self.onnx.helper
        batch = "N" if options.batch == "dynamic" else options.batch
        pixels = helper.np_dtype_to_tensor_dtype(np.dtype(options.input_dtype))
        graph = helper.make_graph(
            self._nodes,
            network.name,
            [helper.make_tensor_value_info(network.input.name, pixels, (batch, *network.input.shape[1:]))],
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (batch, *rest)) for name, rest in outputs.items()],
            [onnx.numpy_helper.from_array(values, name) for name, values in self._constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="squeeze-export",
            producer_version=__version__,
        )
        labels = {"labels": json.dumps(network.labels, ensure_ascii=False)} if network.labels else {}
        helper.set_model_props(model, dict(sorted({**metadata, **labels}.items())))
        return bytes(model.SerializeToString(deterministic=True))


def _integer_body(sheet: _Sheet, network: QuantizedGraph, pixels: str, input_dtype: str) -> str:
    """Every operator between DequantizeLinear and QuantizeLinear; the average pool in float. Returns the logits' name."""
    if input_dtype == "float32":
        pixels = sheet.quantize(pixels, "pixels_uint8", _UINT8_IN_FLOAT)
    real = {network.input.name: sheet.dequantize(pixels, network.tensors[network.input.name])}
    for node in network.nodes:
        sources = [real[name] for name in node.inputs]
        if isinstance(node, GlobalAveragePool):
            return _mean(sheet, sources[0], node.name)
        q, result = network.tensors[node.name], f"{node.name}/float"
        if isinstance(node, QuantizedConv):
            _integer_conv(sheet, node, sources[0], network.tensors[node.input])
            if node.relu and q.zero_point:  # with zero point 0, QuantizeLinear's own saturation is the ReLU
                result = sheet.add("Relu", [result], f"{node.name}/relu")
        elif isinstance(node, MaxPool):
            _max_pool(sheet, node, sources[0], result)
        else:
            _join(sheet, node, sources, result)
        real[node.name] = sheet.dequantize(sheet.quantize(result, node.name, q), q)
    raise ValueError("the graph has no GlobalAveragePool")


def _integer_conv(sheet: _Sheet, conv: QuantizedConv, source: str, q: Quantization) -> None:
    name, channels = conv.name, conv.weight.shape[0]
    weight = [
        sheet.constant(f"{name}/weight", conv.weight),
        sheet.constant(f"{name}/weight/scale", conv.weight_scale),
        sheet.constant(f"zero_point_int8_{channels}", np.zeros(channels, np.int8)),
    ]
    bias = [
        sheet.constant(f"{name}/bias", conv.bias),
        sheet.constant(f"{name}/bias/scale", np.float32(q.scale) * conv.weight_scale),
        sheet.constant(f"zero_point_int32_{channels}", np.zeros(channels, np.int32)),
    ]
    inputs = [
        source,
        sheet.add("DequantizeLinear", weight, f"{name}/weight/real", axis=0),
        sheet.add("DequantizeLinear", bias, f"{name}/bias/real", axis=0),
    ]
    _conv(sheet, conv, inputs, f"{name}/float")


def _float_body(
    sheet: _Sheet, graph: Graph, pixels: str, input_dtype: str, dtype: np.dtype[Any], taps: frozenset[str] = frozenset()
) -> str:
    """Conv and Relu in `dtype`; the average pool in float32. Returns the logits' name."""
    for conv in graph.convs if dtype == np.float16 else ():
        largest = max(np.abs(conv.weight).max(), np.abs(conv.bias).max())
        if largest > np.finfo(np.float16).max:
            raise Refused(f"the weights of `{conv.name}` reach `{largest:.4g}`, beyond float16", hint="export it in fp32")
    to = sheet.onnx.helper.np_dtype_to_tensor_dtype
    if input_dtype != dtype.name:
        pixels = sheet.add("Cast", [pixels], f"pixels_{dtype.name}", to=to(dtype))
    made = {graph.input.name: pixels}
    for node in graph.nodes:
        sources = [made[name] for name in node.inputs]
        name = f"{node.name}/nchw" if node.name in taps else node.name
        if isinstance(node, GlobalAveragePool):
            if dtype != np.float32:  # a mean of hundreds of values would lose what half precision has left
                sources = [sheet.add("Cast", sources, f"{node.input}/float32", to=to(np.dtype(np.float32)))]
            return _mean(sheet, sources[0], node.name)
        if isinstance(node, Conv):
            weight, bias = _rounded(node, graph, dtype)
            inputs = [sources[0], sheet.constant(f"{node.name}/weight", weight), sheet.constant(f"{node.name}/bias", bias)]
            result = _conv(sheet, node, inputs, f"{node.name}/conv" if node.relu else name)
            if node.relu:
                sheet.add("Relu", [result], name, name=f"{node.name}/relu")
        elif isinstance(node, MaxPool):
            _max_pool(sheet, node, sources[0], name)
        else:
            _join(sheet, node, sources, name)
        made[node.name] = name
        if node.name in taps:
            sheet.add("Transpose", [name], node.name, name=f"{node.name}/nhwc", perm=[0, 2, 3, 1])
    raise ValueError("the graph has no GlobalAveragePool")


def _conv(sheet: _Sheet, conv: Conv | QuantizedConv, inputs: list[str], output: str) -> str:
    side, stride = [conv.kernel] * 2, [conv.stride] * 2
    return sheet.add("Conv", inputs, output, name=conv.name, kernel_shape=side, strides=stride, pads=list(conv.pads))


def _max_pool(sheet: _Sheet, pool: MaxPool, source: str, output: str) -> None:
    side, stride = [pool.kernel] * 2, [pool.stride] * 2
    sheet.add("MaxPool", [source], output, name=pool.name, kernel_shape=side, strides=stride, pads=list(pool.pads))


def _join(sheet: _Sheet, node: Concat | Add, sources: list[str], output: str) -> None:
    if isinstance(node, Concat):
        sheet.add("Concat", sources, output, name=node.name, axis=1)
    else:
        sheet.add("Add", sources, output, name=node.name)


def _mean(sheet: _Sheet, source: str, output: str) -> str:
    """(N, C, H, W) -> (N, C). As fast as ReduceMean, and written alike in every opset."""
    return sheet.add("Flatten", [sheet.add("GlobalAveragePool", [source], f"{output}/pool")], output)


def _rounded(conv: Conv, graph: Graph, dtype: np.dtype[Any]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Weight and bias in `dtype`.

    conv1 reads raw pixels, far from 0 on average, so what rounding takes off its weights would come back as an offset: its bias
    makes up for that at the mean pixel (on v1.1 this halves the error of the logits).
    """
    weight, bias = conv.weight.astype(dtype), conv.bias.astype(np.float64)
    if conv.input == graph.input.name:
        mean = np.array(graph.preprocess.mean)  # in the network's order of channels; the graph reads RGB
        rgb = mean[::-1] if graph.preprocess.channel_order == "bgr" else mean
        bias -= ((weight.astype(np.float64) - conv.weight) * rgb[:, None, None]).sum(axis=(1, 2, 3))
    return weight, bias.astype(dtype)
