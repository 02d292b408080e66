"""coremltools' own post-training quantization of weights and activations, by its `LinearQuantizer` for torch models.

Its other way, `coremltools.optimize.coreml.linear_quantize_activations`, runs the model in Core ML, and so only on Apple's systems.
This one, which Apple's guide describes as calibration for torch models, runs anywhere: observers collect the ranges, and nothing is
trained. The integers are repeatable; the package is not quite, because coremltools writes the date and random identifiers into it.
Source: "Calibration data based quantization", docs-guides/source/opt-quantization-api.md of github.com/apple/coremltools.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export.core import ByteArray, require
from squeeze_export.files import Content, read_content
from squeeze_export.graph.torch_network import torch_network
from squeeze_export.peers import Source
from squeeze_export.peers.network import with_mean_outside
from squeeze_export.peers.process import EXTRA

TARGET = "coreml"
PACKAGES = ("coremltools", "torch")
TOOL = "coremltools' quantizer"
BATCH = 32
"""Images at once. The observers average the extremes of batches (0.01 of each new one), so the batch size changes the ranges: with
one image at a time they are much too narrow (v1.1: 21 dB instead of 28).
"""
METHODS: Mapping[str, str] = {
    "vendor": (
        "coremltools.optimize.torch.quantization.LinearQuantizer, symmetric, moving_average_min_max, "
        f"calibrated in batches of {BATCH}, then coremltools.convert for iOS 17 (float16 in between)"
    ),
}


def work(source: Source, recipe: str, folder: Path) -> Content:
    """See `Peer.work`."""
    torch: Any = require("torch", EXTRA)
    # Its TensorFlow converter is not needed and costs seconds.
    ct: Any = require("coremltools", EXTRA, without=("tensorflow", "sklearn"))
    tool: Any = require("coremltools.optimize.torch.quantization", EXTRA)
    graph, mean = with_mean_outside(source)

    def centred(pixels: ByteArray) -> Any:
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2) - mean[:, None, None])

    # The first milestone starts the observers, the last freezes batch norms; those in between are never reached.
    settings = tool.ModuleLinearQuantizerConfig(quantization_scheme="symmetric", milestones=[0, 1000, 1000, 0])
    quantizer = tool.LinearQuantizer(torch_network(graph), tool.LinearQuantizerConfig(global_config=settings))
    example = centred(source.pixels[:1])
    observed = quantizer.prepare(example_inputs=(example,), inplace=False)
    quantizer.step()
    with torch.no_grad():
        for start in range(0, len(source.pixels), BATCH):
            observed(centred(source.pixels[start : start + BATCH]))
        observed.eval()
        traced = torch.jit.trace(quantizer.finalize(), example)
    height, width, channels = (int(side) for side in graph.input.shape[1:])
    grey = channels == 1
    bias, layout = (-float(mean[0]), ct.colorlayout.GRAYSCALE) if grey else ((-mean).tolist(), ct.colorlayout.RGB)
    image = ct.ImageType("image", (1, channels, height, width), bias=bias, color_layout=layout)
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
