"""The page: whole, self-contained, escaped, and its drawings where they should be."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from squeeze_export.core import Audit
from squeeze_export.report.charts import interval_chart, strip_chart, ticks_over
from squeeze_export.report.figures import IntervalRow, Intervals, LayerError, StripRow, Strips
from squeeze_export.report.html import Beside, Judgement, to_html, write_html
from squeeze_export.results import Interval, Measurement, Report

VOID = {"meta", "br", "img"}


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong place; keeps the tags, the attributes and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_page_is_whole_and_asks_for_nothing(report, labelled_report):
    for page in (to_html(report), to_html(labelled_report)):
        parser = parsed(page)
        assert not {"script", "link", "img", "iframe", "object", "base"} & set(parser.tags)
        assert not {"src", "href", "srcset", "onload", "onclick"} & set(parser.attributes)
        assert not any(name.startswith("on") for name in parser.attributes)
        assert "url(" not in page
        assert "@import" not in page
        assert "http" not in page.replace("http-equiv", "")
        assert "default-src 'none'" in page
        assert "prefers-color-scheme: dark" in page


def test_everything_is_told(report):
    text = " ".join("".join(parsed(to_html(report)).text).split())
    for expected in (
        "squeezenet1_1",
        "2 images could not be read",
        "97.3%[96.0, 98.2]",
        "skipped: no CUDAExecutionProvider here",
        "failed: vela | said no",
        "ReduceMean pool10",
        "38 of 39 operators and 99.9% of the multiply-accumulates in integers",
        "p50 2.65 ms, p90 2.70 ms, p99 2.71 ms, speed-up 2.9x [2.8, 3.0], batch 1, 1 thread, 50 samples after 10 to warm up",
        "these are the calibration images",
        "16.0 GB",
        "12345",
        "Agreement with fp32",
    ):
        assert expected in text
    assert "Top-1 against fp32" not in text


def test_labels_are_told(labelled_report):
    text = "".join(parsed(to_html(labelled_report)).text)
    assert "Top-1 against fp32" in text
    assert "57.9% (fp32 58.3%), -0.42 pp [-1.3, +0.4], 13 lost, 9 won, top-5 80.0%, 875 labelled images" in text


def test_evidence_is_told_wherever_its_figures_are(report):
    emulated = dataclasses.replace(report, measurements=(report.measurements[2],))
    page = to_html(emulated)
    # In the table, in the drawing and with the artifact.
    assert len(re.findall(r">emulated<", page)) == 3
    assert page.count('class="hollow"') == 1
    assert 'aria-label="Agreement with fp32. qnn int8, htp emulated: 97.3% [96.0, 98.2]."' in page
    timed = dataclasses.replace(report.measurements[0], evidence="estimated")
    # And in the drawings of latency and placement.
    assert len(re.findall(r">estimated<", to_html(dataclasses.replace(report, measurements=(timed,))))) == 5


def test_one_file_on_two_devices_is_one_section(report):
    # The first, second and fifth rows are of one file.
    page = to_html(report)
    assert page.count('<section class="artifact">') == 4
    assert page.count("net.int8.onnx") == 1
    assert page.count('<dt class="run">ran on</dt>') == 4


HOSTILE = "<script>alert('1')</script>\"&'"


def poisoned(value):
    """The same value with every string in it hostile."""
    if dataclasses.is_dataclass(value):
        kept = {"evidence", "status"}
        changes = {f.name: poisoned(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in kept}
        return dataclasses.replace(value, **changes)
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, dict):
        return {f"{HOSTILE}{key}" if key not in ("name", "note") else key: poisoned(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(poisoned(item) for item in value)
    return value


def test_everything_from_elsewhere_is_escaped(report, labelled_report):
    for base in (report, labelled_report):
        page = to_html(poisoned(base))
        assert "<script" not in page
        assert "alert('1')</script>\"" not in page
        assert "script" not in parsed(page).tags
        assert "&lt;script&gt;" in page


def test_long_lists_are_counted():
    names = tuple(f"Conv c{index}" for index in range(40))
    audit = Audit({"Conv": 40}, names, (), ("`x` is float",), {})
    page = to_html(Report(1, "", {}, {}, {}, {}, {}, (Measurement("onnx", "int8", "a.onnx", "", 10, audit=audit),)))
    assert "and 28 more" in page
    assert '<span class="bad">violations</span>' in page
    assert "c39" not in page


def test_an_empty_report():
    page = to_html(Report(1, "now", {}, {}, {}, {}, {}, ()))
    parsed(page)
    assert "<svg" not in page


def test_written_file(report, tmp_path):
    write_html(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == to_html(report)


def test_pictures_are_data_and_nothing_else_is_an_image(flipped_report):
    page = to_html(flipped_report, Beside(pictures={1: b"\xff\xd8jpeg"}))
    parsed(page)
    assert re.findall(r"<img [^>]*>", page) == [
        '<img src="data:image/jpeg;base64,/9hqcGVn" width="128" height="128" alt="b.jpg">',
    ]
    assert page.count("src=") == 1
    assert "img-src data:" in page
    assert "<img" not in to_html(flipped_report)


def test_verdicts_come_first(report, flipped_report):
    page = to_html(report)
    assert page.index("<h2>Verdicts</h2>") < page.index("<h2>Summary</h2>")
    text = " ".join("".join(parsed(page).text).split())
    assert "failed ethosu int8, cpu: vela | said no" in text
    assert "skipped 1 of 6 rows was skippedpassed 4 of 6 rows have their figures" in text
    judged = Judgement("failed", (("failed", "net.int8.onnx: 2 MB <b>"), ("passed", "fine")), "2026-11-03T00:00:00+00:00")
    page = to_html(report, Beside(gate=judged))
    assert page.index("<h2>Gate: ") < page.index("<h2>Verdicts</h2>")
    assert '<span class="state failed">failed</span> net.int8.onnx: 2 MB &lt;b&gt;' in page
    folded = page[page.index("<details><summary>1 other check</summary>") :]
    assert ">fine<" not in page[: page.index("<details>")]
    assert "fine" in folded[: folded.index("</details>")]
    assert "<h2>Gate" not in to_html(report)


def test_a_file_that_is_no_integer_network_is_told_at_the_top(report):
    false = dataclasses.replace(report.measurements[0], audit=Audit({}, (), (), ("`x` is float", "`y` too"), {}))
    text = " ".join("".join(parsed(to_html(dataclasses.replace(report, measurements=(false,)))).text).split())
    assert "failed net.int8.onnx is not the integer network that it claims to be: x is float and 1 more" in text


def test_every_drawing_tells_its_figures_to_those_who_cannot_see_it(flipped_report):
    page = to_html(flipped_report, Beside(layers=[LayerError("conv1", 0.1, 0.2)], history=[flipped_report]))
    labels = re.findall(r'role="img" aria-label="([^"]*)"', page)
    titles = ["Top-1 against fp32", "Size against accuracy", "Latency", "Error by layer", "Roofline", "Where the operators ran"]
    titles += ["Agreement with fp32, report by report", "Size, report by report", "Latency, report by report"]
    assert [label.split(".")[0] for label in labels] == titles
    assert "conv1: 30%" in labels[3]
    assert "memory 10 GB/s" in labels[4]
    drawn = re.findall(r"<svg(?![^>]*(?:aria-hidden|aria-label|class=\"strip\"|viewBox|overflow|width=\"14\"))[^>]*>", page)
    assert drawn == []  # every other svg is a part of one of them


def test_what_scrolls_or_folds_is_reached_by_keyboard(report):
    page = to_html(report)
    assert page.count('<div class="wide"') == page.count('<div class="wide" tabindex="0" role="region" aria-label="')
    assert page.count("<details>") == page.count("<details><summary>") > 0
    assert ":focus-visible" in page
    assert page.count("<th ") == page.count('<th scope="col"') > 0


def test_interval_chart_by_hand():
    # The axis is -1 to 1: 0 lies at half of the width, 0.5 at three quarters.
    drawing = interval_chart(Intervals("n", "t", "", "pp", (IntervalRow("a", "", Interval(0.5, -1, 1), "half"),), 0.0))
    assert 'cx="75.0%"' in drawing
    assert '<line class="zero" x1="50.0%"' in drawing
    assert '<line class="mark" x1="0.0%" y1="11.0" x2="100.0%"' in drawing


def test_strip_chart_keeps_outliers_in_words():
    drawing = strip_chart(Strips("n", "t", "", (StripRow("a", "", [1.0] * 99 + [50.0], "1.00 ms"),)))
    assert "1.00 ms, 1 beyond" in drawing
    assert drawing.count('class="sample"') == 99


def test_strip_chart_thins_many_samples():
    drawing = strip_chart(Strips("n", "t", "", (StripRow("a", "", [1 + index / 5000 for index in range(5000)], "v"),)))
    assert drawing.count('class="sample"') == 200


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-1.66, 1.04, [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5]),
        (95.4, 100, [95, 96, 97, 98, 99, 100]),
        (0, 0.0021, [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks_over(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 100.0, -3.0])
def test_ticks_over_a_single_value(value):
    ticks = ticks_over(value, value)
    assert ticks[0] <= value <= ticks[-1]
    assert ticks[0] < ticks[-1]
