"""`gate --ci` and its like: what is written where, and what GitHub is told by itself."""

import json
from pathlib import Path

import pytest

from squeeze_export.report.ci import FORMS
from squeeze_export.results import SCHEMA
from tests.gate_reports import gate_report


@pytest.fixture
def report(tmp_path):
    SCHEMA.write(gate_report(), tmp_path / "report.json")
    return tmp_path / "report.json"


def test_a_folder_of_all_forms(squeeze, report):
    result = squeeze("gate", report, "--max-size", "1.2MB", "--ci", "new/ci")
    assert (result.code, result.err) == (5, f"wrote {report.parent / 'gate.json'}\nwrote new/ci\n")
    assert {path.name for path in Path("new/ci").iterdir()} == set(FORMS)


def test_single_forms(squeeze, report):
    options = ("--junit", "a.xml", "--markdown", "b.md", "--badge", "c.json", "--benchmark", "d.json")
    result = squeeze("gate", report, "--max-size", "1.3MB", *options)
    assert result.code == 0
    assert result.err.splitlines()[1:] == ["wrote a.xml", "wrote b.md", "wrote c.json", "wrote d.json"]
    assert Path("a.xml").read_text().startswith("<?xml")
    assert Path("b.md").read_text().startswith("<!-- squeeze-export gate squeezenet1_1 -->\n")
    assert json.loads(Path("c.json").read_text())["message"] == "passed"
    assert len(json.loads(Path("d.json").read_text())) == 12


def test_annotations_name_what_set_the_bound(squeeze, report):
    Path("squeeze-export.toml").write_text('[gate]\nmax-size = "1.2MB"\n')
    lines = squeeze("gate", report, "--annotations").err.splitlines()
    assert [line.split(":: ")[0].split("::")[1] for line in lines if line.startswith("::")] == [
        "error file=squeeze-export.toml,title=squeeze-export gate%3A max-size"
    ] * 2
    Path("squeeze-export.toml").rename("other.toml")
    lines = squeeze("gate", report, "--max-size", "1.2MB", "--annotations").err.splitlines()
    assert [line.split("::")[1] for line in lines if line.startswith("::")] == ["error title=squeeze-export gate%3A max-size"] * 2


def test_bounds_of_pyproject_are_named_as_such(squeeze, report):
    Path("pyproject.toml").write_text('[tool.squeeze-export.gate]\nmax-size = "1.2MB"\n')
    assert "::error file=pyproject.toml," in squeeze("gate", report, "--annotations").err


def test_without_being_asked_nothing_is_annotated(squeeze, report):
    assert "::" not in squeeze("gate", report, "--max-size", "1.2MB").err


def test_github_is_told_by_itself(squeeze, report, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    Path("summary.md").write_text("of another command\n")
    result = squeeze("gate", report, "--max-size", "1.2MB", "--json")
    assert (result.code, json.loads(result.out)["state"]) == (5, "failed")
    assert result.err.count("\n::error title=") == 2
    assert "on GitHub: the verdict is in the job summary\n" in result.err
    assert Path("summary.md").read_text().startswith("of another command\n### squeeze-export gate: failed\n")


def test_annotations_on_github_can_be_turned_off(squeeze, report, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("SQUEEZE_EXPORT_ANNOTATIONS", "false")
    assert "::" not in squeeze("gate", report, "--max-size", "1.2MB").err


def test_a_summary_that_cannot_be_written_changes_no_verdict(squeeze, report, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/summary.md")
    result = squeeze("gate", report, "--max-size", "1.2MB")
    assert result.code == 5
    assert "warning: the job summary `no/summary.md` cannot be written: No such file or directory\n" in result.err


def test_a_file_that_cannot_be_written(squeeze, report):
    result = squeeze("gate", report, "--max-size", "1.2MB", "--junit", "no/a.xml")
    assert (result.code, result.refusal()[0]) == (2, "cannot write `no/a.xml`: No such file or directory")
    assert (report.parent / "gate.json").is_file()


def test_on_github_what_stops_a_command_is_an_annotation(squeeze, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = squeeze("gate", "100%.json", "--max-kl", 1)
    assert result.code == 2
    *_, last = result.err.splitlines()
    assert last.startswith("::error title=squeeze-export::`100%25.json` cannot be read")
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert "::error" not in squeeze("gate", "100%.json", "--max-kl", 1).err


def test_jobs_of_a_matrix_have_comments_of_their_own(squeeze, report):
    def marker(*words):
        squeeze("gate", report, "--max-size", "1.2MB", "--markdown", "comment.md", *words)
        return Path("comment.md").read_text().splitlines()[0]

    assert marker("--ci-key", "macos 15") == marker().replace(" -->", "-macos-15 -->")
