"""A gate's result in each form that CI systems read: right figures, and no text from elsewhere that is more than text."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from action_runner import commands
from hypothesis import given
from hypothesis import strategies as st

from squeeze_export.errors import BadInput
from squeeze_export.gate.results import Check, gate_result
from squeeze_export.pipeline.ci import judged, write_forms
from squeeze_export.report.ci import FORMS, Judged
from squeeze_export.report.ci.markdown import COMMENT_BYTES, SUMMARY_BYTES
from squeeze_export.results import SCHEMA as REPORT
from tests.gate_reports import gate_report
from tools import sticky_comment

CREATED = "2026-11-30T21:00:00+01:00"
CHECKS = (
    Check("max-size", "net.int8.onnx, onnxruntime on cpu", "failed", "1.27 MB is more than 1.2 MB", value=1.27, bound=1.2),
    Check("answers", "net.int8.onnx, onnxruntime on cpu", "failed", "3 images are answered otherwise", "baseline"),
    Check("max-p99", "net.int8.onnx, onnxruntime on cpu", "undecided", "2.7 ms", needs="about 299 rounds"),
    Check("max-slowdown", "net.int8.onnx, onnxruntime on cpu", "passed", "fresh rounds did not confirm it", "base", cleared=True),
    Check("run", "a.onnx", "passed", "measured"),
    Check("run", "b.onnx", "passed", "measured"),
    Check("max-sram", "", "skipped", "no row has it"),
)
FILES = {"bound": "squeeze-export.toml", "baseline": "squeeze-export-baseline.json"}
HOSTILE = (
    "::error file=x::y",
    "a\n::add-mask::b",
    "a\r::stop-commands::t",
    "##[add-matcher]m.json",
    "###[error]x",
    "##vso[task.setvariable variable=PATH]x",
    "a|b|c",
    "`code``",
    "<script>alert(1)</script> & <!-- -->",
    "]]> <![CDATA[",
    "\x00\x1b[31m\ud800\ufffe\u202e",
    "@everyone #12 https://x.y www.x.y [a](javascript:b) ![i](http://x)",
    "x" * 20_000,
    "</details>",
    "%0A::error::x",
    "\"' /><error/>",
)


def told(checks=CHECKS, undecided=None, network="squeezenet1_1", assumptions=("other kernels than the baseline's",), report=None):
    result = gate_result(tuple(checks), network=network, created=CREATED, assumptions=assumptions)
    return Judged(result, report or gate_report(), undecided, FILES)


def hostile(text):
    """A result in which every text from elsewhere is this one, and likewise a report."""
    checks = [
        Check(text, text, state, text, against, needs=text) for state, against in (("failed", "bound"), ("undecided", "base"))
    ]
    checks += [
        Check(text, text, "passed", text, cleared=True),
        Check(text, text, "passed", text),
        Check(text, text, "skipped", text),
    ]
    report = gate_report()
    rows = tuple(dataclasses.replace(row, artifact=text, runtime=text, kernels=text, device=text) for row in report.measurements)
    host = {"cpu": text}
    report = dataclasses.replace(report, measurements=rows, host=host, network={"name": text}, warnings=(text,), differences=())
    return told(checks, network=text, assumptions=(text,), report=report)


# What Jenkins's xUnit plugin takes (junit-10.xsd): element -> attributes it must have, others it may have, what may be inside.
JUNIT = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name"},
        {"tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package", "group"},
        {"testcase", "system-out", "system-err", "properties"},
    ),
    "testcase": ({"name", "classname"}, {"time", "group"}, {"failure", "error", "skipped", "system-out", "system-err"}),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}


def junit_faults(text):
    """What Jenkins's schema, or a reader that counts, would refuse."""
    root = ET.fromstring(text)
    faults = [] if root.tag == "testsuites" else [root.tag]
    for element in root.iter():
        needed, possible, children = JUNIT.get(element.tag, (set(), set(), set()))
        inside = {child.tag for child in element}
        if element.tag not in JUNIT or not needed <= set(element.attrib) <= needed | possible or not inside <= children:
            faults.append(element.tag)
    for element in [root, *root.iter("testsuite")]:
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if attribute in element.attrib and int(element.get(attribute)) != len(list(element.iter(tag))):
                faults.append(f"{element.tag} {attribute}")
    cases = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    faults += [f"{case} twice" for case in set(cases) if cases.count(case) > 1]
    faults += [f"time {element.get('time')}" for element in root.iter() if float(element.get("time", 0)) != 0]
    faults += [stamp for suite in root.iter("testsuite") if not re.fullmatch(r"[\dT:-]{19}", stamp := suite.get("timestamp", ""))]
    return faults


