"""The timing job: artifacts against the clock, all in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from squeeze_export.core import Artifact, ByteArray, Progress, Session, silent
from squeeze_export.measure.latency import latency_of, measure_latency
from squeeze_export.pipeline.export import read_artifact
from squeeze_export.pipeline.sessions import RunOptions, opened
from squeeze_export.pipeline.summary import measurement, report_of
from squeeze_export.results import Latency, Report

WARMUP_COUNT = 10


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
