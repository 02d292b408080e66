"""`squeeze-export all --int8` as a user types it: the whole job, validation and latency included, and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.contestants import NETWORKS
from benchmarks.recording import assets, write

SAMPLE_S = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Runs the benchmark and writes its results."""
    rows, raw = [], []
    for network, file in NETWORKS.items():
        for what, extra in (("export only", ["--no-validate", "--no-bench"]), ("472 photographs, 50 timed rounds", [])):
            with tempfile.TemporaryDirectory() as folder:
                options = [
                    *("--weights", str(assets() / "weights" / file), "--calib", str(assets() / "images" / "calib")),
                    *("--eval", str(assets() / "images" / "eval")),
                    *("--labels", str(assets() / "images" / "imagenet_wnids.txt"), "--out", folder),
                ]
                wall_s, peak_bytes = _run([sys.executable, "-m", "squeeze_export", "all", "--int8", *options, *extra])
            rows.append((network, what, f"{wall_s:.1f} s", f"{peak_bytes / 1e9:.2f} GB"))
            raw.append({"network": network, "what": what, "wall_s": wall_s, "peak_bytes": peak_bytes})
    write(
        "all_targets",
        "`squeeze-export all --int8`: five formats, one table",
        [
            "The whole process, from checkpoint and 128 calibration photographs to report, run once. Core ML's evaluator and Core"
            " AI's interpreter get 100 of the 472 photographs. Memory: resident pages of all processes together, sampled every"
            f" {SAMPLE_S * 1000:.0f} ms; shared pages count in each process."
        ],
        ("network", "", "wall time", "peak memory"),
        rows,
        raw,
    )


def _run(command: Sequence[str]) -> tuple[float, int]:
    """Seconds, and the largest sum of resident bytes over the process and its descendants."""
    start_ns, peak_bytes = time.perf_counter_ns(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak_bytes = max(peak_bytes, sum(_resident_bytes(pid) for pid in _family(process.pid)))
        time.sleep(SAMPLE_S)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return (time.perf_counter_ns() - start_ns) / 1e9, peak_bytes


def _family(pid: int) -> list[int]:
    found = [pid]
    with suppress(OSError):  # ended meanwhile
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [member for child in children.read_text().split() for member in _family(int(child))]
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


if __name__ == "__main__":
    main()
