"""What the contract is run over: networks with everything that can go wrong in small, and every file, runtime and device."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.core import TORCHVISION, Artifact, Audit, EmitOptions, Preprocess, Session, TensorSpec
from squeeze_export.errors import Unavailable
from squeeze_export.files import read_content, write_draft
from squeeze_export.graph.build import build_graph
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.nodes import (
    Add,
    Concat,
    Conv,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Node,
    Pads,
    Pair,
    tensor_sizes,
)
from squeeze_export.graph.pixels import on_pixels
from squeeze_export.graph.quantized import QuantizedGraph, scheme_named
from squeeze_export.graph.run import FloatRunner
from squeeze_export.measure.host import host_facts
from squeeze_export.nets.architecture import Architecture, Bypass, Fire, architecture, tensor_shapes
from squeeze_export.pipeline.export import export
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.quant.recipes import quantize
from squeeze_export.registry import TARGETS
from squeeze_export.runtimes import Runtime, runtime_named
from squeeze_export.targets import Target, target_named

SIZE_PX = 64
CLASSES = 12
CHECKPOINT = "c0ffee" * 10


@dataclass(frozen=True, repr=False)
class Net:
    """A network and what it answers.

    Attributes:
        pixels: (16, H, W, C) uint8.
        reference: logits of the float run.
        integers: logits of the integer run.
    """

    graph: Graph
    quantized: QuantizedGraph
    pixels: Any
    reference: Any
    integers: Any


@dataclass(frozen=True, repr=False)
class Subject:
    """One file format in one scheme, opened by one runtime.

    Attributes:
        net: what is expected.
        graph: what is written in a float scheme; the negative controls write something else than is expected.
        quantized: likewise in an integer scheme.
        scheme: a key of `SCHEMES`.
        options: that every file is written with, unless a behaviour says otherwise.
    """

    net: Net
    graph: Graph
    quantized: QuantizedGraph
    target: str
    scheme: str
    runtime: str
    folder: Path
    options: EmitOptions = field(default_factory=EmitOptions)

    @property
    def integer(self) -> bool:
        return scheme_named(self.scheme).integer

    @property
    def module(self) -> Target:
        return target_named(self.target)

    @property
    def format(self) -> str:
        """What reads the file."""
        return self.module.FORMAT or self.target

    @property
    def opener(self) -> Runtime:
        return runtime_named(self.runtime)

    @property
    def is_default(self) -> bool:
        """Whether the runtime is the target's first."""
        return self.runtime == default_runtime(self.target)

    @property
    def expected(self) -> Any:
        """The logits that the file should give."""
        return self.net.integers if self.integer else self.net.reference

    def export(self, name: str = "net", **options: Any) -> tuple[Artifact, Audit]:
        network = self.quantized if self.integer else self.graph
        return export(
            network, self.target, scheme_named(self.scheme), self.folder, name=name, options=replace(self.options, **options)
        )

    def exported(self, **options: Any) -> tuple[Artifact, Audit]:
        """What `export` writes, once for all that read it: the runtimes of a target share their files. Nothing may change it."""
        network = self.quantized if self.integer else self.graph
        chosen = replace(self.options, **options)
        key = (id(network), self.target, self.scheme, chosen)
        if key not in _WRITTEN:
            folder = self.folder.parent / f"written{len(_WRITTEN)}"
            folder.mkdir()
            _WRITTEN[key] = network, *replace(self, folder=folder).export(**options)
        return _WRITTEN[key][1:]

    def written(self, **options: Any) -> Artifact:
        """The file of `exported`."""
        return self.exported(**options)[0]

    def copied(self) -> Artifact:
        """The file and its sidecar in the subject's own folder, to be changed."""
        artifact = self.written()
        copy = self.folder / artifact.path.name
        write_draft(copy, read_content(artifact.path))
        shutil.copy(sidecar_path(artifact.path), sidecar_path(copy))
        return replace(artifact, path=copy)

    @contextmanager
    def opened(self, artifact: Artifact) -> Iterator[list[Session]]:
        """A session on the runtime's first device. The others, where a machine has them, compute as they like: a GPU runs an
        int8 file in floats.
        """
        session = self.opener.open_session(artifact, device=self.opener.devices()[0], threads=1)
        try:
            yield [session]
        finally:
            session.close()

    def logits(self, **options: Any) -> Any:
        """(devices, images, classes): what a file answers, written with these options. Each file is asked once by each runtime."""
        artifact = self.written(**options)
        key = (artifact.path, self.runtime)
        if key not in _ANSWERS:
            with self.opened(artifact) as sessions:
                _ANSWERS[key] = np.stack([session.infer(self.net.pixels) for session in sessions])
        return _ANSWERS[key].copy()


_WRITTEN: dict[tuple[int, str, str, EmitOptions], tuple[Graph | QuantizedGraph, Artifact, Audit]] = {}
"""Which network, by its identity, target, scheme and form -> the network, kept so that no other gets its identity, its file and
the file's audit."""

_ANSWERS: dict[tuple[Path, str], Any] = {}
"""Which file, by its path, and runtime -> the logits."""

