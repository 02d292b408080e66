"""Who quantizes for which target, and by which names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import squeeze_export.peers
from squeeze_export.errors import BadInput
from squeeze_export.peers import Source, peer_of
from squeeze_export.registry import PEERS
from tests.contract.conftest import net


def test_the_folder_equals_the_registry() -> None:
    folder = Path(squeeze_export.peers.__file__).parent
    entries = {path.stem for path in folder.glob("[!_]*.py")} - {"network", "process"}
    assert set(PEERS.values()) == {f"squeeze_export.peers.{name}" for name in entries}


@pytest.mark.parametrize("target", PEERS)
def test_a_peer_says_who_it_is(target: str) -> None:
    peer = peer_of(target)
    assert (peer.TARGET, next(iter(peer.METHODS))) == (target, "vendor")
    assert set(peer.LABELLED) <= set(list(peer.METHODS)[1:])
    methods = [peer.method(recipe) for recipe in peer.METHODS]
    assert len(set(methods)) == len(methods)
    assert all(text and "\n" not in text for text in methods)


@pytest.mark.parametrize(
    ("validation", "labels"),
    [(None, [0, 1]), ("images", None), ("images", [0]), ("images", [0, -1]), ("none", [])],
    ids=["no-images", "no-labels", "too-few", "unknown", "empty"],
)
def test_images_come_with_their_classes(validation: str | None, labels: list[int] | None) -> None:
    images = None if validation is None else net().pixels[: 2 if validation == "images" else 0]
    classes = None if labels is None else np.array(labels, np.int64)
    with pytest.raises(ValueError, match=r"label"):
        Source(net().graph, Path("f"), net().pixels, images, classes)
    found = Source(net().graph, Path("f"), net().pixels, net().pixels[:2], np.array([0, 1]))
    assert found.labels is not None


def test_a_recipe_finds_its_peer() -> None:
    peer = peer_of("onnx")
    assert peer.TOOL == "ONNX Runtime's quantizer"
    assert "Percentile" in peer.method("vendor-percentile")


@pytest.mark.parametrize("target", PEERS)
def test_an_unknown_recipe_is_refused_and_the_known_ones_are_named(target: str) -> None:
    peer = peer_of(target)
    nothing = Source(net().graph, Path("nothing"), net().pixels)
    for ask in (lambda: peer.method("vendr"), lambda: peer.quantize(nothing, "vendr")):
        with pytest.raises(BadInput, match="`vendr`") as caught:
            ask()
        assert all(recipe in str(caught.value.hint) for recipe in peer.METHODS)


def test_a_recipe_of_another_target_is_refused() -> None:
    with pytest.raises(BadInput, match="`vendor-percentile`"):
        peer_of("tflite").method("vendor-percentile")


def test_a_target_without_a_peer_is_refused() -> None:
    with pytest.raises(BadInput, match="`ethosu`") as caught:
        peer_of("ethosu")
    assert "onnx, tflite, openvino, coreml" in str(caught.value.hint)
