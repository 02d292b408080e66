"""The gate on a slower network: the command times a candidate that reads more pixels than its base, and must fail.

SqueezeNet 1.1 on 240 x 240 pixels has 15% more pixels to go over than on 224 x 224. `python -m benchmarks.gate_slower` ends with
an error if a run does not end with exit code 5.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recording import assets, write
from squeeze_export.measure.host import cpu_times, other_load
from squeeze_export.pipeline import Job, PreprocessChoice, RunOptions, run
from squeeze_export.pipeline.reports import write_report

RUNS = 5
TARGETS = ("onnx", "tflite", "openvino")
MAX_SLOWDOWN = 5
BASE_PX, SLOWER_PX = 224, 240
FAILED = 5
"""The exit code."""


def exported(folder: Path, side_px: int) -> None:
    """The network on square images of a size, timed, with its report."""
    job = Job(
        targets=TARGETS,
        scheme="int8",
        weights=assets() / "weights" / "squeezenet1_1.safetensors",
        calib=assets() / "images" / "calib",
        preprocess=PreprocessChoice(resize_px=side_px + 32, crop_px=side_px),
        out=folder,
        run=RunOptions(rounds=20),
        validate=False,
    )
    write_report(run(job), folder)


def main() -> None:
    """Runs the command and writes what it said."""
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        base, slower = Path(name) / "base", Path(name) / "slower"
        exported(base, BASE_PX)
        exported(slower, SLOWER_PX)
        words = ("gate", str(slower / "report.json"), "--base", str(base), "--max-slowdown", f"{MAX_SLOWDOWN}%", "--json")
        for number in range(RUNS):
            before = cpu_times()
            done = subprocess.run([sys.executable, "-m", "squeeze_export", *words], capture_output=True, text=True, check=False)
            load = other_load(before, cpu_times())
            checks = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "max-slowdown"]
            raw.append({"exit_code": done.returncode, "busy_cores": load, "checks": checks})
            print(f"run {number + 1}/{RUNS}: exit code {done.returncode}", file=sys.stderr)
    loads = [entry["busy_cores"] for entry in raw]
    write(
        "gate_slower",
        "The gate on a slower network",
        [
            f"{RUNS} runs of `squeeze-export gate report.json --base DIR --max-slowdown {MAX_SLOWDOWN}%` on SqueezeNet 1.1, int8."
            f" The base reads {BASE_PX} x {BASE_PX} pixels, the candidate {SLOWER_PX} x {SLOWER_PX}:"
            f" {SLOWER_PX**2 / BASE_PX**2 - 1:.0%} more. The timing and other processes kept {min(loads):.2f} to"
            f" {max(loads):.2f} cores busy. Exit codes: {', '.join(str(entry['exit_code']) for entry in raw)}."
        ],
        ("file", "slower by", "checks that failed"),
        [
            (
                checks[0]["row"],
                ", ".join(f"{check['value']:.1f}%" for check in checks),
                f"{sum(check['state'] == 'failed' for check in checks)} of {RUNS}",
            )
            for checks in zip(*(entry["checks"] for entry in raw), strict=True)
        ],
        raw,
    )
    if any(entry["exit_code"] != FAILED for entry in raw):
        sys.exit("a slower network did not fail")


if __name__ == "__main__":
    main()