MEMBERS: dict[str, tuple[Bypass, int]] = {
    "plain": ("none", 0),
    "simple": ("simple", 0),
    "complex": ("complex", 0),
    "conv10_pad": ("none", 1),
}
"""Of the family: their bypass, and the padding of conv10."""

OTHERS = {
    "windows": replace(TORCHVISION, crop_px=SIZE_PX),
    "grey": Preprocess(48, 40, "bilinear", "gray", (127.5,), (64.0,), width_px=48),
    "normalize": replace(TORCHVISION, crop_px=SIZE_PX),
}
"""Networks that are no SqueezeNets: windows and paddings of every form, with an Add and its ReLU and a Concat of three; a grey
image that is no square; a padded first convolution behind a `normalize`, with logits below 0."""

VARIANTS = (*MEMBERS, *OTHERS)


@cache
def net(variant: str = "plain", scheme: str = "int8") -> Net:
    """SqueezeNet 1.1 of 12 classes at 64 px, untrained, with some dead filters; the variants are shorter.

    Args:
        variant: one of `VARIANTS`.
        scheme: an integer one: of the table.
    """
    graph, pixels, reference = floats(variant)
    quantized = quantize(graph, pixels[16:], FloatRunner(graph), scheme_named(scheme), threads=2)
    return Net(graph, quantized, pixels[:16], reference, IntegerRunner(quantized)(pixels[:16]))


@cache
def floats(variant: str) -> tuple[Graph, Any, Any]:
    """A variant's graph, 32 images, and the logits of the first 16."""
    if variant in OTHERS:
        return other_floats(variant)
    bypass, pad = MEMBERS[variant]
    arch = architecture("squeezenet1_1", class_count=CLASSES)
    if variant != "plain":
        fires = (Fire(8, 24, 24), Fire(8, 24, 24, "simple"), Fire(12, 40, 40, "complex"))
        kept = {"none": (), "simple": ("simple",), "complex": ("simple", "complex")}[bypass]
        arch = Architecture(
            variant, 16, 3, tuple(f if f.bypass in kept else replace(f, bypass="none") for f in fires), (0, 1), CLASSES, pad
        )
    draw = np.random.default_rng(11)
    tensors = {
        key: draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1, shape).astype(np.float32)
        for key, shape in tensor_shapes(arch).items()
    }
    for key in ("features.0", "features.3.squeeze", "features.3.expand1x1"):
        tensors[f"{key}.weight"][0], tensors[f"{key}.bias"][0] = 0, -1
    pixels = drawn_images(draw, 32)
    preprocess, labels = replace(TORCHVISION, crop_px=SIZE_PX), tuple(f"étiquette {index}" for index in range(CLASSES))
    tensors |= telling_conv10(build_graph(arch, tensors, preprocess), pixels[:CLASSES])
    graph = build_graph(arch, tensors, preprocess, labels=labels, checkpoint_sha256=CHECKPOINT)
    return graph, pixels, FloatRunner(graph)(pixels[:16])


def other_floats(variant: str) -> tuple[Graph, Any, Any]:
    """`floats` of one of `OTHERS`."""
    preprocess = OTHERS[variant]
    height, width, channels = preprocess.input_size
    draw = np.random.default_rng(12)
    none, even = (0, 0, 0, 0), (1, 1, 1, 1)

    def conv(
        name: str, source: str, shape: tuple[int, int, int, int], strides: Pair = (1, 1), pads: Pads = none, relu: bool = True
    ) -> Conv:
        weight = draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        return Conv(name, source, weight, draw.normal(0, 0.1, shape[0]).astype(np.float32), strides, pads, relu)

    head = "joined"
    nodes: dict[str, tuple[Node, ...]] = {
        "windows": (
            conv("conv1", "input", (12, 3, 5, 3), (2, 3)),
            MaxPool("pool1", "conv1", (3, 2), (2, 1), (0, 0, 1, 0)),
            conv("across", "pool1", (8, 12, 1, 3), pads=(0, 1, 0, 1)),
            conv("down", "pool1", (6, 12, 3, 1), pads=(2, 0, 0, 0)),
            conv("even", "pool1", (10, 12, 2, 2), pads=(1, 0, 0, 1)),
            Concat("three", ("across", "down", "even")),
            conv("signed", "three", (16, 24, 1, 1), relu=False),
            MaxPool("pool2", "signed", (3, 3), (2, 2), even),
            conv("shortcut", "pool1", (16, 12, 3, 3), (2, 2), even, relu=False),
            Add("joined", ("pool2", "shortcut"), relu=True),
        ),
        "grey": (
            conv("conv1", "input", (16, 1, 3, 3), (2, 2)),
            MaxPool("pool1", "conv1", (3, 3), (2, 2), (0, 0, 0, 0)),
            conv("squeeze", "pool1", (12, 16, 1, 1)),
            conv("expand1x1", "squeeze", (32, 12, 1, 1)),
            conv("expand3x3", "squeeze", (32, 12, 3, 3), pads=even),
            Concat("joined", ("expand1x1", "expand3x3")),
        ),
        "normalize": (
            conv("conv1", "input", (16, 3, 7, 7), (2, 2), (3, 3, 3, 3)),
            MaxPool("pool1", "conv1", (3, 3), (2, 2), even),
            conv("joined", "pool1", (24, 16, 3, 3), pads=even),
        ),
    }
    body = on_pixels(nodes[variant], preprocess)
    labels = tuple(f"étiquette {index}" for index in range(CLASSES))
    taken = TensorSpec("input", ("N", height, width, channels), "uint8", "NHWC", 1.0, 0)
    given = TensorSpec("logits", ("N", CLASSES), "float32", "NC")
    features = tensor_sizes(body, taken)[head][2]
    last = conv("conv10", head, (CLASSES, features, 1, 1), relu=variant != "normalize")
    graph = Graph(variant, (*body, last, GlobalAveragePool("logits", "conv10")), taken, given, preprocess, labels, CHECKPOINT)
    pixels = drawn_images(draw, 32, preprocess.input_size)
    weight, bias = telling_conv10(graph, pixels[:CLASSES]).values()
    graph = replace(graph, nodes=(*body, replace(last, weight=weight, bias=bias), graph.nodes[-1]))
    return graph, pixels, FloatRunner(graph)(pixels[:16])


