"""The verdicts in words, in each form of the report."""

from __future__ import annotations

import dataclasses
import html
import io

import pytest
from rich.console import Console

from squeeze_export.report.html import to_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.report.terminal import print_table
from squeeze_export.report.verdicts import TITLE, verdict_lines
from squeeze_export.report.wording import speedup, speedup_range
from squeeze_export.results import Accuracy, Interval, Measurement, OutputError, Rival, RowName, Verdict

FP32, BF16, FP16, INT8 = (
    RowName(f"net.{scheme}", scheme, scheme, runtime)
    for scheme, runtime in (("fp32", "openvino"), ("fp32", "openvino-bf16"), ("fp16", "openvino"), ("int8", "openvino"))
)
SIZES = {"fp32": 5_040_000, "fp16": 2_520_000, "int8": 1_440_000}
PLAIN = Accuracy(472, Interval(0.972, 0.953, 0.984), 0.95, 38.9, 0.002)
KEPT = dataclasses.replace(PLAIN, labelled_count=472, top1_delta_pp=Interval(0.42, -0.8, 1.8))
LOST = dataclasses.replace(PLAIN, labelled_count=472, top1_delta_pp=Interval(-4.2, -6.0, -2.5))
WINS = Rival(FP32, Interval(3.08, 3.02, 3.11), "faster")
LAGS = Rival(BF16, Interval(0.912, 0.88, 0.941), "slower")
LEVEL = Rival(FP16, Interval(1.01, 0.98, 1.04), "no gain")
OPEN = Rival(FP16, Interval(1.08, 0.93, 1.21), "open")


def with_verdicts(report, *verdicts, accuracy=None):
    """A report of these verdicts and the rows that they name; `accuracy` is the int8 row's, the others keep top-1."""
    rows = [
        Measurement("openvino", n.scheme, n.artifact, n.sha256, SIZES[n.scheme], n.runtime, "cpu", "CPU", accuracy=KEPT)
        for n in (FP32, BF16, FP16, INT8)
    ]
    rows[-1] = dataclasses.replace(rows[-1], accuracy=accuracy)
    return dataclasses.replace(report, measurements=tuple(rows), differences=(), warnings=(), verdicts=verdicts)


def verdict(outcome, *rivals, **changes):
    return Verdict(INT8, "CPU", outcome, rivals, round_count=50, **changes)


CASES = [
    (
        verdict("faster", WINS, ship=INT8),
        KEPT,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]): ship int8 (top-1 +0.42 pp [-0.8, +1.8], no loss shown)",
    ),
    (
        verdict("faster", WINS, Rival(BF16, Interval(1.7, 1.6, 1.8), "faster"), Rival(FP16, WINS.speedup, "faster"), ship=INT8),
        KEPT,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]), fp32 on openvino-bf16 (1.7x [1.6, 1.8]) and fp16 (3.1x "
        "[3.0, 3.1]): ship int8 (top-1 +0.42 pp [-0.8, +1.8], no loss shown)",
    ),
    (
        verdict("faster", WINS),
        PLAIN,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]): whether it loses top-1 is not known (agreement 97.2% "
        "[95.3, 98.4], no labels to show a loss of top-1), --eval with a folder for each class tells",
    ),
    (
        verdict("faster", WINS, ship=INT8),  # as older reports say
        PLAIN,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]): whether it loses top-1 is not known (agreement 97.2% "
        "[95.3, 98.4], no labels to show a loss of top-1), --eval with a folder for each class tells",
    ),
    (
        verdict("faster", WINS),
        None,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]): whether it loses top-1 is not known (accuracy not measured "
        "here), --eval with a folder for each class tells",
    ),
    (
        verdict("faster", WINS, ship=INT8, otherwise=FP32),
        LOST,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]): ship int8 where a top-1 change of -4.20 pp [-6.0, -2.5] is "
        "acceptable, else fp32",
    ),
    (
        verdict("not faster", WINS, LAGS, ship=BF16),
        KEPT,
        "openvino on CPU: int8 is faster than fp32 (3.1x [3.0, 3.1]) but not faster than fp32 on openvino-bf16 (0.9x [0.9, 0.9]): "
        "ship fp32 on openvino-bf16 (top-1 +0.42 pp [-0.8, +1.8], no loss shown; int8 is smaller, 1.44 MB against 5.04 MB)",
    ),
    (
        verdict("not faster", LEVEL, ship=FP16),
        KEPT,
        "openvino on CPU: int8 is not faster by more than 5% than fp16 (1.01x [0.98, 1.04]): ship fp16 (top-1 +0.42 pp "
        "[-0.8, +1.8], no loss shown; int8 is smaller, 1.44 MB against 2.52 MB)",
    ),
    (
        verdict("not faster", LAGS, ship=INT8),
        KEPT,
        "openvino on CPU: int8 is not faster than fp32 on openvino-bf16 (0.9x [0.9, 0.9]): ship int8, the others that are no "
        "slower lose top-1 (top-1 +0.42 pp [-0.8, +1.8], no loss shown)",
    ),
    (
        verdict("not faster", LAGS),
        LOST,
        "openvino on CPU: int8 is not faster than fp32 on openvino-bf16 (0.9x [0.9, 0.9]): no row keeps the reference's top-1, so "
        "ship none of them",
    ),
    (
        verdict("unknown", WINS, OPEN, rounds_needed=500),
        KEPT,
        "openvino on CPU: 50 rounds do not tell whether int8 is faster than fp16 (1.1x [0.9, 1.2]); it is faster than fp32 (3.1x "
        "[3.0, 3.1]): --rounds 500 may",
    ),
    (
        verdict("unknown", OPEN),
        KEPT,
        "openvino on CPU: 50 rounds do not tell whether int8 is faster than fp16 (1.1x [0.9, 1.2]): a quieter machine may",
    ),
]


