"""`squeeze-export gate`: its exit codes, what it prints, and where its bounds come from."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from squeeze_export.cli import gate as gate_command
from squeeze_export.cli import run
from squeeze_export.gate.results import SCHEMA as RESULT
from squeeze_export.results import SCHEMA, Interval
from tests.gate_reports import gate_report, packed


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
    assert lines[3].endswith("; about 321 rounds (--rounds) would decide")
    assert lines[5].split() == ["passed", "run", "2", "checks"]


def test_gate_json(squeeze, report, tmp_path):
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
    assert squeeze("gate", report, "--max-kl", 1).refusal()[0].startswith(f"`{report}`: `schema_version` is missing")
    report.write_bytes(b"\x08\xba\xff")
    assert squeeze("gate", report, "--max-kl", 1).refusal()[0] == f"`{report}` is no JSON: it is no text"
    assert squeeze("gate", report.parent, "--max-kl", 1).refusal() == (f"`{report.parent}` is a folder, and no report", str(report))


def test_a_narrow_terminal_shows_whole_lines(report, monkeypatch):
    """What is counted keeps its line, and what does not fit is folded between words."""
    out = io.StringIO()
    monkeypatch.setattr(gate_command, "stdout_console", lambda: Console(file=out, width=60, force_terminal=True, color_system=None))
    assert run(["gate", str(report), "--max-size", "1.2MB"]) == 5
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["state", "check", "file,", "found"]
    assert lines[1] == "failed max-size"
    assert " ".join(line.strip() for line in lines[2:4]).startswith("net.int8.onnx, onnxruntime on cpu, size ")
    assert next(line.split() for line in lines if line.startswith("passed ")) == ["passed", "run", "2", "checks"]
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("accuracy", {"lost": 600}, "lost `600` and won `0` of `500` images"),
        ("accuracy", {"lost": -3}, "lost `-3`"),
        ("accuracy", {"count": 10**15, "labelled_count": 10**15}, "compared on `1000000000000000` images"),
        ("accuracy", {"labelled_count": 501}, "of which `501` have a label"),
        ("accuracy", {"top1_agreement": Interval(float("nan"), 0, 1)}, "an agreement of `nan`"),
        ("latency", {"samples_ns": ()}, "has no samples"),
        ("latency", {"threads": 10**9}, "was timed with `1000000000` threads"),
        ("answers", {"top1": packed([0])}, "it has `1` answers to `500` images"),
        ("answers", {"label_rank": packed([0] * 501)}, "it has `501` answers to `500` images"),
    ],
)
@pytest.mark.parametrize("action", [("--max-size", "1.3MB"), ("--update",), ("--init",)])
def test_a_report_that_contradicts_itself(action, part, changes, says, squeeze, report):
    row = gate_report().measurements[1]
    changed(report, **{part: dataclasses.replace(getattr(row, part), **changes)})
    result = squeeze("gate", report, *action)
    assert (result.code, result.refusal()[1]) == (2, "make the report again")
    assert result.refusal()[0].startswith(f"`{report}` contradicts itself: ")
    assert says in result.refusal()[0]


@pytest.mark.parametrize("part", ["hashes", "labels"])
def test_a_report_of_other_images_than_its_answers(part, squeeze, report):
    found = gate_report()
    SCHEMA.write(dataclasses.replace(found, images=dataclasses.replace(found.images, **{part: packed([1, 2, 3])})), report)
    assert "answers to" in squeeze("gate", report, "--max-size", "1.3MB").refusal()[0]


def test_a_damaged_baseline_is_no_dead_end(squeeze, report):
    squeeze("gate", report, "--update")
    baseline = Path("squeeze-export-baseline.json")
    document = json.loads(baseline.read_text())
    document["images"]["labels"]["data"] = "eJwDAAAAAAE="
    baseline.write_text(json.dumps(document))
    hint = "name another with --baseline, or delete it and make it again: squeeze-export gate REPORT.json --update"
    assert [squeeze("gate", report, *action).refusal()[1] for action in ((), ("--update",))] == [hint, hint]
    baseline.unlink()
    assert squeeze("gate", report, "--update").code == 0


def test_a_figure_at_its_bound(squeeze, report):
    """0.7 / 100 is another float than 7 / 1000."""
    row = gate_report().measurements[1]
    changed(report, accuracy=dataclasses.replace(row.accuracy, lost=7, won=0, labelled_count=500))
    result = squeeze("gate", report, "--max-top1-drop", 1.4)
    assert result.code == 6
    assert "; a bound that is not the figure itself would decide" in result.out


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


def test_bounds_in_pyproject(squeeze, report):
    Path("pyproject.toml").write_text('[tool.squeeze-export.gate]\nmax-size = "1.2MB"\n')
    assert squeeze("gate", report).code == 5


def test_a_baseline_is_made_and_passed(squeeze, report):
    made = squeeze("gate", report, "--update")
    assert (made.code, made.err) == (0, "wrote squeeze-export-baseline.json\n")
    assert made.out.splitlines()[0].split() == ["file", "what", "before", "now"]
    assert squeeze("gate", report).code == 0
    again = squeeze("gate", report, "--update")
    assert (again.code, again.out) == (0, "nothing changed\n")


def changed(report, **changes):
    found = gate_report()
    rows = (found.measurements[0], dataclasses.replace(found.measurements[1], **changes), found.measurements[2])
    SCHEMA.write(dataclasses.replace(found, measurements=rows), report)


def test_what_changed_fails_until_the_baseline_is_renewed(squeeze, report):
    squeeze("gate", report, "--update", "--baseline", "b.json")
    changed(report, sha256="99" * 32, table_sha256="88" * 32, size_bytes=1_260_000)
    failed = squeeze("gate", report, "--baseline", "b.json")
    assert failed.code == 5
    assert failed.out.splitlines()[1].split()[:2] == ["failed", "integers"]
    renewed = squeeze("gate", report, "--update", "--baseline", "b.json", "--json")
    assert [(change["what"], change["before"], change["after"]) for change in json.loads(renewed.out)] == [
        ("file", "ab" * 6, "99" * 6),
        ("integers", "ef" * 6, "88" * 6),
        ("size", "1,269,000 bytes", "1,260,000 bytes"),
    ]
    assert squeeze("gate", report, "--baseline", "b.json").code == 0


def test_a_baseline_that_was_lost(squeeze, report):
    Path("squeeze-export.toml").write_text('[gate]\nbaseline = "b.json"\nmax-size = "9MB"\n')
    result = squeeze("gate", report)
    assert (result.code, result.refusal()) == (
        2,
        ("there is no baseline `b.json`", "make one: squeeze-export gate REPORT.json --update"),
    )


def test_an_update_replaces_nothing_but_a_baseline(squeeze, report):
    before = report.read_bytes()
    assert squeeze("gate", report, "--update", "--baseline", report).code == 2
    assert report.read_bytes() == before


def test_init_writes_bounds_that_the_report_passes(squeeze, report):
    assert squeeze("gate", report, "--init", "--update").err == "wrote squeeze-export.toml\nwrote squeeze-export-baseline.json\n"
    lines = Path("squeeze-export.toml").read_text().splitlines()
    assert lines[1] == "[gate]"
    assert all(line.startswith("#") or " # " in line for line in lines[2:])
    set_here = [line.split(" = ")[0] for line in lines[2:] if not line.startswith("#")]
    assert set_here == [
        "baseline",
        "max-top1-drop",
        "min-agreement",
        "min-sqnr",
        "max-kl",
        "max-size",
        "max-fallbacks",
        "max-steps-apart",
    ]
    assert squeeze("gate", report).code == 0


def test_every_line_that_init_comments_out_is_a_setting(squeeze, report):
    squeeze("gate", report, "--init", "--update")
    path = Path("squeeze-export.toml")
    path.write_text(path.read_text().replace("# max", "max").replace("# min", "min").replace("# undecided", "undecided"))
    assert squeeze("gate", report).code == 0


def test_init_keeps_what_the_file_has(squeeze, report):
    path = Path("squeeze-export.toml")
    path.write_text("threads = 2  # mine\n")
    assert squeeze("gate", report, "--init").code == 0
    assert path.read_text().startswith("threads = 2  # mine\n\n# Written by")
    again = squeeze("gate", report, "--init")
    assert (again.code, again.refusal()[0]) == (2, "`squeeze-export.toml` has bounds of the gate already")


def test_a_slowdown_needs_files_to_time_against(squeeze, report):
    alone = squeeze("gate", report, "--max-slowdown", 5)
    assert (alone.code, alone.refusal()[0]) == (2, "there is nothing to hold the report to")
    found = squeeze("gate", report, "--max-slowdown", 5, "--max-size", "9MB")
    assert found.code == 0
    assert "needs files to time against, as stored times say nothing" in found.out


def test_without_scipy_only_the_exact_tests_are_missing(squeeze, report, monkeypatch):
    for name in ("scipy", "scipy.stats", "scipy.optimize"):
        monkeypatch.setitem(sys.modules, name, None)
    assert squeeze("gate", report, "--update").code == 0
    assert squeeze("gate", report, "--max-size", "1.3MB").code == 0
    result = squeeze("gate", report, "--max-top1-drop", 1)
    assert result.code == 3
    assert result.refusal()[1] == "pip install 'squeeze-export[gate]'"


def test_a_folder_that_cannot_be_written_to(squeeze, report, tmp_path):
    (tmp_path / "file").touch()
    assert squeeze("gate", report, "--max-size", "1.3MB", "--out", tmp_path / "file").code == 2