def drawn_images(draw: np.random.Generator, count: int, size: tuple[int, int, int] = (SIZE_PX, SIZE_PX, 3)) -> Any:
    """Each of its own colour, with large squares of its own contrast."""
    height, width, channels = size
    colours, contrasts = draw.uniform(0, 256, (count, 1, 1, channels)), draw.uniform(5, 150, (count, 1, 1, 1))
    coarse = np.clip(colours + contrasts * draw.normal(size=(count, 4, 4, channels)), 0, 255).astype(np.uint8)
    return coarse.repeat(height // 4, 1).repeat(width // 4, 2)


def telling_conv10(graph: Graph, pixels: Any) -> dict[str, Any]:
    """conv10 with a class for each image: a random one would give them all the same class."""
    features: list[Any] = []
    source = graph.convs[-1].input
    FloatRunner(graph)(pixels, lambda name, values: features.append(values.mean(axis=(0, 1, 2))) if name == source else None)
    mean = np.mean(features, axis=0)
    own = np.array(features) - mean  # what an image does not share with the others
    own -= np.outer(own @ mean, mean) / (mean @ mean)
    length = np.sqrt(np.square(own).sum(axis=1, keepdims=True))
    weight = (8 * own / (length * length.max())).astype(np.float32)
    return {"classifier.1.weight": weight[:, :, None, None], "classifier.1.bias": np.full(CLASSES, 4, np.float32)}


def default_runtime(target: str) -> str:
    """The target's first; empty where nothing runs its files."""
    return next(iter(target_named(target).RUNTIMES), "")


@cache
def missing(target: str, runtime: str) -> str:
    """Why this machine cannot write the format or open it, or nothing.

    The environment's `SQUEEZE_EXPORT_REQUIRE=onnx,tflite` names targets, whose default runtime must then be here, and runtimes.
    """
    required = {name.strip() for name in os.environ.get("SQUEEZE_EXPORT_REQUIRE", "").split(",")}
    try:
        module, plain = target_named(target), net()
        module.emit(plain.graph, scheme_named("fp32"), EmitOptions(), {})
        if runtime:
            runtime_named(runtime).devices()
    except Unavailable as err:
        # `coreml` and `openvino` are names of both: then the target is meant.
        if runtime in required - set(TARGETS) or (target in required and runtime == default_runtime(target)):
            pytest.fail(f"{target} with {runtime} is required: {err.message}")
        return err.message
    return ""


def subject(case: tuple[str, ...], folder: Path, variant: str = "plain") -> Subject:
    """The subject of (target, scheme) or (target, scheme, runtime); skipped, by name, where this machine lacks something."""
    target, scheme, *rest = case
    runtime = rest[0] if rest else default_runtime(target)
    reason = missing(target, runtime)
    if reason:
        pytest.skip(f"{target} with {runtime}: {reason}")
    network = net(variant, scheme if scheme_named(scheme).integer else "int8")
    return Subject(network, network.graph, network.quantized, target, scheme, runtime, folder)


@pytest.fixture
def make_subject(tmp_path: Path) -> Any:
    """`make_subject(case, variant)`; its folder is empty."""
    return lambda case, variant="plain": subject(case, tmp_path, variant)


@pytest.fixture(scope="session")
def sums_are_exact() -> bool:
    """Whether u8 x s8 products are summed without saturation here: x86 needs VNNI for it."""
    facts = host_facts()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or any("vnni" in flag or "amx" in flag for flag in facts.get("isa", ()))


@pytest.fixture(scope="session")
def emitter() -> Any:
    """The module of a target, to be patched by the negative controls."""
    return lambda name: importlib.import_module(target_named(name).__name__)  # type: ignore[attr-defined]