BESIDE = next(case for case in CASES if case[0].ship == BF16)


@pytest.mark.parametrize(("found", "accuracy", "line"), CASES)
def test_each_verdict_in_words(report, found, accuracy, line):
    assert verdict_lines(with_verdicts(report, found, accuracy=accuracy)) == [line]


@pytest.mark.parametrize(("found", "accuracy", "line"), CASES)
def test_each_form_says_the_same(report, found, accuracy, line):
    shown = with_verdicts(report, found, accuracy=accuracy)
    out = io.StringIO()
    print_table(shown, Console(file=out, width=80, force_terminal=False))
    assert out.getvalue().splitlines()[-2:] == ["", line]
    assert f"- {line}\n".replace("[", "\\[").replace("]", "\\]") in to_markdown(shown)
    assert f"<li>{line}</li>" in html.unescape(to_html(shown))


def test_a_terminal_wraps_the_line(report):
    out = io.StringIO()
    print_table(
        with_verdicts(report, BESIDE[0], accuracy=KEPT), Console(file=out, width=80, force_terminal=True, color_system=None)
    )
    wrapped = out.getvalue().split("\n\n")[-1].splitlines()
    assert " ".join(line.strip() for line in wrapped) == BESIDE[2]
    assert max(map(len, wrapped)) <= 80
    assert [line.startswith("  ") for line in wrapped] == [False] + [True] * (len(wrapped) - 1)


@pytest.mark.parametrize("ship", [None, FP16], ids=["now", "as older reports say"])
@pytest.mark.parametrize(
    ("accuracy", "end"),
    [
        (
            PLAIN,
            "whether fp16 loses top-1 is not known (agreement 97.2% [95.3, 98.4], no labels to show a loss of top-1), --eval with "
            "a folder for each class tells",
        ),
        (None, "whether fp16 loses top-1 is not known (accuracy not measured here), --eval with a folder for each class tells"),
        (
            dataclasses.replace(PLAIN, error=OutputError(0.0123, 0.0456, 0.9991, 0.52)),
            "whether fp16's error is small enough is yours to say (mean error 0.0123, 95% at most 0.0456, correlation 0.9991, "
            "standard deviation of the reference 0.52)",
        ),
    ],
    ids=["unlabelled", "not compared", "one output"],
)
def test_fp16_is_not_shipped_where_nothing_could_show_a_loss(report, ship, accuracy, end):
    shown = with_verdicts(report, verdict("not faster", WINS, LEVEL, ship=ship), accuracy=accuracy)
    rows = [dataclasses.replace(row, accuracy=accuracy) if row.scheme == "fp16" else row for row in shown.measurements]
    (line,) = verdict_lines(dataclasses.replace(shown, measurements=tuple(rows)))
    assert line.endswith(f": {end}")
    assert "ship" not in line


def test_nothing_is_said_where_there_is_no_verdict(report):
    assert verdict_lines(report) == []
    assert TITLE not in to_markdown(report) + to_html(report)


def test_a_row_that_the_report_lacks_is_called_by_its_scheme(report):
    stray = dataclasses.replace(CASES[0][0], int8=dataclasses.replace(INT8, sha256="other"))
    (line,) = verdict_lines(with_verdicts(report, dataclasses.replace(stray, ship=stray.int8)))
    assert line.endswith(
        "whether it loses top-1 is not known (accuracy not measured here), --eval with a folder for each class tells"
    )


def test_two_files_of_one_scheme_are_told_apart(report):
    shown = with_verdicts(report, CASES[0][0], accuracy=KEPT)
    other = dataclasses.replace(shown.measurements[-1], artifact="other.int8", sha256="o")
    (line,) = verdict_lines(dataclasses.replace(shown, measurements=(*shown.measurements, other)))
    assert "int8 `net.int8` is faster than fp32 (" in line
    vendor = dataclasses.replace(other, recipe="vendor")
    (line,) = verdict_lines(dataclasses.replace(shown, measurements=(*shown.measurements, vendor)))
    assert "int8 is faster" in line


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (2.91, 2.8, 3.0, "2.9x [2.8, 3.0]"),
        (1.1, 0.91, 1.22, "1.1x [0.9, 1.2]"),
        (1.1, 1.01, 1.22, "1.10x [1.01, 1.22]"),  # one digit would print a bound of 1.0
        (0.95, 0.9, 0.99, "0.95x [0.90, 0.99]"),
        (1.0, 0.8, 1.3, "1.00x [0.80, 1.30]"),
    ],
)
def test_close_to_1_the_column_shows_on_which_side(value, low, high, words):
    interval = Interval(value, low, high)
    assert f"{speedup(interval)} {speedup_range(interval)}" == words
