"""ONNX Runtime's static quantization of our fp32 file, with the pre-processing that its documentation recommends.

The settings are those that it documents for x86 with VNNI: QDQ, uint8 activations, int8 weights, per channel. The result is
repeatable: the same file and images give the same bytes on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_export.core import ByteArray, require
from squeeze_export.formats.onnx import opened
from squeeze_export.graph.nodes import Graph
from squeeze_export.peers import Source
from squeeze_export.peers.network import with_mean_outside
from squeeze_export.peers.process import EXTRA

TARGET = "onnx"
PACKAGES = ("onnxruntime", "onnx")
TOOL = "ONNX Runtime's quantizer"
_CALL = "onnxruntime.quantization.quantize_static after quant_pre_process, QDQ, per channel, uint8 activations, int8 weights"
_CALIBRATION: Mapping[str, str] = {"vendor": "MinMax", "vendor-percentile": "Percentile"}
METHODS: Mapping[str, str] = {recipe: f"{_CALL}, {calibration}" for recipe, calibration in _CALIBRATION.items()}

HISTOGRAM_BYTES = 500_000_000
"""Memory for the histogram calibrators, which keep all tensors of all images that they get at once."""


class Images:
    """A `CalibrationDataReader` of ONNX Runtime: gives one image at a time.

    Args:
        name: of the file's input.
        pixels: (N, H, W, 3) uint8.
        stride: images between two calls of `set_range`.
    """

    def __init__(self, name: str, pixels: ByteArray, stride: int) -> None:
        self._name, self._pixels, self._stride = name, pixels, stride
        self.set_range(0, len(self))

    def __len__(self) -> int:
        """The number of images, rounded up to a multiple of the stride, as ONNX Runtime requires."""
        return -(-len(self._pixels) // self._stride) * self._stride

    def set_range(self, start_index: int, end_index: int) -> None:
        """Restricts the images to a range; the last range may be shorter."""
        self._left = iter(self._pixels[start_index:end_index])

    def get_next(self) -> dict[str, ByteArray] | None:
        """The next image, or None after the last."""
        image = next(self._left, None)
        return None if image is None else {self._name: image[None]}


def histogram_stride(graph: Graph) -> int:
    """How many images fit in `HISTOGRAM_BYTES`. Each convolution's output is kept twice, before and after its ReLU."""
    values = sum(height * width * channels for height, width, channels in graph.sizes.values())
    return max(1, HISTOGRAM_BYTES // (2 * 4 * values))


def work(source: Source, recipe: str, folder: Path) -> bytes:
    """See `Peer.work`."""
    quantization: Any = require("onnxruntime.quantization", EXTRA)
    shapes: Any = require("onnxruntime.quantization.shape_inference", EXTRA)
    require("onnxruntime", EXTRA).disable_telemetry_events()
    network, prepared, product = (folder / f"{name}.onnx" for name in ("network", "prepared", "product"))
    _take_mean_out(require("onnx", EXTRA), source, network)
    shapes.quant_pre_process(str(network), str(prepared))
    stride, options = len(source.pixels), {}
    if _CALIBRATION[recipe] != "MinMax":
        stride = min(stride, histogram_stride(source.graph))
        options["CalibStridedMinMax"] = stride  # despite its name, for every calibrator
    quantization.quantize_static(
        str(prepared),
        str(product),
        Images(source.graph.input.name, source.pixels, stride),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod[_CALIBRATION[recipe]],
        extra_options=options,
    )
    return product.read_bytes()


def _take_mean_out(onnx: Any, source: Source, path: Path) -> None:
    """Writes the fp32 file with `pixels - mean` before the first convolution, and the bias that matches; see `network`."""
    graph, mean = with_mean_outside(source)
    model = opened(source.fp32).model
    nodes, constants = model.graph.node, {"mean": mean[None, :, None, None], "centred/bias": graph.convs[0].bias}
    index = next(number for number, node in enumerate(nodes) if node.op_type == "Conv")
    nodes.insert(index, onnx.helper.make_node("Sub", [nodes[index].input[0], "mean"], ["centred"], name="centred"))
    nodes[index + 1].input[0], nodes[index + 1].input[2] = "centred", "centred/bias"
    model.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in constants.items())
    onnx.save(model, str(path))
