"""`docs/report.schema.json`: what the dataclasses say, and true of real reports."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from test_json import reports  # of every field

from squeeze_export.documents import json_schema, read_strict, to_json
from squeeze_export.pipeline import Job, RunOptions, run
from squeeze_export.results import SCHEMA
from tools.report_schema import FILE, text

VALIDATOR = jsonschema.Draft202012Validator(json_schema(SCHEMA))


@pytest.fixture(scope="session")
def real(tiny, tmp_path_factory):
    """The report of an export to two targets, as its file has it."""
    out = tmp_path_factory.mktemp("real")
    job = Job(
        targets=("onnx", "tflite"),
        scheme="int8",
        weights=tiny / "tiny.safetensors",
        calib=tiny / "calib",
        eval=tiny / "eval",
        labels=tiny / "labels.txt",
        out=out,
        run=RunOptions(rounds=20),
    )
    SCHEMA.write(run(job), out / "report.json")
    return read_strict(out / "report.json", "a report")


def test_the_committed_file_is_that_of_the_dataclasses():
    assert FILE.read_text(encoding="utf-8") == text(), "python -m tools.report_schema writes it anew"


def test_it_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(json.loads(text()))


def test_a_real_report_fits_it(real):
    VALIDATOR.validate(real)
    assert real["roofline"]["mac_count"] > 0
    assert real["images"]["class_names"]["count"] == 5


@settings(max_examples=40)
@given(reports)
def test_whatever_is_written_fits_it(report):
    VALIDATOR.validate(json.loads(json.dumps(to_json(report, "report"))))


def damaged(document, path, value):
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 7),
        (("created",), ...),
        (("measurements", 0, "status"), "fine"),
        (("measurements", 0, "size_bytes"), "large"),
        (("measurements", 0, "accuracy", "sqnr_db"), "infinite"),
        (("measurements", 0, "accuracy", "top1_agreement", "low"), None),
        (("measurements", 0, "latency", "samples_ns"), {}),
        (("measurements", 0, "placement", "more"), 1),
        (("roofline", "gmac_s", "int8"), True),
        (("anything",), 1),
    ],
)
def test_what_does_not_fit_is_refused(real, path, value):
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(damaged(real, path, value))


def test_older_reports_fit_it_once_they_are_migrated():
    old = json.loads((Path(__file__).parent / "report_version_1.json").read_text(encoding="utf-8"))
    assert old["schema_version"] == 1
    VALIDATOR.validate(to_json(SCHEMA.from_json(old), "report"))
    assert not VALIDATOR.is_valid(old)


def test_the_reports_that_benchmarks_keep_fit_it():
    kept = json.loads((FILE.parents[1] / "benchmarks" / "results" / "accuracy.json").read_text(encoding="utf-8"))["results"]
    assert kept
    for entry in kept:
        VALIDATOR.validate(to_json(SCHEMA.from_json(entry["report"]), "report"))


def test_fields_are_described():
    found = json.loads(text())["$defs"]
    assert found["Measurement"]["properties"]["sha256"]["description"] == "of the artifact."
    assert [name for name, field in found["Report"]["properties"].items() if "description" not in field] == []
    assert found["Roofline"]["description"].startswith("What one inference asks for")
