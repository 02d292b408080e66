"""Opens the network that a job is about."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export import demo
from squeeze_export.core import TORCHVISION, Assumption, ChannelOrder, Interpolation, Preprocess, Progress, ResizeMode, silent
from squeeze_export.errors import BadInput
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.nodes import Add, Conv, Graph
from squeeze_export.graph.onnx_graph import graph_of, preprocess_of, read_graph
from squeeze_export.images.label_files import read_labels
from squeeze_export.images.labels import Labels, check_label_count
from squeeze_export.images.preprocess import check_preprocess
from squeeze_export.nets.architecture import Architecture, StructureChoice, architecture, tensor_shapes
from squeeze_export.nets.assumptions import pixel_assumptions
from squeeze_export.nets.checkpoints import Checkpoint, read_checkpoint
from squeeze_export.nets.download import NAMED_WEIGHTS, fetch_weights
from squeeze_export.pipeline.expectation import Build, Reading, check_expected
from squeeze_export.pipeline.like import combined, read_like, read_likeness
from squeeze_export.pipeline.sidecar import SUFFIX, Sidecar, opened_sidecar


@dataclass(frozen=True)
class PreprocessChoice:
    """What the user changes of the preprocessing; None keeps the checkpoint's value.

    Attributes are those of `Preprocess`; `mean` and `std` are in pixel units (0 to 255), in the network's channel order, and
    `crop_px` may be height and width.
    """

    resize_px: int | None = None
    crop_px: int | tuple[int, int] | None = None
    interpolation: Interpolation | None = None
    channel_order: ChannelOrder | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize_mode: ResizeMode | None = None

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Height and width of the input that the user wants."""
        return (self.crop_px, self.crop_px) if isinstance(self.crop_px, int) else self.crop_px

    def applied_to(self, preprocess: Preprocess) -> Preprocess:
        """The checkpoint's preprocessing with the user's choices.

        Raises:
            BadInput: a value out of range, or means that look like the 0 to 1 scale.
        """
        chosen = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        if self.crop_px is not None:
            height, width = self.crop_px if isinstance(self.crop_px, tuple) else (self.crop_px, self.crop_px)
            chosen |= {"crop_px": height, "width_px": None if width == height else width}
        result = replace(preprocess, **chosen)
        if self.resize_px is None and self.resize_mode == "stretch":
            result = replace(result, resize_px=result.crop_px)  # nothing is cut off a picture that is pressed into shape
        elif self.resize_px is None and self.crop_px is not None:
            # The resize that came with the checkpoint belongs to its own crop: keep their ratio.
            side, old_side = (max(one.input_size[:2]) for one in (result, preprocess))
            result = replace(result, resize_px=max(side, round(preprocess.resize_px * side / old_side)))
        if self.channel_order is not None and "gray" in (preprocess.channel_order, self.channel_order) != ("gray", "gray"):
            raise BadInput(f"--channel-order `{self.channel_order}` does not fit a network of {preprocess.channel_order} images")
        for name in ("mean", "std"):
            values = chosen.get(name)
            if values is None:
                continue
            given = ",".join(f"{value:g}" for value in values)
            if not all(math.isfinite(value) for value in values) or (name == "std" and min(values) <= 0):
                raise BadInput(f"--{name} `{given}` is no {name} of pixels", hint=f"--{name} A,B,C in pixel values, 0 to 255")
            if max(values) <= 1 and set(values) != {1.0} and any(values):
                scaled = ",".join(f"{value * 255:g}" for value in values)
                raise BadInput(f"--{name} `{given}` looks like the 0 to 1 scale", hint=f"pixels are 0 to 255: --{name} {scaled}")
        check_preprocess(result)
        return result


