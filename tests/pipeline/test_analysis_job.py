"""The analysis job: the same from images and from their table, whatever the threads, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.preprocess import load_pixels
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import calibrate, open_network, write_table
from squeeze_export.pipeline.analysis import analyze
from squeeze_export.pipeline.network import PreprocessChoice


@pytest.fixture(scope="module")
def table(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "tiny.int8.table"
    write_table(calibrate(open_network(tiny / "tiny.safetensors"), tiny / "calib", threads=1), path)
    return path


def test_a_table_gives_what_its_images_give(tiny: Path, table: Path) -> None:
    network = open_network(tiny / "tiny.safetensors")
    fresh = analyze(network, tiny / "calib", tiny / "eval", images=4, threads=2)
    read = analyze(network, eval_path=tiny / "eval", table=table, images=4, threads=1)
    assert fresh.calibration["table_sha256"] == read.calibration["table_sha256"]
    assert replace(read, calibration=fresh.calibration, warnings=fresh.warnings) == fresh
    assert (fresh.image_count, fresh.part_count) == (8, 4)


def test_the_figures_are_those_of_the_exact_integers(tiny: Path) -> None:
    network = open_network(tiny / "tiny.safetensors")
    found = analyze(network, tiny / "calib", tiny / "eval", images=8, threads=1)
    quantized = calibrate(network, tiny / "calib", threads=1).quantized
    pixels = [load_pixels(file, network.graph.preprocess)[None] for file in sorted((tiny / "eval").glob("*.png"))]
    reference, logits = FloatRunner(network.graph), IntegerRunner(quantized)
    classes = [(int(reference(image).argmax()), int(logits(image).argmax())) for image in pixels]
    assert {flip.file for flip in found.flips} == {f"{i:02}.png" for i, (a, b) in enumerate(classes) if a != b}
    assert found.int8.agreement == sum(a == b for a, b in classes) / 8
    assert [flip.margin_lost for flip in found.flips] == sorted((flip.margin_lost for flip in found.flips), reverse=True)
    exact = compare(np.concatenate([reference(image) for image in pixels]), np.concatenate([logits(image) for image in pixels]))
    assert found.int8.sqnr_db == pytest.approx(exact.sqnr_db, abs=0.01)
    assert found.whole.sqnr_db == pytest.approx(exact.sqnr_db, abs=1.5)  # the simulation is near the integers


def test_without_other_images_the_calibration_images_serve(tiny: Path) -> None:
    found = analyze(open_network(tiny / "tiny.safetensors"), tiny / "calib", images=2, threads=1)
    assert found.image_count == 20
    assert "calibration images" in found.evaluation["note"]
    assert {layer.name for layer in found.layers} >= set(found.worst)


def test_refusals(tiny: Path, table: Path, tmp_path: Path) -> None:
    network = open_network(tiny / "tiny.safetensors")
    with pytest.raises(BadInput, match="no images to analyse") as refused:
        analyze(network, table=table)
    assert refused.value.hint == "--eval DIR"
    with pytest.raises(BadInput, match="was not made from"):
        analyze(open_network(tiny / "other.safetensors"), eval_path=tiny / "eval", table=table)
    other = open_network(tiny / "tiny.safetensors", preprocess=PreprocessChoice(resize_px=40))
    with pytest.raises(BadInput, match="other preprocessing"):
        analyze(other, eval_path=tiny / "eval", table=table)
    with pytest.raises(BadInput, match="`0` images"):
        analyze(network, eval_path=tiny / "eval", table=table, images=0)
    with pytest.raises(BadInput, match="calibration image"):
        analyze(network, tiny / "calib", tiny / "calib")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40), (3, 200, 90)).save(tmp_path / "broken" / "b.png")
    with pytest.raises(BadInput, match="cannot be read"):
        analyze(network, eval_path=tmp_path / "broken", table=table)
    found = analyze(network, eval_path=tmp_path / "broken", table=table, skip_broken=True, images=2)
    assert found.image_count == 1
    assert any("a.png" in warning for warning in found.warnings)
