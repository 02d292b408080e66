"""Records how this machine's timings scatter where nothing changes: three sessions of one int8 file, as the gate times them.

`python -m benchmarks.gate_noise` writes `gate_noise.json` beside itself: block medians of many openings, on an idle machine and
with a busy second core. An opening during which other processes took more or less than the condition says is recorded again.
`gate_errors` draws its simulated runs from it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from benchmarks.recording import assets
from squeeze_export.core import Artifact, ByteArray
from squeeze_export.files import write_text
from squeeze_export.gate.timing import BLOCK, Rounds, timed_rounds
from squeeze_export.graph.quantized import INT8
from squeeze_export.measure.host import cpu_times, host_facts, other_load
from squeeze_export.pipeline import RunOptions, calibrate, export, open_network
from squeeze_export.pipeline.sessions import entries_of, opened
from squeeze_export.results import PackedNumbers

FILE = Path(__file__).parent / "gate_noise.json"
OPENINGS, ROUNDS = 40, 40
MOST_S = 240
"""Seconds for one condition: with fewer openings by then, these must do."""
SPIN = "import numpy as np; a = np.ones((700, 700), np.float32)\nwhile True: a = a @ a * 0 + 1"
"""What keeps the second core busy: arithmetic and memory traffic of one thread."""
CONDITIONS = {"idle": 0, "busy second core": 1}
"""Name -> other processes that are kept busy."""
FAR = 0.15
"""Cores by which the load may miss the condition."""


@dataclass(frozen=True)
class Recording:
    """The block medians of one condition.

    Attributes:
        openings: how often the three sessions were opened.
        rounds: of each opening.
        medians: (openings, rounds, 3 sessions, 2 blocks), ns.
        other_load: cores that other processes kept busy, mean.
    """

    openings: int
    rounds: int
    medians: PackedNumbers
    other_load: float

    def times(self) -> NDArray[np.int64]:
        """(openings, rounds, 3, 2) int64, ns."""
        return self.medians.numbers().reshape(self.openings, self.rounds, 3, 2)


def read() -> dict[str, Recording]:
    """The committed recordings."""
    found = json.loads(FILE.read_text(encoding="utf-8"))["recordings"]
    return {name: Recording(**{**entry, "medians": PackedNumbers(**entry["medians"])}) for name, entry in found.items()}


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keeps `count` other processes busy, of one thread each."""
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    others = [subprocess.Popen([sys.executable, "-c", SPIN], env=environment) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Records every condition."""
    recordings: dict[str, Any] = {}
    network = open_network(assets() / "weights" / "squeezenet1_1.safetensors")
    quantized = calibrate(network, assets() / "images" / "calib").quantized
    with tempfile.TemporaryDirectory() as folder:
        artifact, _ = export(quantized, "tflite", INT8, Path(folder), name="net")
        for name, others in CONDITIONS.items():
            with spinning(others):
                recordings[name] = asdict(_recorded(name, artifact, others))
    document = {"file": "SqueezeNet 1.1, int8 TFLite, 1 thread", "block": BLOCK, "host": host_facts(), "recordings": recordings}
    write_text(FILE, json.dumps(document, indent=1) + "\n")


def _recorded(name: str, artifact: Artifact, others: int) -> Recording:
    pixels = np.random.default_rng(0).integers(0, 256, artifact.pixel_shape, dtype=np.uint8)
    medians: list[NDArray[np.float64]] = []
    loads: list[float] = []
    end_s = time.monotonic() + MOST_S
    while len(medians) < OPENINGS and time.monotonic() < end_s:
        before = cpu_times()
        time.sleep(0.5)
        if not _is(other_load(before, cpu_times()), others):
            continue
        before = cpu_times()
        rounds = _opening(artifact, pixels)
        load = other_load(before, cpu_times())
        if _is(load, others):
            loads.append(load)
            sessions = (rounds.base, rounds.candidate, rounds.control)
            medians.append(np.stack([np.median(samples, axis=2) for samples in sessions], axis=1))
            print(f"{name}: opening {len(medians)}/{OPENINGS}", file=sys.stderr)
    return Recording(len(medians), ROUNDS, PackedNumbers.of(np.stack(medians).astype(np.int64).ravel()), float(np.mean(loads)))


def _is(load: float | None, others: int) -> TypeGuard[float]:
    return load is not None and abs(load - others) <= FAR


def _opening(artifact: Artifact, pixels: ByteArray) -> Rounds:
    options = RunOptions()
    with opened(entries_of([artifact] * 3, options), options) as outcomes:
        base, candidate, control = (partial(outcome.session.infer, pixels) for outcome in outcomes if outcome.session is not None)
        return timed_rounds(base, candidate, control, rounds=ROUNDS)


if __name__ == "__main__":
    main()
