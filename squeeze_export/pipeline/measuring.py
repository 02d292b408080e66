"""The one way to measure: entries are opened, compared with the reference, timed, asked where they ran, and become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Progress, Session, silent
from squeeze_export.errors import Inapplicable, SqueezeExportError
from squeeze_export.graph.quantized import FP32, QuantizedGraph
from squeeze_export.graph.run import one_blas_thread
from squeeze_export.images.stream import usable_cores
from squeeze_export.measure.accuracy import near_chance
from squeeze_export.measure.host import cpu_times, other_load
from squeeze_export.measure.latency import latency_of, measure_latency
from squeeze_export.pipeline.comparison import NO_STEPS, ComparedPart, Comparison, has_steps
from squeeze_export.pipeline.evaluation import Evaluation
from squeeze_export.pipeline.network import Network
from squeeze_export.pipeline.per_image import write_per_image
from squeeze_export.pipeline.scale import Scale, compared_shards
from squeeze_export.pipeline.sessions import BOARD, DEFAULT_PRECISION, Entry, Key, Outcome, RunOptions, opened
from squeeze_export.pipeline.shards import Findings, ShardRunner
from squeeze_export.results import Accuracy, ComparedImages, Difference, Measurement

WARMUP_COUNT = 10
FEWEST_FOR_ONE_CLASS = 16
"""Fewer images may all show the same."""


Listener: TypeAlias = Callable[[ComparedPart], None]


@dataclass(frozen=True, eq=False)
class Comparing:
    """What entries are compared with, and on which images.

    Attributes:
        reference: the network; its float graph is the reference.
        images: to compare on.
        calibration_hashes: SHA-256 of the files that must not be among independent images.
        table: the integers in the files of its scheme, which are then compared with each other too; None compares none.
        listeners: called with a part of every batch.
        scale: how, where there are many images.
    """

    reference: Network
    images: Evaluation
    calibration_hashes: Sequence[str] = ()
    table: QuantizedGraph | None = None
    listeners: Sequence[Listener] = ()
    scale: Scale = field(default_factory=Scale)


@dataclass(frozen=True)
class Measured:
    """What was found out.

    Attributes:
        rows: one for each entry, in their order.
        differences: between the files that hold the same integers.
        warnings: what the user should know.
        images: that the files were compared on; None if they were not.
    """

    rows: tuple[Measurement, ...]
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
    images: ComparedImages | None = None


def measured(
    entries: Sequence[Entry],
    options: RunOptions,
    *,
    comparing: Comparing | None = None,
    bench: bool = False,
    alone: bool = True,
    progress: Progress = silent,
) -> Measured:
    """Measures entries.

    Args:
        entries: files, each with its runtime.
        options: how to run them.
        comparing: what to compare them with; None compares nothing.
        bench: whether to time.
        alone: whether a failure ends the job; else it becomes a failed row and the others go on.
        progress: told of the images, the layers and the rounds.

    Raises:
        BadInput: an evaluation image is a calibration image; broken images.
        Unavailable, Refused: if `alone`, a file cannot be opened or run.
    """
    table, warnings, images = None, tuple[str, ...](), None
    if comparing is not None and comparing.table is not None:
        integer = [entry for entry in entries if entry.artifact.scheme == comparing.table.scheme.name]
        if len(integer) > 1 and not integer[0].artifact.gives_probabilities:
            if has_steps(comparing.table):
                table = Comparison(comparing.table, integer)
                comparing = replace(comparing, listeners=(*comparing.listeners, table.add))
            else:
                warnings = (NO_STEPS,)
    with opened(entries, options, alone=alone) as outcomes:
        if comparing is not None:
            outcomes, found, images = compared(outcomes, comparing, options, timed_too=bench, progress=progress)
            warnings += found
        if bench:
            outcomes = timed(outcomes, options, progress)
        outcomes = [placed(outcome) for outcome in outcomes]
        differences = table.differences(outcomes, progress) if table is not None else ()
        rows = tuple(row_of(outcome, device_asked=options.device) for outcome in outcomes)
        return Measured(rows, differences, warnings, images)


def compared(
    outcomes: Sequence[Outcome],
    comparing: Comparing,
    options: RunOptions,
    *,
    timed_too: bool = False,
    progress: Progress = silent,
) -> tuple[list[Outcome], tuple[str, ...], ComparedImages]:
    """Compares every session with the fp32 reference on the same decoded pixels.

    The images of a batch run through the reference side by side while the sessions work on the batch; decoding goes on ahead.

    Args:
        outcomes: with their sessions.
        comparing: what to compare them with.
        options: how they are run. Sessions that emulate a device are slow, so they get `emulated_images` of the set.
        timed_too: whether the sessions are timed as well. One that gives no logits is then left out here, and does not fail.
        progress: told of the images that went through the reference and every session.

    Returns:
        the outcomes with their accuracy and answers or their failure, warnings, and the images.

    Raises:
        BadInput: an evaluation image is a calibration image; broken images.
    """
    images, stream = comparing.images, comparing.images.stream
    of_key = {outcome.entry.key: outcome for outcome in outcomes}
    everyone = {key: outcome.session for key, outcome in of_key.items() if outcome.session is not None}
    sessions = {
        key: (session, of_key[key].entry.artifact.ending)
        for key, session in everyone.items()
        if session.gives_logits or not timed_too
    }

    def failed(key: Key, err: SqueezeExportError) -> None:
        of_key[key] = of_key[key].failed(err)

    findings = Findings(stream, comparing.reference.class_count)
    progress("comparing", 0, images.image_count)
    with one_blas_thread(), threads() as pool:
        runner = ShardRunner(
            comparing.reference.graph,
            sessions,
            pool,
            images.image_count,
            options.emulated_images,
            comparing.calibration_hashes if images.independent else (),
            comparing.listeners,
            failed,
        )
        for shard in compared_shards(runner, outcomes, stream, comparing.scale, options, progress):
            findings.add(shard)
            if findings.broken and not stream.skip_broken:
                break
    findings.close()
    if comparing.scale.per_image is not None:
        names = {key: (outcome.entry.artifact.path.name, outcome.entry.runtime) for key, outcome in of_key.items()}
        write_per_image(comparing.scale.per_image, findings, names)
    progress("comparing", images.image_count, images.image_count)  # images that were left out included
    found = {key: accuracy for key in findings.answers if (accuracy := findings.accuracy(key)) is not None}
    for key, accuracy in found.items():
        of_key[key] = replace(of_key[key], accuracy=accuracy, answers=findings.packed_answers(key))
    warnings = findings.warnings + _warnings(images, list(found.values()), comparing.reference.class_count)
    if not all(session.gives_logits for session in everyone.values()):
        warnings += ("not validated: benchmark_model gives no logits, so an Android device's rows have only a latency",)
    seen = findings.compared_images(comparing.reference.graph.labels)
    return [of_key[outcome.entry.key] for outcome in outcomes], warnings, seen


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """One thread for each core. After ^C nothing waits for them: a board may take minutes to finish its images."""
    pool = ThreadPoolExecutor(usable_cores())
    waits = True
    try:
        yield pool
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)


def _warnings(images: Evaluation, found: Sequence[Accuracy], class_count: int) -> tuple[str, ...]:
    warnings = images.warnings
    top1 = found[0].reference_top1 if found else None
    if top1 is not None and near_chance(top1, class_count, found[0].labelled_count):
        warnings += (
            f"the fp32 reference itself scores only {top1:.1%}: the preprocessing or the labels plainly do not fit the"
            " weights (see --mean --std --channel-order --crop --resize --labels)",
        )
    if found and not found[0].reference_varies:
        warnings += (
            f"the fp32 reference gives the same output for each of {found[0].count} images: the figures say nothing (see --mean"
            " --std --channel-order)",
        )
    elif found and class_count > 1 and found[0].reference_class_count == 1 and found[0].count >= FEWEST_FOR_ONE_CLASS:
        warnings += (f"the fp32 reference puts all {found[0].count} images into one class: the agreement says little",)
    return warnings


def timed(outcomes: Sequence[Outcome], options: RunOptions, progress: Progress = silent) -> list[Outcome]:
    """Times every session that has not failed, those of one clock in the same interleaved rounds.

    Emulators are left out: how long they take says nothing about the device.

    A speed-up compares with the fp32 file of the same target and checkpoint on the same runtime, if it is among the outcomes; for
    an fp32 file on a runtime of `DEFAULT_PRECISION`, with the same file on the runtime that keeps float32.

    Args:
        outcomes: with their sessions.
        options: rounds, threads.
        progress: told of the rounds.
    """
    found = [_run_once(outcome) for outcome in outcomes]
    sessions = {o.entry.key: (s, pixels_for(o.entry.artifact)) for o in found if (s := _timed_session(o))}
    samples: dict[Key, tuple[int, ...]] = {}
    load: float | None = None
    for clock in dict.fromkeys(session.clock for session, _ in sessions.values()):
        own = {key: pair for key, pair in sessions.items() if pair[0].clock is clock}
        time = time_here if clock is None else clock.time
        before = cpu_times()
        try:
            times = time(list(own.values()), warmup=WARMUP_COUNT, rounds=options.rounds, progress=progress)
        except SqueezeExportError as err:
            found = [outcome.failed(err) if outcome.entry.key in own else outcome for outcome in found]
        else:
            samples |= dict(zip(own, times, strict=True))
            load = other_load(before, cpu_times()) if clock is None else load
    plain = {_network(o.entry.artifact): o.entry.artifact for o in found if o.entry.artifact.scheme == FP32.name}
    return [_with_latency(outcome, samples, plain.get(_network(outcome.entry.artifact)), load) for outcome in found]


def time_here(
    sessions: Sequence[tuple[Session, ByteArray]], *, warmup: int, rounds: int, progress: Progress = silent
) -> list[tuple[int, ...]]:
    """Times sessions that have no clock of their own, by this process's; see `core.Clock.time`."""
    calls = {str(number): partial(session.infer, batch) for number, (session, batch) in enumerate(sessions)}
    return list(measure_latency(calls, warmup=warmup, rounds=rounds, progress=progress).values())


