"""`--expect FILE.npz`: an image and what the user's own network makes of it. A reference that gives something else is refused."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import CAFFE, TORCHVISION, ByteArray, FloatArray, Preprocess, Progress
from squeeze_export.errors import BadInput
from squeeze_export.files import reading
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import check_preprocess, fit
from squeeze_export.nets.architecture import Architecture, StructureChoice, tensor_shapes
from squeeze_export.nets.assumptions import option_for, simple_bypass_fits
from squeeze_export.nets.recognition import recognize

TOLERANCE = 5e-3
"""Largest difference of a logit, in shares of the largest: a GPU's TF32 stays below it, and hardly any wrong network does."""
MAX_BYTES = 256 << 20
MAX_COUNT = 64
"""Images in the file."""
TRIAL_S = 20.0
"""How long to look for what would fit."""
MOST_TOGETHER = 3
"""Changes that are tried together."""
_FAILURES = (zipfile.BadZipFile, ValueError, OverflowError, MemoryError, EOFError, KeyError, NotImplementedError, RuntimeError)
"""What `zipfile` and `numpy` raise on broken files."""
_INPUTS = ("image", "pixels", "input")
_HINT = "np.savez('expected.npz', pixels=<(H, W, 3) uint8>, logits=<(classes,) float>); `image` and `input` are possible too"
_SCALES: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    (TORCHVISION.mean, TORCHVISION.std),
    (CAFFE.mean, CAFFE.std),
    ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((125.307, 122.961, 113.8575), (62.9932, 62.0887, 66.7048)),  # the usual ones of CIFAR-10
)


@dataclass(frozen=True, eq=False)
class Expectation:
    """What the file holds.

    Attributes:
        kind: `image`, `pixels` or `input`.
        values: (N, H, W, C) uint8, RGB or grey; of `input` float32, what the user's network takes, NHWC.
        logits: (N, classes) float64.
    """

    kind: str
    values: NDArray[Any]
    logits: NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What is known, told or assumed about a checkpoint: all that the reference is made of besides its tensors."""

    architecture: Architecture | None
    preprocess: Preprocess


Build: TypeAlias = Callable[[Reading], Graph]
"""Makes the float graph of the checkpoint's tensors as they are read."""


@dataclass(frozen=True)
class Change:
    """One thing taken to be otherwise: what it is about, what to type for it, and the reading that it makes of another."""

    subject: str
    option: str
    applied_to: Callable[[Reading], Reading]


def check_expected(found: Reading, build: Build, path: Path, *, progress: Progress) -> None:
    """Runs the reference on the file's images.

    Args:
        found: what is known, told or assumed about the checkpoint.
        build: makes the reference.
        path: an `.npz` file with `logits`, and one of `image` (any size), `pixels` (of the network's input size) and `input`.
        progress: told of the search for what would fit.

    Raises:
        BadInput: the file cannot be read, or the reference gives another class, or other logits. The error says by how much, and
            the hint which options would fit.
    """
    reference = build(found)
    expected = read_expectation(path, channels=int(reference.input.shape[3]), class_count=int(reference.output.shape[1]))
    if found.architecture is None and expected.kind == "input":
        message = f"`input` of `{path}` cannot be given to an ONNX file's graph, which may normalize by itself"
        raise BadInput(message, hint="store `pixels` or `image` in its place")
    logits = _logits(found, build, expected)
    if _difference(logits, expected.logits) <= TOLERANCE and not _other_class(logits, expected.logits):
        return
    others = np.flatnonzero(logits.argmax(1) != expected.logits.argmax(1))
    at = int(others[0]) if others.size else int(np.abs(logits - expected.logits).max(1).argmax())
    own, given = int(logits[at].argmax()), int(expected.logits[at].argmax())
    classes = f"class {own} where the file has {given}" if own != given else f"class {own} as in the file"
    share = _difference(logits, expected.logits)
    raise BadInput(
        f"the fp32 reference does not fit `{path.name}`: {classes}, and logits differ by up to {share:.2g} of the largest",
        hint=_hint(found, build, expected, progress),
    )


