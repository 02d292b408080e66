"""A float graph in torch: as a module, and the two operators that torch pads otherwise than the graph."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from squeeze_export.core import require
from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool, Pads, Pair

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule


def torch_network(graph: Graph) -> GraphModule:
    """Builds the module, in evaluation mode: what a user of a torch checkpoint has in hand when a vendor's tool takes over.

    Args:
        graph: a float graph.

    Returns:
        A module that takes (N, 3, H, W) float32, what the graph's first convolution reads, and gives (N, classes).

    Raises:
        Unavailable: torch is not installed.
    """
    torch: Any = require("torch", "torch")
    nn, calls = torch.nn, require("torch.fx", "torch").Graph()
    modules: dict[str, Any] = {}
    values = {graph.input.name: calls.placeholder(graph.input.name)}

    def call(name: str, module: Any, source: Any) -> Any:
        modules[name] = module
        return calls.call_module(name, (source,))

    for node in graph.nodes:
        inputs, name = [values[source] for source in node.inputs], node.name.replace("/", "_")
        if isinstance(node, Conv):
            result = call(name, _conv(torch, node), inputs[0])
            result = call(f"{name}_relu", nn.ReLU(), result) if node.relu else result
        elif isinstance(node, MaxPool):
            result = call(name, _max_pool(torch, node, graph.sizes[node.input]), inputs[0])
        elif isinstance(node, Concat):
            result = calls.call_function(torch.cat, (inputs, 1))
        elif isinstance(node, Add):
            result = calls.call_function(operator.add, tuple(inputs))
            result = call(f"{name}_relu", nn.ReLU(), result) if node.relu else result
        else:
            result = call(name, nn.AdaptiveAvgPool2d(1), inputs[0])
            result = calls.call_function(torch.flatten, (result, 1))
        values[node.name] = result
    calls.output(values[graph.output.name])
    network: GraphModule = torch.fx.GraphModule(modules, calls).eval()
    return network


def _conv(torch: Any, node: Conv) -> Any:
    out_channels, in_channels = node.weight.shape[:2]
    even = node.pads[:2] == node.pads[2:]
    module = torch.nn.Conv2d(in_channels, out_channels, node.kernel, node.strides, padding=node.pads[:2] if even else 0)
    module.load_state_dict({"weight": torch.from_numpy(node.weight.copy()), "bias": torch.from_numpy(node.bias.copy())})
    return module if even else torch.nn.Sequential(torch.nn.ZeroPad2d(_torch_pads(node.pads)), module)


def _max_pool(torch: Any, node: MaxPool, size: tuple[int, int, int]) -> Any:
    """Torch's ceil mode where it is that, which every pool of torchvision's SqueezeNet is, else explicit padding."""
    nn, sides = torch.nn, tuple(zip(size, node.kernel, node.strides, strict=False))
    overhangs = tuple(-(side - window) % step for side, window, step in sides)
    if node.pads == (0, 0, *overhangs) and all(over < window for over, (_, window, _) in zip(overhangs, sides, strict=True)):
        return nn.MaxPool2d(node.kernel, node.strides, ceil_mode=True)
    pool = nn.MaxPool2d(node.kernel, node.strides)
    return nn.Sequential(nn.ConstantPad2d(_torch_pads(node.pads), float("-inf")), pool) if any(node.pads) else pool


def _torch_pads(pads: Pads) -> tuple[int, int, int, int]:
    top, left, bottom, right = pads
    return left, right, top, bottom


def convolve(values: Tensor, weight: Tensor, bias: Tensor | None, strides: Pair, pads: Pads) -> Tensor:
    """A convolution of (N, C, H, W) values, padded with zeros."""
    from torch.nn import functional

    top, left, bottom, right = pads
    if (top, left) == (bottom, right):  # saves a copy
        return functional.conv2d(values, weight, bias, strides, (top, left))
    return functional.conv2d(padded(values, pads), weight, bias, strides)


def padded(values: Tensor, pads: Pads, fill: float = 0.0) -> Tensor:
    """(N, C, H, W) values with a border of `fill`."""
    from torch.nn import functional

    return functional.pad(values, _torch_pads(pads), value=fill) if any(pads) else values
