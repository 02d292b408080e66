"""TensorFlow's own converter: full-integer post-training quantization.

The network is built from the graph with plain TensorFlow operators. The converter keeps its defaults: float32 logits after a
DEQUANTIZE. The result is repeatable: the same graph and images give the same bytes on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import FloatArray, require
from squeeze_export.errors import Refused
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool
from squeeze_export.peers import Source
from squeeze_export.peers.network import same_pads, with_mean_outside
from squeeze_export.peers.process import EXTRA

TARGET = "tflite"
PACKAGES = ("tensorflow-cpu", "tensorflow")
TOOL = "TensorFlow's converter"
METHODS: Mapping[str, str] = {
    "vendor": "tf.lite.TFLiteConverter, full integer: Optimize.DEFAULT, TFLITE_BUILTINS_INT8, uint8 in, float32 out",
}


def work(source: Source, recipe: str, folder: Path) -> bytes:
    """See `Peer.work`."""
    tf: Any = require("tensorflow", EXTRA)
    graph, mean = with_mean_outside(source)
    signature = tf.TensorSpec((1, *graph.input.shape[1:]), tf.float32, name=graph.input.name)
    module = tf.Module()
    module.network = tf.function(_network(tf, graph, mean), input_signature=[signature], autograph=False)

    def images() -> Iterator[list[FloatArray]]:
        for image in source.pixels:
            yield [image[None].astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.network.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    return bytes(converter.convert())


def _network(tf: Any, graph: Graph, mean: FloatArray) -> Callable[[Any], Mapping[str, Any]]:
    """The graph as a function of (1, H, W, 3) float32 pixels."""

    def run(pixels: Any) -> Mapping[str, Any]:
        values = {graph.input.name: pixels - mean}
        for node in graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if isinstance(node, Conv):
                padded, padding = _padding(tf, node, inputs[0], graph)
                kernel = tf.constant(node.weight.transpose(2, 3, 1, 0))
                result = tf.nn.bias_add(tf.nn.conv2d(padded, kernel, node.strides, padding), node.bias)
                result = tf.nn.relu(result) if node.relu else result
            elif isinstance(node, MaxPool):
                padded, padding = _padding(tf, node, inputs[0], graph)
                result = tf.nn.max_pool2d(padded, node.kernel, node.strides, padding)
            elif isinstance(node, Concat):
                result = tf.concat(inputs, 3)
            elif isinstance(node, Add):
                result = tf.add(*inputs)
                result = tf.nn.relu(result) if node.relu else result
            else:
                result = tf.reduce_mean(inputs[0], (1, 2))
            values[node.name] = result
        return {graph.output.name: values[graph.output.name]}

    return run


def _padding(tf: Any, node: Conv | MaxPool, source: Any, graph: Graph) -> tuple[Any, str]:
    """A tensor and TensorFlow's name for its padding. For padding without a name, zeros are added around a convolution's input."""
    if not any(node.pads):
        return source, "VALID"
    size = graph.sizes[node.inputs[0]]
    if node.pads == same_pads(size, node.kernel, node.strides):
        return source, "SAME"
    if isinstance(node, MaxPool):
        raise Refused(f"TensorFlow has no pool like `{node.name}`, padded by `{node.pads}` on `{size}`")
    top, left, bottom, right = node.pads
    return tf.pad(source, [(0, 0), (top, bottom), (left, right), (0, 0)]), "VALID"
