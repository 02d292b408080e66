"""The page in a real browser: nothing asked for, no error, nothing too wide; and a page with each fault is caught."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from squeeze_export.errors import Unavailable
from squeeze_export.pipeline import Job, RunOptions, run
from squeeze_export.pipeline.page import beside_of
from squeeze_export.report.figures import LayerError
from squeeze_export.report.html import to_html
from tools.page_pictures import VIEWS, browser_path, faults, look, main, running_browser

PHONE, *_, DARK = VIEWS
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(scope="module")
def browser():
    """One for all."""
    try:
        browser_path()
    except Unavailable as err:
        pytest.skip(err.message)
    with running_browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    """The page of a real export, with all that may stand on it."""
    out = tmp_path_factory.mktemp("page")
    files = {"calib": tiny / "calib", "eval": tiny / "eval", "labels": tiny / "labels.txt"}
    job = Job(("onnx", "tflite"), "int8", tiny / "tiny.safetensors", out=out, run=RunOptions(rounds=20), **files)
    report = run(job)
    beside = beside_of(report, out, tiny / "eval", [dataclasses.replace(report, created="2020-01-01")])
    beside = dataclasses.replace(beside, layers=[LayerError(f"fire{index}/expand3x3", 0.1, 0.2) for index in range(9)])
    (out / "report.html").write_text(to_html(report, beside))
    return out / "report.html"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_real_page_has_no_fault(browser, page, view):
    seen = look(browser, page, view)
    assert faults(view, seen) == []
    picture = Image.open(io.BytesIO(seen.picture))
    assert picture.width == round(view.width_px * view.scale)
    red, green, blue = picture.convert("RGB").getpixel((2, 2))
    assert max(red, green, blue) < 60 if view is DARK else min(red, green, blue) > 250


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>undefined_name()</script>", "console: Uncaught"),
        ("<script>console.error('mind')</script>", "console: mind"),
        ('<img src="http://127.0.0.1:9/x.png">', "it asks for http://127.0.0.1:9/x.png"),
        ('<link rel="stylesheet" href="none.css">', "it asks for file:///"),
        ('<div style="width: 700px; height: 5px">', "700 px wide, more than the view's 390"),
        ('<p style="font-size: 7px">print</p>', "too small to read: 7 print"),
    ],
)
def test_each_fault_is_found(browser, tmp_path, body, fault):
    head = '<meta name="viewport" content="width=device-width"><style>body { margin: 0 }</style>'
    (tmp_path / "bad.html").write_text(f"<!doctype html>{head}<p>words</p>{body}")
    found = faults(PHONE, look(browser, tmp_path / "bad.html", PHONE))
    assert any(fault in line for line in found), found


def test_the_policy_of_the_page_stops_what_an_escape_would_miss(browser, page, tmp_path):
    """A script and an image from elsewhere, put into the page as if they had not been escaped."""
    added = "<script>document.title = 'ran'</script><img src='http://127.0.0.1:9/x.png'></body>"
    (tmp_path / "bad.html").write_text(page.read_text().replace("</body>", added))
    seen = look(browser, tmp_path / "bad.html", PHONE)
    assert any("Content Security Policy" in error for error in seen.errors)
    assert "http://127.0.0.1:9/x.png" not in seen.requests or any("blocked" in error for error in seen.errors)


def test_main(browser, page, tmp_path, capsys):
    assert main([str(page), "--out", str(tmp_path)]) == 0
    assert "no error, no request" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {f"report-{view.name}.webp" for view in VIEWS}
    (tmp_path / "bad.html").write_text("<script>undefined_name()</script>")
    assert main([str(tmp_path / "bad.html")]) == 1
    assert main([str(tmp_path / "none.html")]) == 2


def test_without_a_browser(page, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SQUEEZE_EXPORT_CHROMIUM", raising=False)
    monkeypatch.setattr(Path, "home", lambda: page.parent)
    assert main([str(page)]) == 3
    assert "SQUEEZE_EXPORT_CHROMIUM" in capsys.readouterr().err


def test_the_committed_pictures_are_small():
    found = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert set(found) == {"report-phone.webp", "report-desktop.webp", "report-dark.webp"}
    assert max(found.values()) < 300_000