@dataclass(frozen=True, eq=False)
class Network:
    """A checkpoint, opened and built.

    Attributes:
        name: first part of the file names.
        source: file name of the checkpoint, or `embedded demo network`.
        architecture: its description; None of an ONNX file that is no member of the SqueezeNet family.
        graph: its float graph: the reference.
        is_demo: whether it is the embedded one.
        notes: what was left out or changed while reading, one line each.
        classes: the names that folders of images go by; their wnids too, where they are known.
        assumptions: what neither the file nor the user told about it.
        told: what the user told of what a state dict does not tell.
    """

    name: str
    source: str
    architecture: Architecture | None
    graph: Graph
    is_demo: bool
    notes: tuple[str, ...] = ()
    classes: Labels = field(default_factory=Labels)
    assumptions: tuple[Assumption, ...] = ()
    told: StructureChoice = field(default_factory=StructureChoice)

    @property
    def class_count(self) -> int:
        """Outputs of the network."""
        return int(self.graph.output.shape[1])

    def facts(self) -> dict[str, Any]:
        """What a report says about it."""
        preprocess = self.graph.preprocess
        facts = {
            "name": self.name,
            "source": self.source,
            "class_count": self.class_count,
            "input_px": preprocess.crop_px if preprocess.width_px is None else list(preprocess.input_size[:2]),
            "parameter_count": sum(conv.weight.size + conv.bias.size for conv in self.graph.convs),
            "checkpoint_sha256": self.graph.checkpoint_sha256,
        }
        return facts | ({"notes": list(self.notes)} if self.notes else {})

    def origin(self) -> dict[str, Any]:
        """What a sidecar says about it besides its hash, if the checkpoint does not tell everything: its structure as the user told
        it or as it was assumed, and the assumptions.
        """
        if not self.assumptions and not self.told.given():
            return {}
        assumptions = [asdict(assumption) for assumption in self.assumptions]
        structure = {} if self.architecture is None else {"architecture": self.architecture.to_json()}
        return structure | {"assumptions": assumptions}


def open_network(
    weights: str | Path | None = None,
    *,
    preprocess: PreprocessChoice | None = None,
    labels: Path | None = None,
    classes: Path | None = None,
    structure: StructureChoice | None = None,
    like: Path | None = None,
    expect: Path | None = None,
    checkpoint_key: str | None = None,
    progress: Progress = silent,
) -> Network:
    """Opens a checkpoint file, named weights, or the embedded demo network.

    Args:
        weights: a file, a key of `NAMED_WEIGHTS`, or None for the demo network.
        preprocess: what the user changes of the checkpoint's.
        labels: class names, in any form that `label_files` reads; they replace those stored in the checkpoint.
        classes: names that folders of images go by, where these differ; likewise.
        structure: what the user tells of what a state dict does not tell.
        like: a float ONNX file of the same network, which tells it; or the sidecar (`.json`) of a file that was exported from it,
            which tells the preprocessing and the labels too.
        expect: an `.npz` file with an image and the user's own logits of it, which the reference must give.
        checkpoint_key: which network, where a file holds several, as in `read_checkpoint`.
        progress: told of a download.

    Raises:
        BadInput: a file that is no SqueezeNet, labels that do not match.
        Unavailable: offline, or a reader's package is missing.
    """
    is_demo = weights is None
    choice, told = preprocess or PreprocessChoice(), structure or StructureChoice()
    path = _path(weights, progress)
    sidecar = opened_sidecar(like) if like is not None and like.suffix == SUFFIX else None
    if sidecar is not None:
        told = combined(sidecar.path, sidecar.structure, told)
    if like is None or sidecar is not None:
        checkpoint = read_checkpoint(path, structure=told, key=checkpoint_key)
    else:
        likeness = read_likeness(like, choice.size_px)
        told = combined(likeness.path, likeness.structure, told)
        checkpoint = read_like(path, likeness, told, key=checkpoint_key)
    stored = checkpoint.labels if sidecar is None else sidecar.labels or checkpoint.labels
    names = Labels(stored) if labels is None else read_labels(labels)
    folders = names if classes is None else read_labels(classes)
    checkpoint, graph, build = _built(checkpoint, choice, sidecar)
    for given in (names, folders):
        if given.names:
            check_label_count(given, int(graph.output.shape[1]))
    graph = replace(graph, labels=names.names)
    name, source = graph.name, checkpoint.path.name
    if is_demo:
        name, source = demo.NAME, "embedded demo network"
    if expect is not None:
        check_expected(Reading(checkpoint.architecture, graph.preprocess), build, expect, progress=progress)
    assumptions = _assumptions(checkpoint, graph.preprocess, choice)
    return Network(name, source, checkpoint.architecture, graph, is_demo, checkpoint.notes, folders, assumptions, told)


