"""Whether two sets of images are of one kind: chance does not tell them apart, what matters does."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from squeeze_export import demo
from squeeze_export.core import TORCHVISION
from squeeze_export.images.distribution import (
    SHIFT_DISTANCE,
    STATISTICS,
    Distribution,
    distribution_of,
    image_statistics,
    read_distribution,
    shift_warning,
    shifts,
)
from squeeze_export.images.folders import open_calibration
from squeeze_export.images.stream import ImageStream

DEMO = replace(TORCHVISION, resize_px=96, crop_px=96)


def appearances(pixels: np.ndarray) -> np.ndarray:
    return np.stack([image_statistics(image) for image in pixels])


@cache
def drawn(folder: Path) -> np.ndarray:
    return ImageStream(open_calibration(folder), DEMO).load()[0].pixels


def test_qualities_by_hand():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = [100, 50, 20]
    image[:, 4:] = [200, 150, 120]
    luma = 0.299 * 100 + 0.587 * 50 + 0.114 * 20
    found = dict(zip(STATISTICS, image_statistics(image).tolist(), strict=True))
    assert found == {
        "brightness": pytest.approx(luma + 50, abs=0.01),
        "contrast": 50,
        "colourfulness": 80,
        "warmth": 80,
        "tint": -10,
        "detail": pytest.approx(100 / 7 / 2, abs=0.01),  # one step of 100 in seven along the rows, none down the columns
    }


def test_a_single_pixel_has_figures():
    assert np.isfinite(image_statistics(np.full((1, 1, 3), 9, np.uint8))).all()


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    for shift in (0.6, 1.0, 2.0):
        first, second = draw.normal(100, 10, (400, 6)).round(2), draw.normal(100 + 10 * shift, 10, (300, 6)).round(2)
        found = {u.statistic: u.distance for u in shifts(distribution_of(first), second)}
        expected = [stats.ks_2samp(first[:, k], second[:, k]).statistic for k in range(6)]
        for name, distance in zip(STATISTICS, expected, strict=True):
            if distance > SHIFT_DISTANCE + 0.05:
                assert found[name] == pytest.approx(distance, abs=0.05)
            elif distance < SHIFT_DISTANCE - 0.05:
                assert name not in found


def test_ties_are_no_difference():
    grey = np.zeros((50, 6))
    grey[:, 3] = 12.34
    assert shifts(distribution_of(grey), grey[:20]) == ()
    assert {u.distance for u in shifts(distribution_of(grey), grey + 0.01)} == {1.0}
    assert {u.distance for u in shifts(distribution_of(grey), grey - 0.01)} == {1.0}


def test_few_images_show_nothing():
    low, high = np.zeros((40, 6)), np.ones((40, 6))
    assert len(shifts(distribution_of(low), high)) == 6
    assert (
        shifts(distribution_of(low), high[:15])
        == shifts(distribution_of(low[:15]), high)
        == shifts(distribution_of(low), high[:0])
        == ()
    )


def test_weights_count_images_again():
    low, high = np.zeros((20, 6)), np.ones((20, 6))
    both = np.concatenate([low, high])
    assert (
        distribution_of(both, (3,) * 20 + (1,) * 20).quantiles == distribution_of(np.concatenate([low, low, low, high])).quantiles
    )
    assert distribution_of(both, (3,) * 20 + (1,) * 20).image_count == 40


def test_a_summary_survives_json():
    summary = distribution_of(appearances(drawn(demo.calibration_folder())))
    assert read_distribution(json.loads(json.dumps(asdict(summary)))) == summary


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        3,
        [],
        {},
        {"image_count": 3},
        {"image_count": 3, "quantiles": 7},
        {"image_count": 3, "quantiles": {}},
        {"image_count": 0, "quantiles": {name: [0.0] * 21 for name in STATISTICS}},
        {"image_count": True, "quantiles": {name: [0.0] * 21 for name in STATISTICS}},
        {"image_count": 3, "quantiles": {name: [0.0] * 20 for name in STATISTICS}},
        {"image_count": 3, "quantiles": {name: ["x"] * 21 for name in STATISTICS}},
        {"image_count": 3, "quantiles": {name: [float("nan")] * 21 for name in STATISTICS}},
        {"image_count": 3, "quantiles": {name: [1.0] + [0.0] * 20 for name in STATISTICS}},
    ],
)
def test_a_damaged_summary_is_refused(damaged):
    with pytest.raises(ValueError):
        read_distribution(damaged)


def test_a_stream_reads_the_figures_on_its_way():
    image_set = open_calibration(demo.calibration_folder())
    stream = ImageStream(image_set, DEMO, batch=50)
    assert stream.statistics.shape == (0, 6)
    for _ in range(2):  # each loop anew
        parts = [batch.statistics for batch in stream]
        np.testing.assert_array_equal(stream.statistics, np.concatenate(parts))
    np.testing.assert_array_equal(stream.statistics, appearances(drawn(demo.calibration_folder())))
    np.testing.assert_array_equal(ImageStream(image_set, DEMO).load()[0].statistics, stream.statistics)


def test_the_demo_sets_are_of_one_kind():
    first, second = (appearances(drawn(folder)) for folder in (demo.calibration_folder(), demo.evaluation_folder()))
    assert shift_warning(distribution_of(first), second) == ()


CHANGES = {
    "negative": lambda p: 255 - p,
    "swapped channels": lambda p: p[..., ::-1],
    "grey": lambda p: p[..., 1:2].repeat(3, axis=-1),
    "half as bright": lambda p: p // 2,
    "low contrast": lambda p: p // 2 + 64,
}


@pytest.fixture(scope="module")
def photographs(assets):
    """(600, 6) of all photographs, and (128, 224, 224, 3) of some."""
    some = ImageStream(open_calibration(assets / "images" / "calib"), TORCHVISION).load()[0]
    others = ImageStream(open_calibration(assets / "images" / "eval"), TORCHVISION, batch=64)
    figures = [some.statistics, *(batch.statistics for batch in others)]
    return np.concatenate(figures), some.pixels


@pytest.mark.parametrize(("first", "second"), [(16, 100), (16, 584), (32, 64), (128, 472), (300, 300), (500, 16)])
def test_random_parts_of_the_photographs_are_of_one_kind(first, second, photographs):
    """At these bounds 1,200 splits give no warning."""
    figures, _ = photographs
    for seed in range(200):
        order = np.random.default_rng([seed, first]).permutation(len(figures))
        assert shifts(distribution_of(figures[order[:first]]), figures[order[first : first + second]]) == ()


def test_classes_that_share_no_photograph_are_of_one_kind(photographs):
    """The evaluation photographs lie sorted by class: eighths of them share hardly a class."""
    figures = photographs[0][128:]
    for part in np.array_split(np.arange(len(figures)), 8):
        assert shifts(distribution_of(np.delete(figures, part, axis=0)), figures[part]) == ()


@pytest.mark.parametrize("change", CHANGES)
def test_changed_photographs_are_told(change, photographs):
    figures, pixels = photographs
    changed = appearances(CHANGES[change](pixels[:100]))
    (text,) = shift_warning(distribution_of(figures[128:]), changed)
    assert text.startswith("the calibration images differ in kind from the evaluation images (medians: ")
    expected = {
        "negative": "warmth",
        "swapped channels": "warmth",
        "grey": "colourfulness",
        "half as bright": "brightness",
        "low contrast": "contrast",
    }
    assert expected[change] in {u.statistic for u in shifts(distribution_of(figures[128:]), changed)}


def test_drawings_are_told_from_photographs_and_back(photographs):
    drawings = appearances(drawn(demo.evaluation_folder()))
    assert "colourfulness" in {u.statistic for u in shifts(distribution_of(photographs[0]), drawings)}
    assert "colourfulness" in {u.statistic for u in shifts(distribution_of(drawings), photographs[0])}


def test_the_most_different_comes_first():
    summary = Distribution(100, dict.fromkeys(STATISTICS, (0.0,) * 21))
    figures = np.zeros((100, 6))
    figures[:90, 1], figures[:50, 4] = 5, 5
    assert [(u.statistic, round(u.distance, 2)) for u in shifts(summary, figures)] == [("contrast", 0.9), ("tint", 0.5)]
