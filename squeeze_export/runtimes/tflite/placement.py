"""Which operators of a TFLite file run where, and in what numbers: from an interpreter's node list, and from what LiteRT prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.runtimes.tflite.compiled_model import Division

_WEIGHTED = ("CONV_2D", "FULLY_CONNECTED")
_DELEGATE = "DELEGATE"

Node = Mapping[str, Any]
"""`op_name`, `inputs`, `outputs`: indices of tensors, -1 for one that is left out."""
Tensor = Mapping[str, Any]
"""`index`, `name`, `shape`, `dtype`: numpy's, or its name."""


def read_records(
    nodes: Sequence[Node], tensors: Sequence[Tensor], inputs: Sequence[int], *, floats: FloatPart
) -> tuple[str, Placement]:
    """Kernels and placement on the CPU, from the interpreter's node list.

    The list does not say which delegate it is, but the interpreter adds none but XNNPACK on its own.

    Args:
        nodes: in the order of execution.
        tensors: all of them.
        inputs: indices of the network's own.
        floats: what the file means to compute in floating point.

    Returns:
        `XNNPACK`, `builtin`, or `XNNPACK, builtin`: which the convolutions ran in; and the placement.
    """
    by_index = {int(tensor["index"]): tensor for tensor in tensors}
    running = _running(nodes, inputs)
    taken = taken_over(nodes) & set(running)
    macs = sum(macs_of(nodes[number], by_index) for number in running)
    taken_macs = sum(macs_of(nodes[number], by_index) for number in taken)
    # tflite_runtime's XNNPACK takes the mean of an integer network and leaves it the convolutions: these name the kernels.
    kernels = "builtin" if not taken_macs else "XNNPACK" if taken_macs == macs else "XNNPACK, builtin"
    delegate_count = sum(node["op_name"] == _DELEGATE for node in nodes)
    source = f"interpreter's node list: {delegate_count} delegate node(s) took over {len(taken)} of {len(running)} operators"
    return kernels, placement(nodes, tensors, inputs, taken, device="cpu", floats=floats, source=source)


def placement(
    nodes: Sequence[Node],
    tensors: Sequence[Tensor],
    inputs: Sequence[int],
    taken: frozenset[int],
    *,
    device: str,
    floats: FloatPart,
    source: str,
) -> Placement:
    """Where the operators run. A GPU computes an integer file in floating point, with its integers widened and its steps imitated
    (TFLite's GPU delegate, "Support for quantized models"); what a device does not take runs on the CPU as the file has it.

    Args:
        nodes: all of the file, in the order of execution. A node's dtypes say what it computes in.
        tensors: all of them.
        inputs: indices of the network's own.
        taken: places in `nodes` of those that the device runs; it does not matter where the device is the CPU.
        device: `cpu`, `gpu`, `npu`.
        floats: what the file means to compute in floating point.
        source: the record that `taken` was read from.
    """
    by_index = {int(tensor["index"]): tensor for tensor in tensors}
    floating = {index for index, tensor in by_index.items() if np.issubdtype(np.dtype(tensor["dtype"]), np.floating)}
    placed = []
    for number in _running(nodes, inputs):
        node, widened = nodes[number], device == "gpu" and number in taken
        exact = not floating & set(tensor_indices([*node["inputs"], *node["outputs"]]))
        name = f"{node['op_name']} {by_index[tensor_indices(node['outputs'])[0]]['name']}"
        elsewhere = "" if device == "cpu" or number in taken else "cpu"
        placed.append(PlacedOperator(name, exact and not widened, macs_of(node, by_index), elsewhere))
    return place(placed, floats=floats, source=source)


def taken_over(nodes: Sequence[Node]) -> frozenset[int]:
    """Places in `nodes` of those that a delegate took over.

    The list keeps them and adds one `DELEGATE` node for each part that the delegate runs. That node names the tensors it takes and
    gives; walking back from the latter to the former finds exactly the nodes it replaced.
    """
    makers = {
        index: number
        for number, node in enumerate(nodes)
        for index in tensor_indices(node["outputs"])
        if node["op_name"] != _DELEGATE
    }
    taken: set[int] = set()
    for delegate in (node for node in nodes if node["op_name"] == _DELEGATE):
        given = set(tensor_indices(delegate["inputs"]))
        wanted = tensor_indices(delegate["outputs"])
        while wanted:
            index = wanted.pop()
            number = makers.get(index)
            if index not in given and number is not None and number not in taken:
                taken.add(number)
                wanted.extend(tensor_indices(nodes[number]["inputs"]))
    return frozenset(taken)


def taken_of(nodes: Sequence[Node], division: Division) -> frozenset[int] | None:
    """The operators that the GPU runs, where LiteRT's list and its two counts leave one answer.

    LiteRT names the kinds that the GPU does not take and counts the rest. Which they are follows from how TFLite cuts a graph into
    parts (`PartitionGraphIntoIndependentNodeSubsets` in its graph_info.cc): each part is all that can run next and is of one sort,
    taken or not. The GPU is given the largest part, or all of them; the counts say whether that is so.

    Args:
        nodes: all of the file, in the order of execution.
        division: what LiteRT printed.

    Returns:
        Places in `nodes`; None where the counts fit no answer, or more than one.
    """
    makers = {index: number for number, node in enumerate(nodes) for index in tensor_indices(node["outputs"])}
    needs = [{makers[index] for index in tensor_indices(node["inputs"]) if index in makers} for node in nodes]
    done: set[int] = set()
    parts: list[frozenset[int]] = []
    while len(done) < len(nodes):
        part: list[int] = []
        for number, node in enumerate(nodes):
            sort = node["op_name"] in division.refused
            ready = number not in done and needs[number] <= done
            if ready and (not part or sort == (nodes[part[0]]["op_name"] in division.refused)):
                part.append(number)
                done.add(number)
        if not part:
            return None
        if nodes[part[0]]["op_name"] not in division.refused:
            parts.append(frozenset(part))
    if division.gpu_count + division.cpu_count != len(nodes):
        return None
    most = max(map(len, parts), default=0)
    largest = [part for part in parts if len(part) == most]
    fitting = {part for part in (*largest, frozenset().union(*parts)) if len(part) == division.gpu_count}
    return next(iter(fitting)) if len(fitting) == 1 else None


def macs_of(node: Node, tensors: Mapping[int, Tensor]) -> int:
    """Multiply-accumulates of a node: its outputs times the weights (O, ...) behind one of them."""
    if node["op_name"] not in _WEIGHTED:
        return 0
    result, weight = tensors[tensor_indices(node["outputs"])[0]], tensors[tensor_indices(node["inputs"])[1]]
    return math.prod(int(size) for size in (*result["shape"], *weight["shape"][1:]))


def tensor_indices(values: Any) -> list[int]:
    return [int(index) for index in values if index >= 0]  # -1: an optional input left out


def _running(nodes: Sequence[Node], inputs: Sequence[int]) -> list[int]:
    """Places in `nodes` of the operators that are a part of every inference. What reads constants only is none: weights are
    widened once, when the file is opened.
    """
    operators = [(number, node) for number, node in enumerate(nodes) if node["op_name"] != _DELEGATE]
    computed = {index for _, node in operators for index in tensor_indices(node["outputs"])} | set(inputs)
    return [number for number, node in operators if computed & set(tensor_indices(node["inputs"]))]