def _timed_session(outcome: Outcome) -> Session | None:
    """Its session, if that is to be timed."""
    session = outcome.session
    return session if session is not None and outcome.failure is None and session.evidence == "measured" else None


def _run_once(outcome: Outcome) -> Outcome:
    """Runs a session once, so that one that fails does so before the common rounds."""
    session = _timed_session(outcome)
    if session is None or session.clock is not None:
        return outcome
    try:
        session.infer(pixels_for(outcome.entry.artifact))
    except SqueezeExportError as err:
        return outcome.failed(err)
    return outcome


def _with_latency(outcome: Outcome, samples: Mapping[Key, Sequence[int]], plain: Artifact | None, load: float | None) -> Outcome:
    """With the latency that its samples give, if there are any; `plain` is the fp32 file of the same network, `load` what others
    took of this machine meanwhile."""
    path, runtime = outcome.entry.key
    if outcome.entry.key not in samples or outcome.session is None:
        return outcome
    baseline = path, {beside: main for main, beside in DEFAULT_PRECISION.items()}.get(runtime, "")
    if plain is not None and outcome.entry.artifact.scheme != FP32.name:
        baseline = plain.path, runtime
    latency = latency_of(
        samples[outcome.entry.key],
        warmup_count=WARMUP_COUNT,
        batch=len(pixels_for(outcome.entry.artifact)),
        threads=outcome.session.threads,
        baseline_ns=samples.get(baseline),
        other_load=load if outcome.session.clock is None else None,
        cores=usable_cores(),
    )
    return replace(outcome, latency=latency)


