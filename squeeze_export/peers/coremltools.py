"""coremltools' own post-training quantization of weights and activations, by its `LinearQuantizer` for torch models.

Its other way, `coremltools.optimize.coreml.linear_quantize_activations`, runs the model in Core ML and so on Apple's systems alone.
This one, the calibration that Apple's guide describes for torch models, runs anywhere: observers collect the ranges, nothing is
trained. The integers are repeatable; the package is not quite: coremltools writes the date and random identifiers into it.
Source: "Calibration data based quantization", docs-guides/source/opt-quantization-api.md of github.com/apple/coremltools.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import ByteArray, require
from squeeze_export.files import Content, read_content
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool
from squeeze_export.peers import Source, method_of
from squeeze_export.peers._network import with_mean_outside
from squeeze_export.peers._process import EXTRA, run_apart, serve

NAME = "coremltools"
TARGET = "coreml"
_TOOL = "coremltools' quantizer"
BATCH = 32
"""Images at once: the quantizer's observers average the extremes of batches (0.01 of each new one), so the batch has a say in
the ranges. Image by image they are much too narrow (v1.1: 21 dB instead of 28)."""
_METHODS: Mapping[str, str] = {
    "vendor": (
        "coremltools.optimize.torch.quantization.LinearQuantizer, symmetric, moving_average_min_max, "
        f"calibrated in batches of {BATCH}, then coremltools.convert for iOS 17 (float16 in between)"
    ),
}
RECIPES = tuple(_METHODS)


def method(recipe: str) -> str:
    """What is done, in the vendor's words."""
    return method_of(_METHODS, recipe, _TOOL)


def quantize(source: Source, recipe: str) -> Content:
    """See `Peer.quantize`."""
    method(recipe)
    return run_apart(__name__, source, recipe, tool=_TOOL)


def _work(source: Source, recipe: str, folder: Path) -> Content:
    torch: Any = require("torch", EXTRA)
    # Its TensorFlow converter is not needed and costs seconds.
    ct: Any = require("coremltools", EXTRA, without=("tensorflow", "sklearn"))
    tool: Any = require("coremltools.optimize.torch.quantization", EXTRA)
    graph, mean = with_mean_outside(source)

    def centred(pixels: ByteArray) -> Any:
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2) - mean[:, None, None])

    # The first milestone starts the observers, the last freezes batch norms; in between nothing is ever reached.
    settings = tool.ModuleLinearQuantizerConfig(quantization_scheme="symmetric", milestones=[0, 1000, 1000, 0])
    quantizer = tool.LinearQuantizer(_network(torch, graph), tool.LinearQuantizerConfig(global_config=settings))
    example = centred(source.pixels[:1])
    observed = quantizer.prepare(example_inputs=(example,), inplace=False)
    quantizer.step()
    with torch.no_grad():
        for start in range(0, len(source.pixels), BATCH):
            observed(centred(source.pixels[start : start + BATCH]))
        observed.eval()
        traced = torch.jit.trace(quantizer.finalize(), example)
    height, width, channels = (int(side) for side in graph.input.shape[1:])
    image = ct.ImageType("image", (1, channels, height, width), bias=(-mean).tolist(), color_layout=ct.colorlayout.RGB)
    package = ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=[image],
        outputs=[ct.TensorType(graph.output.name, dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    path = folder / "product.mlpackage"
    package.save(str(path))
    return read_content(path)


def _network(torch: Any, graph: Graph) -> Any:
    """The graph as a torch module of (N, 3, H, W) float32 pixels; gives (N, classes)."""
    nn, calls = torch.nn, torch.fx.Graph()
    modules: dict[str, Any] = {}
    values = {graph.input.name: calls.placeholder("image")}

    def call(name: str, module: Any, source: Any) -> Any:
        modules[name] = module
        return calls.call_module(name, (source,))

    for node in graph.nodes:
        inputs, name = [values[source] for source in node.inputs], node.name.replace("/", "_")
        if isinstance(node, Conv):
            result = call(name, _conv(torch, node), inputs[0])
            result = call(f"{name}_relu", nn.ReLU(), result) if node.relu else result
        elif isinstance(node, MaxPool):
            result = call(name, nn.MaxPool2d(node.kernel, node.stride, ceil_mode=any(node.pads)), inputs[0])
        elif isinstance(node, Concat):
            result = calls.call_function(torch.cat, (inputs, 1))
        elif isinstance(node, Add):
            result = calls.call_function(operator.add, tuple(inputs))
        else:
            result = call(name, nn.AdaptiveAvgPool2d(1), inputs[0])
            result = calls.call_function(torch.flatten, (result, 1))
        values[node.name] = result
    calls.output(values[graph.output.name])
    return torch.fx.GraphModule(modules, calls).eval()


def _conv(torch: Any, node: Conv) -> Any:
    out_channels, in_channels = node.weight.shape[:2]
    module = torch.nn.Conv2d(in_channels, out_channels, node.kernel, stride=node.stride, padding=node.pads[:2])
    module.load_state_dict({"weight": torch.from_numpy(node.weight.copy()), "bias": torch.from_numpy(node.bias.copy())})
    return module


if __name__ == "__main__":
    serve(_work, tool=_TOOL)
