"""Intel's NNCF on our fp32 OpenVINO model: its default, and its accuracy-aware quantization.

NNCF reports its use to Google Analytics unless it is stopped; here it is, before it is imported (see `_silenced`).
Both are repeatable: the same model and images give the same bytes on one machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import ByteArray, require
from squeeze_export.files import Content, read_content
from squeeze_export.peers import Source, method_of
from squeeze_export.peers._network import with_mean_outside
from squeeze_export.peers._process import EXTRA, run_apart, serve

NAME = "nncf"
TARGET = "openvino"
_TOOL = "NNCF"
_MODEL_FILE = "model.xml"
MAX_DROP = 0.01
"""Of the share of images with the fp32 model's top-1 class; NNCF's own default."""
_METHODS: Mapping[str, str] = {
    "vendor": "nncf.quantize, preset and fast bias correction as they come",
    "vendor-accuracy": (
        f"nncf.quantize_with_accuracy_control, max_drop {MAX_DROP}, validated by agreement with the fp32 model's top-1 class "
        "on the calibration images"
    ),
}
RECIPES = tuple(_METHODS)


def method(recipe: str) -> str:
    """What is done, in the vendor's words."""
    return method_of(_METHODS, recipe, _TOOL)


def quantize(source: Source, recipe: str) -> Content:
    """See `Peer.quantize`. The accuracy-aware recipe takes minutes where many layers have to go back to float."""
    method(recipe)
    return run_apart(__name__, source, recipe, tool=_TOOL)


def _work(source: Source, recipe: str, folder: Path) -> Content:
    _silenced()
    openvino: Any = require("openvino", EXTRA)
    nncf: Any = require("nncf", EXTRA)
    model = openvino.Core().read_model(str(source.fp32 / _MODEL_FILE))
    _take_mean_out(openvino, model, source)
    count = len(source.pixels)
    images = nncf.Dataset(source.pixels, lambda image: image[None])
    if recipe == "vendor":
        quantized = nncf.quantize(model, images, subset_size=count)
    else:
        reference = _compiled(openvino, model)
        pairs = [(image, _top1_class(reference, image)) for image in source.pixels]
        answered = nncf.Dataset(pairs, lambda pair: pair[0][None])
        quantized = nncf.quantize_with_accuracy_control(model, images, answered, agreement, max_drop=MAX_DROP, subset_size=count)
    product = folder / "product"
    # float16, the other way to save, would round what NNCF left in float.
    openvino.save_model(quantized, str(product / _MODEL_FILE), compress_to_fp16=False)
    return read_content(product)


def _silenced() -> None:
    """Makes `openvino_telemetry` impossible to import: NNCF and OpenVINO then use stubs of their own."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells "not to be imported"


def agreement(model: Any, answered: Iterable[tuple[ByteArray, int]]) -> tuple[float, list[float]]:
    """How NNCF validates a model: the share of images with the expected class.

    Args:
        model: compiled, of batch 1.
        answered: (H, W, 3) uint8 images and the class that is expected of each.

    Returns:
        The share, 0 to 1, and 0 or 1 for each image.
    """
    hits = [float(_top1_class(model, image) == expected) for image, expected in answered]
    return float(np.mean(hits)), hits


def _top1_class(model: Any, image: ByteArray) -> int:
    return int(np.argmax(next(iter(model(image[None]).values()))))


def _compiled(openvino: Any, model: Any) -> Any:
    """In real float32: by default the CPU computes in bfloat16 where it can."""
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _take_mean_out(openvino: Any, model: Any, source: Source) -> None:
    """Puts `pixels - mean` before the first convolution, and behind it the bias that goes with that; see `_network`."""
    graph, mean = with_mean_outside(source)
    op, convs = openvino.opset8, [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    total = next(iter(convs[0].output(0).get_target_inputs())).get_node()
    centred = op.subtract(convs[0].input_value(0), op.constant(mean[None, :, None, None], name="mean"), name="centred")
    convs[0].input(0).replace_source_output(centred.output(0))
    total.input(1).replace_source_output(op.constant(graph.convs[0].bias[None, :, None, None], name="centred/bias").output(0))


if __name__ == "__main__":
    serve(_work, tool=_TOOL)
