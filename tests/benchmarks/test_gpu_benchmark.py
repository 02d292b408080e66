"""benchmarks/gpu.py as far as a machine without a GPU goes: no such device, and the arithmetic of its figures."""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu
from squeeze_export.errors import Unavailable

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif("torch.cuda.is_available()", reason="this machine has a GPU")
def test_no_gpu_is_exit_code_3_with_one_line_and_a_hint() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: torch finds no NVIDIA GPU on this machine\nhint: ")


@pytest.mark.skipif("torch.cuda.is_available()", reason="this machine has a GPU")
def test_what_is_missing_is_told_with_the_reason(tmp_path: Path) -> None:
    missing: dict[str, str] = {}
    made = dict.fromkeys(gpu.SCHEMES, tmp_path / "none.onnx")
    (tmp_path / "none.onnx").write_bytes(b"")
    with pytest.raises(Unavailable):
        gpu.on_onnxruntime("x", "CUDAExecutionProvider", {}, made["fp32"], "fp32", 1)
    names = {f"{name}, {scheme}": (name, scheme) for name, (_, _, schemes) in gpu.PROVIDERS.items() for scheme in schemes}
    for label, (name, scheme) in names.items():
        provider, options, _ = gpu.PROVIDERS[name]
        opening = partial(gpu.on_onnxruntime, name, provider, options, made[scheme], scheme, 1)
        assert list(gpu._tried(label, missing, opening)) == []
    assert list(missing) == list(names)
    assert "this onnxruntime has no CUDAExecutionProvider" in missing["ONNX Runtime, CUDA, int8"]


def contestant(name: str, batch: int = 4, logits: float = 1.0, launches: list[str] | None = None) -> gpu.Contestant:
    log = launches if launches is not None else []
    return gpu.Contestant(
        name, "fp32", batch, lambda: log.append("launch"), lambda: log.append("wait"), lambda pixels: np.full((batch, 3), logits)
    )


def test_a_window_counts_what_it_launched() -> None:
    ticks = itertools.count(0, 50_000_000)  # each look at the clock takes 50 ms
    log: list[str] = []
    mean_ns, count = gpu.window_ns(contestant("a", launches=log), 0.2, lambda: next(ticks))
    assert count == 30
    assert log[:2] == ["launch", "wait"]  # what is left from before does not count
    assert log.count("launch") == 1 + count
    assert mean_ns == pytest.approx(250_000_000 / 30)


def test_networks_that_differ_end_the_run() -> None:
    pixels = np.zeros((4, 2, 2, 3), np.uint8)
    gpu.compare([contestant("a"), contestant("b", logits=1.2)], pixels)
    with pytest.raises(SystemExit, match="b, fp32: logits are"):
        gpu.compare([contestant("a"), contestant("b", logits=2.0)], pixels)


def test_the_figures_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = iter([1000.0, 3000.0])

    @contextmanager
    def counter() -> Any:
        yield lambda: next(counters)

    monkeypatch.setattr(gpu, "_counter", counter)
    monkeypatch.setattr(gpu, "window_ns", lambda *given: (2e6, 100))
    one = contestant("a")
    figures = gpu.measured([one], np.zeros((4, 2, 2, 3), np.uint8))[one]
    assert len(figures["end_to_end_ns"]) == gpu.ROUNDS
    assert figures["gpu_ns"] == [2e6] * gpu.WINDOWS
    assert figures["energy_mj"] == 2000 / (100 * 4)
    told = gpu.row(one, {**figures, "end_to_end_ns": [3e6]})
    assert told == ("a", "fp32", "4", "2.000 ms", "3.000 ms", "2,000", "5.00")


def test_no_counter_of_energy_is_no_figure() -> None:
    assert gpu.row(contestant("a"), {"gpu_ns": [1.0], "end_to_end_ns": [1.0], "energy_mj": None})[-1] == ""