def _built(checkpoint: Checkpoint, choice: PreprocessChoice, sidecar: Sidecar | None) -> tuple[Checkpoint, Graph, Build]:
    """What is known of the checkpoint (an ONNX file's graph tells more than its weights), its float graph, and what makes more."""
    if sidecar is not None:
        sidecar.check(checkpoint.sha256, checkpoint.path.name)
        checkpoint = replace(checkpoint, preprocess=sidecar.preprocess, untold={})
    if checkpoint.architecture is not None:

        def from_tensors(found: Reading) -> Graph:
            assert found.architecture is not None
            return build_graph(found.architecture, checkpoint.tensors, found.preprocess, checkpoint_sha256=checkpoint.sha256)

        found = Reading(checkpoint.architecture, choice.applied_to(checkpoint.preprocess))
        return checkpoint, from_tensors(found), from_tensors
    if checkpoint.onnx is None:
        raise ValueError("a checkpoint with neither an architecture nor a graph")
    size_px = choice.size_px or (None if sidecar is None else sidecar.preprocess.input_size[:2])
    read = read_graph(checkpoint.onnx, str(checkpoint.path), size_px)
    if read.normalizes and (choice.mean is not None or choice.std is not None):
        message = f"`{checkpoint.path}` normalizes its pixels itself, which --mean and --std would do once more"
        raise BadInput(message, hint="leave out --mean and --std")
    preprocess, untold = preprocess_of(read) if sidecar is None else (sidecar.preprocess, {})
    assumptions = checkpoint.assumptions
    if read.normalizes and not read.byte_input:
        scale = "0 to 1" if read.unit == 255 else "0 to 255"
        assumptions += (Assumption("pixel range", f"pixels {scale} into the file", "the file's own mean and std"),)
    notes = (*checkpoint.notes, *read.notes)
    told = replace(checkpoint, preprocess=preprocess, untold=untold, notes=notes, assumptions=assumptions)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", checkpoint.path.stem).strip("._-")[:64] or "network"

    def from_nodes(found: Reading) -> Graph:
        return graph_of(read, found.preprocess, name=name, checkpoint_sha256=checkpoint.sha256)

    return told, from_nodes(Reading(None, choice.applied_to(preprocess))), from_nodes


def _assumptions(checkpoint: Checkpoint, preprocess: Preprocess, choice: PreprocessChoice) -> tuple[Assumption, ...]:
    """What is left to assume when the file and the user have told what they know."""
    untold = {name: why for name, why in checkpoint.untold.items() if getattr(choice, name) is None}
    found = checkpoint.assumptions
    for why in dict.fromkeys(untold.values()):
        found += pixel_assumptions(preprocess, {name for name in untold if untold[name] == why}, why)
    return found


def _path(weights: str | Path | None, progress: Progress) -> Path:
    if weights is None:
        return demo.weights_path()
    if str(weights) in NAMED_WEIGHTS and not Path(weights).exists():
        return fetch_weights(str(weights), progress=progress)
    path = Path(weights)
    if not path.suffix and not path.exists():
        raise BadInput(f"`{weights}` is neither a file nor named weights", hint=f"named weights: {', '.join(NAMED_WEIGHTS)}")
    return path


def layer_names(weights: str | None) -> list[str]:
    """The layers of a network that can be kept in float. Named weights are not downloaded for them, and None is the demo network.

    Raises:
        BadInput: a file that is no network.
        Unavailable: a reader's package is missing.
    """
    if weights is not None and weights in NAMED_WEIGHTS and not Path(weights).exists():
        named = architecture(weights)
        graph = build_graph(named, {key: np.zeros(shape, np.float32) for key, shape in tensor_shapes(named).items()}, TORCHVISION)
    else:
        graph = open_network(weights).graph
    return [node.name for node in graph.nodes if isinstance(node, Conv | Add)]
