"""Two files on the same images, whoever wrote them: how far apart their answers are, where they part, and which is faster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze_export.core import TORCHVISION, Artifact, ByteArray, Ending, FloatArray, Preprocess, Progress, silent
from squeeze_export.documents import Schema
from squeeze_export.errors import BadInput, SqueezeExportError
from squeeze_export.formats import format_named
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import Batch, ImageStream
from squeeze_export.measure.accuracy import Tally, accuracy_of, tally
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.nets.safetensors_file import preprocess_from_json
from squeeze_export.pipeline.foreign import open_files
from squeeze_export.pipeline.measuring import placed, row_of, timed
from squeeze_export.pipeline.network import PreprocessChoice
from squeeze_export.pipeline.sessions import Entry, Outcome, RunOptions, opened, runtime_for
from squeeze_export.pipeline.sidecar_document import read_sidecar, sidecar_path
from squeeze_export.pipeline.validation import telling_names
from squeeze_export.registry import RUNTIMES
from squeeze_export.results import Accuracy, Interval, Measurement, sqnr_db
from squeeze_export.runtimes import runtime_named

MOST_FLIPS = 1000
"""More are counted, and not listed."""
FLOATS_OR_OTHERS = "the layers were not compared: that takes two integer files of this tool, on runtimes that show what lies inside"
OTHER_PIXELS = "the layers were not compared: the two files take differently prepared images"
_BATCH = 32
_WITHIN_A_LAYER = {
    *("bias", "conv", "float", "input", "int8", "int16", "nchw", "nhwc", "pixels"),
    *("product", "real", "relu", "steps", "sum", "uint8", "uint16", "weight"),
}
"""Last parts of names that our files give to what lies before and between the layers."""
_ENDS = {"class_probabilities", "classLabel", "logits"}
"""Names, or beginnings of names, of what comes after the last layer, beside the output's own."""
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
_FLOAT_STEP = 1e-3
"""Of a layer's largest value: by so much floats of two files may differ that are computed in another order, or in bfloat16."""


@dataclass(frozen=True)
class Flip:
    """An image that two files put into different classes.

    Attributes:
        image: path below the folder of images.
        first: class index by the first file.
        second: class index by the second.
        first_margin: how far the first file's logit of its class lies above that of the other's.
        second_margin: likewise of the second file.
        first_label: name of the class; empty if neither file's sidecar has names.
        second_label: likewise.
    """

    image: str
    first: int
    second: int
    first_margin: float
    second_margin: float
    first_label: str = ""
    second_label: str = ""


@dataclass(frozen=True)
class LayerGap:
    """One layer of two files, on one image.

    Attributes:
        name: of the layer.
        largest: largest difference of its outputs.
        step: the coarser one's quantization step, estimated as the least distance between two of its values; of a layer kept in
            float, 0.1% of its largest value.
        sqnr_db: of the second file's outputs against the first's, dB.
    """

    name: str
    largest: float
    step: float
    sqnr_db: float


@dataclass(frozen=True)
class FileComparison:
    """What was found out about two files.

    Attributes:
        schema_version: of the document.
        first: the first file's row.
        second: the second's.
        image_source: name of the folder of images.
        accuracy: of the second file, with the first in place of the reference.
        flip_count: images of different classes.
        flips: at most `MOST_FLIPS` of them, in the order of the images.
        speedup: p50 of the first over that of the second, with a bootstrap interval; None if they were not timed side by side.
        layers: in the order of the first file; empty where the graphs do not correspond.
        without_layers: why there are none, in one sentence.
        first_layer_apart: the first of them that differs by more than one step; empty if none does; None without `layers`.
        warnings: that were shown to the user.
    """

    schema_version: int
    first: Measurement
    second: Measurement
    image_source: str
    accuracy: Accuracy
    flip_count: int
    flips: tuple[Flip, ...] = ()
    speedup: Interval | None = None
    layers: tuple[LayerGap, ...] = ()
    without_layers: str = ""
    first_layer_apart: str | None = None
    warnings: tuple[str, ...] = ()


SCHEMA = Schema(FileComparison, "comparison", 1, {})


