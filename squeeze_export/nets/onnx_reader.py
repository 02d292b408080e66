"""ONNX files back to architecture and tensors: the graph is matched against SqueezeNet's structure, from output to input.

Read are float files (fp32, fp16, bf16, fp64) of opset 7 and later. The error for any other file names the operator that differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import CAFFE, TORCHVISION, Preprocess
from squeeze_export.formats.onnx import OnnxFile
from squeeze_export.nets.architecture import Architecture, Bypass, Fire
from squeeze_export.nets.assumptions import PIXELS
from squeeze_export.nets.onnx_file import AFTER_POOL, FINAL_POOLS, FloatGraph
from squeeze_export.nets.recognition import CUSTOM_NAME, MAX_CONV1_KERNEL, check_architecture, check_shapes, named

Array = NDArray[np.float32]
Order = NDArray[np.intp]
"""For each channel of a tensor in the file, its place in torchvision's order (expand1x1 first, then expand3x3)."""

_CAFFE_NAME = re.compile(r"fire\d+/squeeze1x1_w_0")


@dataclass(frozen=True, eq=False)
class _Conv:
    """A convolution as found: its node, OIHW weight, bias, padding (the same on all sides), input tensor."""

    node: Any
    weight: Array
    bias: Array
    pad: int
    input: str


@dataclass(frozen=True, eq=False)
class _Module:
    """A Fire module as found. `order` is that of its output channels; `bypass` is True for a simple one."""

    node: Any
    squeeze: _Conv
    expand1x1: _Conv
    expand3x3: _Conv
    order: Order
    bypass: _Conv | bool = False


@dataclass(frozen=True, eq=False)
class _Net:
    """A network as found: conv1, then Fire modules and MaxPool nodes in order, conv10, the final pool's node."""

    conv1: _Conv
    blocks: tuple[Any, ...]
    conv10: _Conv
    final_pool: Any


def read_onnx(file: OnnxFile, name: str) -> tuple[Architecture, dict[str, Array], Preprocess, dict[str, str]]:
    """Matches an ONNX file and takes its weights out.

    Args:
        file: the file.
        name: of it, for messages.

    Returns:
        The architecture, the tensors under torchvision's keys, float32 OIHW, and the preprocessing: Caffe's where the tensors
        have Caffe's names, otherwise torchvision's, with the crop of the file's own input size where that is fixed; and its fields
        that the file does not tell, with where their values come from. A softmax at the end is left out.

    Raises:
        BadInput: the file is damaged, or is not a SqueezeNet; the first foreign operator or the operator whose attributes differ
            is named.
    """
    net = FloatGraph(file, name)
    found = _match(net)
    _check_sizes(net, found)
    arch, tensors = _assemble(net, found)
    caffe = file.model.producer_name == "onnx-caffe2" or any(
        _CAFFE_NAME.fullmatch(tensor.name) for tensor in file.graph.initializer
    )
    preprocess = CAFFE if caffe else TORCHVISION
    untold = dict.fromkeys(PIXELS, "Caffe's preprocessing" if caffe else "torchvision's preprocessing")
    if net.side_px is None:
        return arch, tensors, preprocess, untold
    del untold["crop_px"]
    return arch, tensors, replace(preprocess, resize_px=max(preprocess.resize_px, net.side_px), crop_px=net.side_px), untold


def _match(net: FloatGraph) -> _Net:
    """Walks back from the output. Every step leads to an earlier node, so it ends."""
    final_pool = net.maker(net.output, *AFTER_POOL, *FINAL_POOLS)
    while final_pool.op_type in AFTER_POOL:
        final_pool = net.maker(final_pool.input[0], *AFTER_POOL, *FINAL_POOLS)
    conv10 = _activated(net, final_pool.input[0], kernels=(1,), pads=(0, 1))
    blocks: list[Any] = []
    tensor = conv10.input
    while (node := net.maker(tensor, "Concat", "Add", "MaxPool", "Relu")).op_type != "Relu":
        if node.op_type == "MaxPool":
            blocks.append(node)
            tensor = node.input[0]
        else:
            blocks.append(_module(net, node) if node.op_type == "Concat" else _bypassed(net, node))
            tensor = blocks[-1].squeeze.input
    conv1 = _activated(net, tensor, kernels=range(1, MAX_CONV1_KERNEL + 1), stride=2)
    if net.past_unchanged(conv1.input) != net.input:
        net.refuse(conv1.node, "does not take the graph's input")
    return _Net(conv1, tuple(reversed(blocks)), conv10, final_pool)


