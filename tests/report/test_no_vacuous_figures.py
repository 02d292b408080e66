"""One output, and a busy machine: what stands in the place of figures that say nothing, or too much, in each form of the report."""

import dataclasses
import html
import io
import re

import pytest
from rich.console import Console

from squeeze_export.report.html import to_html
from squeeze_export.report.markdown import to_markdown
from squeeze_export.report.tables import difference_table
from squeeze_export.report.terminal import print_table
from squeeze_export.report.verdicts import verdict_lines
from squeeze_export.results import Difference, Interval, OutputError, Rival, Verdict

DIFFERENCES = (Difference("integer run", "onnx on onnxruntime", 200, 0.4, 0.995, ""),)
ERROR = OutputError(0.01234, 0.0456, 0.99912, 0.52)


def terminal(report):
    out = io.StringIO()
    print_table(report, Console(file=out, width=200, force_terminal=False))
    return out.getvalue()


def page(report):
    return html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", to_html(report), flags=re.DOTALL))


@pytest.fixture
def one_output(report):
    """Rows of a network with one output."""
    rows = [
        dataclasses.replace(row, accuracy=dataclasses.replace(row.accuracy, top1_agreement=Interval(1, 0.99, 1), error=ERROR))
        if row.accuracy
        else row
        for row in report.measurements
    ]
    network = {**report.network, "class_count": 1}
    return dataclasses.replace(report, measurements=tuple(rows), network=network, differences=DIFFERENCES)


def test_files_of_one_output_have_no_agreement_with_each_other(report, one_output):
    for form in (terminal, to_markdown, page):
        assert "first layer apart" in form(one_output)
        assert "agreement" not in form(one_output)
    assert [len(row) for row in difference_table(one_output).rows] == [4]
    assert difference_table(dataclasses.replace(report, differences=DIFFERENCES)).rows[0][3] == "99.5%"


def test_one_output_has_its_error_in_place_of_the_agreement(one_output):
    assert "0.0123 [95% 0.0456]" in terminal(one_output)
    assert "| 0.0123 \\[95% 0.0456\\] |" in to_markdown(one_output) or "0.0123 [95% 0.0456]" in to_markdown(one_output)
    assert "mean error 0.0123, 95% at most 0.0456, correlation 0.9991, standard deviation of the reference 0.52" in page(one_output)
    for text in (terminal(one_output), to_markdown(one_output), page(one_output)):
        assert "error" in text
        assert "agreement" not in text
        assert "100% [" not in text


def test_one_output_is_left_to_the_user(one_output):
    row = one_output.measurements[0]
    found = Verdict(row.name, "cpu", "faster", (Rival(row.name, Interval(3, 2.9, 3.1), "faster"),), round_count=50)
    (line,) = verdict_lines(dataclasses.replace(one_output, verdicts=(found,)))
    assert "ship" not in line
    assert "whether its error is small enough is yours to say (mean error 0.0123" in line


@pytest.mark.parametrize(
    ("changes", "word", "told"),
    [
        ({"busy": True, "other_load": 1.53}, "busy", "other processes kept 1.5 cores of this machine busy"),
        (
            {"repeat": Interval(1.2, 1.05, 1.3)},
            "unsteady",
            "the first and the second half of the rounds may differ by more than 10%",
        ),
    ],
    ids=["busy", "unsteady"],
)
def test_a_latency_says_what_is_to_be_held_against_it(changes, word, told, report):
    first, *others = report.measurements
    row = dataclasses.replace(first, latency=dataclasses.replace(first.latency, **changes))
    for form in (terminal, to_markdown, page):
        assert re.search(rf"2\.65 ms\W+{word}", form(dataclasses.replace(report, measurements=(row, *others))))
        assert told in form(dataclasses.replace(report, measurements=(row, *others)))
        assert told not in form(report)
        assert f"ms {word}" not in form(report)