def test_junit():
    text = FORMS["junit.xml"](told())
    assert junit_faults(text) == []
    root = ET.fromstring(text)
    assert {key: root.find("testsuite").get(key) for key in ("tests", "failures", "errors", "skipped", "timestamp")} == {
        "tests": "7",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
        "timestamp": "2026-11-30T20:00:00",
    }
    failed = root.find(".//testcase[@classname='squeeze-export.answers']")
    assert failed.get("name") == "net.int8.onnx, onnxruntime on cpu, against the baseline"
    assert failed.find("failure").get("message") == "3 images are answered otherwise"
    undecided = root.find(".//testcase[@classname='squeeze-export.max-p99']/error")
    assert undecided.get("message") == "2.7 ms; about 299 rounds would decide"
    assert root.find(".//system-out").text == "other kernels than the baseline's"


@pytest.mark.parametrize(("undecided", "counts"), [(None, ("2", "1", "1")), ("pass", ("2", "0", "2")), ("fail", ("3", "0", "1"))])
def test_undecided_checks_look_as_the_exit_code_does(undecided, counts):
    suite = ET.fromstring(FORMS["junit.xml"](told(undecided=undecided))).find("testsuite")
    assert tuple(suite.get(key) for key in ("failures", "errors", "skipped")) == counts
    level = {None: "warning", "pass": "notice", "fail": "error"}[undecided]
    assert f"::{level} file=squeeze-export.toml,title=squeeze-export gate%3A max-p99::" in FORMS["annotations.txt"](
        told(undecided=undecided)
    )


def test_cases_of_one_name_are_told_apart():
    text = FORMS["junit.xml"](told([CHECKS[4], CHECKS[4], CHECKS[5]]))
    assert junit_faults(text) == []
    assert [case.get("name") for case in ET.fromstring(text).iter("testcase")] == ["a.onnx", "a.onnx #2", "b.onnx"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('failures="2"', 'failures="3"'),
        ("b.onnx", "a.onnx"),
        ('time="0"', 'time="1.5"'),
        ("<failure ", '<failure line="1" '),
        ("2026-11-30T20:00:00", "today"),
        ("system-out", "notes"),
    ],
)
def test_faulty_junit_is_found(before, after):
    """Negative control."""
    text = FORMS["junit.xml"](told())
    assert before in text
    assert junit_faults(text.replace(before, after)) != []


def test_a_time_that_is_none_is_left_out():
    result = dataclasses.replace(told().result, created="<yesterday>")
    assert "timestamp" not in FORMS["junit.xml"](dataclasses.replace(told(), result=result))


def test_annotations():
    text = FORMS["annotations.txt"](told())
    row = "net.int8.onnx, onnxruntime on cpu"
    assert commands(text) == [
        ("error", "file=squeeze-export.toml,title=squeeze-export gate%3A max-size", f"{row}: 1.27 MB is more than 1.2 MB"),
        ("error", f"file={FILES['baseline']},title=squeeze-export gate%3A answers", f"{row}: 3 images are answered otherwise"),
        (
            "warning",
            "file=squeeze-export.toml,title=squeeze-export gate%3A max-p99",
            f"{row}: 2.7 ms; about 299 rounds would decide",
        ),
        ("notice", "title=squeeze-export gate%3A max-slowdown", f"{row}: fresh rounds did not confirm it"),
    ]


def test_annotations_are_escaped_as_github_reads_them():
    checks = [Check("max:size,50%", "", "failed", "50% of 2, 3: more")]
    assert FORMS["annotations.txt"](told(checks)) == (
        "::error file=squeeze-export.toml,title=squeeze-export gate%3A max%3Asize%2C50%25::the report: 50%25 of 2, 3: more\n"
    )


def test_github_shows_ten_annotations_of_a_level_so_the_last_counts_the_others():
    checks = [Check("max-size", f"{number}.onnx", "failed", "more") for number in range(30)]
    lines = FORMS["annotations.txt"](told(checks)).splitlines()
    assert (len(lines), lines[-1]) == (
        10,
        "::error title=squeeze-export gate::21 more like this: the job summary and gate.json have all",
    )
    assert len(FORMS["annotations.txt"](told(checks[:10])).splitlines()) == 10


