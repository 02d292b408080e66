"""NNCF: no telemetry, the same bytes every time, and the metric of its accuracy-aware recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from squeeze_export.errors import Refused
from squeeze_export.peers import Source, nncf
from tests.contract.conftest import net
from tests.peers.conftest import peer_module, source

# A package that would tell: it leaves a trace as soon as it is imported, and again when it is asked to send something.
TELLTALE = """
import os
from pathlib import Path

def trace(what):
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(what + "\\n")

trace("imported")

class Telemetry:
    def __init__(self, *args, **kwargs): trace("made")
    def __getattr__(self, name): return lambda *args, **kwargs: trace(name)
"""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_package: Callable[[str, str], Path]) -> Path:
    fake_package("openvino_telemetry", TELLTALE)
    path = tmp_path / "trace.txt"
    monkeypatch.setenv("TRACE", str(path))
    return path


def test_nothing_is_reported_and_the_bytes_repeat(trace: Path, tmp_path: Path, product: Any) -> None:
    first = product("openvino", "vendor", "complex")
    again = peer_module("openvino").quantize(source("complex", "openvino", tmp_path), "vendor")
    assert not trace.exists()
    assert again == first.content


def test_without_our_doing_it_would_be_reported(trace: Path, tmp_path: Path) -> None:
    """Negative control: the telltale is what NNCF would report with, even where its own switch is set."""
    peer_module("openvino")
    root = str(Path(__file__).resolve().parents[2])
    code = "import nncf"
    environment = {
        **os.environ,
        "NNCF_CI": "1",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], root]),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert "imported" in trace.read_text()
    assert "made" in trace.read_text()


def test_agreement_is_the_share_of_expected_classes() -> None:
    def model(image: Any) -> dict[str, Any]:
        return {"logits": np.eye(4, dtype=np.float32)[image[0, 0, 0, 0]][None]}

    images = [np.full((2, 2, 3), value, np.uint8) for value in (0, 1, 2, 3)]
    share, each = nncf.agreement(model, zip(images, (0, 1, 2, 2), strict=True))
    assert (share, each) == (0.75, [1.0, 1.0, 1.0, 0.0])


def test_a_model_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    peer_module("openvino")
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(Refused, match=r"^NNCF failed: RuntimeError: ") as caught:
        nncf.quantize(Source(net().graph, tmp_path, net().pixels), "vendor")
    assert "\n" not in caught.value.message


def test_the_reference_is_computed_in_float32() -> None:
    asked: list[Any] = []
    nncf._compiled(SimpleNamespace(compile_model=lambda *args: asked.append(args)), "model")
    assert asked == [("model", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})]
