"""The gate on itself: 20 runs that time the same files against each other while the second core is busy.

Nothing changed, so each alert is a false one. `python -m benchmarks.gate_aa` ends with an error if there is more than one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gate_noise import spinning
from benchmarks.recording import assets, write
from squeeze_export.measure.host import cpu_times, other_load
from squeeze_export.pipeline import Job, RunOptions, run
from squeeze_export.pipeline.gating import Against, Bounds, gate
from squeeze_export.pipeline.reports import write_report

RUNS, MOST_FAILED = 20, 1
TARGETS = ("onnx", "tflite")
MAX_SLOWDOWN = 5.0


def main() -> None:
    """Runs the gate and writes what it said."""
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = run(
            Job(
                targets=TARGETS,
                scheme="int8",
                weights=assets() / "weights" / "squeezenet1_1.safetensors",
                calib=assets() / "images" / "calib",
                out=folder,
                run=RunOptions(rounds=20),
                validate=False,
            )
        )
        write_report(report, folder)
        with spinning(1):
            for number in range(RUNS):
                before, start_s = cpu_times(), time.monotonic()
                found = gate(folder / "report.json", Bounds(max_slowdown=MAX_SLOWDOWN), Against(base=folder))
                wall_s = round(time.monotonic() - start_s, 1)
                timed = [check for check in found.checks if check.name == "max-slowdown" and check.state != "skipped"]
                load = other_load(before, cpu_times())
                raw.append({"state": found.state, "wall_s": wall_s, "other_load": load, "checks": [asdict(each) for each in timed]})
                print(f"run {number + 1}/{RUNS}: {found.state}, {load} cores busy", file=sys.stderr)
    states = Counter(entry["state"] for entry in raw)
    checks = [check for entry in raw for check in entry["checks"]]
    of_checks = Counter("cleared" if check["cleared"] else check["state"] for check in checks)
    kinds = ("failed", "undecided", "passed", "cleared")
    loads = [entry["other_load"] for entry in raw]
    write(
        "gate_aa",
        "The gate on the same files, with a busy second core",
        [
            f"{RUNS} runs of `gate --base` on SqueezeNet 1.1, int8, {', '.join(TARGETS)}, against the same files; at most "
            f"{MAX_SLOWDOWN:g}% slower. Another process kept the second core busy, and with what else ran, "
            f"{min(loads):.2f} to {max(loads):.2f} cores. A run took {median(entry['wall_s'] for entry in raw):.0f} s."
        ],
        ("", *kinds),
        [("runs", *(str(states[kind]) for kind in kinds)), ("checks", *(str(of_checks[kind]) for kind in kinds))],
        raw,
    )
    if states["failed"] > MOST_FAILED:
        sys.exit(f"{states['failed']} of {RUNS} runs failed, and nothing had changed")


if __name__ == "__main__":
    main()