def _module(net: FloatGraph, concat: Any) -> _Module:
    if len(concat.input) != 2 or net.attribute(concat, "axis", 1) not in (1, -3):
        net.refuse(concat, "does not join two tensors along the channels")
    first, second = (_activated(net, tensor, kernels=(1, 3), pads=(0, 1)) for tensor in concat.input)
    kernels = tuple((conv.weight.shape[2], conv.pad) for conv in (first, second))
    if sorted(kernels) != [(1, 0), (3, 1)]:
        net.refuse(concat, "does not join a 1x1 convolution and a 3x3 one of padding 1")
    if net.past_unchanged(first.input) != net.past_unchanged(second.input):
        net.refuse(concat, "joins convolutions of different inputs")
    squeeze = _activated(net, first.input, kernels=(1,))
    size1, size2 = len(first.bias), len(second.bias)
    if kernels[0] == (1, 0):
        return _Module(concat, squeeze, first, second, np.arange(size1 + size2))
    order = np.concatenate([size2 + np.arange(size1), np.arange(size2)])
    return _Module(concat, squeeze, second, first, order)


def _bypassed(net: FloatGraph, add: Any) -> _Module:
    for tensor, other in (tuple(add.input), tuple(reversed(add.input))):
        concat, maker = net.find(tensor), net.find(other)
        if concat is None or concat.op_type != "Concat":
            continue
        module = _module(net, concat)
        source = net.past_unchanged(module.squeeze.input)
        if net.past_unchanged(other) == source:
            return replace(module, node=add, bypass=True)
        if maker is not None and maker.op_type == "Conv":
            conv = _conv(net, maker, kernels=(1,))
            if net.past_unchanged(conv.input) == source:
                return replace(module, node=add, bypass=conv)
    return net.refuse(add, "does not add a Fire module's input, or a 1x1 convolution of it, to the module's output")


def _activated(net: FloatGraph, tensor: str, *, kernels: Any, stride: int = 1, pads: tuple[int, ...] = (0,)) -> _Conv:
    """The Relu that makes `tensor`, and the convolution before it."""
    relu = net.maker(tensor, "Relu")
    return _conv(net, net.maker(relu.input[0], "Conv"), kernels=kernels, stride=stride, pads=pads)


def _conv(net: FloatGraph, node: Any, *, kernels: Any, stride: int = 1, pads: tuple[int, ...] = (0,)) -> _Conv:
    weight = net.floats(node, node.input[1], 4)
    kernel = weight.shape[2]
    if weight.shape[3] != kernel or kernel not in kernels:
        net.refuse(node, f"has a kernel of {kernel}x{weight.shape[3]} px, which is not possible here")
    pad = _window(net, node, kernel, stride)
    if len(set(pad)) != 1 or pad[0] not in pads:
        net.refuse(node, f"has pads {pad}; {' or '.join(map(str, pads))} on all sides is needed")
    if net.attribute(node, "group", 1) != 1:
        net.refuse(node, "works in groups")
    bias = np.zeros(weight.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = net.floats(node, node.input[2], 1)
    if bias.shape != weight.shape[:1]:
        net.refuse(node, f"has a bias of {bias.size} values for {weight.shape[0]} channels")
    return _Conv(node, weight, bias, pad[0], node.input[0])


def _window(net: FloatGraph, node: Any, kernel: int, stride: int) -> list[int]:
    """Checks what Conv and MaxPool have in common, and gives the pads: top, left, bottom, right."""
    pads: list[int] = net.attribute(node, "pads", [0, 0, 0, 0])
    wanted = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "dilations": [1, 1]}
    for key, value in wanted.items():
        default = [1, 1] if key == "strides" else value
        if net.attribute(node, key, default) != value:
            net.refuse(node, f"has {key} {net.attribute(node, key, default)}; {value} is needed")
    automatic = net.attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", b"")
    if automatic or not isinstance(pads, list) or len(pads) != 4 or not all(type(pad) is int and pad >= 0 for pad in pads):
        net.refuse(node, "has unsupported padding: four explicit `pads` are needed")
    return pads


