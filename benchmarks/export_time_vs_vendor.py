"""Whole processes, imports included: our int8 export beside the TensorFlow converter's and ONNX Runtime's own quantization.

All start from the same SqueezeNet 1.1 weights and the same 128 photographs. ONNX Runtime's is given the fp32 ONNX file ready made.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.recording import assets, interleaved, ratio, run_process, write

ROUNDS = 5
VENDORS = "benchmarks.vendors"


def main() -> None:
    """Runs the benchmark and writes its results."""
    weights, calib = assets() / "weights" / "squeezenet1_1.safetensors", assets() / "images" / "calib"
    pth = weights.with_suffix(".pth")
    python = [sys.executable, "-m"]
    ours = [*python, "squeeze_export"]
    rest = ["--calib", str(calib), "--no-validate", "--no-bench"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run_process([*ours, "onnx", "--weights", str(weights), "--no-validate", "--no-bench", "--out", str(out / "fp32")])
        fp32 = out / "fp32" / "squeezenet1_1.fp32.onnx"
        commands = {
            "squeeze-export tflite --int8": [*ours, "tflite", "--int8", "--weights", str(weights), *rest, "--out", str(out / "a")],
            "squeeze-export onnx --int8": [*ours, "onnx", "--int8", "--weights", str(weights), *rest, "--out", str(out / "b")],
            "squeeze-export tflite --int8 (.pth)": [
                *ours,
                "tflite",
                "--int8",
                "--weights",
                str(pth),
                *rest,
                "--out",
                str(out / "c"),
            ],
            "TensorFlow converter": [
                *python,
                "benchmarks.vendors.tensorflow_converter",
                str(weights),
                str(calib),
                str(out / "tf.tflite"),
            ],
            "ONNX Runtime quantize_static": [
                *python,
                "benchmarks.vendors.onnxruntime_static",
                str(fp32),
                str(calib),
                str(out / "o.onnx"),
            ],
        }
        runs = interleaved(commands, ROUNDS)
    walls = {name: [run.wall_s for run in found] for name, found in runs.items()}
    peers = {"TensorFlow converter": "squeeze-export tflite --int8", "ONNX Runtime quantize_static": "squeeze-export onnx --int8"}
    rows = []
    for name, found in runs.items():
        peak_mb = max(run.peak_bytes for run in found) / 1e6
        against = ratio(walls[name], walls[peers[name]]) if name in peers else "1"
        rows.append((name, f"{statistics.median(walls[name]):.2f} s", f"{peak_mb:,.0f} MB", against))
    write(
        "export_time_vs_vendor",
        "int8 export of SqueezeNet 1.1, whole process",
        [f"128 calibration photographs, {ROUNDS} interleaved rounds, medians; the ratio is to our export into the same format."],
        ("", "wall time", "peak memory", "vendor / ours"),
        rows,
        {name: [{"wall_s": r.wall_s, "peak_bytes": r.peak_bytes} for r in found] for name, found in runs.items()},
    )


if __name__ == "__main__":
    main()
