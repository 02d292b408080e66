"""Random networks of all operators that are read, from torch to the files: floats as torch's, integers as the oracle's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import Add, Graph
from squeeze_export.graph.quantized import FP32, INT8, QuantizedGraph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.pipeline.export import export
from squeeze_export.quant.recipes import quantize
from squeeze_export.runtimes import runtime_named
from tests.onnx_networks import Net, assert_same_network, built, drawn, exported, fed, read, stirred

SEEDS = range(12)


def random_network(seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network and the size of its images, (C, H, W)."""
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)

    def one_of(*choices: Any) -> Any:
        return choices[draw.integers(len(choices))]

    def layer(inputs: int, outputs: int, kernel: tuple[int, int], strides: tuple[int, int]) -> nn.Module:
        padding = tuple(int(draw.integers(0, side // 2 + 1)) for side in kernel)
        parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, strides, padding, bias=bool(draw.integers(2)))]
        parts += [nn.BatchNorm2d(outputs)] * int(draw.integers(2)) + [nn.ReLU()] * int(draw.integers(4) > 0)
        return nn.Sequential(*parts)

    def pool() -> nn.Module:
        window, strides = one_of(2, 3, (2, 3)), one_of(1, 2, (2, 1))
        if draw.integers(3) == 0:
            return nn.AvgPool2d(window, strides)
        return nn.MaxPool2d(window, strides, int(draw.integers(2)), ceil_mode=bool(draw.integers(2)))

    def fire(inputs: int) -> tuple[nn.Module, int]:
        squeeze, expand = int(draw.integers(3, 7)), int(draw.integers(3, 9))
        parts = {"squeeze": layer(inputs, squeeze, (1, 1), (1, 1)), "one": layer(squeeze, expand, (1, 1), (1, 1))}
        parts["three"] = nn.Conv2d(squeeze, expand + 1, 3, padding=1)
        return Net(lambda n, x: torch.cat([n.one(y := n.squeeze(x)), n.three(y)], 1).relu(), **parts), 2 * expand + 1

    def bypass(inputs: int) -> nn.Module:
        after = one_of(nn.ReLU(), nn.Identity())
        return Net(lambda n, x: n.after(n.around(x) + x), around=nn.Conv2d(inputs, inputs, 3, padding=1), after=after)

    channels, size = one_of(1, 3), (int(draw.integers(20, 40)), int(draw.integers(20, 40)))
    width = int(draw.integers(4, 12))
    steps = [layer(channels, width, one_of((3, 3), (5, 3), (1, 4), (7, 7)), one_of((1, 1), (2, 2), (2, 1), (1, 3)))]
    for _ in range(draw.integers(1, 4)):
        kind = draw.integers(4)
        if kind == 0:
            steps.append(pool())
        elif kind == 1:
            steps.append(bypass(width))
        elif kind == 2:
            steps.append(layer(width, width := int(draw.integers(4, 12)), one_of((3, 3), (1, 3), (2, 2)), (1, 1)))
        else:
            module, width = fire(width)
            steps.append(module)
    with torch.no_grad():
        shape = nn.Sequential(*steps).eval()(torch.zeros(1, channels, *size)).shape
    classes = int(draw.integers(2, 9))
    heads: dict[str, nn.Module] = {
        "convolution": Net(
            lambda n, x: functional.adaptive_avg_pool2d(n.c(x).relu(), 1).flatten(1), c=nn.Conv2d(width, classes, 1)
        ),
        "mean": Net(lambda n, x: n.f(n.d(x.mean((2, 3)))), d=nn.Dropout(), f=nn.Linear(width, classes)),
        "map": Net(lambda n, x: n.f(x.flatten(1)), f=nn.Linear(shape[1:].numel(), classes)),
    }
    nn.init.constant_(heads["convolution"].c.bias, 1.0)  # its ReLU shall not hide everything
    steps.append(heads[one_of(*heads) if shape[2] * shape[3] <= 200 else one_of("convolution", "mean")])
    module = nn.Sequential(*steps)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)
    return stirred(module, seed), (channels, *size)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_file_of_a_random_graph_is_that_graph(seed: int, tmp_path: Path) -> None:
    module, shape = random_network(seed)
    found = read(exported(module, shape, opset=11 + seed % 8))
    graph, pixels = built(found), drawn(found)
    with torch.no_grad():
        expected = module(torch.from_numpy(fed(found, pixels))).numpy()
    assert_same_network(FloatRunner(graph)(pixels), expected)
    assert_same_network(answers(graph, "onnx", FP32, pixels, tmp_path), expected)
    quantized = quantize(graph, pixels[8:], FloatRunner(graph), INT8)
    integers = IntegerRunner(quantized)(pixels[:8])
    added = any(isinstance(node, Add) for node in graph.nodes)  # XNNPACK adds in fixed point: a sum may round to its neighbour
    for target in ("onnx", "tflite"):
        step = quantized.tensors[graph.nodes[-1].inputs[0]].scale if added and target == "tflite" else 0
        off = np.abs(answers(quantized, target, INT8, pixels[:8], tmp_path) - integers).max()
        assert off <= max(step * 1.001, 1e-4 * np.abs(integers).max()), target


def answers(network: Graph | QuantizedGraph, target: str, scheme: Any, pixels: Any, folder: Path) -> Any:
    artifact, _ = export(network, target, scheme, folder, name="net")
    session = runtime_named({"onnx": "onnxruntime", "tflite": "litert"}[target]).open_session(artifact, device="cpu", threads=1)
    try:
        return session.infer(pixels)
    finally:
        session.close()
