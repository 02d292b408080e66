"""The README's picture: drawn from a report, and the one that is committed is such a drawing."""

from __future__ import annotations

import re
from html import unescape

from squeeze_export.results import Measurement, Report
from tools.readme_picture import COMMAND, PICTURE, picture


def shown(drawing: str) -> str:
    """The text of a drawing, one line a row."""
    rows: dict[str, str] = {}
    for line, text in re.findall(r'<text [^>]*clip-path="url\(#table-line-(\d+)\)">(.*?)</text>', drawing):
        rows[line] = rows.get(line, "") + unescape(text).replace("\xa0", " ")
    return "\n".join(rows.values())


def test_a_picture_shows_the_rows_of_its_report_and_loads_nothing():
    row = Measurement("onnx", "int8", "net.int8.onnx", "", 1_330_000, device="cpu")
    drawing = picture(Report(5, "", {}, {}, {}, {}, {}, (row,)))
    assert COMMAND in shown(drawing)
    assert "1.33 MB" in shown(drawing)
    assert "@font-face" not in drawing


def test_the_committed_picture_has_a_row_for_each_file():
    text = shown(PICTURE.read_text(encoding="utf-8"))
    assert COMMAND in text
    for target in ("onnx", "tflite", "openvino", "coreml"):
        for scheme in ("fp32", "int8"):
            assert re.search(rf"^{target} +{scheme} ", text, re.MULTILINE), (target, scheme)
    assert PICTURE.stat().st_size < 20_000
