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
TFLITE, ONNX = "squeeze-export tflite --int8", "squeeze-export onnx --int8"


def main() -> None:
    """Runs the benchmark and writes its results."""
    weights, calib = assets() / "weights" / "squeezenet1_1.safetensors", assets() / "images" / "calib"
    python = [sys.executable, "-m"]
    ours = [*python, "squeeze_export"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run_process([*ours, "onnx", "--weights", str(weights), "--no-validate", "--no-bench", "--out", str(out / "fp32")])
        fp32 = out / "fp32" / "squeezenet1_1.fp32.onnx"
        common = ["--calib", str(calib), "--no-validate", "--no-bench", "--out", str(out / "ours")]
        static = [*python, f"{VENDORS}.onnxruntime_static", str(fp32), str(calib), str(out / "static.onnx")]
        commands = {
            TFLITE: [*ours, "tflite", "--int8", "--weights", str(weights), *common],
            ONNX: [*ours, "onnx", "--int8", "--weights", str(weights), *common],
            f"{TFLITE}, from .pth": [*ours, "tflite", "--int8", "--weights", str(weights.with_suffix(".pth")), *common],
            "TensorFlow converter": [*python, f"{VENDORS}.tensorflow_converter", str(weights), str(calib), str(out / "tf.tflite")],
            "ONNX Runtime, pre-processing and quantize_static": static,
            "ONNX Runtime, quantize_static alone": [*static, "bare"],
        }
        runs = interleaved(commands, ROUNDS)
    walls = {name: [run.wall_s for run in found] for name, found in runs.items()}
    peers = {name: TFLITE if "TensorFlow" in name else ONNX for name in runs if "squeeze-export" not in name}
    rows = []
    for name, found in runs.items():
        peak_mb = max(run.peak_bytes for run in found) / 1e6
        against = ratio(walls[name], walls[peers[name]]) if name in peers else "1"
        rows.append((name, f"{statistics.median(walls[name]):.2f} s", f"{peak_mb:,.0f} MB", against))
    write(
        "export_time_vs_vendor",
        "int8 export of SqueezeNet 1.1, whole process",
        [
            f"128 calibration photographs, {ROUNDS} interleaved rounds, medians; the ratio is to our export into the same format."
            " ONNX Runtime is given an fp32 file ready made; its documentation asks for the pre-processing."
        ],
        ("", "wall time", "peak memory", "vendor / ours"),
        rows,
        {name: [{"wall_s": r.wall_s, "peak_bytes": r.peak_bytes} for r in found] for name, found in runs.items()},
    )


if __name__ == "__main__":
    main()
