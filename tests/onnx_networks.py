"""Networks of any graph, as torch's exporter writes them, and what ONNX Runtime makes of the very files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from squeeze_export.core import Preprocess
from squeeze_export.formats.onnx import parsed
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.onnx_graph import OnnxGraph, graph_of, preprocess_of, read_graph

IMAGES = 24
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


class Net(nn.Module):
    """Layers, and what is done with them: `steps(net, x)`."""

    def __init__(self, steps: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.steps = steps
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Any) -> Any:
        return self.steps(self, x)


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in evaluation, its BatchNorms as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(part.num_features, generator=generator) * 0.2
            part.running_var = torch.rand(part.num_features, generator=generator) + 0.5
            part.weight.data = torch.rand(part.num_features, generator=generator) + 0.5
            part.bias.data = torch.randn(part.num_features, generator=generator) * 0.3
    return module.eval()


def exported(module: nn.Module, shape: tuple[int, ...], *, opset: int = 17, dtype: Any = torch.float32, **options: Any) -> Any:
    """The message that torch's exporter makes of a module."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, torch.zeros(1, *shape, dtype=dtype), stream, dynamo=False, opset_version=opset, input_names=["image"], **options
        )
    return onnx.load_model_from_string(stream.getvalue())


def read(model: Any, size: tuple[int, int] | None = None, folder: Path | None = None) -> OnnxGraph:
    return read_graph(parsed(model.SerializeToString(), "net.onnx", folder), "net.onnx", size)


def preprocess_for(found: OnnxGraph) -> Preprocess:
    """What the file is fed with here: 0 to 1 where it normalizes by itself, otherwise pixels normalized by `MEAN` and `STD`."""
    height, width, channels = found.size
    if found.normalizes or found.byte_input:
        return preprocess_of(found)[0]
    order = "gray" if channels == 1 else "rgb"
    return Preprocess(height, height, "bilinear", order, MEAN[:channels], STD[:channels], width)  # type: ignore[arg-type]


def built(found: OnnxGraph) -> Graph:
    return graph_of(found, preprocess_for(found), name="net")


def drawn(found: OnnxGraph, count: int = IMAGES, seed: int = 3) -> Any:
    height, width, channels = found.size
    rough = np.random.default_rng(seed).integers(0, 256, (count, -(-height // 4), -(-width // 4), channels), np.uint8)
    return rough.repeat(4, 1).repeat(4, 2)[:, :height, :width]


def fed(found: OnnxGraph, pixels: Any) -> Any:
    """The file's own input for these pixels, (N, C, H, W)."""
    if found.byte_input:
        return pixels.transpose(0, 3, 1, 2)
    preprocess, channels = preprocess_for(found), found.size[2]
    mean, std = (0.0, 255.0) if found.normalizes else (np.array(preprocess.mean[:channels]), np.array(preprocess.std[:channels]))
    return ((pixels - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)


def their_answers(model: Any, batch: Any) -> Any:
    """ONNX Runtime's, image by image: torch fixes the batch at 1."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"image": image[None]})[0].reshape(-1) for image in batch])


def assert_same_network(answers: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """The same class for every image, and no logit further off than `tolerance` times the largest one."""
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # images that are told apart
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(answers - expected).max() < tolerance * np.abs(expected).max()
