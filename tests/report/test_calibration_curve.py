"""The calibration curve's drawing: whole, well-formed, and true to its figures."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from squeeze_export.pipeline.curve import enough_count
from squeeze_export.report.curve import curve_line, curve_note, curve_svg, curve_table
from squeeze_export.results import Curve, CurvePoint, Interval, OutputError

NONE = Interval(0.0, 0.0, 0.0)
POINTS = (
    CurvePoint(16, Interval(0.9, 0.85, 0.95), 30.0, Interval(-6.0, -9.0, -3.0)),
    CurvePoint(32, Interval(0.95, 0.91, 0.98), 34.0, Interval(-1.0, -2.0, 0.5)),
    CurvePoint(128, Interval(0.96, 0.92, 0.985), 38.0, NONE),
)
SVG = "{http://www.w3.org/2000/svg}"


def curve(points=POINTS):
    return Curve(tuple(points), 32, 0, "fast", {"image_count": 100, "source": "val"})


def drawn(points=POINTS, name="net", note="on 100 images"):
    return ET.fromstring(curve_svg(curve(points), name, note))


def dots(root):
    return [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]


def test_one_output_has_its_error_in_place_of_the_agreement():
    errors = [OutputError(mean, 2 * mean, 0.999, 0.5) for mean in (0.04, 0.02, 0.01)]
    against = [Interval(0.03, 0.02, 0.04), Interval(0.01, -0.001, 0.021), NONE]
    points = [replace(p, error=e, error_to_largest=a) for p, e, a in zip(POINTS, errors, against, strict=True)]
    found = replace(curve(points), enough_count=enough_count(points))
    assert found.enough_count == 32
    assert curve_table(found).rows[:2] == [
        ("16", "0.04", "0.08", "0.9990", "30.0 dB", "+0.03", "[+0.02, +0.04]"),
        ("32", "0.02", "0.04", "0.9990", "34.0 dB", "+0.01", "[-0.001, +0.021]"),
    ]
    assert curve_line(found).startswith("No error is shown to be above that of the largest part from 32 images on; SQNR")
    assert curve_line(replace(found, enough_count=128)) == "The error with 32 images is shown to be above that with all 128."
    text = curve_svg(found, "net", curve_note(found))
    assert "mean error" in text
    assert "agreement" not in text + curve_line(found) + curve_note(found)
    assert "standard deviation of 0.5;" in curve_note(found)
    higher, lower, last = (y for _, y in dots(ET.fromstring(text))[:3])
    assert higher < lower < last


def test_it_stands_alone():
    text = curve_svg(curve(), "net", "n")
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "<style>" in text
    assert not re.search(r"href|url\(|<script|<image", text)


def test_counts_lie_on_a_logarithmic_axis():
    found = dots(drawn())
    first, second, third = (x for x, _ in found[:3])
    assert third - second == pytest.approx(2 * (second - first), abs=0.2)  # two doublings after one
    assert [x for x, _ in found[3:]] == [first, second, third]


def test_better_is_higher():
    found = [y for _, y in dots(drawn())]
    assert found[0] > found[1] > found[2]
    assert found[3] > found[4] > found[5]
    assert found[3] - found[4] == pytest.approx(found[4] - found[5], abs=0.2)  # 4 dB each


def test_intervals_reach_from_bound_to_bound():
    root = drawn()
    marks = [line for line in root.iter(f"{SVG}line") if line.get("class") == "mark"]
    assert len(marks) == 3
    for mark, (_, y) in zip(marks, dots(root), strict=False):
        assert float(mark.get("y1")) > y > float(mark.get("y2"))


def test_words():
    texts = ["".join(text.itertext()) for text in drawn(name="a < b", note="on <1> image").iter(f"{SVG}text")]
    assert {
        "a < b: integers against fp32, by calibration images",
        "on <1> image",
        "agreement, %",
        "SQNR, dB",
        "16",
        "32",
        "128",
        "calibration images",
    } <= set(texts)


def test_an_exact_run_has_no_place_on_the_decibel_axis():
    exact = [replace(point, sqnr_db=math.inf) for point in POINTS]
    assert len(dots(drawn(exact))) == 3
    assert len(dots(drawn([*POINTS[:2], exact[2]]))) == 5


def test_equal_values_are_drawn():
    flat = [CurvePoint(count, Interval(1.0, 1.0, 1.0), 30.0, NONE) for count in (16, 20)]
    assert all(math.isfinite(value) for dot in dots(drawn(flat)) for value in dot)


def test_the_table_and_what_it_says():
    first, second, last = curve_table(curve()).rows
    assert first == ("16", "90.0%", "[85.0, 95.0]", "30.0 dB", "-6.00 pp", "[-9.0, -3.0]")
    assert second[0] == "32"
    assert last[3:] == ("38.0 dB", "-", "")
    assert "from 32 images on; SQNR there is 34.0 dB, with all 38.0 dB" in curve_line(curve())
    assert "only with all 128 images" in curve_line(replace(curve(), enough_count=128))
