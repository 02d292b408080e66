"""The graph as a torch module: what a user of a torch checkpoint has in hand when a vendor's tool takes over."""

from __future__ import annotations

import operator
from typing import Any

from squeeze_export.graph.nodes import Add, Concat, Conv, Graph, MaxPool


def torch_network(torch: Any, graph: Graph) -> Any:
    """Builds the module, in evaluation mode.

    Args:
        torch: the package.
        graph: a float graph.

    Returns:
        A `torch.fx.GraphModule` that takes (N, 3, H, W) float32, what the graph's first convolution reads, and gives (N, classes).
    """
    nn, calls = torch.nn, torch.fx.Graph()
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
            # Every pool of torchvision's SqueezeNet is written so, also where its windows do not overhang.
            result = call(name, nn.MaxPool2d(node.kernel, node.stride, ceil_mode=True), inputs[0])
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
