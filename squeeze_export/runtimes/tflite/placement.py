"""Where a TFLite file's operators run, and in what numbers: by an interpreter's node list, and by what LiteRT prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeeze_export.core import FloatPart, PlacedOperator, Placement, place
from squeeze_export.formats.contents import Contents, FileOperator, FileTensor
from squeeze_export.formats.tflite import NAME, macs_of
from squeeze_export.runtimes.tflite.compiled_model import Division

_DELEGATE = "DELEGATE"


def contents_of(nodes: Sequence[Mapping[str, Any]], tensors: Sequence[Mapping[str, Any]], inputs: Sequence[int]) -> Contents:
    """An interpreter's node list as the contents of a file.

    Args:
        nodes: in the order of execution: `op_name`; `inputs`, `outputs`: indices of tensors, -1 for one that is left out.
        tensors: `index`, `name`, `shape`, `dtype`: numpy's, or its name.
        inputs: indices of the network's own.
    """
    known = {
        int(tensor["index"]): FileTensor(
            tensor["name"], np.dtype(tensor["dtype"]).name, tuple(map(int, tensor["shape"])), place=int(tensor["index"])
        )
        for tensor in tensors
    }

    def operator(node: Mapping[str, Any]) -> FileOperator:
        read, made = (tuple(known[int(index)] for index in node[side] if index >= 0) for side in ("inputs", "outputs"))
        return FileOperator(node["op_name"], made[0].name, read, made)

    return Contents(NAME, tuple(map(operator, nodes)), tuple(known[int(index)] for index in inputs), ())


def kernels_and_placement(listed: Contents, floats: FloatPart) -> tuple[str, Placement]:
    """What runs in which kernels on the CPU, by an interpreter's node list.

    The list does not name the delegate, but XNNPACK is the only one that the interpreter adds on its own.

    Args:
        listed: from `contents_of`.
        floats: what the file means to compute in floating point.

    Returns:
        The kernels of the convolutions: `XNNPACK`, `builtin`, or `XNNPACK, builtin`; and the placement.
    """
    operators, running = listed.operators, _running(listed)
    taken = taken_over(operators) & set(running)
    macs, taken_macs = (sum(macs_of(operators[number]) for number in numbers) for numbers in (running, taken))
    # tflite_runtime's XNNPACK takes an integer network's mean, but not its convolutions: only convolutions name the kernels.
    kernels = "builtin" if not taken_macs else "XNNPACK" if taken_macs == macs else "XNNPACK, builtin"
    delegate_count = sum(operator.kind == _DELEGATE for operator in operators)
    source = f"interpreter's node list: {delegate_count} delegate node(s) took over {len(taken)} of {len(running)} operators"
    return kernels, placement(listed, taken, device="cpu", floats=floats, source=source)


def placement(file: Contents, taken: frozenset[int], *, device: str, floats: FloatPart, source: str) -> Placement:
    """Where the operators run. A GPU computes an integer file in floating point and imitates the quantization (TFLite's GPU
    delegate, "Support for quantized models"); what a device does not take runs on the CPU as the file has it.

    Args:
        file: its operators in the order of execution; the dtypes of their tensors say what they compute in.
        taken: places of the operators that the device runs; ignored for the CPU.
        device: `cpu`, `gpu`, `npu`.
        floats: what the file means to compute in floating point.
        source: the record that `taken` was read from.
    """
    placed = []
    for number in _running(file):
        operator, widened = file.operators[number], device == "gpu" and number in taken
        exact = not any(tensor.floating for tensor in (*operator.inputs, *operator.outputs))
        elsewhere = "" if device == "cpu" or number in taken else "cpu"
        placed.append(PlacedOperator(str(operator), exact and not widened, macs_of(operator), elsewhere))
    return place(placed, floats=floats, source=source)


def taken_over(operators: Sequence[FileOperator]) -> frozenset[int]:
    """Places of the operators that a delegate took over.

    An interpreter's list keeps them and adds one `DELEGATE` node for each part that the delegate runs. That node names its inputs
    and outputs; walking back from the outputs to the inputs finds exactly the operators that it replaced.
    """
    makers = {
        tensor.key: number for number, operator in enumerate(operators) for tensor in operator.outputs if operator.kind != _DELEGATE
    }
    taken: set[int] = set()
    for delegate in (operator for operator in operators if operator.kind == _DELEGATE):
        given = {tensor.key for tensor in delegate.inputs}
        wanted = list(delegate.outputs)
        while wanted:
            key = wanted.pop().key
            number = makers.get(key)
            if key not in given and number is not None and number not in taken:
                taken.add(number)
                wanted.extend(operators[number].inputs)
    return frozenset(taken)


def taken_of(operators: Sequence[FileOperator], division: Division) -> frozenset[int] | None:
    """The operators that the GPU runs, if LiteRT's list and its two counts leave one answer.

    LiteRT names the kinds that the GPU does not take, and only counts the others. Which run on the GPU follows from how TFLite cuts
    a graph into parts (`PartitionGraphIntoIndependentNodeSubsets` in its graph_info.cc): each part is all operators that can run
    next and are of one sort, taken or not. The GPU gets the largest part, or all parts that it can take; the counts tell which.

    Args:
        operators: all of the file, in the order of execution.
        division: what LiteRT printed.

    Returns:
        Places in `operators`; None if the counts fit no answer, or more than one.
    """
    makers = {tensor.key: number for number, operator in enumerate(operators) for tensor in operator.outputs}
    needs = [{makers[tensor.key] for tensor in operator.inputs if tensor.key in makers} for operator in operators]
    refused = [operator.kind in division.refused for operator in operators]
    done: set[int] = set()
    parts: list[frozenset[int]] = []
    while len(done) < len(operators):
        part: list[int] = []
        for number, needed in enumerate(needs):
            ready = number not in done and needed <= done
            if ready and (not part or refused[number] == refused[part[0]]):
                part.append(number)
                done.add(number)
        if not part:
            return None
        if not refused[part[0]]:
            parts.append(frozenset(part))
    if division.gpu_count + division.cpu_count != len(operators):
        return None
    most = max(map(len, parts), default=0)
    largest = [part for part in parts if len(part) == most]
    fitting = {part for part in (*largest, frozenset().union(*parts)) if len(part) == division.gpu_count}
    return next(iter(fitting)) if len(fitting) == 1 else None


def _running(file: Contents) -> list[int]:
    """Places of the operators that are a part of every inference. One that reads only constants is not: it runs once, when the file
    is opened.
    """
    computed = file.makers.keys() | {tensor.key for tensor in file.inputs}
    return [
        number
        for number, operator in enumerate(file.operators)
        if operator.kind != _DELEGATE and any(tensor.key in computed for tensor in operator.inputs)
    ]
