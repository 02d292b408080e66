"""`--like MODEL.onnx`: a float graph of the same network tells what its state dict does not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

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
from squeeze_export.nets.checkpoints import Checkpoint, raw_tensors, read_checkpoint
from squeeze_export.nets.safetensors_file import preprocess_from_json

IMAGES = 4
"""Random inputs that both networks run on."""
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Largest difference in shares of the largest value, of logits and of tensors; the second for a graph of half-precision weights."""
_EPS = (1e-5, 1e-3, 1e-6)
"""BatchNorm's epsilons: torch's default, and what else is usual. A state dict does not hold it."""
_HALF = (10, 16)
"""ONNX's numbers of float16 and bfloat16."""
_OURS = "squeeze_export.preprocess"
"""Where a file that this project wrote says what is folded into its first convolution."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """What a graph tells.

    Attributes:
        path: where it is.
        file: the file.
        digest: SHA-256 of it, and of the weights beside it.
        read: what it computes.
        structure: of it, as far as the graph shows it.
        preprocess: as far as the graph tells; torchvision's elsewhere.
        told: the fields of `preprocess` that it tells.
        tolerance: of the comparison with tensors.
        folded: whether `preprocess` is folded into the first convolution, as in the files that this project writes.
    """

    path: Path
    file: OnnxFile
    digest: str
    read: OnnxGraph
    structure: StructureChoice
    preprocess: Preprocess
    told: frozenset[str]
    tolerance: float
    folded: bool = False


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
    data = read_bounded(path, MAX_BYTES, "an ONNX file")
    file = parsed(data, path, path.parent)
    read = read_graph(file, str(path))
    if not read.fixed and size_px is not None and read.size[:2] != size_px:
        read = read_graph(file, str(path), size_px)
    preprocess, untold = preprocess_of(read)
    tolerance, digest = HALF_TOLERANCE if _is_half(file) else TOLERANCE, file.sha256(data)
    if read.byte_input and not read.normalizes and _OURS in file.metadata:
        preprocess = _folded(file, path, read)
        structure = _structure(read, file, folded=True)
        return Likeness(path, file, digest, read, structure, preprocess, frozenset(PIXELS), tolerance, folded=True)
    return Likeness(path, file, digest, read, _structure(read, file), preprocess, frozenset(PIXELS) - set(untold), tolerance)


def _folded(file: OnnxFile, path: Path, read: OnnxGraph) -> Preprocess:
    """What a file of ours says of its pixels; the comparison with the tensors shows whether it is true."""
    try:
        values = json.loads(file.metadata[_OURS])
    except (ValueError, RecursionError) as err:
        raise BadInput(f"the metadata `{_OURS}` of `{path}` is no JSON: {err}") from err
    if not isinstance(values, dict):
        raise BadInput(f"the metadata `{_OURS}` of `{path}` is no JSON object")
    preprocess = preprocess_from_json(values)
    if preprocess.input_size != read.size:
        raise BadInput(f"the metadata `{_OURS}` of `{path}` is of another input size than its graph's: {preprocess.size_text} px")
    return preprocess


def _is_half(file: OnnxFile) -> bool:
    return any(tensor.data_type in _HALF for tensor in file.graph.initializer)


def _structure(read: OnnxGraph, file: OnnxFile, *, folded: bool = False) -> StructureChoice:
    """What the graph shows of what a state dict does not tell; our own graphs (`folded`) have no attribute that tells of pools."""
    convs = [node for node in read.nodes if isinstance(node, Conv)]
    first, last, channels = convs[0], convs[-1], read.size[2]
    if folded and len(convs) > 1 and first.weight.shape in ((channels, channels, 1, 1), (channels + 1, channels, 1, 1)):
        first = convs[1]  # `normalize` stands in front of a padded conv1
    sizes = tensor_sizes(read.nodes, TensorSpec("input", ("N", *read.size), "float32", "NHWC"))
    # Where no window hangs over at this size, only the attribute tells how the pools round.
    attribute = any(file.attributes(node).get("ceil_mode") == 1 for node in file.graph.node if node.op_type == "MaxPool")
    ceil_pools: bool | None = None if folded else attribute
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


def combined(path: Path, found: StructureChoice, told: StructureChoice) -> StructureChoice:
    """What the file of `--like` and the user tell together.

    Raises:
        BadInput: they contradict each other.
    """
    for field in fields(StructureChoice):
        asked, shown = getattr(told, field.name), getattr(found, field.name)
        if asked is not None and shown is not None and asked != shown:
            raise BadInput(
                f"`{option_for(field.name, asked)}` was asked for, but in `{path.name}` it is `{option_for(field.name, shown)}`"
            )
    return replace(found, **told.given())


def read_like(path: Path, likeness: Likeness, told: StructureChoice, *, key: str | None = None) -> Checkpoint:
    """Reads a checkpoint with what a graph tells, once it is sure that both are one network.

    A SqueezeNet keeps its own names and tensors. Of any other network, the graph is taken, whose weights the checkpoint must hold.

    Args:
        path: the checkpoint.
        likeness: the graph.
        told: of `combined`.
        key: as in `read_checkpoint`.

    Raises:
        BadInput: the tensors are not the graph's; the first that differs is named.
    """
    try:
        checkpoint = read_checkpoint(path, structure=told, key=key)
    except BadInput:  # if it is no state dict at all, reading its tensors says so
        return _as_graph(path, likeness)
    if checkpoint.architecture is None:
        raise BadInput(f"`{path}` tells its whole structure itself", hint="leave out --like")
    if not is_same(checkpoint.architecture, checkpoint.tensors, likeness):
        return _as_graph(path, likeness)
    fresh = {name for name in PIXELS if name in checkpoint.untold and (name in likeness.told or name in ("crop_px", "resize_px"))}
    values = {name: getattr(likeness.preprocess, name) for name in fresh}
    if "crop_px" in fresh:
        values["width_px"] = likeness.preprocess.width_px
        values["resize_mode"] = likeness.preprocess.resize_mode
    untold = {name: why for name, why in checkpoint.untold.items() if name not in likeness.told}
    # The graph computes the same, so nothing of it is assumed but what it does not show at this size.
    assumptions = tuple(each for each in checkpoint.assumptions if told.ceil_pools is None and each.subject == "pools")
    preprocess = replace(checkpoint.preprocess, **values)
    return replace(checkpoint, preprocess=preprocess, untold=untold, assumptions=assumptions)


def is_same(arch: Architecture, tensors: Mapping[str, NDArray[np.float32]], likeness: Likeness) -> bool:
    """Runs the network and the graph on the same random inputs, and if they differ, looks for the tensor that does.

    Returns:
        False if the graph has all tensors, but puts them together otherwise.

    Raises:
        BadInput: a tensor that the graph does not have.
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
    random = np.random.default_rng(0)
    shape = (IMAGES, height, width, channels)
    inputs = (random.uniform(0, 255, shape) if likeness.read.byte_input else random.normal(size=shape)).astype(np.float32)
    own = build_graph(arch, tensors, likeness.preprocess if likeness.folded else plain)
    other = graph_of(likeness.read, plain, name="like")
    found, expected = (_logits(graph, inputs) for graph in (own, other))
    if found.shape == expected.shape and expected.any() and _apart(found, expected) <= likeness.tolerance:
        return True
    stored = [node for node in likeness.read.nodes if isinstance(node, Conv)]
    weight_key, bias_key, *_ = tensor_shapes(arch)
    conv1 = next(conv for conv in own.convs if conv.name == "conv1")
    looked_for = {**tensors, weight_key: conv1.weight, bias_key: conv1.bias}
    for key in tensor_shapes(arch):
        values = looked_for[key]
        alike = [_apart(values, each) for conv in stored for each in (conv.weight, conv.bias) if each.shape == values.shape]
        if not alike or min(alike) > likeness.tolerance:
            nearest = f"the nearest differs by {min(alike):.2g} of its largest value" if alike else "nor any of its shape"
            raise BadInput(
                f"`{likeness.path.name}` is another network: it does not have the tensor `{key}`, {nearest}",
                hint=_other_hint(likeness),
            )
    return not expected.any() and not found.any()


