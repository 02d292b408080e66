"""The timing job: artifacts against the clock, all in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Progress, Session, silent
from squeeze_export.errors import SqueezeExportError
from squeeze_export.measure.latency import latency_of, measure_latency
from squeeze_export.pipeline.boards import is_far, time_far
from squeeze_export.pipeline.export import read_all_exported
from squeeze_export.pipeline.sessions import BESIDE, Entry, Key, RunOptions, entries_of, opened
from squeeze_export.pipeline.summary import measurement, report_of
from squeeze_export.results import Latency, Report

WARMUP_COUNT = 10


def time_sessions(
    entries: Sequence[Entry],
    sessions: Mapping[Key, Session],
    baselines: Mapping[Path, Path],
    options: RunOptions,
    progress: Progress = silent,
    failures: dict[Key, SqueezeExportError] | None = None,
) -> dict[Key, Latency]:
    """Times every session in interleaved rounds; those on a board there, by its own clock. How long an emulator takes says nothing
    of the device, so it is left out.

    Args:
        entries: what the sessions run; those without a session are left out.
        sessions: by the entries' keys.
        baselines: artifact path -> path of its fp32 version, where there is one.
        options: rounds, threads.
        progress: told of the rounds.
        failures: takes what a session raises when it is first run, so that the others go on; None lets it out.
    """
    timed = [entry for entry in entries if entry.key in sessions and sessions[entry.key].evidence == "measured"]
    timed = [entry for entry in timed if is_far(sessions[entry.key]) or _runs(entry, sessions[entry.key], failures)]
    here = [entry for entry in timed if not is_far(sessions[entry.key])]
    calls = {_name(entry.key): partial(sessions[entry.key].infer, _pixels(entry.artifact)) for entry in here}
    samples = measure_latency(calls, warmup=WARMUP_COUNT, rounds=options.rounds, progress=progress)
    samples |= _far_samples(timed, sessions, options, progress, failures)
    timed = [entry for entry in timed if _name(entry.key) in samples]
    found = {}
    for entry in timed:
        baseline = _baseline(entry.key, baselines)
        found[entry.key] = latency_of(
            samples[_name(entry.key)],
            warmup_count=WARMUP_COUNT,
            batch=len(_pixels(entry.artifact)),
            threads=sessions[entry.key].threads,
            baseline_ns=samples.get(_name(baseline)) if baseline is not None else None,
        )
    return found


def _far_samples(
    timed: Sequence[Entry],
    sessions: Mapping[Key, Session],
    options: RunOptions,
    progress: Progress,
    failures: dict[Key, SqueezeExportError] | None,
) -> dict[str, tuple[int, ...]]:
    """Of the sessions on a board: name -> samples."""
    far = [(entry, session) for entry in timed if is_far(session := sessions[entry.key])]
    calls = [(session, _pixels(entry.artifact)) for entry, session in far]
    try:
        samples = time_far(calls, warmup=WARMUP_COUNT, rounds=options.rounds, progress=progress)
    except SqueezeExportError as err:
        if failures is None:
            raise
        failures.update(dict.fromkeys((entry.key for entry, _ in far), err))
        return {}
    return {_name(entry.key): values for (entry, _), values in zip(far, samples, strict=True)}


def _runs(entry: Entry, session: Session, failures: dict[Key, SqueezeExportError] | None) -> bool:
    try:
        session.infer(_pixels(entry.artifact))
    except SqueezeExportError as err:
        if failures is None:
            raise
        failures[entry.key] = err
        return False
    return True


def _baseline(key: Key, baselines: Mapping[Path, Path]) -> Key | None:
    """What a session's speed-up is counted from: the fp32 file on the same runtime, for a runtime of `BESIDE` the other one."""
    path, runtime = key
    if path in baselines:
        return baselines[path], runtime
    others = {beside: main for main, beside in BESIDE.items()}
    return (path, others[runtime]) if runtime in others else None


def _name(key: Key) -> str:
    return f"{key[0]} on {key[1]}"


def _pixels(artifact: Artifact) -> ByteArray:
    batch, *rest = artifact.input.shape
    shape = (batch if isinstance(batch, int) else 1, *(int(side) for side in rest))
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bench_files(files: Sequence[Path], *, options: RunOptions | None = None, progress: Progress = silent) -> Report:
    """Times exported files in interleaved rounds; an fp32 file among them is the baseline of its target and checkpoint.

    Raises:
        BadInput: a file without its sidecar.
    """
    chosen = options or RunOptions()
    artifacts, audits = read_all_exported(files)
    entries = entries_of(artifacts, chosen.runtime, on=chosen.on, device=chosen.device)
    plain = {_network(artifact): artifact.path for artifact in artifacts if artifact.scheme == "fp32"}
    baselines = {a.path: plain[_network(a)] for a in artifacts if _network(a) in plain and a.scheme != "fp32"}
    with opened(entries, chosen) as sessions:
        found = time_sessions(entries, sessions, baselines, chosen, progress)
        rows = [
            measurement(
                entry,
                device_asked=chosen.device,
                session=sessions[entry.key],
                latency=found.get(entry.key),
                audit=audits[entry.artifact.path],
            )
            for entry in entries
        ]
    return report_of(rows)


def _network(artifact: Artifact) -> tuple[str, str]:
    """Target and checkpoint: another network's fp32 file is no baseline."""
    return artifact.target, str(artifact.provenance.get("checkpoint_sha256", ""))
