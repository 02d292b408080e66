"""The terminal's table and its words."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
from rich.console import Console

from squeeze_export.report import wording
from squeeze_export.report.html import to_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.report.terminal import print_table
from squeeze_export.results import Interval


def printed(report, width=80, terminal=True):
    out = io.StringIO()
    print_table(report, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue().splitlines()


def test_columns_and_figures(report):
    header, first, *_ = printed(report, width=140)
    assert header.split() == ["target", "scheme", "device", "size", "agreement", "SQNR", "p50", "speed-up"]
    assert " ".join(first.split()) == "onnx int8 cpu 1.27 MB 97.3% [96.0, 98.2] 38.9 dB 2.65 ms 2.9x [2.8, 3.0]"


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"on": "ssh", "board": "Raspberry Pi 5", "cpu": "A76", "architecture": "aarch64"},
            "a board over ssh: Raspberry Pi 5, A76, aarch64",
        ),
        (
            {"on": "adb", "board": "Pixel 8", "soc": "Tensor G3", "architecture": "arm64-v8a"},
            "an Android device over adb: Pixel 8, Tensor G3, arm64-v8a",
        ),
        ({"on": "ssh"}, "a board over ssh: it tells nothing of itself"),
    ],
)
def test_rows_of_a_board_say_so(report, facts, line):
    """Its `cpu` is not this machine's."""
    rows = tuple(dataclasses.replace(row, facts=facts) if row.status == "ok" else row for row in report.measurements)
    there = dataclasses.replace(report, measurements=rows)
    assert f"run on {line}" in printed(there, width=140)
    assert not any("run on" in row for row in printed(report, width=140))
    assert f"run on {line}." in to_html(there)
    assert f"- device: run on {line}\n" in to_markdown(there)


def test_labels_change_the_accuracy_column(labelled_report):
    header, first, *_ = printed(labelled_report, width=140)
    assert "top-1" in header
    assert "57.9% -0.42 pp [-1.3, +0.4]" in first


def test_columns_are_aligned(report):
    header, first, second, *_ = printed(report, width=140)
    assert first.index("MB") + 2 == header.index("size") + 4
    assert first.index("ms") + 2 == header.index("p50") + 3
    assert second.rstrip().endswith("-")


def test_evidence_stands_in_its_row(report):
    rows = printed(report, width=140)
    assert [line.split()[0] for line in rows if "(emulated)" in line] == ["qnn"]


def test_reasons_stand_in_their_rows(report):
    skipped, failed = printed(report, width=140)[-2:]
    assert skipped.split()[:3] == ["onnx", "int8", "cuda"]
    assert skipped.endswith("skipped: no `CUDAExecutionProvider` here")
    assert failed.split()[:3] == ["ethosu", "int8", "cpu"]
    assert failed.endswith("failed: vela | said no")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_narrow_terminals(report, labelled_report, width):
    long = dataclasses.replace(report.measurements[4], scheme="int8-symmetric", device_asked="tensorrt", reason="no provider " * 20)
    for base in (report, labelled_report):
        lines = printed(dataclasses.replace(base, measurements=(*base.measurements, long)), width=width)
        assert max(len(line) for line in lines) <= width
        assert any("[2.8, 3.0]" in line for line in lines)


def test_intervals_go_below_where_there_is_no_room(report):
    _, first, below, *_ = printed(report, width=80)
    assert first.split()[:3] == ["onnx", "int8", "cpu"]
    assert below.split() == ["[96.0,", "98.2]", "[2.8,", "3.0]"]


def test_schemes_go_below_targets_where_there_is_still_no_room(labelled_report):
    rows = tuple(dataclasses.replace(row, scheme="int8-symmetric") for row in labelled_report.measurements)
    header, below, first, second, *_ = printed(dataclasses.replace(labelled_report, measurements=rows), width=80)
    assert (header.split()[0], below.split()[0]) == ("target", "scheme")
    assert (first.split()[0], second.split()[0]) == ("onnx", "int8-symmetric")


