"""What layers in float cost: the file with them beside the one all in integers and the fp32 one, in size and against the clock."""

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
from squeeze_export.pipeline.sessions import Entry, RunOptions, check_device, opened, runtime_for
from squeeze_export.pipeline.timing import time_sessions
from squeeze_export.results import Latency
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
        None where no package that writes and runs one of `TARGETS` is installed.

    Raises:
        Refused: a file failed its audit, or does not run.
    """
    for target in TARGETS:
        runtime = runtime_for(target, None)
        if integers.scheme.name in target_named(target).SCHEMES:
            try:
                check_device(runtime, RunOptions.device)
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
        options = RunOptions(rounds=rounds)
        entries = [Entry(artifact, runtime_for(target, None)) for _, artifact in made]
        with opened(entries, options) as sessions:
            found = time_sessions(entries, sessions, {}, options, progress)
            device = sessions[entries[0].key].device
        first = found[entries[0].key]
        files = tuple(_file(which, entry, found[entry.key], first) for (which, _), entry in zip(made, entries, strict=True))
        return Cost(target, entries[0].runtime, device, rounds, files)


def _file(which: Which, entry: Entry, latency: Latency, first: Latency) -> FileCost:
    ratio = bootstrap_ratio(latency.samples_ns, first.samples_ns)
    return FileCost(which, entry.artifact.size_bytes, latency.p50_ms, ratio.value, ratio.low, ratio.high)
