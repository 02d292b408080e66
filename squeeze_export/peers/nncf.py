"""Intel's NNCF: on the torch network converted by OpenVINO, on our fp32 OpenVINO model, and its accuracy-aware quantization.

NNCF and OpenVINO report their use to Google Analytics; this stops them before they are imported. The results are repeatable: the
same model and images give the same bytes on one machine.
Source: "Quantizing Models Post-training", https://docs.openvino.ai: models in OpenVINO's own format are supported best, so a torch
network is converted first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import ByteArray, require
from squeeze_export.files import Content, read_content
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.peers import Source
from squeeze_export.peers.network import with_mean_outside
from squeeze_export.peers.process import EXTRA

TARGET = "openvino"
PACKAGES = ("nncf", "openvino", "torch")
TOOL = "NNCF"
_MODEL_FILE = "model.xml"
MAX_DROP = 0.01
"""The allowed drop of top-1 accuracy, as a share of the images; NNCF's own default."""
_CONVERTED = "openvino.convert_model of the torch network, PrePostProcessor for uint8 pixels and the mean"
_DEFAULTS = "nncf.quantize, preset and fast bias correction as they come"
METHODS: Mapping[str, str] = {
    "vendor": f"{_CONVERTED}, then {_DEFAULTS}",
    "vendor-ir": f"our fp32 model, then {_DEFAULTS}",
    "vendor-accuracy": (
        f"{_CONVERTED}, then nncf.quantize_with_accuracy_control, max_drop {MAX_DROP}, validated by top-1 accuracy on labelled "
        "images"
    ),
}
LABELLED: tuple[str, ...] = ("vendor-accuracy",)
"""Takes minutes if layers must go back to float."""


def work(source: Source, recipe: str, folder: Path) -> Content:
    """See `Peer.work`."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # cannot be imported, so both use stubs of their own
    openvino: Any = require("openvino", EXTRA)
    nncf: Any = require("nncf", EXTRA)
    count, images = len(source.pixels), nncf.Dataset(source.pixels, lambda image: image[None])
    model = _read(openvino, source) if recipe == "vendor-ir" else _converted(openvino, source)
    if source.validation is None or source.labels is None or recipe not in LABELLED:
        quantized = nncf.quantize(model, images, subset_size=count)
    else:
        answered = nncf.Dataset(list(zip(source.validation, source.labels, strict=True)), lambda pair: pair[0][None])
        quantized = nncf.quantize_with_accuracy_control(model, images, answered, accuracy, max_drop=MAX_DROP, subset_size=count)
    product = folder / "product"
    # float16, the other way to save, would round what NNCF left in float.
    openvino.save_model(quantized, str(product / _MODEL_FILE), compress_to_fp16=False)
    return read_content(product)


def accuracy(model: Any, answered: Iterable[tuple[ByteArray, int]]) -> tuple[float, list[float]]:
    """Top-1 accuracy, for NNCF to validate a model.

    Args:
        model: compiled, with batch 1.
        answered: (H, W, 3) uint8 images with their class indices.

    Returns:
        The share of images that the model classifies correctly, 0 to 1; and 0 or 1 for each image.
    """
    hits = [float(np.argmax(next(iter(model(image[None]).values()))) == label) for image, label in answered]
    return float(np.mean(hits)), hits


def _converted(openvino: Any, source: Source) -> Any:
    """The torch network converted by OpenVINO, for (1, H, W, 3) uint8 pixels.

    The steps for pixels are added before NNCF sees the model. Added afterwards, they gave the same accuracy at the same speed (472
    photographs, v1.0 and v1.1); only the order of a FakeQuantize and a Transpose differs.
    """
    torch: Any = require("torch", EXTRA)
    graph, mean = with_mean_outside(source)
    height, width, channels = (int(side) for side in graph.input.shape[1:])
    shape = (1, channels, height, width)
    model = openvino.convert_model(torch_network(graph), example_input=torch.zeros(shape), input=shape)
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean.tolist())
    model = steps.build()
    for tensor, name in ((model.input(), graph.input.name), (model.output(), graph.output.name)):
        tensor.get_tensor().set_names({name})
    return model


def _read(openvino: Any, source: Source) -> Any:
    """Our model with `pixels - mean` before the convolutions that read the pixels, and the biases that match; see `network`."""
    model = openvino.Core().read_model(str(source.fp32 / _MODEL_FILE))
    graph, mean = with_mean_outside(source)
    op, operators = openvino.opset8, {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    first = [conv for conv in graph.convs if conv.input == graph.input.name]
    products = [operators[f"{conv.name}/product"] for conv in first]
    centred = op.subtract(products[0].input_value(0), op.constant(mean[None, :, None, None], name="mean"), name="centred")
    for conv, product in zip(first, products, strict=True):
        total = next(iter(product.output(0).get_target_inputs())).get_node()
        product.input(0).replace_source_output(centred.output(0))
        bias = op.constant(conv.bias[None, :, None, None], name=f"{conv.name}/centred/bias")
        total.input(1).replace_source_output(bias.output(0))
    return model