def _network(artifact: Artifact) -> tuple[str, str]:
    """Target and checkpoint: the fp32 file of another network is no baseline."""
    return artifact.target, str(artifact.provenance.get("checkpoint_sha256", ""))


def pixels_for(artifact: Artifact) -> ByteArray:
    return np.random.default_rng(0).integers(0, 256, artifact.pixel_shape, dtype=np.uint8)


def placed(outcome: Outcome) -> Outcome:
    """Closes and drops a session that cannot tell where its operators ran. This is asked last: some can tell only then.

    Raises:
        Refused: if the outcome is `alone`, the runtime's records make no sense or contradict what was asked for.
    """
    try:
        _ = outcome.session.placement if outcome.session is not None else None
    except SqueezeExportError as err:
        if outcome.session is not None:
            outcome.session.close()
        return replace(outcome.failed(err), session=None)
    return outcome


def row_of(outcome: Outcome, *, device_asked: str) -> Measurement:
    """One row: the artifact, and what its session says about itself, or why there is none."""
    artifact, session, failure = outcome.entry.artifact, outcome.session, outcome.failure
    runtime = outcome.entry.runtime if session or failure else ""
    row = Measurement(
        artifact.target,
        artifact.scheme,
        artifact.path.name,
        artifact.sha256,
        artifact.size_bytes,
        runtime=runtime,
        device_asked=device_asked,
        accuracy=outcome.accuracy,
        answers=outcome.answers,
        latency=outcome.latency,
        audit=artifact.audit,
        recipe=str(artifact.provenance.get("recipe", "")),
        checkpoint_sha256=str(artifact.provenance.get("checkpoint_sha256", "")),
        table_sha256=str(artifact.provenance.get("table_sha256", "")),
    )
    if session is not None:
        row = replace(
            row,
            runtime=session.runtime if runtime == BOARD else runtime,
            device=session.device,
            kernels=session.kernels,
            evidence=session.evidence,
            placement=session.placement,
            facts=dict(session.facts),
        )
    if failure is not None:
        row = replace(row, status="skipped" if isinstance(failure, Inapplicable) else "failed", reason=failure.message)
    return row
