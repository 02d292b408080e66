"""An analysis as table, page and JSON: whole, in step with each other, and safe with hostile names."""

import html
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from rich.console import Console

from squeeze_export.analyze.report import analysis_html, analysis_json, print_analysis
from squeeze_export.analyze.results import (
    Advice,
    Analysis,
    ClassChange,
    Cost,
    Effect,
    ExactEffect,
    FileCost,
    LayerSensitivity,
    MixedPrecision,
    RangeUse,
    RankedLayer,
    TriedCount,
)
from squeeze_export.analyze.words import (
    CHANGES_SHOWN,
    change_table,
    db,
    layer_table,
    mixed_lines,
    mixed_table,
    percent_of,
    small_share,
    worst_lines,
)
from squeeze_export.core import Audit
from squeeze_export.report.wording import scheme
from squeeze_export.results import Measurement, OutputError


def layer(name, weights, output, gain_db):
    return LayerSensitivity(name, (name,), Effect(40.0, 1.0), Effect(math.inf, 1.0), Effect(41.0, 1.0), weights, output, gain_db)


def use(name, **fields):
    values = {
        "range_high": 8.0,
        "range_low": 0.0,
        "largest_share": 1.25,
        "mean_largest_share": 0.5,
        "p999_share": 0.4,
        "clipped_high_share": 0.0021,
        "clipped_low_share": 0.0,
        "clipped_image_count": 7,
        "most_clipped": {"a.jpg": 9},
        "unused_levels": 12,
        "levels": 256,
        "channel_count": 64,
        "dead_channels": (3, 4),
        "zero_filters": (),
        "lost_filters": (),
    }
    return RangeUse(name=name, **(values | fields))


def flip(index, label=1):
    return ClassChange(f"img{index}.jpg", label, 1, 0, 0.5, -0.25, 0.75, -1.0, -0.25)


ANALYSIS = Analysis(
    network={"name": "net", "input_px": 96},
    calibration={"recipe": "fast"},
    evaluation={"source": "val", "image_count": 100},
    image_count=100,
    part_count=32,
    int8=Effect(38.8, 0.97),
    whole=Effect(38.3, 0.97),
    weights_alone=Effect(45.1, 1.0),
    outputs_alone=Effect(math.inf, 1.0),
    layers=(layer("conv1", 0.048, 0.199, 1.6), layer("conv2", 0.0, 1.02, -0.01)),
    tensors=(use("conv1"),),
    worst=("conv2", "conv1"),
    advice=(
        Advice("conv1", "range too small", "a wider range", "its range as these images have it", 0.42),
        Advice("", "activations", "16-bit activations", "all activations in float", math.inf),
    ),
    flips=tuple(flip(index) for index in range(CHANGES_SHOWN + 2)),
    labels=("bee", "ant"),
)
BEFORE = ExactEffect(30.04, 0.91, 3.25, 1.01, 6.04)
AFTER = ExactEffect(41.0, 0.99, 0.0, -1.0, 0.9)
FILES = (
    FileCost("integers", 1_300_000, 2.0, 1.0, 1.0, 1.0),
    FileCost("kept", 1_500_000, 3.0, 1.5, 1.414, 1.606),
    FileCost("fp32", 5_000_000, 7.0, 3.5, 3.4, 3.6),
)
KEPT = MixedPrecision(
    max_drop_pp=1.0,
    reached=True,
    drop_of="top-1",
    layers=("conv1",),
    convs=("conv1", "fire2/squeeze1x1"),
    conv_count=26,
    before=BEFORE,
    after=AFTER,
    ranking=(RankedLayer("conv1", 3.0, 0, ("conv1", "fire2/squeeze1x1")), RankedLayer("conv10", 1.0, 0, ("conv10",))),
    tried=(TriedCount(0, BEFORE), TriedCount(1, AFTER)),
    cost=Cost("onnx", "onnxruntime", "cpu", 50, FILES),
)
HOSTILE = '<script>"&\x1b[2J\n`'