@pytest.mark.parametrize(
    ("checks", "message", "color"),
    [(CHECKS, "2 failed", "red"), (CHECKS[2:], "1 undecided", "yellow"), (CHECKS[3:], "passed", "brightgreen")],
)
def test_badge(checks, message, color):
    assert json.loads(FORMS["badge.json"](told(checks))) == {
        "schemaVersion": 1,
        "label": "gate",
        "message": message,
        "color": color,
    }


def benchmark_faults(text):
    """What github-action-benchmark would refuse, or take for another series."""
    entries = json.loads(text)
    faults = [
        entry for entry in entries if not {"name", "unit", "value"} <= set(entry) <= {"name", "unit", "value", "range", "extra"}
    ]
    faults += [entry for entry in entries if type(entry["value"]) not in (int, float)]
    faults += [
        entry for entry in entries if not all(isinstance(entry.get(key, ""), str) for key in ("name", "unit", "range", "extra"))
    ]
    faults += [entry for entry in entries if set("`|") & set(entry["name"])]
    names = [entry["name"] for entry in entries]
    return faults + [name for name in set(names) if names.count(name) > 1]


def test_benchmark():
    text = FORMS["benchmark.json"](told())
    assert benchmark_faults(text) == []
    found = {entry["name"]: entry for entry in json.loads(text)}
    row = "net.int8.onnx, onnxruntime on cpu"
    assert found[f"{row}: size"] == {
        "name": f"{row}: size",
        "unit": "bytes",
        "value": 1_269_000,
        "extra": "measured, MLAS, Xeon, avx2 avx512_vnni",
    }
    assert (found[f"{row}: p50"]["value"], found[f"{row}: p50"]["range"]) == (2.65, "p90 2.7, p99 2.71")
    assert len(found) == 12


def test_the_benchmark_says_what_is_worse_with_larger_figures():
    report = gate_report()
    row = report.measurements[1]
    accuracy = dataclasses.replace(
        row.accuracy,
        top1_agreement=dataclasses.replace(row.accuracy.top1_agreement, value=0.95, low=0.9, high=0.97),
        top1_delta_pp=dataclasses.replace(row.accuracy.top1_delta_pp, value=-1.5, low=-2.0, high=0.5),
    )
    rows = (dataclasses.replace(row, accuracy=accuracy), dataclasses.replace(row, status="failed", artifact="broken.onnx"))
    found = json.loads(FORMS["benchmark.json"](told(report=dataclasses.replace(report, measurements=rows))))
    figures = {entry["name"].split(": ")[1]: (entry["value"], entry.get("range")) for entry in found}
    assert figures["answers unlike fp32's"] == (5.0, "3.00 to 10.00")
    assert figures["top-1 drop"] == (1.5, "-0.50 to 2.00")
    assert not any("broken" in entry["name"] for entry in found)


def test_lines():
    lines = FORMS["lines.txt"](told()).splitlines()
    assert lines[0] == "failed max-size net.int8.onnx, onnxruntime on cpu: 1.27 MB is more than 1.2 MB"
    assert [line.split()[0] for line in lines] == [
        *("failed", "failed", "undecided", "cleared", "passed", "passed", "skipped", "note", "failed:")
    ]


def test_comment_and_summary():
    comment, summary = FORMS["comment.md"](told()), FORMS["summary.md"](told())
    assert comment.startswith("<!-- squeeze-export gate squeezenet1_1 -->\n### squeeze-export gate: failed\n")
    assert summary.startswith("### squeeze-export gate: failed\n")
    for text in (comment, summary):
        assert "\n| failed | max-size | net.int8.onnx, onnxruntime on cpu | 1.27 MB is more than 1.2 MB |\n" in text
        assert "\n- passed: run, 2 checks\n" in text
        assert "\n- note: other kernels than the baseline's\n" in text
        assert "| onnx | int8 | cpu | 1.27 MB |" in text
    assert "<details>" in comment
    assert "<details>" not in summary


@pytest.mark.parametrize(
    ("network", "marker"),
    [
        ("squeezenet1_1", "<!-- squeeze-export gate squeezenet1_1 -->"),
        ("a --> b\n--!>", "<!-- squeeze-export gate a-b -->"),
        ("", "<!-- squeeze-export gate -->"),
        ("x" * 100, f"<!-- squeeze-export gate {'x' * 80} -->"),
    ],
)
def test_the_comments_marker_names_the_network(network, marker):
    assert FORMS["comment.md"](told(network=network)).splitlines()[0] == marker
    assert sticky_comment.MARKER.fullmatch(marker)


