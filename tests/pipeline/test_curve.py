"""The calibration curve: nested parts from one pass, compared on images that are in none of them."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from squeeze_export import demo
from squeeze_export.errors import BadInput
from squeeze_export.graph.integer import IntegerRunner
from squeeze_export.graph.quantized import FP32
from squeeze_export.graph.run import FloatRunner
from squeeze_export.images.calibration import CalibrationFolder
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream
from squeeze_export.measure.accuracy import compare
from squeeze_export.pipeline import calibrate, curve, open_network
from squeeze_export.pipeline.curve import calibration_curve, enough_count, part_counts
from squeeze_export.results import CurvePoint, Interval


def draw_images(folder, count, *, seed):
    """Smooth blobs, no two images alike."""
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BILINEAR).save(folder / f"{seed}-{index:02}.png")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """48 images to calibrate on, 24 others."""
    folder = tmp_path_factory.mktemp("many")
    draw_images(folder / "calib", 48, seed=11)
    draw_images(folder / "eval", 24, seed=12)
    return folder


@pytest.fixture(scope="module")
def found(network, many):
    return calibration_curve(network, many / "calib", many / "eval")


def test_part_counts():
    assert part_counts(16) == (16,)
    assert part_counts(17) == (16, 17)
    assert part_counts(128) == (16, 32, 64, 128)
    assert part_counts(500) == (16, 32, 64, 128, 256, 500)


def test_all_images_give_the_table_that_calibrate_writes(found, network, many):
    calibration, curve = found
    assert calibration.quantized.sha256 == calibrate(network, many / "calib").quantized.sha256
    assert [point.image_count for point in curve.points] == [16, 32, 48]
    assert curve.evaluation == {"source": "eval", "image_count": 24}
    assert calibration.warnings == ("`48` calibration images are few: ranges are steadier with 100 or more",)


def test_the_last_point_is_what_the_table_measures(found, network, many):
    calibration, curve = found
    pixels = ImageStream(open_calibration(many / "eval"), network.graph.preprocess).load()[0].pixels
    expected = compare(FloatRunner(network.graph)(pixels), IntegerRunner(calibration.quantized)(pixels))
    assert curve.points[-1].agreement == expected.top1_agreement
    assert curve.points[-1].sqnr_db == pytest.approx(expected.sqnr_db, abs=1e-6)
    assert curve.points[-1].to_largest_pp.value == 0


def test_every_image_runs_through_the_float_network_once(network, many, monkeypatch):
    runs = []

    def counted(graph):
        float_run = FloatRunner(graph)
        return (lambda batch, tap=None: (runs.append(len(batch)), float_run(batch, tap))[1]), "counted"

    monkeypatch.setattr(curve, "fastest_run", counted)
    calibration_curve(network, many / "calib", many / "eval")
    assert sum(runs) == 48


def test_a_part_is_as_good_as_calibrating_on_it_alone(found, network, many, tmp_path):
    """The patches lie elsewhere, as with another seed: the SQNR differs by no more than between seeds."""
    order = np.random.default_rng(0).permutation(48)
    files = open_calibration(many / "calib").files
    (tmp_path / "part").mkdir()
    for index in order[:16]:
        (tmp_path / "part" / files[index].name).write_bytes(files[index].read_bytes())
    pixels = ImageStream(open_calibration(many / "eval"), network.graph.preprocess).load()[0].pixels
    reference = FloatRunner(network.graph)(pixels)
    alone = [
        compare(reference, IntegerRunner(calibrate(network, tmp_path / "part", seed=seed).quantized)(pixels)).sqnr_db
        for seed in range(4)
    ]
    spread = max(alone) - min(alone)
    assert min(alone) - 2 * spread - 0.5 < found[1].points[0].sqnr_db < max(alone) + 2 * spread + 0.5


def test_the_same_seed_gives_the_same_curve(found, network, many):
    assert calibration_curve(network, many / "calib", many / "eval", threads=1)[1] == found[1]
    other = calibration_curve(network, many / "calib", many / "eval", seed=1)[1]
    assert [point.sqnr_db for point in other.points] != [point.sqnr_db for point in found[1].points]


def test_without_evaluation_images_some_are_held_out(network, many):
    calibration, curve = calibration_curve(network, many / "calib")
    assert [point.image_count for point in curve.points] == [16, 32, 36]
    assert curve.evaluation["image_count"] == 12
    assert curve.evaluation["note"].startswith("calibration images that were held out of every part")
    assert calibration.quantized.sha256 == calibrate(network, many / "calib").quantized.sha256  # of all 48


def test_held_out_images_are_in_no_part(network, many, monkeypatch):
    asked = []

    def watched(graph, run, pixels, *, parts, **rest):
        asked.extend(parts)
        return keep(graph, run, pixels, parts=parts, **rest)

    keep = curve.observe
    monkeypatch.setattr(curve, "observe", watched)
    calibration_curve(network, many / "calib")
    held_out = set(np.random.default_rng(0).permutation(48)[36:].tolist())
    assert all(set(part).isdisjoint(held_out) for part in asked)
    assert all(set(small) < set(large) for small, large in pairwise(asked))


def test_weights_hold_in_every_part(network, many, tmp_path):
    draw_images(tmp_path / "night", 16, seed=13)
    calib = (CalibrationFolder(many / "calib"), CalibrationFolder(tmp_path / "night", 3))
    calibration, curve = calibration_curve(network, calib, many / "eval")
    assert calibration.quantized.sha256 == calibrate(network, calib).quantized.sha256
    assert [point.image_count for point in curve.points] == [16, 32, 64]


def test_the_demo_network_has_evaluation_images_of_its_own(monkeypatch, tmp_path):
    few = tmp_path / "val" / "barcode"
    few.mkdir(parents=True)
    for file in sorted((demo.evaluation_folder() / "barcode").iterdir())[:2]:
        (few / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(demo, "evaluation_folder", lambda: tmp_path / "val")
    _, curve = calibration_curve(open_network())
    assert curve.evaluation["note"] == "the demo network's own evaluation images"
    assert [point.image_count for point in curve.points] == [16, 32, 64, 120]


def test_too_few_for_two_parts(network, tiny, many):
    with pytest.raises(
        BadInput, match="`20` calibration images, `5` of them held out to compare on, are too few for a curve"
    ) as caught:
        calibration_curve(network, tiny / "calib")
    assert caught.value.hint == "pass more to `--calib`, or others to `--eval`"
    assert [p.image_count for p in calibration_curve(network, tiny / "calib", many / "eval")[1].points] == [16, 20]


def test_refusals(network, many, tiny):
    with pytest.raises(BadInput, match="evaluation images are calibration images too: at least `16`"):
        calibration_curve(network, many / "eval", many / "eval")
    with pytest.raises(BadInput, match="no recipe is called `finest`"):
        calibration_curve(network, many / "calib", recipe="finest")
    with pytest.raises(BadInput, match="`fp32` has no integers"):
        calibration_curve(network, many / "calib", scheme=FP32)
    with pytest.raises(BadInput, match="integers need calibration images"):
        calibration_curve(network, None, many / "eval")


def test_progress_is_told(network, many):
    told = {}
    calibration_curve(network, many / "calib", many / "eval", progress=lambda what, done, total: told.update({what: (done, total)}))
    assert told == {"reading images": (48, 48), "calibrating": (48, 48), "quantizing": (4, 4), "comparing": (24, 24)}


def point(count, low, high):
    return CurvePoint(count, Interval((low + high) / 2, low, high), 30.0, Interval(0, -1, 1))


def test_the_smallest_count_that_is_enough():
    assert enough_count([point(16, 0.1, 0.5), point(32, 0.4, 0.7), point(64, 0.6, 0.9)]) == 32
    assert enough_count([point(16, 0.1, 0.9), point(32, 0.1, 0.5), point(64, 0.6, 0.9)]) == 64  # luck at 16 does not count
    assert enough_count([point(16, 0.6, 0.9), point(32, 0.6, 0.9)]) == 16


def test_json_is_strict(found):
    _, curve = found
    text = json.dumps(curve.to_json(), allow_nan=False)
    assert json.loads(text)["points"][0]["image_count"] == 16
    exact = replace(curve, points=(replace(curve.points[0], sqnr_db=float("inf")),))
    assert exact.to_json()["points"][0]["sqnr_db"] == "inf"