def printed(analysis, width=None):
    out = io.StringIO()
    console = Console(file=out, width=width or 1000, force_terminal=width is not None, color_system=None, markup=False)
    print_analysis(analysis, console)
    return out.getvalue()


def test_one_output_has_its_error_in_place_of_classes():
    error = OutputError(0.01234, 0.0456, 0.99912, 0.52)
    better = OutputError(0.00123, 0.00456, None, 0.52)
    kept = replace(KEPT, max_drop_pp=None, reached=None, before=replace(BEFORE, error=error), after=replace(AFTER, error=better))
    analysis = replace(ANALYSIS, flips=(), error=error, kept=replace(kept, ranking=(), tried=()))
    page = html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", analysis_html(analysis), flags=re.DOTALL))
    for text in (printed(analysis), page):
        assert "mean error 0.0123, 95% at most 0.0456, correlation 0.9991, standard deviation of the reference 0.52" in text
        assert "agree" not in text
        assert "class" not in text
        assert "drop" not in text
    rows = mixed_table(analysis.kept).rows
    assert rows[0][2:6] == ("30.0 dB", "0.0123", "0.0456", "0.9991")
    assert rows[1][3:6] == ("0.00123", "0.00456", "-")
    assert {len(row) for row in rows} == {len(mixed_table(analysis.kept).columns)}
    assert analysis_json(analysis)["error"]["mean"] == 0.01234


def test_every_layer_has_its_row():
    table = layer_table(ANALYSIS)
    first, second = table.rows
    assert len(first) == len(second) == len(table.columns)
    assert first == ("conv1", "4.8%", "20%", "+1.60 dB", "0.2%", "7", "125%", "50%", "40%", "12", "2")
    assert second == ("conv2", "0.0%", "102%", "-0.01 dB", *["-"] * 7)


def test_the_worst_come_with_what_was_tried():
    (first, nothing), (second, tried), (whole, everywhere) = worst_lines(ANALYSIS)
    assert first.startswith("conv2: 102% of the error")
    assert nothing == ["nothing that was tried gains 0.1 dB"]
    assert second == "conv1: 25% of the error (weights 4.8%, output 20%)"
    assert tried == ["+0.42 dB  range too small: a wider range (tried: its range as these images have it)"]
    assert (whole, everywhere[0][:5]) == ("all layers", "exact")


def test_flips_name_their_classes_and_who_is_right():
    table = change_table(ANALYSIS)
    rows = table.rows
    assert len(rows) == CHANGES_SHOWN
    assert rows[0] == ("img0.jpg", "ant (right)", "0.50", "bee", "-0.25", "0.75", "-1.00", "-0.25")
    assert len(rows[0]) == len(table.columns)
    nameless = replace(ANALYSIS, labels=(), flips=(flip(0, label=0),))
    assert change_table(nameless).rows[0][1:4] == ("1", "0.50", "0 (right)")


def test_the_table():
    text = printed(ANALYSIS)
    assert "integers against fp32 on 100 images: 38.8 dB, 97.0% the same top-1 class; 12 change their class\n" in text
    assert "weights alone in integers 45.1 dB, activations alone exact\n" in text
    assert "2 more in the JSON" in text
    header = next(line for line in text.splitlines() if line.startswith("layer"))
    assert header.split() == " ".join(column.name for column in layer_table(ANALYSIS).columns).split()
    assert "change their class" not in printed(replace(ANALYSIS, flips=()))


def test_prose_is_folded_on_a_narrow_terminal_and_rows_are_not_cut():
    text = printed(ANALYSIS, width=60)
    row = next(line for line in text.splitlines() if line.startswith("conv1 "))
    assert row.endswith("2")
    prose = [line for line in text.splitlines() if not line.startswith(("conv", "layer", "img", "file"))]
    assert max(map(len, prose)) <= 60


