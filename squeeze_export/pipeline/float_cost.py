"""What layers in float cost: the size and latency of a file with them, beside the all-integer file and the fp32 file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from squeeze_export.analyze.results import Cost, FileCost, Which
from squeeze_export.core import Artifact, Progress, silent
from squeeze_export.errors import Unavailable
from squeeze_export.graph.nodes import Graph
from squeeze_export.graph.quantized import FP32, QuantizedGraph
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.pipeline.export import export
from squeeze_export.pipeline.measuring import measured
from squeeze_export.pipeline.sessions import Entry, RunOptions, runtime_for
from squeeze_export.results import Measurement
from squeeze_export.runtimes import runtime_named
from squeeze_export.targets import target_named

TARGETS = ("onnx", "tflite")
"""Formats to compare in, the first whose packages are installed: each runs on every CPU."""


def cost_of(
    graph: Graph, integers: QuantizedGraph, kept: QuantizedGraph, *, rounds: int | None, progress: Progress = silent
) -> Cost | None:
    """Exports three files, and times them in the same interleaved rounds, on the CPU and one thread.

    Args:
        graph: the float network.
        integers: its table.
        kept: the table with layers in float.
        rounds: timed inferences of each file; None times nothing.
        progress: told of the rounds.

    Returns:
        None if no package that writes and runs one of `TARGETS` is installed.

    Raises:
        Refused: a file failed its audit, or does not run.
    """
    for target in TARGETS:
        runtime = runtime_for(target, None)
        if integers.scheme.name in target_named(target).SCHEMES:
            try:
                runtime_named(runtime).check_device(RunOptions.device)
                return _cost(target, graph, integers, kept, rounds, progress)
            except Unavailable:
                continue
    return None


def _cost(
    target: str, graph: Graph, integers: QuantizedGraph, kept: QuantizedGraph, rounds: int | None, progress: Progress
) -> Cost:
    with tempfile.TemporaryDirectory(prefix="squeeze-export-") as temporary:
        folder = Path(temporary)
        made: list[tuple[Which, Artifact]] = [
            ("integers", export(integers, target, integers.scheme, folder, name="integers")[0]),
            ("kept", export(kept, target, kept.scheme, folder, name="kept")[0]),
            ("fp32", export(graph, target, FP32, folder, name="fp32")[0]),
        ]
        if rounds is None:
            return Cost(target, "", "", 0, tuple(FileCost(which, artifact.size_bytes) for which, artifact in made))
        entries = [Entry(artifact, runtime_for(target, None)) for _, artifact in made]
        rows = measured(entries, RunOptions(rounds=rounds), bench=True, progress=progress).rows
        files = tuple(_file(which, row, rows[0]) for (which, _), row in zip(made, rows, strict=True))
        return Cost(target, rows[0].runtime, rows[0].device, rounds, files)


def _file(which: Which, row: Measurement, first: Measurement) -> FileCost:
    assert row.latency is not None  # the runtimes of `TARGETS` measure
    assert first.latency is not None
    ratio = bootstrap_ratio(row.latency.samples_ns, first.latency.samples_ns)
    return FileCost(which, row.size_bytes, row.latency.p50_ms, ratio.value, ratio.low, ratio.high)
