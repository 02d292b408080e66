"""The operators of a float ONNX file of ours, as torch functions on tensors in channels-last memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze_export.core import PlacedOperator, require
from squeeze_export.errors import BadInput, Refused
from squeeze_export.formats.contents import FREE
from squeeze_export.formats.onnx import OnnxFile, checked, content_of, node_name

_HINT = "torch runs float files: `--scheme fp32` or `fp16`"

Run = Callable[..., Any]


@dataclass(frozen=True)
class Step:
    """One operator.

    Attributes:
        name: `type name`.
        inputs: names of the tensors that flow into it.
        output: of what it makes.
        run: takes the inputs.
        products: multiply-accumulates for each element of the output.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    run: Run
    products: int = 0


@dataclass(frozen=True)
class Network:
    """A file, ready to run.

    Attributes:
        steps: in order.
        input: name of the input.
        output: name of the logits.
        batch: images an inference; None where it is free.
        sides: (H, W, 3).
        dtype: of the input, as torch calls it.
    """

    steps: tuple[Step, ...]
    input: str
    output: str
    batch: int | None
    sides: tuple[int, ...]
    dtype: str

    def run(self, pixels: Any) -> Any:
        """Logits (N, classes) float32 of a tensor (N, H, W, 3)."""
        values = {self.input: pixels}
        for step in self.steps:
            values[step.output] = step.run(*(values[name] for name in step.inputs))
        return values[self.output]


def read_network(path: Path, device: str) -> Network:
    """Reads a file and moves its weights to a device.

    Args:
        path: of an ONNX file.
        device: torch's name of it.

    Raises:
        BadInput: it cannot be read, or is too large.
        Refused: it is no sound ONNX file, has an operator that float files of ours do not have, or is no image classifier.
        Unavailable: `onnx` or `torch` is not installed.
    """
    torch, content = require("torch", "torch"), content_of(path)
    try:
        file = checked(content, path)
    except BadInput as err:
        raise Refused(f"torch cannot open it: {err.message}", hint="export the file again") from err
    constants = {name: torch.from_numpy(file.array(name).copy()).to(device) for name in file.stored}
    steps = tuple(_step(file, node, constants, path) for node in file.graph.node)
    (source, *others), (result, *_) = file.contents.inputs, file.contents.outputs
    batch, *sides = source.shape or (FREE,)
    if others or len(sides) != 3 or FREE in sides or sides[2] != 3 or source.dtype not in ("uint8", "float32"):
        raise Refused(f"`{path}` does not take one NHWC tensor of uint8 or float32", hint="open files that this tool wrote")
    return Network(steps, source.name, result.name, None if batch == FREE else batch, tuple(sides), source.dtype)


def placed(network: Network, made: Mapping[str, Any]) -> list[PlacedOperator]:
    """The operators with their multiply-accumulates, from what one run made.

    Args:
        network: that ran.
        made: tensor name -> what flowed through it.
    """
    return [PlacedOperator(step.name, False, math.prod(made[step.output].shape) * step.products) for step in network.steps]


def _step(file: OnnxFile, node: Any, constants: Mapping[str, Any], path: Path) -> Step:
    attributes = file.attributes(node)
    makers: Mapping[str, Callable[..., Run]] = {
        "Transpose": _transpose,
        "Cast": _cast,
        "Conv": _conv,
        "Relu": _relu,
        "MaxPool": _max_pool,
        "Concat": _concat,
        "Add": _add,
        "GlobalAveragePool": _average,
        "Flatten": _flatten,
        "Softmax": _softmax,
    }
    if node.op_type not in makers or node.domain not in ("", "ai.onnx"):
        raise Refused(f"torch cannot open `{path}`: `{node.op_type}` is no operator of a float file", hint=_HINT)
    fixed = [constants[name] for name in node.input if name in constants]
    flowing = tuple(name for name in node.input if name not in constants)
    run = makers[node.op_type](attributes, fixed)
    products = math.prod(fixed[0].shape[1:]) if node.op_type == "Conv" else 0
    return Step(f"{node.op_type} {node_name(node)}", flowing, node.output[0], run, products)


def _transpose(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    order = tuple(attributes["perm"])
    return lambda x: x.permute(order)  # NHWC seen as NCHW is channels-last memory already


def _cast(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    torch = require("torch", "torch")
    onnx = require("onnx", "onnx")
    dtype = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}[attributes["to"]]
    return lambda x: x.to(dtype)


def _conv(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    torch = require("torch", "torch")
    functional = torch.nn.functional
    weight = fixed[0].contiguous(memory_format=torch.channels_last)
    bias = fixed[1] if len(fixed) > 1 else None
    stride, pads = tuple(attributes.get("strides", (1, 1))), tuple(attributes.get("pads", (0, 0, 0, 0)))
    even = pads[:2] == pads[2:]

    def run(x: Any) -> Any:
        if not even:
            x = functional.pad(x, _borders(pads))
        return functional.conv2d(x, weight, bias, stride, pads[:2] if even else 0)

    return run


def _max_pool(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    functional = require("torch", "torch").nn.functional
    kernel, stride = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))

    def run(x: Any) -> Any:
        if any(pads):
            x = functional.pad(x, _borders(pads), value=-math.inf)
        return functional.max_pool2d(x, kernel, stride)

    return run


def _borders(pads: tuple[int, ...]) -> tuple[int, int, int, int]:
    """ONNX's (top, left, bottom, right) as torch's (left, right, top, bottom)."""
    return pads[1], pads[3], pads[0], pads[2]


def _relu(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    return lambda x: x.relu()


def _concat(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    torch, axis = require("torch", "torch"), attributes["axis"]
    return lambda *parts: torch.cat(parts, axis)


def _add(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    return lambda x, y: x + y


def _average(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    return lambda x: x.mean((2, 3), keepdim=True)


def _flatten(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    return lambda x: x.flatten(attributes.get("axis", 1))


def _softmax(attributes: Mapping[str, Any], fixed: list[Any]) -> Run:
    return lambda x: x.softmax(attributes.get("axis", -1))
