"""Start-up: `squeeze-export --help` and one command's help beside a bare Python and a Python that imports numpy and click."""

from __future__ import annotations

import statistics
import sys

from benchmarks.recording import interleaved, ratio, write

ROUNDS = 20


def main() -> None:
    """Runs the benchmark and writes its results."""
    python = sys.executable
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "python -c 'import numpy, click'": [python, "-c", "import numpy, click"],
        "squeeze-export --help": [python, "-m", "squeeze_export", "--help"],
        "squeeze-export tflite --help": [python, "-m", "squeeze_export", "tflite", "--help"],
    }
    runs = interleaved(commands, ROUNDS)
    walls = {name: [run.wall_s for run in found] for name, found in runs.items()}
    bare = walls["python -c pass"]
    rows = [(name, f"{statistics.median(found):.3f} s", ratio(found, bare)) for name, found in walls.items()]
    write(
        "startup",
        "Start-up",
        [f"Whole processes, {ROUNDS} interleaved rounds, medians. The ratio is to a bare Python."],
        ("", "wall time", "ratio"),
        rows,
        walls,
    )


if __name__ == "__main__":
    main()
