"""What a TFLite interpreter's node list says: the operators, who runs them, and the numbers that they compute in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place

_WEIGHTED = ("CONV_2D", "FULLY_CONNECTED")

Node = Mapping[str, Any]
"""`op_name`, `inputs`, `outputs`: indices of tensors, -1 for one that is left out."""
Tensor = Mapping[str, Any]
"""`index`, `name`, `shape`, `dtype`: numpy's, or its name."""


def read_records(
    nodes: Sequence[Node], tensors: Sequence[Tensor], inputs: Sequence[int], *, floats: FloatPart, device: str = ""
) -> tuple[str, Placement]:
    """Kernels and placement from the interpreter's node list.

    The list keeps the nodes that a delegate took over and adds one `DELEGATE` node for each part it runs. That node names the
    tensors it takes and gives; walking back from the latter to the former finds exactly the nodes it replaced. The list does
    not say which delegate it is, but the interpreter adds none but XNNPACK on its own. A node's dtypes say what it computes in.

    Args:
        nodes: in the order of execution.
        tensors: all of them.
        inputs: indices of the network's own.
        floats: what the file means to compute in floating point.
        device: that a delegate drives, so that what it leaves alone runs on the CPU; empty where all of it runs on the CPU.

    Returns:
        `XNNPACK`, `builtin`, or `XNNPACK, builtin`: which the convolutions ran in; and the placement.
    """
    by_index = {int(tensor["index"]): tensor for tensor in tensors}
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    operators = [node for node in nodes if node["op_name"] != "DELEGATE"]
    computed = {index for node in operators for index in tensor_indices(node["outputs"])} | set(inputs)
    # fp16 weights are widened once, when they are packed: what reads constants only is no part of an inference.
    operators = [node for node in operators if computed & set(tensor_indices(node["inputs"]))]
    taken = _taken_over(operators, delegates)
    floating = {index for index, tensor in by_index.items() if np.issubdtype(np.dtype(tensor["dtype"]), np.floating)}
    placed = [
        PlacedOperator(
            f"{node['op_name']} {by_index[tensor_indices(node['outputs'])[0]]['name']}",
            not floating & set(tensor_indices([*node["inputs"], *node["outputs"]])),
            macs_of(node, by_index),
            "cpu" if device and number not in taken else "",
        )
        for number, node in enumerate(operators)
    ]
    macs, taken_macs = sum(entry.macs for entry in placed), sum(placed[number].macs for number in taken)
    # tflite_runtime's XNNPACK takes the mean of an integer network and leaves it the convolutions: these name the kernels.
    kernels = "builtin" if not taken_macs else "XNNPACK" if taken_macs == macs else "XNNPACK, builtin"
    source = f"interpreter's node list: {len(delegates)} delegate node(s) took over {len(taken)} of {len(operators)} operators"
    return kernels, place(placed, floats=floats, source=source)


def _taken_over(operators: Sequence[Node], delegates: Sequence[Node]) -> set[int]:
    """Places, in `operators`, of those that the delegate nodes replaced."""
    makers = {index: number for number, node in enumerate(operators) for index in tensor_indices(node["outputs"])}
    taken: set[int] = set()
    for delegate in delegates:
        given = set(tensor_indices(delegate["inputs"]))
        wanted = tensor_indices(delegate["outputs"])
        while wanted:
            index = wanted.pop()
            number = makers.get(index)
            if index not in given and number is not None and number not in taken:
                taken.add(number)
                wanted.extend(tensor_indices(operators[number]["inputs"]))
    return taken


def tensor_indices(values: Any) -> list[int]:
    return [int(index) for index in values if index >= 0]  # -1: an optional input left out


def macs_of(node: Node, tensors: Mapping[int, Tensor]) -> int:
    """Multiply-accumulates of a node: its outputs times the weights (O, ...) behind one of them."""
    if node["op_name"] not in _WEIGHTED:
        return 0
    result, weight = tensors[tensor_indices(node["outputs"])[0]], tensors[tensor_indices(node["inputs"])[1]]
    return math.prod(int(size) for size in (*result["shape"], *weight["shape"][1:]))