def test_the_json_is_strict_and_names_classes():
    document = json.loads(json.dumps(analysis_json(ANALYSIS), allow_nan=False))
    assert document["outputs_alone"]["sqnr_db"] == "inf"
    assert document["advice"][1]["gain_db"] == "inf"
    assert document["layers"][0]["scale_group"] == ["conv1"]
    assert len(document["flips"]) == CHANGES_SHOWN + 2  # all of them
    flipped = document["flips"][0]
    assert (flipped["reference_class_name"], flipped["int8_class_name"], flipped["label_name"]) == ("ant", "bee", "ant")
    assert "labels" not in document
    assert document["tensors"][0]["most_clipped"] == {"a.jpg": 9}
    unlabelled = analysis_json(replace(ANALYSIS, flips=(flip(0, label=None),)))
    assert unlabelled["flips"][0]["label_name"] is None
    assert "no runtime took part" in document["evidence"]


def test_the_page_stands_alone_and_draws_true_bars():
    page = analysis_html(ANALYSIS)
    assert not re.search(r"<script|href=|src=|url\(", page)
    assert "default-src 'none'" in page
    drawing = ET.fromstring(re.search(r'<div class="chart".*?</div>\n(?=<ul)', page, re.DOTALL)[0])
    filled, outlined = (
        [float(bar.get("width").removesuffix("%")) for bar in drawing.iter("rect") if bar.get("class") == kind]
        for kind in ("part0", "part1")
    )
    assert filled[1] / filled[0] == pytest.approx(1.02 / 0.199, rel=1e-2)
    assert outlined[0] / filled[0] == pytest.approx(0.048 / 0.199, rel=1e-2)
    for row in (*layer_table(ANALYSIS).rows, *change_table(ANALYSIS).rows):
        assert "".join(f">{cell}</td>" for cell in row[:1]) in page


def test_a_network_without_error_is_drawn():
    clean = replace(ANALYSIS, layers=(layer("conv1", 0.0, 0.0, 0.0),), worst=(), advice=(), flips=(), tensors=())
    assert "<svg" in analysis_html(clean)
    assert "none changes its class" in printed(clean)


def test_hostile_names_are_shown_not_obeyed():
    bad = replace(
        ANALYSIS,
        network={"name": HOSTILE},
        layers=(layer(HOSTILE, 0.1, 0.2, 1.0),),
        worst=(HOSTILE,),
        flips=(replace(flip(0), file=HOSTILE),),
        labels=(HOSTILE, HOSTILE),
        warnings=(HOSTILE,),
    )
    page, text = analysis_html(bad), printed(bad)
    assert "<script>" not in page
    assert "\x1b" not in page + text
    assert page.count("&lt;script&gt;") > 5
    in_float = replace(KEPT, layers=(HOSTILE,), convs=(HOSTILE,), cost=replace(KEPT.cost, runtime=HOSTILE, device=HOSTILE))
    more, text = analysis_html(replace(bad, kept=in_float)), printed(replace(bad, kept=in_float))
    assert "<script>" not in more
    assert "\x1b" not in more + text
    assert more.count("&lt;script&gt;") == page.count("&lt;script&gt;") + 4


def test_figures_in_words():
    assert [percent_of(share) for share in (0.0, 0.0312, 0.0994, 0.0995, 0.25, 1.5)] == [
        "0.0%",
        "3.1%",
        "9.9%",
        "10%",
        "25%",
        "150%",
    ]
    assert [small_share(share) for share in (0.0, 2.1e-5, 0.0123)] == ["-", "0.0021%", "1.2%"]
    assert [db(value) for value in (1.416, -0.004, math.inf)] == ["+1.42 dB", "0.00 dB", "exact"]


