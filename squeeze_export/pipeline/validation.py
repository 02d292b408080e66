"""The validation job: artifacts against the fp32 reference, all on the same decoded pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from squeeze_export.core import FloatArray, Progress, Session, silent
from squeeze_export.errors import BadInput, SqueezeExportError
from squeeze_export.graph.run import FloatRunner, one_blas_thread
from squeeze_export.images.checks import check_overlap
from squeeze_export.images.distribution import Distribution, shift_warning
from squeeze_export.images.stream import spread_evenly, usable_cores
from squeeze_export.measure.accuracy import Tally, accuracy_of, near_chance, tally
from squeeze_export.pipeline.comparison import Comparison
from squeeze_export.pipeline.evaluation import Evaluation, evaluation_images
from squeeze_export.pipeline.export import read_all_exported
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.sessions import Key, RunOptions, entries_of, opened
from squeeze_export.pipeline.summary import measurement, report_of
from squeeze_export.results import Accuracy, Report

PROBABILITIES = "probabilities"
"""Name of the output tensor of a file that ends in a softmax."""


def validate(
    network: Network,
    sessions: Mapping[Key, Session],
    evaluation: Evaluation,
    *,
    calibration_hashes: Sequence[str] = (),
    probabilities: bool = False,
    emulated_images: int = RunOptions.emulated_images,
    comparison: Comparison | None = None,
    failures: dict[Key, SqueezeExportError] | None = None,
) -> tuple[dict[Key, Accuracy], tuple[str, ...]]:
    """Compares every session with the fp32 reference on the same decoded pixels.

    The images of a batch run through the reference side by side while the sessions work on the batch; decoding goes on ahead.

    Args:
        network: whose graph is the reference.
        sessions: by key.
        evaluation: the images.
        calibration_hashes: files that must not be among them.
        probabilities: the artifacts end in a softmax.
        emulated_images: images for the sessions that emulate a device: slow, so they are given a part of the set.
        comparison: is given the same part, to compare the sessions with each other.
        failures: takes what a session raises while it runs, so that the others go on without it; None lets it out.

    Returns:
        key -> accuracy, and warnings.

    Raises:
        BadInput: an evaluation image is a calibration image; broken images.
    """
    sums = dict.fromkeys(sessions, Tally())
    reference = FloatRunner(network.graph)
    total, done = evaluation.image_count, 0
    with one_blas_thread(), _threads() as pool:
        for batch in evaluation.stream:
            if evaluation.independent:
                check_overlap(calibration_hashes, batch.hashes, batch.files)
            part = spread_evenly(done, len(batch.pixels), total, emulated_images)
            done += len(batch.pixels)
            everything = np.ones_like(part)
            chosen = {key: part if session.evidence == "emulated" else everything for key, session in sessions.items()}
            sound = {key: session for key, session in sessions.items() if key in sums and chosen[key].any()}
            running = {key: pool.submit(session.infer, batch.pixels[chosen[key]]) for key, session in sound.items()}
            expected = np.concatenate(list(pool.map(reference, np.split(batch.pixels, len(batch.pixels)))))
            outputs: dict[Key, FloatArray] = {}
            for key, future in running.items():
                failure = future.exception()
                if failure is None:
                    outputs[key] = future.result()
                elif failures is None or not isinstance(failure, SqueezeExportError):
                    raise failure
                else:
                    failures[key] = failure
                    sums.pop(key)
            for key, logits in outputs.items():
                labels = batch.labels[chosen[key]]
                sums[key] = tally(sums[key], expected[chosen[key]], logits, labels, probabilities=probabilities)
            if comparison is not None and part.any():
                compared = {k: logits if chosen[k] is part else logits[part] for k, logits in outputs.items()}
                comparison.add(batch.pixels[part], compared, pool)
    found = {key: accuracy_of(total) for key, total in sums.items() if total.count}
    return found, _warnings(evaluation, found, network.architecture.class_count)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """One for each core. After ^C nobody waits for them: a board may take minutes for what it has been given."""
    pool = ThreadPoolExecutor(usable_cores())
    waits = True
    try:
        yield pool
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


def _warnings(evaluation: Evaluation, found: Mapping[Key, Accuracy], class_count: int) -> tuple[str, ...]:
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


def validate_files(
    files: Sequence[Path],
    network: Network,
    eval_path: Path | None = None,
    *,
    options: RunOptions | None = None,
    calibration_hashes: Sequence[str] = (),
    summary: Distribution | None = None,
    skip_broken: bool = False,
    progress: Progress = silent,
) -> Report:
    """Compares exported files with the reference.

    Args:
        files: exported files, each with its sidecar.
        network: the one they were made from.
        eval_path: images; None takes the demo network's own, for the demo network.
        options: runtime, device, threads.
        calibration_hashes: of the table that the files were written from: images that must not be among these.
        summary: of that table: how its images look; where these are of another kind, a warning says so.
        skip_broken: leaves unreadable images out.
        progress: told of the images.

    Raises:
        BadInput: a file that was not made from this checkpoint; no images; one of them is a calibration image.
    """
    chosen = options or RunOptions()
    artifacts, audits = read_all_exported(files)
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
    entries = entries_of(artifacts, chosen.runtime, on=chosen.on, device=chosen.device)
    with opened(entries, chosen) as sessions:
        found, warnings = validate(
            network,
            sessions,
            evaluation,
            calibration_hashes=calibration_hashes,
            probabilities=softmax == {True},
            emulated_images=chosen.emulated_images,
        )
        rows = [
            measurement(
                entry,
                device_asked=chosen.device,
                session=sessions[entry.key],
                accuracy=found.get(entry.key),
                audit=audits[entry.artifact.path],
            )
            for entry in entries
        ]
    if summary is not None:
        warnings += shift_warning(summary, evaluation.stream.statistics)
    return report_of(rows, network=network.facts(), evaluation=evaluation.facts, warnings=warnings)
