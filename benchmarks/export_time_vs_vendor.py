"""Whole processes, imports included: our int8 export into each format beside the vendor's own quantizer for it.

All go through `squeeze-export`, from the same SqueezeNet 1.1 weights and the same 128 photographs: with `--recipe vendor` it hands
the network and the decoded images to the vendor's tool in a second process, which costs well below a second.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.recording import assets, interleaved, ratio, write
from squeeze_export.peers import peer_of
from squeeze_export.registry import PEERS, TARGETS

ROUNDS = 3


def main() -> None:
    """Runs the benchmark and writes its results."""
    weights, calib = assets() / "weights" / "squeezenet1_1.safetensors", assets() / "images" / "calib"
    with tempfile.TemporaryDirectory() as folder:

        def command(target: str, recipe: str, file: Path) -> list[str]:
            options = ["--weights", str(file), "--calib", str(calib), "--recipe", recipe, "--out", str(Path(folder) / recipe)]
            return [sys.executable, "-m", "squeeze_export", target, "--int8", "--no-validate", "--no-bench", *options]

        commands = {f"squeeze-export {target} --int8": command(target, "fast", weights) for target in TARGETS}
        commands["squeeze-export tflite --int8, from .pth"] = command("tflite", "fast", weights.with_suffix(".pth"))
        commands["squeeze-export all --int8"] = command("all", "fast", weights)
        vendors = {f"{target}: {peer_of(target).method('vendor')}": target for target in PEERS}
        commands |= {name: command(target, "vendor", weights) for name, target in vendors.items()}
        runs = interleaved(commands, ROUNDS)
    walls = {name: [run.wall_s for run in found] for name, found in runs.items()}
    rows = []
    for name, found in runs.items():
        peak_mb = max(run.peak_bytes for run in found) / 1e6
        against = ratio(walls[name], walls[f"squeeze-export {vendors[name]} --int8"]) if name in vendors else ""
        rows.append((name, f"{statistics.median(walls[name]):.2f} s", f"{peak_mb:,.0f} MB", against))
    write(
        "export_time_vs_vendor",
        "int8 export of SqueezeNet 1.1, whole process",
        [
            f"128 calibration photographs, {ROUNDS} interleaved rounds, medians. The ratio is to our export into the same "
            "format. Everything runs through squeeze-export, so a vendor's time includes our start-up, the decoding of "
            "the photographs, the fp32 file that its tool starts from, and a second process. Peak memory is that of the "
            "largest process."
        ],
        ("", "wall time", "peak memory", "vendor / ours"),
        rows,
        {name: [{"wall_s": r.wall_s, "peak_bytes": r.peak_bytes} for r in found] for name, found in runs.items()},
    )


if __name__ == "__main__":
    main()
