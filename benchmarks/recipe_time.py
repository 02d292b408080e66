"""How long the recipes take and how much memory: whole processes on 128 photographs, imports and decoding included."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.recording import assets, interleaved, ratio, write

ROUNDS = 3
OURS = ("fast", "best")


def main() -> None:
    """Runs the benchmark and writes its results."""
    weights, calib = assets() / "weights" / "squeezenet1_1.safetensors", assets() / "images" / "calib"
    with tempfile.TemporaryDirectory() as folder:
        common = ["--weights", str(weights), "--calib", str(calib), "--out", str(Path(folder) / "out")]
        program = [sys.executable, "-m", "squeeze_export"]
        commands = {f"`calibrate --recipe {name}`": [*program, "calibrate", *common, "--recipe", name] for name in OURS}
        vendor = [*program, "onnx", "--int8", *common, "--recipe", "vendor", "--no-validate", "--no-bench"]
        commands["`onnx --int8 --recipe vendor` (ONNX Runtime's quantize_static after its pre-processing)"] = vendor
        runs = interleaved(commands, ROUNDS)
    walls = {name: [run.wall_s for run in found] for name, found in runs.items()}
    fast = walls["`calibrate --recipe fast`"]
    rows = [
        (
            name,
            f"{statistics.median(walls[name]):.1f} s",
            f"{max(walls[name]):.1f} s",
            ratio(walls[name], fast),
            f"{max(run.peak_bytes for run in found) / 2**20:.0f} MiB",
        )
        for name, found in runs.items()
    ]
    write(
        "recipe_time",
        "How long the recipes take",
        [
            f"SqueezeNet 1.1, 128 photographs, whole processes with imports and decoding, {ROUNDS} interleaved rounds "
            "after one that is not counted. Memory: the largest resident set of a process."
        ],
        ("", "median", "slowest", "over `fast`", "memory"),
        rows,
        {name: [{"wall_s": run.wall_s, "peak_bytes": run.peak_bytes} for run in found] for name, found in runs.items()},
    )


if __name__ == "__main__":
    main()
