"""What each vendor's tool makes of a tiny network with every kind of layer, opened in our own runtimes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.peers import peer_of
from squeeze_export.registry import PEERS
from tests.peers.conftest import source

Make = Callable[[str, str, str], Any]

# "complex" has both kinds of bypass; the last convolution of "conv10_pad" has a padding of its own.
CASES = [
    *((target, recipe, "complex") for target in PEERS for recipe in peer_of(target).METHODS),
    *((target, "vendor", "conv10_pad") for target in ("tflite", "coreml")),
]


def answers_are_nearly_the_references(product: Any) -> None:
    logits = product.logits(product.net.pixels)
    assert logits.dtype == np.float32
    assert (logits.argmax(axis=1) == product.net.reference.argmax(axis=1)).mean() >= 0.75


def weights_are_integers(product: Any, share: float = 0.75) -> None:
    found = product.audit.weight_bytes
    weights = sum(conv.weight.size for conv in product.net.graph.convs)
    assert sum(found.get(dtype, 0) for dtype in ("int8", "uint8")) >= share * weights


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_product_answers_nearly_as_the_reference(case: tuple[str, str, str], product: Make) -> None:
    answers_are_nearly_the_references(product(*case))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_product_holds_integer_weights(case: tuple[str, str, str], product: Make) -> None:
    # The accuracy-aware recipe may leave as many layers in float as it likes, but one.
    weights_are_integers(product(*case), 0.001 if case[1] == "vendor-accuracy" else 0.75)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_product_takes_pixels_and_gives_logits(case: tuple[str, str, str], product: Make) -> None:
    taken, given = product(*case).specs
    assert (taken.shape, taken.dtype) == ((1, 64, 64, 3), "uint8")
    assert (given.shape, given.dtype) == ((1, 12), "float32")
    if case[0] != "tflite":  # TensorFlow's names of tensors are its own; ours are in its signature
        assert (taken.name, given.name) == ("image" if case[0] == "coreml" else "input", "logits")


def test_a_product_of_another_network_is_noticed(product: Make) -> None:
    """Negative control."""
    right = product("onnx", "vendor", "complex")
    with pytest.raises(AssertionError):
        answers_are_nearly_the_references(replace(right, net=replace(right.net, reference=np.roll(right.net.reference, 1, axis=1))))


def test_a_product_in_float_is_noticed(product: Make, tmp_path: Path) -> None:
    """Negative control."""
    right = product("onnx", "vendor", "complex")
    with pytest.raises(AssertionError):
        weights_are_integers(replace(right, path=source("complex", "onnx", tmp_path).fp32), 0.001)


def test_the_signature_has_our_names(product: Make) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    signatures = interpreter.Interpreter(str(product("tflite", "vendor", "complex").path)).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["input"], "outputs": ["logits"]}}
