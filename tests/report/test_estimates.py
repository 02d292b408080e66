"""Estimates: in words, beside measurements but never among them."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from squeeze_export.core import Placement
from squeeze_export.report.html import to_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.report.tables import estimate_lines, estimate_table, left_lines, operator_table, summary
from squeeze_export.report.terminal import print_table
from squeeze_export.results import Estimate, LayerCycles, Measurement

FELL = ("MEAN <logits> on the CPU: Unsupported opType",)
ESTIMATE = Estimate(
    "Vela 5.2.0",
    {"accelerator": "ethos-u55-128", "system_config": "High_End", "memory_mode": "Shared|Sram", "optimise": "Size"},
    500.0,
    4_911_305,
    9.82261,
    {"sram": 983_280, "off chip flash": 1_216_288},
    {"sram": 22_870_288, "off chip flash": 1_216_336},
    {"sram": 2.33},
    (LayerCycles("Conv2D", "conv1 & <co>", "NPU", 598_117, 21_290_688, 0.278), LayerCycles("Mean", "logits", "CPU", 0, 0, 0.0)),
)
ROW = Measurement(
    "ethosu",
    "int8-npu",
    "net_vela.tflite",
    "ab" * 32,
    1_226_240,
    runtime="ethos-u-vela",
    device_asked="ethos-u55-128",
    device="ethos-u55-128",
    evidence="estimated",
    placement=Placement(39, 38, 1.0, FELL, "a file", 38, FELL, FELL),
    estimate=ESTIMATE,
)


@pytest.fixture
def with_estimate(report):
    """The report of this folder and one estimated row."""
    return dataclasses.replace(report, measurements=(*report.measurements, ROW))


def printed(report, width, terminal=True):
    out = io.StringIO()
    print_table(report, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    return out.getvalue().splitlines()


def test_one_row_an_estimate():
    other = dataclasses.replace(ROW, placement=None, estimate=dataclasses.replace(ESTIMATE, settings={}, used_bytes={}))
    figures = ("500 MHz", "4,911,305", "9.82 ms")
    table = estimate_table((ROW, dataclasses.replace(ROW, estimate=None), other))
    assert table.rows == [
        ("ethos-u55-128", "High_End, Shared|Sram, Size", *figures, "983 KB", "1.22 MB off chip flash", "38 of 39"),
        ("ethos-u55-128", "-", *figures, "-", "-", "-"),
    ]
    assert table.title == "Estimated by Vela 5.2.0, not measured"


def test_what_is_left_is_said_once_for_all_that_leave_it():
    other, whole = (
        dataclasses.replace(ROW, device="ethos-u55-32"),
        dataclasses.replace(ROW, placement=Placement(39, 39, 1.0, (), "a")),
    )
    assert left_lines((ROW, other, whole)) == [f"ethos-u55-128, ethos-u55-32: {FELL[0]}"]
    assert left_lines((whole,)) == []


def test_p50_is_the_estimate_only_where_nothing_was_timed(report):
    def p50(row):
        return summary((row,)).rows[0].figures[3][0]

    timed = report.measurements[0]
    assert p50(timed) == "2.65 ms"
    assert p50(dataclasses.replace(timed, estimate=ESTIMATE)) == "2.65 ms"
    assert p50(ROW) == "9.82 ms"
    assert p50(dataclasses.replace(ROW, estimate=None)) == "-"


def test_terminal(with_estimate, report):
    lines = printed(with_estimate, 200, terminal=False)
    main = next(line for line in lines if line.startswith("ethosu  int8-npu"))
    assert "ethos-u55-128 (estimated)" in main
    assert "9.82 ms" in main
    title = next(number for number, line in enumerate(lines) if line.startswith("Estimated by Vela 5.2.0, not measured: "))
    assert lines[title + 1].split()[:3] == ["accelerator", "system,", "memory"]
    assert lines[title + 2].split()[0] == "ethos-u55-128"
    assert lines[title + 3 :] == [f"ethos-u55-128: {FELL[0]}"]
    assert not any("Estimated" in line for line in printed(report, 200))


@pytest.mark.parametrize("width", [80, 92])
def test_narrow_terminals(with_estimate, width):
    lines = printed(with_estimate, width)
    start = next(number for number, line in enumerate(lines) if line.startswith("Estimated by"))
    assert all(len(line) <= width for line in lines[start:])
    assert "  High_End, Shared|Sram, Size, 1.22 MB off chip flash" in lines


def test_markdown(with_estimate, report):
    text = to_markdown(with_estimate)
    assert "**Estimated by Vela 5.2.0, not measured**" in text
    row = next(line for line in text.splitlines() if line.startswith("| ethos-u55-128 | High_End, "))
    assert row.replace("\\|", "").count("|") == 9
    assert "Shared\\|Sram" in row
    assert "- ethos-u55-128: MEAN &lt;logits&gt; on the CPU: Unsupported opType" in text
    assert "No measurement" in text or "no measurement" in text
    assert "Estimated" not in to_markdown(report)


def test_page(with_estimate, report):
    page = to_html(with_estimate)
    assert "<h2>Estimated by Vela 5.2.0, not measured</h2>" in page
    assert (
        '<dt class="run">compiled for</dt>\n<dd class="run">ethos-u55-128, ethos-u-vela <span class="tag">estimated</span>' in page
    )
    assert "<dt>fell back</dt><dd><code>MEAN &lt;logits&gt; on the CPU: Unsupported opType</code></dd>" in page
    assert page.count("<dt>elsewhere</dt>") == 0
    assert "<details><summary>2 operators as the compiler runs them" in page
    assert "conv1 &amp; &lt;co&gt;" in page
    assert "4,911,305 cycles at 500 MHz, 9.82 ms, by Vela 5.2.0: no measurement</dd>" in page
    assert "<co>" not in page
    assert "Estimated by" not in to_html(report)
    assert "operators as the compiler runs them" not in to_html(report)


def test_facts_and_what_ran_elsewhere_are_in_the_page(report):
    placed = Placement(3, 2, 1.0, (), "a record", 2, ("MEAN a on cpu",), ())
    facts = {"arena_bytes": 1_059_000, "governor": "<powersave>"}
    row = dataclasses.replace(report.measurements[0], placement=placed, facts=facts)
    page = to_html(dataclasses.replace(report, measurements=(row,)))
    assert "<dt>elsewhere</dt><dd><code>MEAN a on cpu</code></dd>" in page
    assert "arena 1.06 MB, governor &lt;powersave&gt;" in page


def test_lines_of_one_estimate():
    assert estimate_lines(ESTIMATE) == [
        ("taken to be", "system config High_End, memory mode Shared|Sram, optimise Size"),
        ("memory used", "SRAM 983 KB, off chip flash 1.22 MB"),
        ("memory traffic", "SRAM 22.87 MB (2.33 GB/s), off chip flash 1.22 MB"),
    ]
    assert operator_table(ESTIMATE).rows == [
        ("conv1 & <co>", "Conv2D", "NPU", "598,117", "12.2%", "27.8%"),
        ("logits", "Mean", "CPU", "0", "0%", "-"),
    ]


def test_nothing_where_nothing_was_estimated(report):
    assert estimate_table(report.measurements) is None