def _other_hint(likeness: Likeness) -> str:
    """What to give in place of a graph of other weights."""
    if likeness.read.byte_input and not likeness.read.normalizes:
        return (
            f"`{likeness.path.name}` takes raw pixels, so its first layer may hold their mean and std: give what torch.onnx.export"
            " writes of this very checkpoint"
        )
    return "export the graph from this very checkpoint"


def _as_graph(path: Path, likeness: Likeness) -> Checkpoint:
    """The network of a state dict that is no SqueezeNet's: the graph, once it is sure that its weights are the state dict's.

    Args:
        path: the state dict.
        likeness: the graph.

    Raises:
        BadInput: a convolution or linear layer of the graph whose weights the state dict does not hold; it is named.
    """
    tensors, notes, digest = raw_tensors(path)
    held = _Held(tensors, likeness.tolerance)
    for node in likeness.read.nodes:
        if isinstance(node, Conv) and not _averages(node) and not held.has(node):
            raise BadInput(
                f"`{likeness.path.name}` is another network: `{path.name}` does not hold the weights of its `{node.name}`",
                hint=_other_hint(likeness),
            )
    both = hashlib.sha256(f"{digest} {likeness.digest}".encode()).hexdigest()
    notes = (f"its layers are put together as in `{likeness.path.name}`", *notes)
    return Checkpoint(path, "onnx", None, {}, likeness.preprocess, (), both, notes, onnx=likeness.file)


