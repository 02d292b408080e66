"""An analysis as table, page and JSON: whole, in step with each other, and safe with hostile names."""

import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from rich.console import Console

from squeeze_export.analyze.page import analysis_html
from squeeze_export.analyze.results import Advice, Analysis, Effect, Flip, LayerError, TensorUse
from squeeze_export.analyze.table import print_analysis
from squeeze_export.analyze.words import (
    FLIP_HEADER,
    FLIPS_SHOWN,
    LAYER_HEADER,
    analysis_json,
    db,
    flip_rows,
    layer_rows,
    percent_of,
    small_share,
    worst_lines,
)


def layer(name, weights, output, gain_db):
    return LayerError(name, (name,), Effect(40.0, 1.0), Effect(math.inf, 1.0), Effect(41.0, 1.0), weights, output, gain_db)


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
    return TensorUse(name=name, **(values | fields))


def flip(index, label=1):
    return Flip(f"img{index}.jpg", label, 1, 0, 0.5, -0.25, 0.75, -1.0, -0.25)


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
    flips=tuple(flip(index) for index in range(FLIPS_SHOWN + 2)),
    labels=("bee", "ant"),
)
HOSTILE = '<script>"&\x1b[2J\n`'


def printed(analysis, width=None):
    out = io.StringIO()
    console = Console(file=out, width=width or 1000, force_terminal=width is not None, color_system=None, markup=False)
    print_analysis(analysis, console)
    return out.getvalue()


def test_every_layer_has_its_row():
    first, second = layer_rows(ANALYSIS)
    assert len(first) == len(second) == len(LAYER_HEADER)
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
    rows = flip_rows(ANALYSIS)
    assert len(rows) == FLIPS_SHOWN
    assert rows[0] == ("img0.jpg", "ant (right)", "0.50", "bee", "-0.25", "0.75", "-1.00", "-0.25")
    assert len(rows[0]) == len(FLIP_HEADER)
    nameless = replace(ANALYSIS, labels=(), flips=(flip(0, label=0),))
    assert flip_rows(nameless)[0][1:4] == ("1", "0.50", "0 (right)")


def test_the_table():
    text = printed(ANALYSIS)
    assert "integers against fp32 on 100 images: 38.8 dB, 97.0% the same top-1 class; 12 change their class\n" in text
    assert "weights alone in integers 45.1 dB, activations alone exact\n" in text
    assert "2 more in the JSON" in text
    header = next(line for line in text.splitlines() if line.startswith("layer"))
    assert header.split() == " ".join(LAYER_HEADER).split()
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
    assert len(document["flips"]) == FLIPS_SHOWN + 2  # all of them
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
    drawing = ET.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])
    filled = [float(bar.get("width")) for bar in drawing.iter("rect") if bar.get("class") == "dot"]
    outlined = [float(bar.get("width")) for bar in drawing.iter("rect") if bar.get("class") == "box"]
    assert filled[1] / filled[0] == pytest.approx(1.02 / 0.199, rel=1e-2)
    assert outlined[0] / filled[0] == pytest.approx(0.048 / 0.199, rel=1e-2)
    for row in (*layer_rows(ANALYSIS), *flip_rows(ANALYSIS)):
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
