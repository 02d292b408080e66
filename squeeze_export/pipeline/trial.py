"""The trial: artifacts opened, validated against the reference and timed, all on the same pixels and in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from squeeze_export import demo
from squeeze_export.core import Accuracy, Artifact, ByteArray, FloatArray, Latency, Progress, Report, Session, silent
from squeeze_export.errors import BadInput, SqueezeExportError, Unavailable
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.checks import check_overlap
from squeeze_export.images.folders import open_calibration, open_images
from squeeze_export.images.stream import ImageStream, batches, usable_cores
from squeeze_export.measure.accuracy import Tally, accuracy_of, near_chance, tally
from squeeze_export.measure.latency import latency_of, measure_latency, pinned
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.summary import measurement, report_of
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

BATCH = 16
WARMUP_COUNT = 10
PROBABILITIES = "probabilities"
"""Name of the output tensor of a file that ends in a softmax."""


@dataclass(frozen=True)
class RunOptions:
    """How artifacts are run.

    Attributes:
        runtime: a key of `runtimes.RUNTIMES`; None takes each target's first.
        device: `cpu` ...
        threads: intra-op threads of every session.
        cpus: logical CPUs to pin to; None pins nothing.
        rounds: timed inferences of each session.

    Raises:
        BadInput: threads or rounds below 1.
    """

    runtime: str | None = None
    device: str = "cpu"
    threads: int = 1
    cpus: tuple[int, ...] | None = None
    rounds: int = 50

    def __post_init__(self) -> None:
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} `{getattr(self, name)}` is below 1")


@contextmanager
def opened(
    artifacts: Sequence[Artifact], options: RunOptions, failures: dict[Path, SqueezeExportError] | None = None
) -> Iterator[dict[Path, Session]]:
    """Opens a session for every artifact, and closes all at the end.

    Args:
        artifacts: what to open.
        options: how.
        failures: takes what an artifact that cannot be opened raises, so that the others go on; None lets it out.

    Raises:
        BadInput: the runtime does not open this target.
        Unavailable: the runtime or the device is not on this machine.
        Refused: the runtime cannot open the file.
    """
    sessions: dict[Path, Session] = {}
    try:
        with pinned(options.cpus):
            for artifact in artifacts:
                session = _open(artifact, options, failures)
                if session is not None:
                    sessions[artifact.path] = session
            yield sessions
    finally:
        for session in sessions.values():
            session.close()


def _open(artifact: Artifact, options: RunOptions, failures: dict[Path, SqueezeExportError] | None) -> Session | None:
    try:
        runtime = runtime_named(runtime_for(artifact.target, options.runtime))
        return runtime.open_session(artifact, device=options.device, threads=options.threads)
    except SqueezeExportError as err:
        if failures is None:
            raise
        failures[artifact.path] = err
        return None


def runtime_for(target: str, asked: str | None) -> str:
    """The runtime's name: the asked one where the target knows it, the target's first where none was asked.

    Raises:
        BadInput: the asked one does not open this target.
    """
    known = target_named(target).RUNTIMES
    if asked is None:
        return known[0]
    if asked not in known:
        raise BadInput(f"the runtime `{asked}` does not open {target} files", hint=f"one of: {', '.join(known)}")
    return asked


def check_device(runtime: str, device: str) -> None:
    """Refuses a device before any work is done for it.

    Raises:
        Unavailable: the runtime is not installed, or does not have the device here.
    """
    present = runtime_named(runtime).devices()
    if device not in present:
        raise Unavailable(f"{runtime} has no device `{device}` on this machine", hint=f"it has: {', '.join(present)}")


@dataclass(frozen=True)
class Evaluation:
    """The images to compare on.

    Attributes:
        stream: their pixels, in batches.
        found: what was known of them before they were read.
        independent: False where they are the calibration images.
    """

    stream: ImageStream
    found: Mapping[str, Any]
    independent: bool

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of them: `image_count` is of those that could be read, `note` why they are not the user's own."""
        return {**self.found, "image_count": self.found["image_count"] - len(self.stream.skipped)}


def evaluation_images(
    network: Network, eval_path: Path | None, calib: Path | None, *, skip_broken: bool = False, progress: Progress = silent
) -> Evaluation | None:
    """The user's evaluation images, else the demo network's own, else the calibration images; None where there are none."""
    independent, note = True, ""
    path = eval_path
    if path is None and network.is_demo and calib is None:
        path, note = demo.evaluation_folder(), "the demo network's own evaluation images"
    if path is None:
        path, independent = calib, False
        note = "these are the calibration images: give --eval DIR for an independent check"
    if path is None:
        return None
    preprocess = network.graph.preprocess
    if independent:
        images = open_images(path, class_count=network.architecture.class_count, labels=network.graph.labels)
    else:
        images = open_calibration(path)
    stream = batches(images, preprocess, batch=BATCH, skip_broken=skip_broken, progress=progress)
    facts: dict[str, Any] = {
        "source": path.name,
        "image_count": len(images.files),
        "labelled": images.labels is not None,
        "classes_from": images.class_source,
    }
    return Evaluation(stream, facts | ({"note": note} if note else {}), independent)