def read_expectation(path: Path, *, channels: int, class_count: int) -> Expectation:
    """Reads the file; nothing in it is executed, and sizes are bounded before anything is allocated.

    Raises:
        BadInput: no such file, no `.npz`, arrays missing or of another shape or dtype than they should have.
    """
    arrays = _arrays(path)
    names = [name for name in _INPUTS if name in arrays]
    if "logits" not in arrays or len(names) != 1:
        listed = ", ".join(f"`{name}`" for name in sorted(arrays)) or "nothing"
        raise BadInput(f"`{path}` holds {listed}; `logits` and one of `image`, `pixels` and `input` are needed", hint=_HINT)
    kind, values, logits = names[0], arrays[names[0]], np.atleast_2d(arrays["logits"])
    found = f"`{values.dtype}{list(values.shape)}`"
    if kind != "input" and channels == 1 and values.ndim == 2:
        values = values[..., None]
    values = values[None] if values.ndim == 3 else values
    layout, dtype = ("N, C, H, W", np.floating) if kind == "input" else ("N, H, W, C", np.uint8)
    if kind == "input" and values.ndim == 4:
        values = values.transpose(0, 2, 3, 1)
    if values.ndim != 4 or values.shape[3] != channels or not np.issubdtype(values.dtype, dtype) or 0 in values.shape:
        wanted = f"({layout.replace('C', str(channels))}) {'floats' if kind == 'input' else 'uint8'}"
        raise BadInput(f"`{kind}` of `{path}` is {found}; {wanted} are needed", hint=_HINT)
    if len(values) > MAX_COUNT:
        raise BadInput(f"`{path}` has `{len(values)}` images; at most {MAX_COUNT} are run", hint="one is enough")
    wanted = f"{len(values)} x {class_count} finite floats are needed"
    if logits.shape != (len(values), class_count) or logits.dtype.kind != "f" or not np.isfinite(logits).all():
        raise BadInput(f"`logits` of `{path}` are `{logits.dtype}{list(logits.shape)}`; {wanted}", hint=_HINT)
    values = values.astype(np.float32) if kind == "input" else values
    return Expectation(kind, values, logits.astype(np.float64))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            size_bytes = sum(entry.file_size for entry in archive.infolist())
        if size_bytes > MAX_BYTES:
            raise BadInput(
                f"`{path}` holds `{size_bytes}` bytes; at most {MAX_BYTES >> 20} MiB are read", hint="one image is enough"
            )
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*_INPUTS, "logits") if name in file.files}
    except _FAILURES as err:
        raise BadInput(f"`{path}` is no `.npz` file of plain arrays: {err}", hint=_HINT) from err


def _logits(found: Reading, build: Build, expected: Expectation, count: int | None = None) -> FloatArray:
    """The reference's, (N, classes), of the first `count` images."""
    values, preprocess = expected.values[:count], found.preprocess
    if expected.kind == "input":  # nothing happens to it before the first layer
        height, width, channels = values.shape[1:]
        preprocess = replace(
            preprocess,
            channel_order="gray" if channels == 1 else "rgb",
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            crop_px=height,
            width_px=None if width == height else width,
            resize_px=max(height, width),
        )
    check_preprocess(preprocess)
    graph = build(replace(found, preprocess=preprocess))
    if expected.kind == "image":
        values = np.stack([_fitted(image, preprocess) for image in values])
    elif values.shape[1:] != preprocess.input_size:
        size = " x ".join(map(str, values.shape[1:3]))
        raise BadInput(
            f"`pixels` are `{size}`, the network's input is `{preprocess.size_text}` px", hint="--crop, or call it `image`"
        )
    return FloatRunner(graph)(values)


def _fitted(image: ByteArray, preprocess: Preprocess) -> ByteArray:
    from PIL import Image

    return fit(Image.fromarray(image if image.shape[2] == 3 else image[..., 0]), preprocess, "image")


