"""int8 against the fp32 file of the same target on the same runtime, in interleaved rounds: SqueezeNet 1.1 and 1.0."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.recording import assets, write
from squeeze_export.pipeline import Job, run
from squeeze_export.pipeline.sessions import RunOptions
from squeeze_export.registry import TARGETS

ROUNDS = 200
NETWORKS = {"SqueezeNet 1.1": "squeezenet1_1.safetensors", "SqueezeNet 1.0": "squeezenet1_0_deep_compression.net"}


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows, raw = [], []
    for network, file in NETWORKS.items():
        for threads in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                report = run(
                    Job(
                        targets=tuple(TARGETS),
                        scheme="int8",
                        weights=assets() / "weights" / file,
                        calib=assets() / "images" / "calib",
                        out=Path(folder),
                        run=RunOptions(threads=threads, rounds=ROUNDS),
                        validate=False,
                    )
                )
            for row in report.measurements:
                assert row.latency is not None
                speedup = row.latency.speedup
                shown = f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]" if speedup else "1"
                figures = (f"{row.latency.p50_ms:.2f} ms", f"{row.latency.p90_ms:.2f} ms", shown)
                rows.append((network, row.runtime, row.scheme, str(threads), *figures))
                raw.append(
                    {"network": network, "threads": threads, **asdict(row.latency), "runtime": row.runtime, "scheme": row.scheme}
                )
    write(
        "int8_speedup",
        "int8 against fp32 on the same runtime",
        [f"Batch 1, {ROUNDS} interleaved rounds; speed-up is the ratio of the medians with its 95% bootstrap interval."],
        ("network", "runtime", "scheme", "threads", "p50", "p90", "speed-up"),
        rows,
        raw,
    )


if __name__ == "__main__":
    main()
