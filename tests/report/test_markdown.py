"""The Markdown for a pull request."""

from __future__ import annotations

import dataclasses

from squeeze_export.report.html import to_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.results import Interval, Ratio


def table(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_table(report):
    lines = table(to_markdown(report))
    assert lines[0] == "| target | scheme | device | size | agreement | SQNR | p50 | speed-up |"
    assert lines[2] == "| onnx | int8 | cpu | 1.27 MB | 97.3% [96.0, 98.2] | 38.9 dB | 2.65 ms | 2.9x [2.8, 3.0] |"
    assert "| qnn | int8 | htp *(emulated)* |" in lines[4]
    assert lines[6] == "| onnx | int8 | cuda | 1.27 MB | skipped: no `CUDAExecutionProvider` here | - | - | - |"
    assert lines[7] == "| ethosu | int8 | cpu | - | failed: vela \\| said no | - | - | - |"


def test_every_row_has_eight_cells(labelled_report):
    lines = table(to_markdown(labelled_report))
    assert {line.replace("\\|", "").count("|") for line in lines} == {9}


def test_notes(report):
    text = to_markdown(report)
    assert "- **warning:** 2 images could not be read" in text
    assert "- evaluation: image count 875, labelled no, these are the calibration images" in text
    assert "- calibration: image count 125, recipe equalize, seed 12345" in text
    assert "- host: Xeon, avx2, 2 usable cores, virtualised" in text
    assert "- network: name squeezenet1_1, classes 10, input 227 px, checkpoint sha256 cdcdcdcdcdcd" in text
    assert "- speed-up: fp32's median" in text


def test_the_ratios_of_files_are_told(report):
    first, row = (each.name for each in report.measurements[:2])
    with_ratio = dataclasses.replace(report, ratios=(Ratio(row, first, Interval(1.31, 1.22, 1.43)),))
    for text in (to_markdown(with_ratio), to_html(with_ratio)):
        assert "One file against another" in text
        assert "1.3x [1.2, 1.4] as fast" in text.replace("\\", "")
        assert "The second file" in text
    assert "One file against another" not in to_markdown(report) + to_html(report)


def test_empty_notes_are_left_out(report):
    text = to_markdown(dataclasses.replace(report, measurements=(), calibration={}, warnings=()))
    assert "calibration" not in text.replace("these are the calibration images", "")
    assert "speed-up:" not in text


def test_text_from_elsewhere_is_no_markup(report):
    reasons = {
        "<img src=x> & [link](http://x) *b* _c_ a_b": "&lt;img src=x&gt; &amp; \\[link\\](http:&#8203;//x) \\*b\\* \\_c\\_ a_b",
        "`a|b` is <c>": "`a\\|b` is &lt;c&gt;",
        "one ` alone": "one ' alone",
        "@someone, #12, www.x": "@&#8203;someone, #&#8203;12, www&#8203;.x",
        "two\nlines | here": "two lines \\| here",
    }
    for reason, expected in reasons.items():
        row = dataclasses.replace(report.measurements[5], reason=reason)
        assert f"failed: {expected} |" in to_markdown(dataclasses.replace(report, measurements=(row,)))