def validate(
    network: Network,
    sessions: Mapping[Path, Session],
    evaluation: Evaluation,
    *,
    calibration_hashes: Sequence[str] = (),
    probabilities: bool = False,
    count: int | None = None,
) -> tuple[dict[Path, Accuracy], tuple[str, ...]]:
    """Compares every session with the fp32 reference on the same decoded pixels.

    The images of a batch run through the reference side by side while the sessions work on the batch; decoding goes on ahead.

    Args:
        network: whose graph is the reference.
        sessions: key -> session.
        evaluation: the images.
        calibration_hashes: files that must not be among them.
        probabilities: the artifacts end in a softmax.
        count: stop after this many images.

    Returns:
        key -> accuracy, and warnings.

    Raises:
        BadInput: an evaluation image is a calibration image; broken images.
    """
    sums = dict.fromkeys(sessions, Tally())
    reference = FloatRunner(network.graph)
    done = 0
    with one_blas_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        for batch in evaluation.stream:
            if evaluation.independent:
                check_overlap(calibration_hashes, batch.hashes, batch.files)
            pixels = batch.pixels if count is None else batch.pixels[: count - done]
            running = {key: pool.submit(session.infer, pixels) for key, session in sessions.items()}
            expected = _reference(pool.map(reference, np.split(pixels, len(pixels))))
            for key, outputs in running.items():
                labels = batch.labels[: len(pixels)]
                sums[key] = tally(sums[key], expected, outputs.result(), labels, probabilities=probabilities)
            done += len(pixels)
            if done == count:
                break
    found = {key: accuracy_of(total) for key, total in sums.items()}
    return found, _warnings(evaluation, found, network.architecture.class_count)


def _reference(logits: Iterator[FloatArray]) -> FloatArray:
    return np.concatenate(list(logits))


def _warnings(evaluation: Evaluation, found: Mapping[Path, Accuracy], class_count: int) -> tuple[str, ...]:
    warnings: list[str] = []
    if evaluation.stream.skipped:
        first = evaluation.stream.skipped[0].file.name
        warnings.append(f"`{len(evaluation.stream.skipped)}` unreadable evaluation images were left out, the first is `{first}`")
    for accuracy in list(found.values())[:1]:
        top1 = accuracy.reference_top1
        if top1 is not None and near_chance(top1, class_count, accuracy.labelled_count):
            warnings.append(
                f"the fp32 reference itself scores only {top1:.1%}: the preprocessing or the labels plainly do not fit the"
                " weights (see --mean --std --channel-order --crop --resize --labels)"
            )
    return tuple(warnings)


def time_sessions(
    artifacts: Sequence[Artifact],
    sessions: Mapping[Path, Session],
    baselines: Mapping[Path, Path],
    options: RunOptions,
    progress: Progress = silent,
) -> dict[Path, Latency]:
    """Times every session in interleaved rounds.

    Args:
        artifacts: what the sessions run; those without a session are left out.
        sessions: artifact path -> session.
        baselines: artifact path -> path of its fp32 version, where there is one.
        options: rounds, threads.
        progress: told of the rounds.
    """
    calls: dict[str, Callable[[], object]] = {}
    artifacts = [artifact for artifact in artifacts if artifact.path in sessions]
    for artifact in artifacts:
        pixels = _pixels(artifact)
        calls[str(artifact.path)] = partial(sessions[artifact.path].infer, pixels)
    samples = measure_latency(calls, warmup=WARMUP_COUNT, rounds=options.rounds, progress=progress)
    found = {}
    for artifact in artifacts:
        baseline = baselines.get(artifact.path)
        found[artifact.path] = latency_of(
            samples[str(artifact.path)],
            warmup_count=WARMUP_COUNT,
            batch=len(_pixels(artifact)),
            threads=options.threads,
            baseline_ns=samples.get(str(baseline)),
        )
    return found


def _pixels(artifact: Artifact) -> ByteArray:
    batch, *rest = artifact.input.shape
    shape = (batch if isinstance(batch, int) else 1, *(int(side) for side in rest))
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def validate_files(
    files: Sequence[Path],
    network: Network,
    eval_path: Path | None = None,
    *,
    options: RunOptions | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """Compares exported files with the reference.

    Args:
        files: exported files, each with its sidecar.
        network: the one they were made from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: a file that was not made from this checkpoint; no images.
    """
    chosen = options or RunOptions()
    artifacts = [read_artifact(file) for file in files]
    for artifact in artifacts:
        if artifact.provenance.get("checkpoint_sha256") != network.graph.checkpoint_sha256:
            raise BadInput(
                f"`{artifact.path.name}` was not made from `{network.source}`", hint="name its checkpoint with --weights"
            )
    evaluation = evaluation_images(network, eval_path, None, skip_broken=skip_broken, progress=progress)
    if evaluation is None:
        raise BadInput("there are no images to validate on", hint="--eval DIR")
    softmax = {artifact.output.name == PROBABILITIES for artifact in artifacts}
    if len(softmax) > 1:
        raise BadInput("files with and without --softmax cannot be compared in one run")
    with opened(artifacts, chosen) as sessions:
        found, warnings = validate(network, sessions, evaluation, probabilities=softmax == {True})
        rows = [measurement(a, device_asked=chosen.device, session=sessions[a.path], accuracy=found[a.path]) for a in artifacts]
    return report_of(rows, network=network.facts(), evaluation=evaluation.facts, warnings=warnings)


def bench_files(files: Sequence[Path], *, options: RunOptions | None = None, progress: Progress = silent) -> Report:
    """Times exported files in interleaved rounds; an fp32 file among them is the baseline of its target.

    Raises:
        BadInput: a file without its sidecar.
    """
    chosen = options or RunOptions()
    artifacts = [read_artifact(file) for file in files]
    plain = {artifact.target: artifact.path for artifact in artifacts if artifact.scheme == "fp32"}
    baselines = {a.path: plain[a.target] for a in artifacts if a.target in plain and a.scheme != "fp32"}
    with opened(artifacts, chosen) as sessions:
        found = time_sessions(artifacts, sessions, baselines, chosen, progress)
        rows = [measurement(a, device_asked=chosen.device, session=sessions[a.path], latency=found[a.path]) for a in artifacts]
    return report_of(rows)
