"""`squeeze-export gate`: its exit codes, what it prints, and where its bounds come from."""

import dataclasses
import json
from pathlib import Path

import pytest

from squeeze_export.gate.results import SCHEMA as RESULT
from squeeze_export.results import SCHEMA
from tests.gate_reports import gate_report


@pytest.fixture
def report(tmp_path):
    """The file of a report, in a folder of its own."""
    path = tmp_path / "made" / "report.json"
    path.parent.mkdir()
    SCHEMA.write(gate_report(), path)
    return path


@pytest.mark.parametrize(
    ("bounds", "code", "last"),
    [
        (("--max-size", "1.3MB"), 0, "passed: 6 passed"),
        (("--max-size", "1.2MB"), 5, "failed: 2 failed, 4 passed"),
        (("--max-p99", "50"), 6, "undecided: 2 undecided, 4 passed"),
        (("--max-p99", "50", "--undecided", "pass"), 0, "undecided: 2 undecided, 4 passed"),
        (("--max-p99", "50", "--undecided", "fail"), 5, "undecided: 2 undecided, 4 passed"),
        (("--max-p99", "50", "--max-size", "1.2MB", "--undecided", "pass"), 5, "failed: 2 failed, 2 undecided, 4 passed"),
    ],
)
def test_exit_codes(bounds, code, last, squeeze, report):
    result = squeeze("gate", report, *bounds)
    assert (result.code, result.out.splitlines()[-1]) == (code, last)
    assert result.err == f"wrote {report.parent / 'gate.json'}\n"


def test_what_failed_is_shown_and_what_passed_is_counted(squeeze, report):
    lines = squeeze("gate", report, "--max-size", "1.2MB", "--max-p99", 50).out.splitlines()
    assert lines[1].split()[:4] == ["failed", "max-size", "net.int8.onnx,", "onnxruntime"]
    assert "needs" not in lines[1]
    assert lines[3].endswith("; about 299 rounds (--rounds) would decide")
    assert lines[5].split() == ["passed", "row", "2", "checks"]


def test_gate_json(squeeze, report, tmp_path):
    (tmp_path / "out").mkdir()
    result = squeeze("gate", report, "--max-size", "1.2MB", "--json", "--out", tmp_path / "out")
    found = RESULT.read(tmp_path / "out" / "gate.json")
    assert RESULT.from_json(json.loads(result.out)) == found
    assert (found.state, found.network, len(found.checks)) == ("failed", "squeezenet1_1", 6)
    assert not (report.parent / "gate.json").exists()


def test_bounds_in_the_settings_file(squeeze, report, monkeypatch):
    Path("squeeze-export.toml").write_text('[gate]\nmax-size = "1.2MB"\n')
    assert squeeze("gate", report).code == 5
    monkeypatch.setenv("SQUEEZE_EXPORT_MAX_SIZE", "1.3MB")
    assert squeeze("gate", report).code == 0
    assert squeeze("gate", report, "--max-size", 1_200_000).code == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-size = '1.3ms'", "`max-size` is `1.3ms`: its unit is `bytes`, not `ms`"),
        ("max-sise = 1", "`squeeze-export.toml` sets `max-sise` in `[gate]`, which is no option of that command"),
        ("max-top1-drop = true", "`max-top1-drop` is `True`, which is no number of at least 0"),
    ],
)
def test_settings_that_are_refused(text, message, squeeze, report):
    Path("squeeze-export.toml").write_text(f"[gate]\n{text}\n")
    result = squeeze("gate", report)
    assert (result.code, result.refusal()[0]) == (2, message)


def test_without_anything_to_hold_it_to(squeeze, report):
    result = squeeze("gate", report)
    assert (result.code, result.refusal()[0]) == (2, "there is nothing to hold the report to")


def test_reports_that_are_none(squeeze, report, tmp_path):
    assert (
        squeeze("gate", tmp_path / "none.json", "--max-kl", 1).refusal()[0].startswith(f"`{tmp_path / 'none.json'}` cannot be read")
    )
    report.write_text("{}")
    assert squeeze("gate", report, "--max-kl", 1).refusal()[0].startswith("`schema_version` is missing")


def test_a_report_that_contradicts_itself(squeeze, report):
    found = gate_report()
    accuracy = dataclasses.replace(found.measurements[1].accuracy, lost=600)
    rows = (found.measurements[0], dataclasses.replace(found.measurements[1], accuracy=accuracy))
    SCHEMA.write(dataclasses.replace(found, measurements=rows), report)
    result = squeeze("gate", report, "--max-top1-drop", 1)
    assert result.code == 2
    assert "contradicts itself" in result.refusal()[0]


def test_text_of_a_strangers_report_reaches_no_terminal(squeeze, report):
    found = gate_report()
    rows = (
        found.measurements[0],
        dataclasses.replace(found.measurements[1], artifact="a\x1b[31m\n.onnx", size_bytes=2_000_000_000),
    )
    SCHEMA.write(dataclasses.replace(found, measurements=rows), report)
    result = squeeze("gate", report, "--max-size", "1MB")
    assert result.code == 5
    assert "\x1b" not in result.out
    assert len(result.out.splitlines()) == 6
