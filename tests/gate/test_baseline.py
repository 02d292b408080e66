"""The baseline: a small file, read with care."""

import dataclasses
import json

import numpy as np
import pytest

from squeeze_export.documents import Schema
from squeeze_export.errors import BadInput
from squeeze_export.gate.baseline import SCHEMA, Baseline, baseline_of, changes, check_same_network, kernel_class, read_baseline
from tests.gate_reports import COUNT, LABELS, REFERENCE, answers_of, gate_report, images_of


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "baseline.json"
    SCHEMA.write(baseline_of(gate_report()), path)
    return path


def test_it_holds_what_must_not_change_and_no_time(report, written):
    found = read_baseline(written)
    assert found == baseline_of(report)
    assert [file.label for file in found.files] == ["net.int8.onnx, onnxruntime on cpu", "net.int8.tflite, litert on cpu"]
    onnx = found.files[0]
    assert (onnx.sha256, onnx.table_sha256, onnx.size_bytes, onnx.operators) == (
        "ab" * 32,
        "ef" * 32,
        1_269_000,
        {"QLinearConv": 26},
    )
    assert found.kernel_class == onnx.kernel_class == "AVX-512 VNNI"
    np.testing.assert_array_equal(onnx.answers.top1.numbers(), REFERENCE)
    text = written.read_text()
    assert "_ms" not in text
    assert "samples" not in text


