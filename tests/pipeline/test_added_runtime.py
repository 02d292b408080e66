"""A runtime of another distribution: a NAME, `devices` and `open_session`, found by its entry point. The rest has defaults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from squeeze_export.errors import BadInput, Unavailable
from squeeze_export.pipeline import RunOptions, bench_files
from squeeze_export.pipeline.sessions import runtime_for
from squeeze_export.runtimes import added_runtimes, runtime_named

MODULE = """
import numpy as np

from squeeze_export.runtimes.session import BatchSession

NAME = "example"
TARGETS = ("onnx",)


def devices():
    return ("cpu", "abacus")


def open_session(artifact, *, device, threads):
    return Black(artifact.input.shape[1:], device, threads)


class Black(BatchSession):
    runtime, kernels = NAME, "none"

    def __init__(self, sides, device, threads):
        super().__init__(sides)
        self.device, self.threads = device, threads

    def run_piece(self, images):
        return np.zeros((len(images), 10))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution, as pip lays it down."""
    info = tmp_path / "example_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[squeeze_export.runtimes]\nexample = example_runtime\n")
    (tmp_path / "example_runtime.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("example_runtime", None)


@pytest.mark.usefixtures("installed")
def test_a_file_is_run_on_it(made) -> None:
    assert (added_runtimes("onnx"), added_runtimes("tflite")) == (("example",), ())
    assert runtime_for("onnx", "example") == "example"
    (row,) = bench_files([made["onnx", "int8"].path], options=RunOptions("example", "abacus", threads=3, rounds=2)).measurements
    assert (row.runtime, row.device, row.kernels, row.placement) == ("example", "abacus", "none", None)
    assert row.latency is not None
    assert row.latency.threads == 3


@pytest.mark.usefixtures("installed")
def test_what_it_leaves_out_has_defaults(made) -> None:
    runtime_named("example").check_device("abacus")
    with pytest.raises(Unavailable, match="`example` has no device `npu9`") as caught:
        runtime_named("example").check_device("npu9")
    assert caught.value.hint == "it has: cpu, abacus"
    with pytest.raises(Unavailable, match="does not show what lies inside"):
        runtime_named("example").inner_values(made["onnx", "int8"], [], None)
    with pytest.raises(Unavailable, match="is not run on boards"):
        runtime_named("example").read_records({}, "int8")


def test_nothing_is_added_where_nothing_isinstalled() -> None:
    """Negative control."""
    assert added_runtimes("onnx") == ()
    with pytest.raises(BadInput, match="the runtime `example` does not open onnx files"):
        runtime_for("onnx", "example")
