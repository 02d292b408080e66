"""What each node of a graph costs, counted as `nets/complexity.py` counts the rows of the paper's table."""

from __future__ import annotations

from dataclasses import dataclass

from squeeze_export.graph.nodes import Add, Concat, Conv, Graph

BYTES = 4
"""Of a float32."""


@dataclass(frozen=True)
class NodeCost:
    """One node, batch 1, float32. Each reads its operands from memory once and writes its result once; a Concat costs nothing.

    Attributes:
        name: the node's.
        kind: its class, such as `Conv`.
        output: height, width and channels of what it makes.
        kernel: rows and columns of a convolution or pool; None elsewhere.
        parameter_count: weights and biases.
        mac_count: multiply-accumulates of a convolution; 0 elsewhere.
        bytes_read: activations, weights and biases read.
        bytes_written: activations written.
    """

    name: str
    kind: str
    output: tuple[int, int, int]
    kernel: tuple[int, int] | None
    parameter_count: int
    mac_count: int
    bytes_read: int
    bytes_written: int

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per byte moved (read or written)."""
        return self.mac_count / max(self.bytes_read + self.bytes_written, 1)


def node_costs(graph: Graph) -> tuple[NodeCost, ...]:
    """The cost of every node, in the graph's order."""
    rows = []
    for node in graph.nodes:
        height, width, channels = graph.sizes[node.name]
        made = height * width * channels
        read = sum(rows * columns * depth for rows, columns, depth in (graph.sizes[name] for name in node.inputs))
        parameters, macs = 0, 0
        if isinstance(node, Conv):
            parameters, macs = node.weight.size + node.bias.size, node.weight.size * height * width
        if isinstance(node, Concat):
            read = made = 0
        kernel = None if isinstance(node, Add | Concat) else getattr(node, "kernel", None)
        moved = (BYTES * (read + parameters), BYTES * made)
        rows.append(NodeCost(node.name, type(node).__name__, graph.sizes[node.name], kernel, parameters, macs, *moved))
    return tuple(rows)


def total(rows: tuple[NodeCost, ...]) -> NodeCost:
    """The sums of all rows, with the last row's output."""
    sums = (sum(getattr(row, key) for row in rows) for key in ("parameter_count", "mac_count", "bytes_read", "bytes_written"))
    return NodeCost("total", "", rows[-1].output, None, *sums)