def test_a_file_gets_one_line_a_row(report):
    long = dataclasses.replace(report.measurements[5], reason="no\n operator " * 30)
    lines = printed(dataclasses.replace(report, measurements=(*report.measurements, long)), width=80, terminal=False)
    assert len(lines) == 1 + len(report.measurements) + 1
    assert max(len(line) for line in lines) > 300


def test_no_control_code_without_a_terminal_or_from_a_reason(report):
    hostile = dataclasses.replace(report.measurements[5], reason="\x1b[2Jgone [red]x[/red]\x07")
    for terminal in (True, False):
        text = "\n".join(printed(dataclasses.replace(report, measurements=(hostile,)), terminal=terminal))
        assert "\x1b" not in text
        assert "[red]x[/red]" in text


def test_mixed_rows_name_both(report, labelled_report):
    mixed = dataclasses.replace(report, measurements=(report.measurements[0], labelled_report.measurements[0]))
    lines = printed(mixed, width=160)
    assert "top-1 or agreement" in lines[0]
    assert "97.3% agree" in lines[1]
    assert max(len(line) for line in printed(mixed, width=80)) <= 80


def test_nothing_measured(report):
    assert len(printed(dataclasses.replace(report, measurements=()))) == 1
    bare = dataclasses.replace(report.measurements[0], accuracy=None, latency=None)
    assert printed(dataclasses.replace(report, measurements=(bare,)))[1].split()[-4:] == ["-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (wording.percent(0.973), "97.3%"),
        (wording.percent(1.0), "100%"),
        (wording.percent(0.99999), "99.9%"),
        (wording.percent(0.0), "0%"),
        (wording.percent(0.0001), "0.1%"),
        (wording.delta_pp(Interval(-0.42, -1.3, 0.4)), "-0.42 pp"),
        (wording.delta_range(Interval(-0.42, -1.3, 0.4)), "[-1.3, +0.4]"),
        (wording.delta_pp(Interval(-0.001, -1.3, 0.4)), "0.00 pp"),
        (wording.size(0), "-"),
        (wording.size(300), "300 B"),
        (wording.size(675_763), "676 KB"),
        (wording.size(999_499), "999 KB"),
        (wording.size(999_600), "1.00 MB"),
        (wording.size(4_955_000), "4.96 MB"),
        (wording.milliseconds(0.1234), "0.123 ms"),
        (wording.milliseconds(0.9999), "1.00 ms"),
        (wording.milliseconds(2.651), "2.65 ms"),
        (wording.milliseconds(26.51), "26.5 ms"),
        (wording.milliseconds(265.1), "265 ms"),
        (wording.speedup(Interval(2.91, 2.8, 3.0)), "2.9x"),
        (wording.decibel(38.94), "38.9 dB"),
        (wording.decibel(121.3), "121 dB"),
        (wording.decibel(math.inf), "exact"),
        (wording.fact(True), "yes"),
        (wording.fact([]), "none"),
        (wording.fact({"a_ms": 1.5}), "a 1.5 ms"),
        (wording.fact(16_000_000_000, "memory_bytes"), "16.0 GB"),
        (wording.fact(1_235_496, "parameters"), "1,235,496"),
        (
            wording.facts_line({"a": None, "b": "", "seed": 1234, "note": "careful", "x_sha256": "f" * 64}),
            "seed 1234, careful, x sha256 " + "f" * 12,
        ),
        (wording.facts_line({"px": 1, "notes": ("left out `a`", "folded 2")}), "px 1, left out `a`; folded 2"),
    ],
)
def test_spelling(words, expected):
    assert words == expected


def test_notes(report, labelled_report):
    assert "875 images" in wording.accuracy_note(report.measurements)
    assert "paired" in wording.accuracy_note(labelled_report.measurements)
    assert "50 interleaved rounds, 1 thread" in wording.timing_note(report.measurements)
    assert wording.accuracy_note(()) == wording.timing_note(()) == ""
    assert wording.host_line(report) == "Xeon, avx2, 2 usable cores, virtualised"
    assert wording.host_line(dataclasses.replace(report, host={})) == ""
