"""Our int8 files beside every vendor's own on the same runtime, in interleaved rounds; fp32 and OpenVINO's bf16 are shown too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.contestants import NETWORKS, OURS, Contestant, contestants
from benchmarks.recording import write
from squeeze_export.measure.statistics import bootstrap_ratio
from squeeze_export.pipeline import RunOptions, bench_files
from squeeze_export.results import Interval, Measurement

ROUNDS = 300
TARGETS = ("onnx", "tflite", "openvino")
"""Those with a runtime that runs here: Core ML's device is emulated, and an emulator's time says nothing."""


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows: list[Sequence[str]] = []
    raw: list[dict[str, Any]] = []
    with contestants() as made:
        for network in NETWORKS:
            for threads in (1, 2):
                for target in TARGETS:
                    files = [entry for entry in made if (entry.network, entry.target) == (network, target)]
                    rows += _round(network, threads, files, raw)
    write(
        "latency_vs_vendor",
        "int8 latency, ours and the vendors' own",
        [
            f"Batch 1, medians of {ROUNDS} rounds, in each of which all files of a runtime run in turn. Ours / theirs: the "
            "median of our int8 file divided by that of the row, with its 95% bootstrap interval (rounds resampled "
            "together). Below 1, ours is faster."
        ],
        ("network", "threads", "runtime", "scheme", "quantized by", "p50", "ours / theirs"),
        rows,
        raw,
    )


def _round(network: str, threads: int, files: Sequence[Contestant], raw: list[dict[str, Any]]) -> list[Sequence[str]]:
    report = bench_files([entry.path for entry in files], options=RunOptions(threads=threads, rounds=ROUNDS))
    makers = {entry.path.name: entry.maker for entry in files}
    ours = next(row for row in report.measurements if row.scheme == "int8" and makers[row.artifact] == OURS)
    rows: list[Sequence[str]] = []
    for row in report.measurements:
        assert row.latency is not None
        ratio = None if row is ours else _ratio(ours, row)
        shown = f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else ""
        maker = makers[row.artifact] if row.scheme == "int8" else ""
        rows.append((network, str(threads), row.runtime, row.scheme, maker, f"{row.latency.p50_ms:.2f} ms", shown))
        raw.append(
            {
                "network": network,
                "threads": threads,
                "target": row.target,
                "runtime": row.runtime,
                "kernels": row.kernels,
                "scheme": row.scheme,
                "maker": maker,
                "latency": asdict(row.latency),
                "ours_over_theirs": asdict(ratio) if ratio else None,
            }
        )
    return rows


def _ratio(ours: Measurement, theirs: Measurement) -> Interval:
    assert ours.latency is not None
    assert theirs.latency is not None
    return bootstrap_ratio(ours.latency.samples_ns, theirs.latency.samples_ns)


if __name__ == "__main__":
    main()