def compare_files(
    first: Path,
    second: Path,
    images: Path,
    *,
    preprocess: PreprocessChoice | None = None,
    options: RunOptions | None = None,
    bench: bool = True,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> FileComparison:
    """Runs two files on the same images. No checkpoint and no labels are needed.

    Args:
        first: a file of this tool with its sidecar, or another tool's.
        second: likewise.
        images: a folder or manifest; labels are ignored.
        preprocess: of the numbers that other tools' files take, where it is not that of the file of this tool beside them, or
            not torchvision's where there is none.
        options: runtime, device, threads, rounds.
        bench: whether to time them too, in the same interleaved rounds.
        skip_broken: leaves unreadable images out.
        progress: told of the images and the rounds.

    Raises:
        BadInput: no such file, two files of other tools and nothing of `preprocess`, outputs that cannot be compared, or no images.
        Unavailable, Refused: a file cannot be run here.
    """
    chosen = options or RunOptions()
    artifacts = _open(first, second, preprocess or PreprocessChoice())
    streams = [ImageStream(open_calibration(images), _pixels_of(artifact), skip_broken=skip_broken) for artifact in artifacts]
    if streams[0].preprocess == streams[1].preprocess:
        streams = streams[:1]
    entries = [Entry(artifact, runtime_for(artifact.target, chosen.runtime)) for artifact in artifacts]
    if chosen.on is not None:
        raise BadInput("`compare` runs here, not on a board", hint="bench --on times files there")
    with opened(entries, chosen) as outcomes:
        accuracy, flip_count, flips, image = _answers(outcomes, streams, progress)
        if bench:
            outcomes = timed(outcomes, chosen, progress)
        outcomes = [placed(outcome) for outcome in outcomes]
        layers, without_layers = _layers(outcomes, image) if len(streams) == 1 else ((), OTHER_PIXELS)
        names = telling_names([artifact.path for artifact in artifacts])
        rows = [
            replace(row_of(outcome, device_asked=chosen.device), artifact=name)
            for outcome, name in zip(outcomes, names, strict=True)
        ]
    apart = next((layer.name for layer in layers if layer.largest > 1.001 * layer.step), "") if layers else None
    return FileComparison(
        SCHEMA.version,
        rows[0],
        rows[1],
        images.name,
        accuracy,
        flip_count,
        tuple(_named(flip, _labels(artifacts)) for flip in flips),
        _speedup(rows[0], rows[1]),
        layers,
        without_layers,
        apart,
        streams[0].warnings("images"),
    )


def _open(first: Path, second: Path, choice: PreprocessChoice) -> list[Artifact]:
    """Opens both; what a file of this tool says about its pixels holds for another tool's beside it."""
    known = [artifact for path in (first, second) if (artifact := _own(path)) is not None]
    if not known and choice == PreprocessChoice():
        raise BadInput(
            f"neither `{first.name}` nor `{second.name}` has a sidecar that tells its pixels",
            hint="--mean, --std, --channel-order, --resize and --crop",
        )
    artifacts, _ = open_files([first, second], choice.applied_to(_pixels_of(known[0]) if known else TORCHVISION))
    names = telling_names([first, second])
    counts = [artifact.output.shape[-1] for artifact in artifacts]
    if all(isinstance(count, int) for count in counts) and counts[0] != counts[1]:
        raise BadInput(f"`{names[0]}` gives {counts[0]:,} numbers and `{names[1]}` {counts[1]:,}: they are no pair")
    endings = [artifact.ending for artifact in artifacts]
    if endings[0] != endings[1]:
        raise BadInput(f"`{names[0]}` ends in {endings[0]} and `{names[1]}` in {endings[1]}: export both alike")
    return artifacts


def _own(path: Path) -> Artifact | None:
    try:
        artifacts, _ = open_files([path], None)
    except BadInput:
        return None  # told when both are opened for good
    return artifacts[0] if artifacts[0].foreign is None else None


def _pixels_of(artifact: Artifact) -> Preprocess:
    if artifact.foreign is not None:
        return artifact.foreign.preprocess
    stored = artifact.provenance.get("preprocess")
    if stored is None:
        raise BadInput(f"the sidecar of `{artifact.path.name}` does not tell its preprocessing", hint="export it again")
    return preprocess_from_json(stored)


def _answers(
    outcomes: Sequence[Outcome], streams: Sequence[ImageStream], progress: Progress
) -> tuple[Accuracy, int, tuple[Flip, ...], ByteArray]:
    """Both files on all images; the image is the first one, for the layers."""
    sessions = [outcome.session for outcome in outcomes]
    ending = outcomes[0].entry.artifact.ending
    sums, count, flips = Tally(), 0, list[Flip]()
    image: ByteArray | None = None
    total = len(streams[0].image_set.files)
    progress("comparing", 0, total)
    done = 0
    for batches in _together(streams):
        outputs = [session.infer(batch.pixels) for session, batch in zip(sessions, batches, strict=True) if session is not None]
        reference, output = outputs
        sums = tally(sums, _logits(reference, ending), output, ending=ending)
        for name, one, other in _flips(batches[0], streams[0].image_set.root, *outputs):
            count += 1
            if len(flips) < MOST_FLIPS:
                flips.append(Flip(name, int(one.argmax()), int(other.argmax()), *_margins(one, other)))
        image = batches[0].pixels[:1].copy() if image is None else image
        done += len(batches[0].files)
        progress("comparing", done, total)
    progress("comparing", total, total)
    accuracy = accuracy_of(sums)
    assert image is not None
    return accuracy, count, tuple(flips), image


def _logits(output: FloatArray, ending: Ending) -> FloatArray:
    """Logits that give these probabilities, so that the first file can stand where the reference does."""
    if ending not in ("softmax", "sigmoid"):
        return output
    known = np.clip(output.astype(np.float64), _LEAST_PROBABILITY, 1 - 1e-16)
    return np.asarray(np.log(known) - (np.log1p(-known) if ending == "sigmoid" else 0), np.float32)


def _together(streams: Sequence[ImageStream]) -> Iterator[tuple[Batch, Batch]]:
    """The same images as either file takes them: of one stream if both take the same pixels, else of two.

    Raises:
        BadInput: the streams left out different images as duplicates.
    """
    if len(streams) == 1:
        yield from ((batch, batch) for batch in streams[0])
        return
    for first, second in itertools.zip_longest(*streams):
        if first is None or second is None or first.files != second.files:
            raise BadInput(
                "the two files take differently prepared images, and of these other ones are alike",
                hint="leave duplicates out of the folder",
            )
        yield first, second


def _labels(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """Names of the classes, of the first file whose sidecar has some; none if neither has."""
    own = [artifact for artifact in artifacts if artifact.foreign is None]
    return next((labels for artifact in own if (labels := read_sidecar(sidecar_path(artifact.path)).labels)), ())


def _named(flip: Flip, labels: Sequence[str]) -> Flip:
    if max(flip.first, flip.second) >= len(labels):
        return flip
    return replace(flip, first_label=labels[flip.first], second_label=labels[flip.second])


def _flips(
    batch: Batch, root: Path, first: FloatArray, second: FloatArray
) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    changed = np.flatnonzero(first.argmax(axis=1) != second.argmax(axis=1))
    names = [file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name for file in batch.files]
    return [(names[index], first[index], second[index]) for index in changed]


def _margins(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    one, other = first.argmax(), second.argmax()
    return float(first[one] - first[other]), float(second[other] - second[one])


def _speedup(first: Measurement, second: Measurement) -> Interval | None:
    one, other = first.latency, second.latency
    if one is None or other is None or len(one.samples_ns) != len(other.samples_ns):
        return None
    return bootstrap_ratio(one.samples_ns, other.samples_ns)


def _layers(outcomes: Sequence[Outcome], image: ByteArray) -> tuple[tuple[LayerGap, ...], str]:
    """The layers that two integer files have by name, on one image; or why there are none."""
    entries = [outcome.entry for outcome in outcomes]
    if any(entry.artifact.foreign is not None or entry.runtime not in RUNTIMES for entry in entries):
        return (), FLOATS_OR_OTHERS
    if not all(scheme_named(entry.artifact.scheme).activation_bits for entry in entries):
        return (
            (),
            FLOATS_OR_OTHERS,
        )  # equalization moves scales between the layers, so an integer file's layers are not a float file's
    try:
        names = _common_names([entry.artifact for entry in entries])
        values = [runtime_named(entry.runtime).inner_values(entry.artifact, names, image) for entry in entries]
    except SqueezeExportError as err:
        return (), f"the layers were not compared: {err.message}"
    return tuple(_gap(name, values[0], values[1]) for name in names), ""


def _common_names(artifacts: Sequence[Artifact]) -> list[str]:
    """Layer names in the order of the first file. Core ML's names have `_` where the others have `/`."""
    listed = []
    for artifact in artifacts:
        contents = format_named(artifact.target).read(artifact.path)
        made = [tensor.name for operator in contents.operators for tensor in operator.outputs]
        listed.append({_plain(name): name for name in made if _plain(name).rsplit("_", 1)[-1] not in _WITHIN_A_LAYER})
    first, second = listed
    shared = [name for name in first if name in second]
    ends = _ENDS | {_plain(artifact.output.name) for artifact in artifacts}
    slashed = first if any("/" in name for name in first.values()) else second
    return [slashed[name] for name in shared if not any(f"{name}_".startswith(f"{end}_") for end in ends)]


def _plain(name: str) -> str:
    return name.replace("/", "_")


def _gap(name: str, first: Mapping[str, FloatArray], second: Mapping[str, FloatArray]) -> LayerGap:
    one, other = (values[name].astype(np.float64) for values in (first, second))
    noise, signal = float(np.square(one - other).sum()), float(np.square(one).sum())
    step = max(_step(one), _step(other))
    return LayerGap(name, float(np.abs(one - other).max()), step, sqnr_db(signal, noise))


def _step(values: NDArray[np.float64]) -> float:
    """The least distance between two values, but at least 0.1% of the largest."""
    levels = np.unique(values)
    least = min((high - low for low, high in itertools.pairwise(levels)), default=0.0)
    return max(float(least), _FLOAT_STEP * float(np.abs(values).max()))
