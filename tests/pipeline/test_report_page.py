"""What stands beside a report on its page: found where it fits the report, left out where it does not."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil

import pytest
from PIL import Image

from squeeze_export.errors import BadInput
from squeeze_export.gate.results import SCHEMA as GATE
from squeeze_export.gate.results import Check, gate_result
from squeeze_export.pipeline import page
from squeeze_export.pipeline.page import beside_of, images_folder, judgement, layer_errors, pictures_of, read_history
from squeeze_export.report.figures import LayerError
from squeeze_export.report.flips import FlippedImage
from squeeze_export.results import SCHEMA, Report, report_sha256


def flip(file, data=b"", index=0):
    return FlippedImage(index, file, "", "a", (), int(hashlib.sha256(data).hexdigest()[:16], 16) >> 1)


@pytest.fixture
def images(tiny, tmp_path):
    """A folder of images, with one outside of it."""
    shutil.copytree(tiny / "eval", tmp_path / "imgs")
    shutil.copy(tiny / "calib" / "00.png", tmp_path / "secret.png")
    return tmp_path / "imgs"


def test_pictures_are_small_jpegs_of_the_files_that_were_measured(images):
    data = (images / "00.png").read_bytes()
    found = pictures_of([flip("00.png", data, 7)], images)
    picture = Image.open(io.BytesIO(found[7]))
    assert (picture.format, picture.size) == ("JPEG", (128, 128))
    assert len(found[7]) < 12_000


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "none.png", "00.png\0", "..", ""])
def test_no_picture_of_what_is_not_there_or_outside(images, name):
    assert pictures_of([flip(name, (images.parent / "secret.png").read_bytes())], images) == {}


def test_no_picture_of_a_file_that_changed_or_is_none(images):
    assert pictures_of([flip("00.png", b"other bytes")], images) == {}
    (images / "text.png").write_bytes(b"text")
    assert pictures_of([flip("text.png", b"text")], images) == {}


def test_an_outsider_by_its_own_folder_is_shown(images):
    """The control of the refusals above: the same file, where it is."""
    data = (images.parent / "secret.png").read_bytes()
    assert set(pictures_of([flip("secret.png", data)], images.parent)) == {0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eval": "eval"}, "eval"),
        ({"eval": None}, "calib"),
        ({"eval": "list.csv"}, "."),
    ],
)
def test_where_the_images_of_a_job_are(changes, expected, job, tiny):
    paths = {name: value if value is None else tiny / value for name, value in changes.items()}
    assert images_folder(job(**paths)) == tiny / expected


def test_the_demo_network_has_its_own_and_a_checkpoint_without_images_none(job):
    assert images_folder(job(weights=None, calib=None)).is_dir()
    assert images_folder(job(calib=None)) is None


BASE = Report(8, "2026-11-02T00:00:00+00:00", {}, {}, {"name": "net"}, {"table_sha256": "ab"}, {}, ())


def analysis(**changes):
    layer = {"name": "conv1", "weights_share": 0.1, "output_share": 0.2, "gain_db": 1.0}
    return {"calibration": {"table_sha256": "ab"}, "layers": [layer]} | changes


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (analysis(), (LayerError("conv1", 0.1, 0.2),)),
        (analysis(calibration={"table_sha256": "cd"}), ()),
        (analysis(calibration={}), ()),
        (analysis(calibration=None), ()),
        (analysis(layers=[{"name": "conv1"}]), ()),
        (analysis(layers=[{"name": 1, "weights_share": 0.1, "output_share": 0.2}]), ()),
        (analysis(layers=7), ()),
        ([], ()),
    ],
)
def test_an_analysis_counts_if_it_is_of_the_same_integers(document, expected, tmp_path):
    (tmp_path / "analysis.json").write_text(json.dumps(document))
    assert layer_errors(BASE, tmp_path / "analysis.json") == expected


def test_no_analysis(tmp_path):
    assert layer_errors(BASE, tmp_path / "analysis.json") == ()
    (tmp_path / "analysis.json").write_text("{")
    assert layer_errors(BASE, tmp_path / "analysis.json") == ()


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"created": "2026-11-01T00:00:00+00:00"}, False),
        ({"network": {"name": "other"}}, False),
        ({"warnings": ("w",)}, False),
    ],
)
def test_a_gates_result_counts_if_it_judged_this_report(changes, counts, tmp_path):
    checks = (
        Check("max-size", "net.int8.onnx", "failed", "2 MB, at most 1 MB"),
        Check("max-top1-drop", "", "undecided", "0.2 pp", needs="about 1,900 more images"),
    )
    judged = report_sha256(dataclasses.replace(BASE, **changes))
    GATE.write(gate_result(checks, network="net", created="now", report_sha256=judged), tmp_path / "gate.json")
    found = judgement(BASE, tmp_path / "gate.json")
    assert (found is not None) == counts
    if found is not None:
        assert found.state == "failed"
        assert found.lines == (
            ("failed", "net.int8.onnx: 2 MB, at most 1 MB"),
            ("undecided", "0.2 pp (about 1,900 more images would decide)"),
        )


def test_no_gate(tmp_path):
    assert judgement(BASE, tmp_path / "gate.json") is None
    (tmp_path / "gate.json").write_text("[]")
    assert judgement(BASE, tmp_path / "gate.json") is None


@pytest.fixture
def reports(tmp_path):
    """A folder with two older reports, one below, and files that are none."""
    folder = tmp_path / "old"
    (folder / "deeper").mkdir(parents=True)
    for day, name in ((1, "b.json"), (2, "a.json"), (3, "deeper/report.json")):
        SCHEMA.write(dataclasses.replace(BASE, created=f"2026-10-0{day}T00:00:00+00:00"), folder / name)
    SCHEMA.write(dataclasses.replace(BASE, network={"name": "other"}), folder / "other.json")
    SCHEMA.write(dataclasses.replace(BASE, created="2027-01-01T00:00:00+00:00"), folder / "newer.json")
    SCHEMA.write(BASE, folder / "itself.json")
    (folder / "broken.json").write_text("{")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "text.txt").write_text("no JSON")
    return folder


def test_history_is_of_the_same_network_oldest_first(reports):
    found, others = read_history(reports, BASE)
    assert [report.created[:10] for report in found] == ["2026-10-01", "2026-10-02", "2026-10-03"]
    assert others == 4  # another network, a newer one, two broken; itself is not counted


def test_a_network_of_other_classes_has_another_history(reports):
    """A fine-tuned network has the name of the one that it began with."""
    told = dataclasses.replace(BASE, network={"name": "net", "class_count": 10})
    SCHEMA.write(
        dataclasses.replace(told, created="2026-10-04T00:00:00+00:00", network=told.network | {"class_count": 1000}),
        reports / "thousand.json",
    )
    SCHEMA.write(dataclasses.replace(told, created="2026-10-05T00:00:00+00:00"), reports / "ten.json")
    found, _ = read_history(reports, told)
    days = [report.created[:10] for report in found]
    assert "2026-10-05" in days
    assert "2026-10-04" not in days


def test_history_is_bounded(reports, monkeypatch):
    monkeypatch.setattr(page, "MOST_REPORT_BYTES", 10)
    with pytest.raises(BadInput, match="holds no older report of `net`"):
        read_history(reports, BASE)
    monkeypatch.setattr(page, "MOST_REPORTS", 3)
    with pytest.raises(BadInput, match="a history may have 3"):
        read_history(reports, BASE)


def test_nothing_beside(tmp_path):
    found = beside_of(BASE, tmp_path)
    assert (found.pictures, found.layers, found.history, found.gate) == ({}, (), (), None)
