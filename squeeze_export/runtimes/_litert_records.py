"""Which operators of a TFLite file an accelerator runs, from what LiteRT says of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.runtimes._litert_compiling import Division
from squeeze_export.runtimes._tflite_records import Node, Tensor, macs_of, tensor_indices


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
    (TFLite's GPU delegate, "Support for quantized models"); what it does not take runs on the CPU as the file has it.

    Args:
        nodes: all of the file, in the order of execution.
        tensors: all of them.
        inputs: indices of the network's own.
        taken: places in `nodes` of those that the accelerator runs.
        device: `gpu` or `npu`.
        floats: what the file means to compute in floating point.
        source: the record that `taken` was read from.
    """
    by_index = {int(tensor["index"]): tensor for tensor in tensors}
    floating = {index for index, tensor in by_index.items() if np.issubdtype(np.dtype(tensor["dtype"]), np.floating)}
    computed = {index for node in nodes for index in tensor_indices(node["outputs"])} | set(inputs)
    placed = []
    for number, node in enumerate(nodes):
        # What reads constants only is no part of an inference: weights are widened once, when the file is opened.
        if not computed & set(tensor_indices(node["inputs"])):
            continue
        here = number in taken
        exact = not floating & set(tensor_indices([*node["inputs"], *node["outputs"]]))
        name = f"{node['op_name']} {by_index[tensor_indices(node['outputs'])[0]]['name']}"
        placed.append(
            PlacedOperator(name, exact and not (here and device == "gpu"), macs_of(node, by_index), "" if here else "cpu")
        )
    return place(placed, floats=floats, source=source)
