"""What every benchmark shares: whole processes timed in turn, and results written as JSON and Markdown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.integers import hashes, stored
from squeeze_export.files import write_text
from squeeze_export.measure.host import host_facts, tool_versions
from squeeze_export.measure.statistics import bootstrap_ratio

RESULTS = Path(__file__).parent / "results"
TOOLS = (
    "squeeze-export",
    "numpy",
    "Pillow",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "openvino",
    "coremltools",
    "coreai-core",
    "torch",
    "tensorflow-cpu",
    "nncf",
)


@dataclass(frozen=True)
class ProcessRun:
    """One finished process: wall time in seconds and the largest resident set in bytes, on Linux at least that of this process."""

    wall_s: float
    peak_bytes: int


def assets() -> Path:
    """The folder of real weights and photographs.

    Raises:
        SystemExit: it is not there; these benchmarks have no meaning on other data.
    """
    path = Path(os.environ.get("SQUEEZE_EXPORT_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
    if not path.is_dir():
        sys.exit(f"no real weights and photographs at {path}: set SQUEEZE_EXPORT_ASSETS")
    return path


def run_process(command: Sequence[str]) -> ProcessRun:
    """Runs a command to its end; its output is thrown away unless it fails."""
    start_ns = time.perf_counter_ns()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = (time.perf_counter_ns() - start_ns) / 1e9
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} failed:\n{output.decode(errors='replace')[-4000:]}")
    return ProcessRun(wall_s, usage.ru_maxrss * 1024)


def interleaved(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[ProcessRun]]:
    """Runs every command once a round, after one warm-up round that is not counted."""
    runs: dict[str, list[ProcessRun]] = {name: [] for name in commands}
    for round_index in range(-1, rounds):
        for name, command in commands.items():
            result = run_process(command)
            if round_index >= 0:
                runs[name].append(result)
            print(f"round {round_index + 1}/{rounds}  {name}: {result.wall_s:.2f} s", file=sys.stderr)
    return runs


def ratio(slower: Sequence[float], faster: Sequence[float]) -> str:
    """`2.9x [2.8, 3.0]`: the ratio of the medians with its bootstrap interval, rounds resampled together."""
    found = bootstrap_ratio(slower, faster)
    return f"{found.value:.1f}x [{found.low:.1f}, {found.high:.1f}]"


def write(
    name: str,
    title: str,
    notes: Sequence[str],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    raw: Any,
    *,
    integers: Sequence[str] = (),
) -> None:
    """Writes `results/<name>.json` and `.md`, with the machine's facts.

    Args:
        name: of the files.
        title: the page's heading.
        notes: paragraphs above the table.
        header: of the table.
        rows: of the table.
        raw: every sample, for the JSON.
        integers: keys of `integers.CASES` that the figures rest on; times and sizes rest on none. Their hashes tell later
            whether the figures still hold.
    """
    host = host_facts()
    stamp = hashes(stored())
    RESULTS.mkdir(exist_ok=True)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    document = {"name": name, "created": created, "host": host, "tool_versions": tool_versions(TOOLS)}
    document |= {"integers": {case: stamp[case] for case in integers}, "results": raw}
    write_text(RESULTS / f"{name}.json", json.dumps(document, indent=1) + "\n")
    lines = [f"# {title}", "", *notes, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    cpu = f"{host.get('cpu_model', host.get('cpu', 'unknown CPU'))}, {host.get('usable_cores', os.cpu_count())} cores"
    lines += ["", f"Run on {cpu}, {created[:10]}; the samples are in `{name}.json`.", ""]
    write_text(RESULTS / f"{name}.md", "\n".join(lines))
    print("\n".join(lines))