def _check_sizes(net: FloatGraph, found: _Net) -> None:
    """Follows the map's side through the network: each pool must cut it as torch's ceil mode does, the last to a single value.

    With a symbolic input size only `ceil_mode=1` without pads is sure to. With a fixed one, so is any padding at the bottom and
    right that gives the same size, and none where nothing hangs over (the 2018 file: 111, 55, 27, 13).
    """
    side = None if net.side_px is None else (net.side_px - found.conv1.weight.shape[2]) // 2 + 1
    for node in found.blocks:
        if isinstance(node, _Module):
            continue
        top, left, bottom, right = _window(net, node, 3, 2)
        ceil = net.attribute(node, "ceil_mode", 0) == 1
        # Torch's ceil((side - 3) / 2) + 1 is side // 2.
        fits = ceil and not bottom if side is None else (side + bottom - 3 + ceil) // 2 + 1 == side // 2
        if top or left or bottom != right or not fits:
            net.refuse(node, f"does not pool in ceil mode (pads {[top, left, bottom, right]}, map of {side or 'unknown'} px)")
        side = None if side is None else side // 2
    side = None if side is None else side + 2 * found.conv10.pad
    pool = found.final_pool
    if pool.op_type == "ReduceMean":
        axes = net.attribute(pool, "axes", None)
        axes = net.constant(pool, pool.input[1]).tolist() if axes is None and len(pool.input) > 1 else axes
        if axes not in ([2, 3], [-2, -1], [3, 2], [-1, -2]):
            net.refuse(pool, f"takes the mean over axes {axes}; height and width, 2 and 3, are needed")
    elif pool.op_type == "AveragePool":
        kernel = net.attribute(pool, "kernel_shape", None)
        if side is None or kernel != [side, side] or any(net.attribute(pool, "pads", [])):
            net.refuse(pool, f"has kernel_shape {kernel}, which is not the whole map of {side or 'unknown'} px")


def _assemble(net: FloatGraph, found: _Net) -> tuple[Architecture, dict[str, Array]]:
    """Names everything as torchvision does, and brings the channels into its order."""
    tensors: dict[str, Array] = {}
    fires: list[Fire] = []
    pools: list[int] = []
    order: Order = np.arange(len(found.conv1.bias))

    def put(key: str, conv: _Conv, inputs: Order, outputs: Order | None = None) -> None:
        if conv.weight.shape[1] != inputs.size:
            net.refuse(conv.node, f"takes {conv.weight.shape[1]} channels where {inputs.size} arrive")
        weight, bias = conv.weight[:, np.argsort(inputs)], conv.bias
        if outputs is not None:
            weight, bias = weight[np.argsort(outputs)], bias[np.argsort(outputs)]
        tensors[f"{key}.weight"], tensors[f"{key}.bias"] = np.ascontiguousarray(weight), bias

    put("features.0", found.conv1, np.arange(3))
    if not found.blocks or isinstance(found.blocks[0], _Module):
        net.refuse(found.conv1.node, "is not followed by a MaxPool")
    index, after_pool = 3, True
    for block in found.blocks[1:]:
        if not isinstance(block, _Module):
            if after_pool:
                net.refuse(block, "follows another pool")
            pools.append(len(fires) - 1)
        else:
            key, module = f"features.{index}", block
            squeezed: Order = np.arange(len(module.squeeze.bias))
            put(f"{key}.squeeze", module.squeeze, order)
            put(f"{key}.expand1x1", module.expand1x1, squeezed)
            put(f"{key}.expand3x3", module.expand3x3, squeezed)
            kind: Bypass = "none"
            if isinstance(module.bypass, _Conv):
                kind = "complex"
                if len(module.bypass.bias) != module.order.size:
                    net.refuse(module.node, f"adds {len(module.bypass.bias)} channels to {module.order.size}")
                put(f"{key}.bypass", module.bypass, order, module.order)
            elif module.bypass:
                kind = "simple"
                if not np.array_equal(order, module.order):
                    net.refuse(module.node, "adds tensors whose channels differ in number or in order")
            fires.append(Fire(squeezed.size, len(module.expand1x1.bias), len(module.expand3x3.bias), kind))
            order = module.order
        index, after_pool = index + 1, not isinstance(block, _Module)
    put("classifier.1", found.conv10, order)
    arch = Architecture(
        CUSTOM_NAME,
        len(found.conv1.bias),
        found.conv1.weight.shape[2],
        tuple(fires),
        tuple(pools),
        len(found.conv10.bias),
        found.conv10.pad,
    )
    check_architecture(arch)
    check_shapes(arch, {key: tensor.shape for key, tensor in tensors.items()})
    return named(arch), tensors
