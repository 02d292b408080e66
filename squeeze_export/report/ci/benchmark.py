"""The figures of a report as github-action-benchmark draws their history: its tool `customSmallerIsBetter`.

https://github.com/benchmark-action/github-action-benchmark
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import NamedTuple

from squeeze_export.report.ci.judged import Judged, plain, told_apart
from squeeze_export.report.wording import host_line
from squeeze_export.results import Measurement


class Figure(NamedTuple):
    """One point of one chart. The smaller it is, the better."""

    name: str
    unit: str
    value: float
    range: str = ""


def benchmark(judged: Judged) -> str:
    """A JSON list: what each row that was measured has of size, time, loss, memory and estimates. Times are for the chart alone:
    those of two runs are not compared, as two runners differ.
    """
    rows = [(plain(row.label), row) for row in judged.report.measurements if row.status == "ok"]
    figures = [(label, row, figure) for label, row in rows for figure in _figures(row) if math.isfinite(figure.value)]
    names = told_apart(_in_backticks(f"{label}: {figure.name}") for label, _, figure in figures)
    entries = [
        {
            "name": name,
            "unit": figure.unit,
            "value": figure.value,
            **({"range": figure.range} if figure.range else {}),
            "extra": plain(", ".join(part for part in (row.evidence, row.kernels, host_line(judged.report)) if part)),
        }
        for name, (_, row, figure) in zip(names, figures, strict=True)
    ]
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def _in_backticks(name: str) -> str:
    """A name that stays one where github-action-benchmark puts it, between backticks in the cell of a Markdown table."""
    return name.replace("`", "'").replace("|", "/")


def _figures(row: Measurement) -> Iterator[Figure]:
    if row.size_bytes:
        yield Figure("size", "bytes", row.size_bytes)
    if row.latency is not None:
        latency = row.latency
        yield Figure("p50", "ms", latency.p50_ms, f"p90 {latency.p90_ms:.3g}, p99 {latency.p99_ms:.3g}")
    accuracy = row.accuracy
    if accuracy is not None and accuracy.error is not None:
        yield Figure("mean error", "", accuracy.error.mean)
    elif accuracy is not None:
        share, drop = accuracy.top1_agreement, accuracy.top1_delta_pp
        yield _estimate("answers unlike fp32's", "%", 100 - 100 * share.value, 100 - 100 * share.high, 100 - 100 * share.low)
        if drop is not None:
            yield _estimate("top-1 drop", "pp", -drop.value, -drop.high, -drop.low)
    arena = row.facts.get("arena_bytes")
    if isinstance(arena, int):
        yield Figure("memory", "bytes", arena)
    if row.estimate is not None:
        yield Figure("cycles", "cycles", row.estimate.cycles)
        yield from (Figure(f"{memory} used", "bytes", used) for memory, used in row.estimate.used_bytes.items())


def _estimate(name: str, unit: str, value: float, low: float, high: float) -> Figure:
    """A figure with its 95% interval."""
    return Figure(name, unit, round(value, 6) + 0.0, f"{low + 0.0:.2f} to {high + 0.0:.2f}")
