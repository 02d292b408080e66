"""`--like MODEL.onnx`: a float graph of the same network tells what its state dict does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import FloatArray, Preprocess, TensorSpec
from squeeze_export.errors import BadInput
from squeeze_export.files import read_bounded
from squeeze_export.formats.onnx import MAX_BYTES, OnnxFile, parsed
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Add, Conv, Graph, MaxPool, tensor_sizes
from squeeze_export.graph.onnx_graph import OnnxGraph, graph_of, preprocess_of, read_graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.nets.architecture import Architecture, Bypass, StructureChoice, tensor_shapes
from squeeze_export.nets.assumptions import PIXELS, option_for
from squeeze_export.nets.checkpoints import Checkpoint

IMAGES = 4
"""Random inputs that both networks run on."""
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Largest difference in shares of the largest value, of logits and of tensors; the second for a graph of half-precision weights."""
_HALF = (10, 16)
"""ONNX's numbers of float16 and bfloat16."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """What a graph tells.

    Attributes:
        path: the file.
        read: what it computes.
        structure: of it, as far as the graph shows it.
        preprocess: as far as the graph tells; torchvision's elsewhere.
        told: the fields of `preprocess` that it tells.
        tolerance: of the comparison with tensors.
    """

    path: Path
    read: OnnxGraph
    structure: StructureChoice
    preprocess: Preprocess
    told: frozenset[str]
    tolerance: float


def read_likeness(path: Path, size_px: tuple[int, int] | None = None) -> Likeness:
    """Reads the graph of an ONNX file.

    Args:
        path: the file.
        size_px: height and width of the input that is wanted, where the file leaves it open.

    Raises:
        BadInput: no such file, or no float graph that can be read.
        Unavailable: onnx is not installed.
    """
    if not path.is_file():
        raise BadInput(f"`{path}` is not a file", hint="--like MODEL.onnx, the same network exported with torch.onnx.export")
    file = parsed(read_bounded(path, MAX_BYTES, "an ONNX file"), path, path.parent)
    read = read_graph(file, str(path))
    if not read.fixed and size_px is not None and read.size[:2] != size_px:
        read = read_graph(file, str(path), size_px)
    preprocess, untold = preprocess_of(read)
    tolerance = HALF_TOLERANCE if _is_half(file) else TOLERANCE
    return Likeness(path, read, _structure(read, file), preprocess, frozenset(PIXELS) - set(untold), tolerance)


def _is_half(file: OnnxFile) -> bool:
    return any(tensor.data_type in _HALF for tensor in file.graph.initializer)


def _structure(read: OnnxGraph, file: OnnxFile) -> StructureChoice:
    """What the graph shows of what a state dict does not tell."""
    convs = [node for node in read.nodes if isinstance(node, Conv)]
    first, last = convs[0], convs[-1]
    sizes = tensor_sizes(read.nodes, TensorSpec("input", ("N", *read.size), "float32", "NHWC"))
    # Where no window hangs over at this size, only the attribute tells how the pools round.
    ceil_pools = any(file.attributes(node).get("ceil_mode") == 1 for node in file.graph.node if node.op_type == "MaxPool")
    for node in read.nodes:
        if isinstance(node, MaxPool):
            sides = zip(sizes[node.input], node.kernel, node.strides, strict=False)
            if any(side >= window and (side - window) % step for side, window, step in sides):
                ceil_pools = any(node.pads[2:])
    return StructureChoice(
        conv1_stride=first.strides[0],
        conv1_pad=first.pads[0],
        final_relu=last.relu,
        ceil_pools=ceil_pools,
        conv10_pad=last.pads[0],
        bypass=_bypass(read),
    )


def _bypass(read: OnnxGraph) -> Bypass:
    """Complex where an addition takes a convolution without ReLU, simple where there is any other."""
    linear = {node.name for node in read.nodes if isinstance(node, Conv) and not node.relu}
    added = [source for node in read.nodes if isinstance(node, Add) for source in node.inputs]
    return "complex" if linear.intersection(added) else "simple" if added else "none"


def combined(likeness: Likeness, told: StructureChoice) -> StructureChoice:
    """What graph and user tell together.

    Raises:
        BadInput: they contradict each other.
    """
    for field in fields(StructureChoice):
        asked, shown = getattr(told, field.name), getattr(likeness.structure, field.name)
        if asked is not None and shown is not None and asked != shown:
            raise BadInput(
                f"`{option_for(field.name, asked)}` was asked for, but in `{likeness.path.name}` it is"
                f" `{option_for(field.name, shown)}`"
            )
    return replace(likeness.structure, **told.given())


def with_likeness(checkpoint: Checkpoint, likeness: Likeness) -> Checkpoint:
    """The checkpoint with what the graph tells of the pixels, once it is sure that both are one network.

    Raises:
        BadInput: the tensors are not the graph's; the first that differs is named.
    """
    if checkpoint.architecture is None:
        raise BadInput(f"`{checkpoint.path}` tells its whole structure itself", hint="leave out --like")
    check_same(checkpoint.architecture, checkpoint.tensors, likeness)
    fresh = {name for name in PIXELS if name in checkpoint.untold and (name in likeness.told or name in ("crop_px", "resize_px"))}
    values = {name: getattr(likeness.preprocess, name) for name in fresh}
    if "crop_px" in fresh:
        values["width_px"] = likeness.preprocess.width_px
    untold = {name: why for name, why in checkpoint.untold.items() if name not in likeness.told}
    return replace(checkpoint, preprocess=replace(checkpoint.preprocess, **values), untold=untold)


def check_same(arch: Architecture, tensors: Mapping[str, NDArray[np.float32]], likeness: Likeness) -> None:
    """Runs the network and the graph on the same random inputs, and if they differ, finds the tensor that does.

    Raises:
        BadInput: they are not one network.
    """
    height, width, channels = likeness.read.size
    plain = Preprocess(
        resize_px=min(height, width),
        crop_px=height,
        interpolation="bilinear",
        channel_order="gray" if channels == 1 else "rgb",
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        width_px=None if width == height else width,
    )
    if arch.in_channels != channels:
        raise BadInput(f"`{likeness.path.name}` takes images of `{channels}` channels, the weights `{arch.in_channels}`")
    inputs = np.random.default_rng(0).normal(size=(IMAGES, height, width, channels)).astype(np.float32)
    own, other = build_graph(arch, tensors, plain), graph_of(likeness.read, plain, name="like")
    found, expected = (_logits(graph, inputs) for graph in (own, other))
    if found.shape == expected.shape and expected.any() and _apart(found, expected) <= likeness.tolerance:
        return
    stored = [node for node in likeness.read.nodes if isinstance(node, Conv)]
    for key in tensor_shapes(arch):
        values = tensors[key]
        alike = [_apart(values, each) for conv in stored for each in (conv.weight, conv.bias) if each.shape == values.shape]
        if not alike or min(alike) > likeness.tolerance:
            nearest = f"the nearest differs by {min(alike):.2g} of its largest value" if alike else "nor any of its shape"
            raise BadInput(
                f"`{likeness.path.name}` is another network: it does not have the tensor `{key}`, {nearest}",
                hint="export the graph from this very checkpoint",
            )
    if expected.any() or found.any():
        raise BadInput(f"`{likeness.path.name}` has these tensors, but puts them together in another way than a SqueezeNet")


def _logits(graph: Graph, inputs: FloatArray) -> FloatArray:
    return FloatRunner(graph)(inputs)


def _apart(values: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """The largest difference, in shares of the largest of the others."""
    return float(np.abs(values - others).max() / max(float(np.abs(others).max()), 1e-12))
