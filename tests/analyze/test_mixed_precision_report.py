"""Layers kept in float, as table, page and words: every answer, hostile names, and what was not measured."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from squeeze_export.analyze.mixed_words import KEPT_HEADER, kept_lines, kept_note, kept_rows
from squeeze_export.analyze.page import _kept
from squeeze_export.analyze.results import Cost, ExactEffect, FileCost, Kept, Ranked, Tried
from squeeze_export.analyze.table import _print_rows
from squeeze_export.core import Audit
from squeeze_export.report.wording import scheme
from squeeze_export.results import Measurement

BEFORE = ExactEffect(30.04, 0.91, 3.25, 1.01, 6.04)
AFTER = ExactEffect(41.0, 0.99, 0.0, -1.0, 0.9)
FILES = (
    FileCost("integers", 1_300_000, 2.0, 1.0, 1.0, 1.0),
    FileCost("kept", 1_500_000, 3.0, 1.5, 1.414, 1.606),
    FileCost("fp32", 5_000_000, 7.0, 3.5, 3.4, 3.6),
)
KEPT = Kept(
    max_drop_pp=1.0,
    reached=True,
    drop_of="top-1",
    layers=("conv1",),
    convs=("conv1", "fire2/squeeze1x1"),
    conv_count=26,
    before=BEFORE,
    after=AFTER,
    ranking=(Ranked("conv1", 3.0, 0, ("conv1", "fire2/squeeze1x1")), Ranked("conv10", 1.0, 0, ("conv10",))),
    tried=(Tried(0, BEFORE), Tried(1, AFTER)),
    cost=Cost("onnx", "onnxruntime", "cpu", 50, FILES),
)
HOSTILE = '<script>"&\x1b[2J\n`'


def test_the_answer_to_a_bound():
    answer, floats, runs = kept_lines(KEPT)
    assert answer == "a drop of at most 1 pp needs 1 layer in float (with none its upper bound is +6.04 pp): conv1"
    assert floats == "in float: 2 of 26 convolutions, which are conv1, fire2/squeeze1x1"
    assert runs.endswith("from an exact run on all images: 0: +6.04 pp, 1: +0.90 pp")
    three = replace(KEPT, layers=("a", "b", "c"), tried=(Tried(0, BEFORE), Tried(2, BEFORE), Tried(3, AFTER)))
    assert "needs 3 layers in float (with 2 its upper bound is +6.04 pp): a, b, c" in kept_lines(three)[0]


def test_the_answers_without_one():
    none = replace(KEPT, layers=(), convs=(), tried=(Tried(0, AFTER),), after=AFTER, before=AFTER, cost=None)
    assert kept_lines(none)[0] == "a drop of at most 1 pp needs no layer in float: its upper bound is +0.90 pp"
    assert len(kept_rows(none)) == 1
    assert "nothing is exported" in kept_note(none)
    lost = replace(KEPT, reached=False)
    told = "a drop of at most 1 pp is shown with no number of layers in float; the lowest upper bound, +0.90 pp, is with 1 layer"
    assert kept_lines(lost)[0] == f"{told} in float: conv1"


def test_layers_that_were_asked_for():
    named = replace(KEPT, max_drop_pp=None, reached=None, ranking=(), tried=())
    assert kept_lines(named)[0] == "put back to float: conv1"
    assert len(kept_lines(named)) == 2
    counted = replace(named, ranking=KEPT.ranking)
    assert kept_lines(counted)[0] == "put back to float: the first 1 of the ranking, conv1"


def test_the_rows():
    integers, kept, fp32 = kept_rows(KEPT)
    assert {len(integers), len(kept), len(fp32)} == {len(KEPT_HEADER)}
    assert integers[:6] == ("int8", "0", "30.0 dB", "91.0%", "+3.25 pp", "[+1.01, +6.04]")
    assert integers[6:] == ("1.30 MB", "2.00 ms", "1.00x", "")
    assert kept[:6] == ("int8, these in float", "2", "41.0 dB", "99.0%", "0.00 pp", "[-1.00, +0.90]")
    assert kept[6:] == ("1.50 MB", "3.00 ms", "1.50x", "[1.41, 1.61]")
    assert fp32 == ("fp32", "26", "-", "-", "-", "", "5.00 MB", "7.00 ms", "3.50x", "[3.40, 3.60]")
    assert "top-1 of fp32 less" in kept_note(KEPT)
    assert "onnx files, onnxruntime on cpu, 1 thread, 50 interleaved rounds" in kept_note(KEPT)
    assert "no image is labelled" in kept_note(replace(KEPT, drop_of="agreement"))


def test_what_was_not_measured_has_no_figure():
    sizes = tuple(FileCost(file.network, file.size_bytes) for file in FILES)
    untimed = replace(KEPT, cost=Cost("onnx", "", "", 0, sizes))
    assert [row[6:] for row in kept_rows(untimed)] == [(size, "-", "-", "") for size in ("1.30 MB", "1.50 MB", "5.00 MB")]
    assert "nothing was timed" in kept_note(untimed)
    absent = replace(KEPT, cost=None)
    assert [row[6:] for row in kept_rows(absent)] == [("-", "-", "-", "")] * 2
    assert "ONNX or TFLite" in kept_note(absent)


def test_the_table_and_the_page():
    out = io.StringIO()
    _print_rows(Console(file=out, width=200, color_system=None), KEPT_HEADER, kept_rows(KEPT), set())
    assert len(out.getvalue().splitlines()) == 4
    page = _kept(KEPT)
    assert all(f">{cell}</td>" in page for row in kept_rows(KEPT) for cell in row)
    assert _kept(None) == ""


def test_hostile_names_are_shown_not_obeyed():
    bad = replace(KEPT, layers=(HOSTILE,), convs=(HOSTILE,), cost=replace(KEPT.cost, runtime=HOSTILE, device=HOSTILE))
    page = _kept(bad)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 4
    assert "\x1b" not in page + "".join(kept_lines(bad)) + kept_note(bad)


@pytest.mark.parametrize(
    ("kept", "recipe", "expected"),
    [
        ((), "fast", "int8"),
        (("a", "b", "c"), "fast", "int8 with 3 float"),
        (("a",), "", "int8 with 1 float"),
        ((), "vendor", "int8 vendor"),
    ],
)
def test_a_row_says_that_layers_are_in_float(kept, recipe, expected):
    audit = Audit({}, (), (), (), {}, kept)
    assert scheme(Measurement("onnx", "int8", "a.onnx", "", 1, recipe=recipe, audit=audit)) == expected
    assert scheme(Measurement("onnx", "int8", "a.onnx", "", 1)) == "int8"