@pytest.mark.parametrize(("form", "most"), [("comment.md", COMMENT_BYTES), ("summary.md", SUMMARY_BYTES)])
def test_what_is_too_long_for_github_is_left_out_and_counted(form, most):
    checks = [Check("max-size", f"{number}.onnx {'<' * 300}", "failed", "&" * 400) for number in range(3000)]
    text = FORMS[form](told(checks))
    assert len(text.encode()) <= most
    assert re.search(r"\n(2900|2980|3000) more: `gate.json` has all\.\n", text)


MARKER = re.compile(r"^<!-- squeeze-export gate( [\w.-]+)? -->", re.ASCII)


class Markup(HTMLParser):
    """Collects tags."""

    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)


def markdown_faults(text):
    """Tags, links, mentions and cells that nothing of ours makes."""
    markup, prose = Markup(), MARKER.sub("", re.sub(r"`[^`\n]*`", "", text), count=1)
    markup.feed(prose)
    faults = [] if markup.tags in ([], ["details", "summary"]) else list(markup.tags)
    faults += re.findall(r"(?<!\\)\]\(|(?<!\\)!\[|@\w|(?<!&)#\d|https?://|<!--", prose)
    for line in text.splitlines():
        if line.startswith("| failed |") and len(re.findall(r"(?<!\\)\|", line)) != 5:
            faults.append(line)
    return faults + [line for line in text.splitlines() if line.count("</details>") and line != "</details>"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_strangers_text_is_text_in_every_form(text):
    found = hostile(text)
    forms = {name: form(found) for name, form in FORMS.items()}
    assert junit_faults(forms["junit.xml"]) == []
    assert benchmark_faults(forms["benchmark.json"]) == []
    assert [name for name, _, _ in commands(forms["annotations.txt"])] == ["error", "warning", "notice"]
    assert commands(forms["lines.txt"]) == []
    assert "##vso[" not in forms["annotations.txt"] + forms["lines.txt"]
    assert len(forms["lines.txt"].splitlines()) == len(found.result.checks) + 2
    for name in ("comment.md", "summary.md"):
        assert markdown_faults(forms[name]) == []
    for name, written in forms.items():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", written), name


@given(st.text(alphabet=st.sampled_from("ab:#[]|`<>&@!(){}\\*_-~%,\n\r\x00\"'/$1"), max_size=40))
def test_any_text_is_text(text):
    found = hostile(text)
    assert junit_faults(FORMS["junit.xml"](found)) == []
    assert [name for name, _, _ in commands(FORMS["annotations.txt"](found))] == ["error", "warning", "notice"]
    assert commands(FORMS["lines.txt"](found)) == []
    assert markdown_faults(FORMS["comment.md"](found)) == []


@pytest.mark.parametrize(
    "written", ["| failed | a | b | c | d |", "<b>x", "<details>", "[a](b)", "@someone", "#12", "</details> x", "http://x"]
)
def test_faulty_markdown_is_found(written):
    """Negative control."""
    assert markdown_faults(f"{FORMS['comment.md'](told())}{written}\n") != []


def test_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    REPORT.write(gate_report(), tmp_path / "report.json")
    (tmp_path / "b.json").write_text("{}")
    found = judged(told().result, tmp_path / "report.json", settings=tmp_path / "none.toml", baseline=tmp_path / "b.json")
    assert found.files == {"baseline": "b.json"}
    write_forms(found, tmp_path / "new/ci", {"junit.xml": tmp_path / "mine.xml"})
    assert {path.name for path in (tmp_path / "new/ci").iterdir()} == set(FORMS)
    assert (tmp_path / "mine.xml").read_text() == (tmp_path / "new/ci/junit.xml").read_text()
    with pytest.raises(BadInput, match="cannot write"):
        write_forms(found, None, {"badge.json": tmp_path / "badge.json", "junit.xml": tmp_path / "no/junit.xml"})
    assert not (tmp_path / "badge.json").exists()
    with pytest.raises(BadInput, match="`junit` is no form"):
        write_forms(found, None, {"junit": tmp_path / "x"})


def test_a_baseline_elsewhere_is_no_file_of_the_project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    REPORT.write(gate_report(), tmp_path / "report.json")
    (tmp_path / "b.json").write_text("{}")
    assert judged(told().result, tmp_path / "report.json", baseline=tmp_path / "b.json").files == {}