def test_it_is_small(report):
    """50,000 images: the hashes do not shrink, the answers do."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 1000, 50_000)
    images = images_of(labels, labels)
    hashes = type(images.hashes).of(draw.integers(0, 2**62, 50_000))
    row = dataclasses.replace(report.measurements[1], answers=answers_of(np.where(draw.random(50_000) < 0.3, 7, labels), labels))
    many = dataclasses.replace(report, measurements=(row,), images=dataclasses.replace(images, hashes=hashes))
    assert len(json.dumps(dataclasses.asdict(baseline_of(many)))) < 1_000_000


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"isa": ["avx2", "avx512_vnni", "avx_vnni", "amx_int8"]}, "AMX"),
        ({"isa": ["avx2", "avx512_vnni"]}, "AVX-512 VNNI"),
        ({"isa": ["avx2", "avx_vnni"]}, "AVX-VNNI"),
        ({"isa": ["avx2"]}, "AVX2"),
        ({"isa": ["asimddp"]}, "Arm dot product"),
        ({"isa": ["asimddp", "i8mm"]}, "Arm i8mm"),
        ({"isa": [], "architecture": "aarch64"}, "aarch64"),
        ({"isa": "avx2"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_kernel_classes(facts, name):
    assert kernel_class(facts) == name


def test_a_board_has_kernels_of_its_own(with_row):
    found = baseline_of(with_row(facts={"on": "ssh", "architecture": "aarch64", "isa": ["asimddp"]}))
    assert [file.kernel_class for file in found.files] == ["Arm dot product", "AVX-512 VNNI"]


def test_off_the_cpu_the_device_counts(with_row):
    assert baseline_of(with_row(device="cuda", facts={"gpu": "H200"})).files[0].kernel_class == "H200"
    assert baseline_of(with_row(device="htp")).files[0].kernel_class == "htp"


def test_absent(tmp_path):
    with pytest.raises(BadInput, match="there is no baseline") as caught:
        read_baseline(tmp_path / "none.json")
    assert "--update" in caught.value.hint


def damaged(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def cut(document):
    document["images"]["hashes"]["data"] = document["images"]["hashes"]["data"][:40]


def fewer(document):
    document["files"][0]["answers"]["top1"]["count"] = 3


def swollen(document):
    document["images"]["labels"]["count"] = 10**9


def other_count(document):
    for part in document["files"][0]["answers"].values():
        part.update(document["files"][0]["answers"]["top1"] | {"count": 0, "data": "eJwDAAAAAAE="})


def too_many(document):
    document["images"]["hashes"]["count"] = 10**9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "packed data"),
        (too_many, "more than 5,000,000"),
        (fewer, "it has `3` answers to `500` images"),
        (swollen, "it has `1000000000` answers to `500` images"),
        (other_count, "it has `0` answers"),
        (lambda document: document.pop("files"), "lacks the field `files`"),
        (lambda document: document.update(p50_ms=3), "unknown field `p50_ms`"),
        (lambda document: document.update(schema_version=99), "schema version `99`"),
        (lambda document: document.update(schema_version=0), "which no release has written"),
    ],
)
def test_corrupted(written, change, message):
    damaged(written, change)
    with pytest.raises(BadInput) as caught:
        read_baseline(written)
    assert str(written) in caught.value.message
    assert message in caught.value.message
    assert caught.value.hint


def test_no_json(written):
    written.write_bytes(written.read_bytes()[:-40])
    with pytest.raises(BadInput, match="is no JSON"):
        read_baseline(written)


def test_an_older_schema_is_migrated(written):
    def named(document):
        return {**document, "cpu": document.get("cpu") or "not told"}

    newer = Schema(Baseline, "baseline", 2, {1: named})
    damaged(written, lambda document: document.pop("cpu"))
    found = read_baseline(written, schema=newer)
    assert (found.schema_version, found.cpu, found.network) == (2, "not told", "squeezenet1_1")
    with pytest.raises(BadInput, match="lacks the field `cpu`"):
        read_baseline(written)


def test_another_network(report, written):
    baseline = read_baseline(written)
    check_same_network(baseline, report, written)
    renamed = dataclasses.replace(report, network={**report.network, "name": "squeezenet1_0"})
    with pytest.raises(BadInput, match="is of the network `squeezenet1_1`, not of `squeezenet1_0`"):
        check_same_network(baseline, renamed, written)
    trained = dataclasses.replace(report, network={**report.network, "checkpoint_sha256": "01" * 32})
    with pytest.raises(BadInput, match="is of another checkpoint of `squeezenet1_1`"):
        check_same_network(baseline, trained, written)


def test_a_checkpoint_that_only_the_rows_tell(report, written):
    table_only = dataclasses.replace(report, network={"name": "squeezenet1_1", "source": "net.table"})
    check_same_network(read_baseline(written), table_only, written)
    rows = tuple(dataclasses.replace(row, checkpoint_sha256="01" * 32) for row in report.measurements)
    with pytest.raises(BadInput, match="another checkpoint"):
        check_same_network(read_baseline(written), dataclasses.replace(table_only, measurements=rows), written)


def test_what_failed_makes_no_baseline(report, with_row):
    with pytest.raises(BadInput, match="failed"):
        baseline_of(with_row(status="failed", reason="vela said no"))
    skipped = tuple(dataclasses.replace(row, status="skipped") for row in report.measurements)
    with pytest.raises(BadInput, match="no row"):
        baseline_of(dataclasses.replace(report, measurements=skipped))


def test_changes(report, with_row):
    before = baseline_of(report)
    assert changes(before, before) == ()
    top1 = np.where(np.arange(COUNT) < 3, (LABELS + 2) % 10, REFERENCE)
    after = baseline_of(with_row(sha256="99" * 32, size_bytes=1_300_000, answers=answers_of(top1, LABELS)))
    after = dataclasses.replace(after, tool_versions={**after.tool_versions, "onnx": "1.24.0"})
    found = [(change.about.split(",")[0], change.what, change.before, change.after) for change in changes(before, after)]
    assert found == [
        ("", "onnx", "1.23.2", "1.24.0"),
        ("net.int8.onnx", "file", "ab" * 6, "99" * 6),
        ("net.int8.onnx", "size", "1,269,000 bytes", "1,300,000 bytes"),
        ("net.int8.onnx", "answers", "", "3 of 500 images answered otherwise"),
    ]


def test_files_that_come_and_go(report):
    before = baseline_of(report)
    after = dataclasses.replace(before, files=before.files[:1])
    assert [(change.what, change.before, change.after) for change in changes(before, after)] == [("file", "ab" * 6, "")]
    assert [(change.what, change.before, change.after) for change in changes(after, before)] == [("file", "", "ab" * 6)]
    assert {change.before for change in changes(None, before)} == {""}


def test_a_document_of_another_kind_is_not_taken_for_a_newer_one(report, tmp_path):
    from squeeze_export.results import SCHEMA

    SCHEMA.write(report, tmp_path / "report.json")
    with pytest.raises(BadInput, match="this is no baseline of squeeze-export"):
        read_baseline(tmp_path / "report.json")