def test_the_answer_to_a_bound():
    answer, floats, runs = mixed_lines(KEPT)
    assert answer == "a drop of at most 1 pp needs 1 layer in float (with none its upper bound is +6.04 pp): conv1"
    assert floats == "in float: 2 of 26 convolutions, which are conv1, fire2/squeeze1x1"
    assert runs.endswith("from an exact run on all images: 0: +6.04 pp, 1: +0.90 pp")
    three = replace(KEPT, layers=("a", "b", "c"), tried=(TriedCount(0, BEFORE), TriedCount(2, BEFORE), TriedCount(3, AFTER)))
    assert "needs 3 layers in float (with 2 its upper bound is +6.04 pp): a, b, c" in mixed_lines(three)[0]


def test_the_answers_without_one():
    none = replace(KEPT, layers=(), convs=(), tried=(TriedCount(0, AFTER),), after=AFTER, before=AFTER, cost=None)
    assert mixed_lines(none)[0] == "a drop of at most 1 pp needs no layer in float: its upper bound is +0.90 pp"
    assert len(mixed_table(none).rows) == 1
    assert "nothing is exported" in mixed_table(none).note
    lost = replace(KEPT, reached=False)
    told = "a drop of at most 1 pp is shown with no number of layers in float; the lowest upper bound, +0.90 pp, is with 1 layer"
    assert mixed_lines(lost)[0] == f"{told} in float: conv1"


def test_layers_that_were_asked_for():
    named = replace(KEPT, max_drop_pp=None, reached=None, ranking=(), tried=())
    assert mixed_lines(named)[0] == "put back to float: conv1"
    assert len(mixed_lines(named)) == 2
    counted = replace(named, ranking=KEPT.ranking)
    assert mixed_lines(counted)[0] == "put back to float: the first 1 of the ranking, conv1"


def test_the_rows():
    table = mixed_table(KEPT)
    integers, kept, fp32 = table.rows
    assert {len(integers), len(kept), len(fp32)} == {len(table.columns)}
    assert integers[:6] == ("int8", "0", "30.0 dB", "91.0%", "+3.25 pp", "[+1.01, +6.04]")
    assert integers[6:] == ("1.30 MB", "2.00 ms", "1.00x", "")
    assert kept[:6] == ("int8, these in float", "2", "41.0 dB", "99.0%", "0.00 pp", "[-1.00, +0.90]")
    assert kept[6:] == ("1.50 MB", "3.00 ms", "1.50x", "[1.41, 1.61]")
    assert fp32 == ("fp32", "26", "-", "-", "-", "", "5.00 MB", "7.00 ms", "3.50x", "[3.40, 3.60]")
    assert "top-1 of fp32 less" in mixed_table(KEPT).note
    assert "onnx files, onnxruntime on cpu, 1 thread, 50 interleaved rounds" in mixed_table(KEPT).note
    assert "no image is labelled" in mixed_table(replace(KEPT, drop_of="agreement")).note


def test_what_was_not_measured_has_no_figure():
    sizes = tuple(FileCost(file.network, file.size_bytes) for file in FILES)
    untimed = replace(KEPT, cost=Cost("onnx", "", "", 0, sizes))
    assert [row[6:] for row in mixed_table(untimed).rows] == [(size, "-", "-", "") for size in ("1.30 MB", "1.50 MB", "5.00 MB")]
    assert "nothing was timed" in mixed_table(untimed).note
    absent = replace(KEPT, cost=None)
    assert [row[6:] for row in mixed_table(absent).rows] == [("-", "-", "-", "")] * 2
    assert "ONNX or TFLite" in mixed_table(absent).note


def test_the_table_and_the_page_show_layers_in_float():
    with_layers = replace(ANALYSIS, kept=KEPT)
    lines = printed(with_layers).splitlines()
    assert lines[lines.index("Layers kept in float") :][1:4] == [f"  {line}" for line in mixed_lines(KEPT)]
    assert sum(line.startswith(("int8", "fp32")) for line in lines) == 3
    page = analysis_html(with_layers)
    assert all(f">{cell}</td>" in page for row in mixed_table(KEPT).rows for cell in row)
    assert "Layers kept in float" not in printed(ANALYSIS) + analysis_html(ANALYSIS)


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
