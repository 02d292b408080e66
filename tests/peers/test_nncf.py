"""NNCF: no telemetry, the same bytes every time, what its recipes start from, and what the accuracy-aware one is told."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.errors import BadInput, Refused
from squeeze_export.graph.run import FloatRunner
from squeeze_export.peers import Source, nncf, peer_of
from tests.contract.conftest import drawn_images, net
from tests.peers.conftest import peer_module, source

# A package that would tell: it leaves a trace as soon as it is imported, and again when it is asked to send something.
TELLTALE = """
import os, sys, types
from pathlib import Path

sys.modules[__name__ + ".backend"] = types.SimpleNamespace(backend_ga4=None)

def trace(what):
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(what + "\\n")

trace("imported")

class Telemetry:
    def __init__(self, *args, **kwargs):
        trace("made")
        self.backend = types.SimpleNamespace(app_name=kwargs.get("app_name"))
    def __getattr__(self, name): return lambda *args, **kwargs: trace(name)
"""


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_package: Callable[[str, str], Path]) -> Path:
    fake_package("openvino_telemetry", TELLTALE)
    path = tmp_path / "trace.txt"
    monkeypatch.setenv("TRACE", str(path))
    return path


@pytest.mark.parametrize("recipe", ["vendor-ir", "vendor-accuracy"])
def test_nothing_is_reported_and_the_bytes_repeat(trace: Path, tmp_path: Path, product: Any, recipe: str) -> None:
    """`vendor` is what `vendor-accuracy` begins with."""
    first = product("openvino", recipe, "complex")
    again = peer_module("openvino").quantize(source("complex", "openvino", tmp_path), recipe)
    assert not trace.exists()
    assert again == first.content


CONVERT = "import openvino, torch\nopenvino.convert_model(torch.nn.ReLU(), example_input=torch.zeros(1))"


@pytest.mark.parametrize("code", ["import nncf", CONVERT], ids=["nncf", "openvino"])
def test_without_our_doing_it_would_be_reported(trace: Path, tmp_path: Path, code: str) -> None:
    """Negative control: the telltale is what NNCF and OpenVINO would report with, even where NNCF's own switch is set."""
    peer_module("openvino")
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "NNCF_CI": "1",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "fakes"), root]),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert "imported" in trace.read_text()
    assert "made" in trace.read_text()


def pools(product: Any) -> list[str]:
    """How each max-pool of a product rounds."""
    openvino = importlib.import_module("openvino")
    model = openvino.Core().read_model(str(product.path / "model.xml"))
    return [node.get_attributes()["rounding_type"] for node in model.get_ordered_ops() if node.get_type_name() == "MaxPool"]


def test_what_the_recipes_start_from(product: Any) -> None:
    """A converted torch network rounds as torch does, which OpenVINO computes in float; ours has explicit padding."""
    converted, ours = (product("openvino", recipe, "complex") for recipe in ("vendor", "vendor-ir"))
    assert set(pools(converted)) == {"ceil_torch"}
    assert set(pools(ours)) == {"floor"}
    assert len(pools(converted)) == len(pools(ours))
    assert converted.share_in_integers < ours.share_in_integers


def test_accuracy_is_the_share_of_right_classes() -> None:
    def model(image: Any) -> dict[str, Any]:
        return {"logits": np.eye(4, dtype=np.float32)[image[0, 0, 0, 0]][None]}

    images = [np.full((2, 2, 3), value, np.uint8) for value in (0, 1, 2, 3)]
    share, each = nncf.accuracy(model, zip(images, (0, 1, 2, 2), strict=True))
    assert (share, each) == (0.75, [1.0, 1.0, 1.0, 0.0])


def test_accuracy_control_goes_by_the_labels(tmp_path: Path, product: Any) -> None:
    """On photographs that int8 gets wrong layers go back to float. The negative control: on those that it gets right, none does."""
    plain, right = (product("openvino", recipe, "complex") for recipe in ("vendor", "vendor-accuracy"))
    assert (plain.logits(plain.net.pixels).argmax(axis=1) == plain.net.reference.argmax(axis=1)).all()
    assert len(right.content["model.bin"]) == len(plain.content["model.bin"])
    pixels = drawn_images(np.random.default_rng(5), 400)
    labels, rounded = (logits.argmax(axis=1) for logits in (FloatRunner(plain.net.graph)(pixels), plain.logits(pixels)))
    changed = labels != rounded
    assert changed.any()
    wrong = replace(source("complex", "openvino", tmp_path), validation=pixels[changed], labels=labels[changed])
    kept = peer_of("openvino").quantize(wrong, "vendor-accuracy")
    assert isinstance(kept, dict)
    assert len(kept["model.bin"]) > len(plain.content["model.bin"])


def test_accuracy_control_without_labelled_images_is_refused(tmp_path: Path) -> None:
    for recipe in nncf.LABELLED:
        with pytest.raises(BadInput, match="needs labelled images") as caught:
            peer_of("openvino").quantize(Source(net().graph, tmp_path, net().pixels), recipe)
        assert caught.value.hint == "--eval DIR --labels FILE"


def test_a_model_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    peer_module("openvino")
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(Refused, match=r"^NNCF failed: RuntimeError: ") as caught:
        peer_of("openvino").quantize(Source(net().graph, tmp_path, net().pixels), "vendor-ir")
    assert "\n" not in caught.value.message
