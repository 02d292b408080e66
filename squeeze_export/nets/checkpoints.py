"""Checkpoint files: which reader takes which, and what preprocessing comes with each kind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import CAFFE, TORCHVISION, Assumption, Preprocess
from squeeze_export.errors import BadInput
from squeeze_export.files import read_bounded
from squeeze_export.formats.onnx import OnnxFile, parsed
from squeeze_export.nets.architecture import Architecture, StructureChoice, tensor_shapes
from squeeze_export.nets.assumptions import PIXELS, option_for, structure_assumptions, torchvision_name
from squeeze_export.nets.containers import Kind, kind_of, refuse_folder
from squeeze_export.nets.net_reader import read_net
from squeeze_export.nets.onnx_reader import read_onnx
from squeeze_export.nets.recognition import check_shapes, named, recognize
from squeeze_export.nets.safetensors_file import read_safetensors
from squeeze_export.nets.state_dict import StoredValues, flattened, network_in, unpruned
from squeeze_export.nets.stored import FLOAT_BYTES
from squeeze_export.nets.torch_reader import read_torch

MAX_BYTES = 512 << 20
"""Training checkpoints carry optimizer state; a SqueezeNet itself has 5 MB."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint file, read.

    Attributes:
        path: the file.
        kind: `torch`, `safetensors`, `onnx` or `net`.
        architecture: inferred from the tensors, or stored with them; None of an ONNX file that is no member of the family.
        tensors: torchvision's key -> float32 array, OIHW for weights: exactly the keys, order and shapes of `tensor_shapes`. None
            without an architecture.
        preprocess: that belongs to the weights, as far as the file tells; the default of its kind elsewhere.
        labels: one per class in index order, or empty.
        sha256: of the file's bytes, in hex; of an ONNX file with its weights beside it, of all together.
        notes: what was left out or changed while reading, one line each.
        assumptions: what neither the file nor the user told about the architecture.
        untold: the fields of `preprocess` that the file does not tell, and where their values come from.
        onnx: an ONNX file that is no member of the family, to be read by its graph.
    """

    path: Path
    kind: Kind
    architecture: Architecture | None
    tensors: Mapping[str, NDArray[np.float32]]
    preprocess: Preprocess
    labels: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    untold: Mapping[str, str] = field(default_factory=dict)
    onnx: OnnxFile | None = None


def read_checkpoint(path: Path, *, structure: StructureChoice | None = None, key: str | None = None) -> Checkpoint:
    """Reads a checkpoint of any kind, told by what is in the file and not by its ending.

    The file is read once, so the hash belongs to what was decoded.

    Args:
        path: the file.
        structure: what the user tells of what leaves no trace in a state dict; where the file tells, it must agree.
        key: which network, where a file has several: the keys that lead to it, or some of them, with dots between.

    Raises:
        BadInput: no such file, another kind of file, one that is too large, cut short or hostile, weights that are no SqueezeNet,
            or several networks and no key.
        Unavailable: the package that reads this kind is not installed.
    """
    if not path.is_file():
        raise refuse_folder(path) if path.is_dir() else BadInput(f"`{path}` is not there, where a checkpoint file is needed")
    data = read_bounded(path, MAX_BYTES, "a checkpoint")
    kind = kind_of(data, path)
    if key is not None and kind in ("onnx", "net"):
        raise BadInput(f"`{path}` has no keys to choose from", hint="leave out --checkpoint-key")
    told = structure or StructureChoice()
    digest = hashlib.sha256(data).hexdigest()
    arch: Architecture | None = None
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    untold: dict[str, str] = {}
    if kind == "onnx":
        file = parsed(data, str(path), path.parent)
        digest = file.sha256(data)
        try:
            arch, tensors, preprocess, untold = read_onnx(file, str(path))
        except BadInput:  # whatever is wrong: reading it by its graph tells the reason, if that fails too
            return _other_graph(path, file, digest, told)
    elif kind == "net":
        arch, tensors = read_net(data, str(path))
        preprocess, untold = CAFFE, dict.fromkeys(PIXELS, "Caffe's preprocessing")
    else:
        if kind == "safetensors":
            stored = read_safetensors(data, str(path))
            contents = StoredValues(dict(stored.tensors))
            arch, preprocess, labels = stored.architecture, stored.preprocess, stored.labels
        else:
            contents = flattened(read_torch(data, str(path)), str(path))
        found = network_in(contents, str(path), len(data), key=key, ordered=kind == "torch")
        tensors, notes, assumptions = dict(found.tensors), found.notes, found.assumptions
        if found.linear_head:
            told = replace(told, final_relu=False, conv10_pad=0)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if arch is None:
        arch = recognize(shapes, structure=told)
        assumptions += structure_assumptions(arch, told, torchvision_name(arch))
    elif kind == "net":
        conv10_pad = arch.conv10_pad if told.conv10_pad is None else told.conv10_pad
        arch = recognize(shapes, structure=replace(told, conv10_pad=conv10_pad))
        assumptions += structure_assumptions(arch, told, "its authors' SqueezeNet 1.0")
    else:
        arch = _settled(arch, shapes, told)
    if labels and len(labels) != arch.class_count:
        raise BadInput(f"`{path}` stores `{len(labels)}` labels for a network of {arch.class_count} classes")
    if preprocess is None:
        preprocess, untold = TORCHVISION, dict.fromkeys(PIXELS, "torchvision's preprocessing")
    if arch.in_channels == 1 and untold:
        preprocess = replace(preprocess, channel_order="gray", mean=(127.5,), std=(127.5,))
        untold = untold | dict.fromkeys(("mean", "std"), "usual for grey images, -1 to 1")
        untold = {name: why for name, why in untold.items() if name != "channel_order"}
    tensors = {name: tensors[name] for name in tensor_shapes(arch)}
    return Checkpoint(path, kind, arch, tensors, preprocess, labels, digest, notes, assumptions, untold)


def raw_tensors(path: Path) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...], str]:
    """All tensors of a state dict, of whatever network, under the names that they have in the file; pruned ones multiplied out.

    Returns:
        key -> float32 array, what was done to them, and the SHA-256 of the file.

    Raises:
        BadInput: no such file, or none that holds tensors alone.
    """
    data = read_bounded(path, MAX_BYTES, "a checkpoint")
    kind = kind_of(data, path)
    if kind not in ("torch", "safetensors"):
        raise BadInput(f"`{path}` is no state dict", hint="a state dict for --weights, and its graph for --like")
    if kind == "torch":
        contents = flattened(read_torch(data, str(path)), str(path)).tensors
    else:
        contents = dict(read_safetensors(data, str(path)).tensors)
    tensors, notes = unpruned(contents)
    stored = {name: tensor for name, tensor in tensors.items() if tensor.dtype in FLOAT_BYTES}
    if sum(tensor.size_bytes for tensor in stored.values()) > len(data):  # a view can repeat one number any number of times
        raise BadInput(f"`{path}` has tensors that claim more data than it has")
    return {name: tensor.read() for name, tensor in stored.items()}, tuple(notes), hashlib.sha256(data).hexdigest()


def _other_graph(path: Path, file: OnnxFile, digest: str, told: StructureChoice) -> Checkpoint:
    if told.given():
        options = " ".join(option_for(name, value) for name, value in told.given().items())
        raise BadInput(f"`{path}` tells its whole structure itself", hint=f"leave out {options}")
    return Checkpoint(path, "onnx", None, {}, TORCHVISION, (), digest, onnx=file)


def _settled(arch: Architecture, shapes: Mapping[str, tuple[int, ...]], told: StructureChoice) -> Architecture:
    """The architecture that a file tells, if it fits its tensors and what the user told."""
    check_shapes(arch, shapes)
    for name, value in told.given().items():
        stored = getattr(arch, name)
        if value != stored:
            subject = name.replace("_", " ")
            raise BadInput(f"{subject} `{_shown(value)}` was asked for, but the file says `{_shown(stored)}`")
    return named(arch)


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
