"""ONNX Runtime's quantizer: the same bytes every time, within a bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeeze_export.errors import Unavailable
from squeeze_export.peers import onnxruntime, peer_of
from tests.contract.conftest import net
from tests.peers.conftest import peer_module, source


def test_the_bytes_repeat(product: Any, tmp_path: Path) -> None:
    again = peer_module("onnx").quantize(source("complex", "onnx", tmp_path), "vendor")
    assert again == product("onnx", "vendor", "complex").content


def test_the_recipes_differ(product: Any) -> None:
    assert product("onnx", "vendor", "complex").content != product("onnx", "vendor-percentile", "complex").content


def test_a_package_that_the_preprocessing_needs_is_named(fake_package: Callable[[str, str], Path], tmp_path: Path) -> None:
    peer_module("onnx")
    fake_package("sympy", "raise ImportError('no sympy here')")
    with pytest.raises(Unavailable, match="sympy"):
        peer_of("onnx").quantize(source("complex", "onnx", tmp_path), "vendor")


def all_of(images: onnxruntime.Images) -> list[Any]:
    return [entry["input"] for entry in iter(images.get_next, None)]


def test_images_are_handed_over_one_by_one() -> None:
    pixels = net().pixels[:5]
    images = onnxruntime.Images("input", pixels, 5)
    assert len(images) == 5
    found = all_of(images)
    assert {image.shape for image in found} == {(1, 64, 64, 3)}
    np.testing.assert_array_equal(np.concatenate(found), pixels)
    assert images.get_next() is None


def test_ranges_hold_every_image_once() -> None:
    pixels = net().pixels[:7]
    images = onnxruntime.Images("input", pixels, 3)
    assert len(images) == 9  # ONNX Runtime takes nothing but multiples
    found = []
    for start in range(0, len(images), 3):
        images.set_range(start_index=start, end_index=start + 3)
        found.append(all_of(images))
    assert [len(part) for part in found] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([image for part in found for image in part]), pixels)


def test_the_stride_follows_from_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net().graph
    values = sum(np.prod(size) for size in graph.sizes.values())
    for room, stride in ((1, 1), (8 * values, 1), (8 * values * 5 + 1, 5)):
        monkeypatch.setattr(onnxruntime, "HISTOGRAM_BYTES", int(room))
        assert onnxruntime.histogram_stride(graph) == stride


def test_histograms_in_pieces_give_a_file_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, product: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    peer_module("onnx")
    whole = product("onnx", "vendor-percentile", "complex")
    monkeypatch.setattr(onnxruntime, "histogram_stride", lambda graph: 5)
    (tmp_path / "own").mkdir()
    pieces = onnxruntime.work(source("complex", "onnx", tmp_path), "vendor-percentile", tmp_path / "own")
    assert abs(len(pieces) - len(whole.content)) < 1000
    assert pieces != whole.content  # other bins, other thresholds
    assert capfd.readouterr().out.count("Collecting tensor data") == 4  # 16 images by 5
