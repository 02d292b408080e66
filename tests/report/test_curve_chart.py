"""The calibration curve's drawing: whole, well-formed, and true to its figures."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from squeeze_export.report.charts import CurveRow, curve_file
from squeeze_export.results import Interval

ROWS = [
    CurveRow(16, Interval(90.0, 85.0, 95.0), 30.0),
    CurveRow(32, Interval(95.0, 91.0, 98.0), 34.0),
    CurveRow(128, Interval(96.0, 92.0, 98.5), 38.0),
]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(rows, title="net", note="on 100 images"):
    return ET.fromstring(curve_file(rows, title=title, note=note))


def dots(root):
    return [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]


def test_it_stands_alone():
    text = curve_file(ROWS, title="net", note="n")
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "<style>" in text
    assert not re.search(r"href|url\(|<script|<image", text)


def test_counts_lie_on_a_logarithmic_axis():
    found = dots(drawn(ROWS))
    first, second, third = (x for x, _ in found[:3])
    assert third - second == pytest.approx(2 * (second - first), abs=0.2)  # two doublings after one
    assert [x for x, _ in found[3:]] == [first, second, third]


def test_better_is_higher():
    found = [y for _, y in dots(drawn(ROWS))]
    assert found[0] > found[1] > found[2]
    assert found[3] > found[4] > found[5]
    assert found[3] - found[4] == pytest.approx(found[4] - found[5], abs=0.2)  # 4 dB each


def test_intervals_reach_from_bound_to_bound():
    root = drawn(ROWS)
    marks = [line for line in root.iter(f"{SVG}line") if line.get("class") == "mark"]
    assert len(marks) == 3
    for mark, (_, y) in zip(marks, dots(root), strict=False):
        assert float(mark.get("y1")) > y > float(mark.get("y2"))


def test_words():
    texts = ["".join(text.itertext()) for text in drawn(ROWS, title="a < b", note="on <1> image").iter(f"{SVG}text")]
    assert {"a < b", "on <1> image", "agreement, %", "SQNR, dB", "16", "32", "128", "calibration images"} <= set(texts)


def test_an_exact_run_has_no_place_on_the_decibel_axis():
    exact = [CurveRow(r.image_count, r.agreement, math.inf) for r in ROWS]
    assert len(dots(drawn(exact))) == 3
    assert len(dots(drawn([*ROWS[:2], exact[2]]))) == 5


def test_equal_values_are_drawn():
    flat = [CurveRow(n, Interval(100.0, 100.0, 100.0), 30.0) for n in (16, 20)]
    assert all(math.isfinite(value) for dot in dots(drawn(flat)) for value in dot)