def _difference(logits: NDArray[Any], expected: NDArray[Any]) -> float:
    """In shares of the largest expected logit."""
    return float(np.abs(logits - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def _other_class(logits: NDArray[Any], expected: NDArray[Any]) -> bool:
    return bool((logits.argmax(-1) != expected.argmax(-1)).any())


def _hint(found: Reading, build: Build, expected: Expectation, progress: Progress) -> str:
    """What to type so that it fits; what else may be wrong where nothing does."""
    if (expected.logits >= 0).all() and np.allclose(expected.logits.sum(1), 1, atol=1e-3):
        return "these look like probabilities: store what the network gives before its softmax"
    changes, until = tuple(_changes(found, expected)), time.monotonic() + TRIAL_S
    for together in range(1, MOST_TOGETHER + 1):
        best: tuple[float, str] | None = None
        trials = list(_trials(changes, together))
        for done, trial in enumerate(trials):
            progress("looking for what would fit", done, len(trials))
            if time.monotonic() > until:
                break
            share = _share(found, trial, build, expected)
            if share is not None and share <= TOLERANCE and (best is None or share < best[0]):
                best = share, " ".join(change.option for change in trial)
        if best is not None:
            return f"it would fit with {best[1]}"
    return "nothing that a state dict leaves untold fits: is it this checkpoint? --like MODEL.onnx takes everything from a graph"


def _share(found: Reading, trial: tuple[Change, ...], build: Build, expected: Expectation) -> float | None:
    """The difference after some changes, of the first image and then of all; None where they make no network."""
    for change in trial:
        found = change.applied_to(found)
    try:
        first = _logits(found, build, expected, 1)
        if _difference(first, expected.logits[:1]) > TOLERANCE:
            return None
        return _difference(_logits(found, build, expected), expected.logits)
    except BadInput:
        return None


def _trials(changes: tuple[Change, ...], together: int) -> Iterator[tuple[Change, ...]]:
    """Every choice of so many changes of different subjects."""
    by_subject: dict[str, list[Change]] = {}
    for change in changes:
        by_subject.setdefault(change.subject, []).append(change)
    for subjects in combinations(by_subject, together):
        yield from product(*(by_subject[subject] for subject in subjects))


def _changes(found: Reading, expected: Expectation) -> Iterator[Change]:
    """What may be otherwise."""
    if found.architecture is not None:
        yield from _structure_changes(found.architecture)
    preprocess = found.preprocess
    if expected.kind == "input" or preprocess.channel_order == "gray":
        return
    other = "bgr" if preprocess.channel_order == "rgb" else "rgb"
    yield Change("channel order", f"--channel-order {other}", _pixels(channel_order=other))
    for mean, std in _SCALES:
        if (mean, std) != (preprocess.mean, preprocess.std):
            yield Change("scale", f"--mean {_numbers(mean)} --std {_numbers(std)}", _pixels(mean=mean, std=std))
    if expected.kind == "image":
        for filter_name in ("bilinear", "bicubic"):
            if filter_name != preprocess.interpolation:
                yield Change("interpolation", f"--interpolation {filter_name}", _pixels(interpolation=filter_name))
        if preprocess.resize_mode != "stretch":
            yield Change("resize", "--resize-mode stretch", _pixels(resize_mode="stretch", resize_px=preprocess.crop_px))


def _structure_changes(arch: Architecture) -> Iterator[Change]:
    values: dict[str, tuple[Any, ...]] = {
        "final_relu": (True, False),
        "conv1_pad": tuple(sorted({0, 1, 2, 3, arch.conv1_kernel // 2} & set(range(arch.conv1_kernel)))),
        "conv1_stride": (1, 2, 3, 4),
        "ceil_pools": (True, False),
        "conv10_pad": (0, 1),
    }
    for name, options in values.items():
        for value in options:
            if value != getattr(arch, name):
                yield Change(name, option_for(name, value), _with_structure(name, value))
    if arch.bypass == "none" and simple_bypass_fits(arch):
        yield Change("bypass", option_for("bypass", "simple"), _bypassed)


def _with_structure(name: str, value: object) -> Callable[[Reading], Reading]:
    def changed(found: Reading) -> Reading:
        assert found.architecture is not None
        values: dict[str, Any] = {name: value}
        return replace(found, architecture=replace(found.architecture, **values))

    return changed


def _pixels(**values: Any) -> Callable[[Reading], Reading]:
    return lambda found: replace(found, preprocess=replace(found.preprocess, **values))


def _bypassed(found: Reading) -> Reading:
    arch = found.architecture
    assert arch is not None
    around = recognize(tensor_shapes(arch), structure=StructureChoice(bypass="simple"))
    return replace(found, architecture=replace(arch, fires=around.fires))


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
