"""report.json: what goes in comes out, and what does not fit is named."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeeze_export import files
from squeeze_export.core import Assumption, Audit, Placement
from squeeze_export.documents import Schema, to_json
from squeeze_export.errors import BadInput
from squeeze_export.results import (
    SCHEMA,
    Accuracy,
    Answers,
    ComparedImages,
    Estimate,
    Interval,
    Latency,
    LayerCycles,
    Measurement,
    PackedNumbers,
    PackedText,
    Ratio,
    Report,
    Rival,
    Roofline,
    RowName,
    Verdict,
)

numbers = st.floats(allow_nan=False)
words = st.text(max_size=8)
counts = st.integers(0, 10**15)
intervals = st.builds(Interval, numbers, numbers, numbers)
facts = st.dictionaries(
    words,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
        max_leaves=4,
    ),
    max_size=3,
)
accuracies = st.builds(
    Accuracy,
    count=counts,
    top1_agreement=intervals,
    top5_agreement=numbers,
    sqnr_db=numbers,
    kl=numbers,
    labelled_count=counts,
    top1=st.none() | numbers,
    top1_delta_pp=st.none() | intervals,
    lost=st.none() | counts,
)
latencies = st.builds(
    Latency,
    samples_ns=st.lists(counts, max_size=5).map(tuple),
    warmup_count=counts,
    batch=counts,
    threads=counts,
    p50_ms=numbers,
    p90_ms=numbers,
    p99_ms=numbers,
    speedup=st.none() | intervals,
    repeat=st.none() | intervals,
    other_load=st.none() | numbers,
    busy=st.booleans(),
)
names = st.lists(words, max_size=3).map(tuple)
audits = st.builds(
    Audit, st.dictionaries(words, counts, max_size=3), names, names, names, st.dictionaries(words, counts, max_size=2)
)
memories = st.dictionaries(words, counts, max_size=2)
estimates = st.builds(
    Estimate,
    words,
    st.dictionaries(words, words, max_size=2),
    numbers,
    counts,
    numbers,
    memories,
    memories,
    st.dictionaries(words, numbers, max_size=2),
    st.lists(st.builds(LayerCycles, words, words, words, counts, counts, numbers), max_size=2).map(tuple),
)
packed = st.lists(st.integers(-1, 999), max_size=3).map(lambda values: PackedNumbers.of(np.array(values, np.int64)))
texts = st.lists(words, max_size=3).map(PackedText.of)
answers = st.builds(Answers, packed, packed)
measurements = st.builds(
    Measurement,
    target=words,
    scheme=words,
    artifact=words,
    sha256=words,
    size_bytes=counts,
    evidence=st.sampled_from(["measured", "emulated", "simulated", "estimated"]),
    status=st.sampled_from(["ok", "skipped", "failed"]),
    reason=words,
    accuracy=st.none() | accuracies,
    latency=st.none() | latencies,
    placement=st.none() | st.builds(Placement, counts, counts, numbers, names, words, st.none() | counts, names, names),
    estimate=st.none() | estimates,
    facts=facts,
    audit=st.none() | audits,
    answers=st.none() | answers,
)
row_names = st.builds(RowName, words, words, words, words)
verdicts = st.builds(
    Verdict,
    row_names,
    words,
    st.sampled_from(["faster", "not faster", "unknown"]),
    st.lists(st.builds(Rival, row_names, intervals, st.sampled_from(["faster", "no gain", "slower", "open"])), max_size=2).map(
        tuple
    ),
    st.none() | row_names,
    st.none() | row_names,
    counts,
    st.none() | counts,
)
reports = st.builds(
    Report,
    schema_version=st.just(8),
    created=words,
    tool_versions=st.dictionaries(words, words, max_size=2),
    host=facts,
    network=facts,
    calibration=facts,
    evaluation=facts,
    measurements=st.lists(measurements, max_size=3).map(tuple),
    warnings=names,
    verdicts=st.lists(verdicts, max_size=2).map(tuple),
    assumptions=st.lists(st.builds(Assumption, words, words, words), max_size=2).map(tuple),
    ratios=st.lists(st.builds(Ratio, row_names, row_names, intervals), max_size=2).map(tuple),
    images=st.none() | st.builds(ComparedImages, packed, packed, answers, st.none() | texts, st.none() | texts),
    roofline=st.none() | st.builds(Roofline, counts, counts, numbers, st.dictionaries(words, numbers, max_size=2)),
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(reports)
def test_round_trip(drawn):
    text = json.dumps(to_json(drawn, "report"), allow_nan=False)
    assert SCHEMA.from_json(json.loads(text)) == drawn


def test_file_round_trip(report, tmp_path):
    path = tmp_path / "report.json"
    SCHEMA.write(report, path)
    assert SCHEMA.read(path) == report
    assert path.read_text().endswith("}\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(("value", "written"), [(math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan")])
def test_numbers_that_json_has_no_form_for(report, value, written):
    row = report.measurements[0]
    changed = dataclasses.replace(
        report, measurements=(dataclasses.replace(row, accuracy=dataclasses.replace(row.accuracy, kl=value)),)
    )
    plain = to_json(changed, "report")
    assert plain["measurements"][0]["accuracy"]["kl"] == written
    read = SCHEMA.from_json(plain).measurements[0].accuracy.kl
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_numpy_scalars_and_tuples_become_plain(report):
    changed = dataclasses.replace(report, host={"a": np.float32(0.5), "b": (np.int64(3), np.bool_(True))})
    assert to_json(changed, "report")["host"] == {"a": 0.5, "b": [3, True]}


@pytest.mark.parametrize(("host", "named"), [({"a": {1, 2}}, r"report\.host\.a holds a set"), ({1: 2}, "key 1")])
def test_what_json_cannot_hold_is_our_bug(report, host, named):
    with pytest.raises(TypeError, match=named):
        to_json(dataclasses.replace(report, host=host), "report")


def change(report, path, value):
    """The document with one field changed; `None` in place of a value removes the field."""
    plain = copy.deepcopy(to_json(report, "report"))
    place = plain
    for step in path[:-1]:
        place = place[step]
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return plain


DELETED = object()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("measurements", 0, "accuracy", "kl"), "high", r"`measurements\[0\]\.accuracy\.kl` is \"high\", not a number"),
        (("measurements", 0, "accuracy", "kl"), True, r"`measurements\[0\]\.accuracy\.kl` is true, not a number"),
        (("measurements", 0, "accuracy", "kl"), 10**400, "not a number of this size"),
        (("measurements", 0, "accuracy", "count"), 1.5, r"accuracy\.count` is 1\.5, not an integer"),
        (("measurements", 0, "accuracy", "count"), True, r"accuracy\.count` is true, not an integer"),
        (("measurements", 0, "accuracy"), [], r"`measurements\[0\]\.accuracy` is a list, not an object"),
        (("measurements", 0, "evidence"), "guessed", r"`measurements\[0\]\.evidence` is \"guessed\", not measured or"),
        (("measurements", 0, "latency", "samples_ns", 2), None, r"samples_ns\[2\]` is null, not an integer"),
        (("measurements", 0, "audit", "operators", "QLinearConv"), "x", r"audit\.operators\.QLinearConv` is"),
        (("measurements",), {}, "`measurements` is an object, not a list"),
        (("host",), "x" * 99, r"`host` is \"x{35}\.\.\., not an object"),
        (("created",), 5, "`created` is 5, not a string"),
        (("created",), DELETED, "lacks the field `created`"),
        (("measurements", 0, "target"), DELETED, r"lacks the field `measurements\[0\]\.target`"),
        (("measurements", 0, "speed"), 5, r"unknown field `measurements\[0\]\.speed`"),
        (("schema_version",), DELETED, "`schema_version` is missing"),
        (("schema_version",), True, "`schema_version` is missing or no integer"),
        (("schema_version",), 0, "`0`, which no release has written"),
        (("schema_version",), 9, "schema version `9`, this program knows up to 8"),
    ],
)
def test_what_does_not_fit_is_named(report, path, value, message):
    with pytest.raises(BadInput, match=message):
        SCHEMA.from_json(change(report, path, value))


def test_a_newer_report_says_what_to_type(report):
    with pytest.raises(BadInput) as error:
        SCHEMA.from_json(change(report, ("schema_version",), 9))
    assert error.value.hint == "pip install --upgrade squeeze-export"


def test_optional_fields_may_be_absent(report):
    assert SCHEMA.from_json(change(report, ("warnings",), DELETED)).warnings == ()


@pytest.mark.parametrize("value", [[], "report", None, 3])
def test_what_is_no_object(value):
    with pytest.raises(BadInput, match="JSON object"):
        SCHEMA.from_json(value)


def test_older_versions_are_migrated_step_by_step(report, monkeypatch):
    def first(old):
        new = dict(old)
        new["made"] = new.pop("when")
        return new

    def second(old):
        new = dict(old)
        new["created"] = new.pop("made")
        return new

    schema = Schema(Report, "report", 1, {-1: first, 0: second})
    report = dataclasses.replace(report, schema_version=1)
    old = to_json(report, "report")
    old["when"] = old.pop("created")
    old["schema_version"] = -1
    before = copy.deepcopy(old)
    assert schema.from_json(old) == report
    assert old == before


def test_a_report_of_version_1_is_read(report):
    old = to_json(report, "report")
    old["schema_version"] = 1
    del old["differences"], old["verdicts"]
    for row in old["measurements"]:
        del row["recipe"], row["checkpoint_sha256"]
    assert SCHEMA.from_json(old) == report


def test_a_report_of_version_5_is_read(report):
    old = to_json(report, "report")
    old["schema_version"] = 5
    del old["assumptions"]
    assert SCHEMA.from_json(old) == report


def test_a_report_of_version_6_is_read(report):
    old = to_json(report, "report")
    old["schema_version"] = 6
    for row in old["measurements"]:
        for part, new in (
            ("accuracy", ("error", "reference_class_count", "reference_varies")),
            ("latency", ("repeat", "other_load", "busy")),
        ):
            for name in new if row[part] is not None else ():
                del row[part][name]
    assert SCHEMA.from_json(old) == report


def test_a_report_of_version_2_is_read(report):
    old = to_json(report, "report")
    old["schema_version"] = 2
    del old["verdicts"]
    for row in old["measurements"]:
        del row["checkpoint_sha256"]
    assert SCHEMA.from_json(old) == report


def test_a_report_of_version_7_is_read(report):
    old = to_json(report, "report")
    old["schema_version"] = 7
    del old["images"]
    for row in old["measurements"]:
        del row["answers"]
    assert SCHEMA.from_json(old) == report


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: dataclasses.replace(packed, count=packed.count + 1),
        lambda packed: dataclasses.replace(packed, count=packed.count - 1),
        lambda packed: dataclasses.replace(packed, data=packed.data[:-8]),
        lambda packed: dataclasses.replace(packed, data="none"),
        lambda packed: dataclasses.replace(packed, data="\xe4"),
    ],
)
def test_damaged_packed_data_is_refused(damage):
    numbers, texts = PackedNumbers.of(np.arange(9)), PackedText.of(("a", "b/c", "\xe4"))
    assert numbers.numbers().tolist() == list(range(9))
    assert texts.texts() == ("a", "b/c", "\xe4")
    with pytest.raises(BadInput, match="packed data"):
        damage(numbers).numbers()
    with pytest.raises(BadInput, match="packed data"):
        damage(texts).texts()


def test_packed_data_gives_no_more_than_it_says():
    zeros = PackedNumbers.of(np.zeros(1_000_000, np.int64))
    with pytest.raises(BadInput, match="packed data"):
        dataclasses.replace(zeros, count=10).numbers()


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[" * 100_000])
def test_files_that_are_no_json(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BadInput, match="is no JSON"):
        SCHEMA.read(tmp_path / "r.json")


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is no JSON"):
        SCHEMA.read(tmp_path / "r.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        SCHEMA.read(tmp_path / "none.json")


def test_nothing_is_half_written(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(BadInput, match="No space left on device"):
        SCHEMA.write(report, path)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_interrupted_writing_leaves_nothing(report, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SCHEMA.write(report, tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist(report, tmp_path):
    with pytest.raises(BadInput, match="cannot write") as error:
        SCHEMA.write(report, tmp_path / "none" / "report.json")
    assert error.value.hint is not None


def test_an_undecodable_name_survives(report, tmp_path):
    changed = dataclasses.replace(report, warnings=("cannot read `caf\udce9.jpg`",))
    SCHEMA.write(changed, tmp_path / "report.json")
    assert SCHEMA.read(tmp_path / "report.json") == changed