def _averages(conv: Conv) -> bool:
    """Whether the reader made it of an AveragePool: 1 / (rows * columns) from each channel to itself."""
    rows, columns = conv.kernel
    if conv.weight.shape[0] != conv.weight.shape[1] or conv.bias.any():
        return False
    channels = np.arange(conv.weight.shape[0])
    spread = np.zeros_like(conv.weight)
    spread[channels, channels] = 1 / (rows * columns)
    return bool(np.allclose(conv.weight, spread))


class _Held:
    """The tensors of a state dict, to look for a layer's weights among them, as they are or with a BatchNorm folded in."""

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], tolerance: float) -> None:
        self._tolerance = tolerance
        self._weights = [tensor for tensor in tensors.values() if tensor.ndim in (2, 4)]
        self._vectors = [tensor.astype(np.float64) for tensor in tensors.values() if tensor.ndim == 1]
        stems = [key.removesuffix(".running_var") for key in tensors if key.endswith(".running_var")]
        parts = ("weight", "bias", "running_mean", "running_var")
        whole = [stem for stem in stems if all(f"{stem}.{part}" in tensors for part in parts)]
        self._norms = [tuple(tensors[f"{stem}.{part}"].astype(np.float64) for part in parts) for stem in whole]

    def has(self, conv: Conv) -> bool:
        """Whether some tensors give a layer's weight and bias."""
        count = len(conv.bias)
        shifts = [np.zeros(count), *(vector for vector in self._vectors if len(vector) == count)]
        norms = [norm for norm in self._norms if len(norm[0]) == count]
        for stored in self._weights:
            if stored.shape[0] != count or stored.size != conv.weight.size:
                continue
            weight = stored.reshape(conv.weight.shape).astype(np.float64)
            if self._same(weight, conv.weight) and any(self._same(shift, conv.bias) for shift in shifts):
                return True
            for gain, shift, mean, variance in norms:
                for eps in _EPS:
                    factor = gain / np.sqrt(variance + eps)
                    if self._same(weight * factor[:, None, None, None], conv.weight):
                        biases = [(before - mean) * factor + shift for before in shifts]
                        if any(self._same(bias, conv.bias) for bias in biases):
                            return True
        return False

    def _same(self, values: NDArray[np.float64], others: NDArray[np.float32]) -> bool:
        return _apart(values, others) <= self._tolerance or not (values.any() or others.any())


def _logits(graph: Graph, inputs: FloatArray) -> FloatArray:
    return FloatRunner(graph)(inputs)


def _apart(values: NDArray[Any], others: NDArray[np.float32]) -> float:
    """The largest difference, in shares of the largest of the others."""
    return float(np.abs(values - others).max() / max(float(np.abs(others).max()), 1e-12))
