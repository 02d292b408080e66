"""Files timed beside their base: which are compared, and what a stub's clock says of a slower one. The statistics are tested in
gate/."""

import dataclasses

import numpy as np
import pytest

from squeeze_export.core import EmitOptions
from squeeze_export.errors import BadInput
from squeeze_export.files import content_sha256, read_content
from squeeze_export.gate.results import gate_result
from squeeze_export.graph.quantized import INT8
from squeeze_export.measure.latency import latency_of
from squeeze_export.pipeline import Calibration, export, write_table
from squeeze_export.pipeline.slowdown import slowdown_checks
from squeeze_export.registry import TARGETS
from squeeze_export.results import SCHEMA, Measurement, Report

SLOW, NOISE = 1.15, 0.01
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "openvino": "openvino", "coreml": "coreml", "coreai": "coreai"}


@pytest.fixture
def folders(made, quantized, tmp_path):
    """The same files twice: those of a report, and its base. Only their folders tell them apart."""
    rows = []
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        for target in TARGETS:
            artifact, _ = export(quantized, target, INT8, tmp_path / name, name="net")
            if name == "new":
                latency = latency_of([10**6] * 20, warmup_count=1, batch=1, threads=1)
                row = Measurement(target, "int8", artifact.path.name, artifact.sha256, artifact.size_bytes, RUNTIMES[target])
                rows.append(dataclasses.replace(row, device="cpu", latency=latency))
    return Report(SCHEMA.version, "", {}, {}, {"name": "net"}, {}, {}, tuple(rows)), tmp_path / "new", tmp_path / "old"


class Stub:
    """Sessions on one clock that only they move. Those of the folder `new` take `slow` times as long, and those of the first
    `openings` `late` times as long."""

    def __init__(self, slow=1.0, late=1.0, openings=3):
        self.now_ns, self.slow, self.late, self.openings = 0, slow, late, openings
        self.opened, self.closed, self.rows = [], 0, []
        self.noise = np.random.default_rng(0)

    def open(self, artifact, row):
        self.opened.append(artifact.path.parent.name)
        self.rows.append(row)
        factor = self.slow if artifact.path.parent.name == "new" else 1.0
        if len(self.opened) <= self.openings and artifact.path.parent.name == "new":
            factor *= self.late
        stub = self

        class Session:
            def infer(self, batch):
                assert batch.shape == artifact.pixel_shape
                stub.now_ns += int(1e6 * factor * stub.noise.normal(1, NOISE))

            def close(self):
                stub.closed += 1

        return Session()

    def clock(self):
        return self.now_ns


def checked(folders, stub, bound=5.0, **changes):
    report, new, old = folders
    return slowdown_checks(report, new, old, bound, **{"opener": stub.open, "clock": stub.clock, **changes})


def test_files_that_are_no_slower_pass(folders):
    stub = Stub()
    checks = checked(folders, stub)
    assert {(check.name, check.against, check.state) for check in checks} == {("max-slowdown", "base", "passed")}
    assert [check.row.split(",")[0].split(".")[-1] for check in checks] == ["onnx", "tflite", "openvino", "mlpackage", "aimodel"]
    assert stub.opened == ["old", "new", "old"] * len(TARGETS)
    assert stub.closed == 3 * len(TARGETS)
    assert "a second copy of the base " in checks[0].message


def test_files_that_are_15_percent_slower_fail_in_every_format(folders):
    stub = Stub(SLOW)
    checks = checked(folders, stub)
    result = gate_result(checks, network="net", created="")
    assert result.state == "failed"
    assert [check.state for check in checks] == ["failed"] * len(TARGETS)
    for check in checks:
        assert check.value == pytest.approx(15, abs=1)
        assert check.message.startswith(f"{check.value:.1f}% slower than the base in the same job [")
    assert stub.opened == ["old", "new", "old"] * (2 * len(TARGETS))  # each alert is confirmed by sessions that are opened anew
    assert stub.closed == 6 * len(TARGETS)


def test_an_alert_that_does_not_hold_is_cleared(folders):
    report, new, old = folders
    one = dataclasses.replace(report, measurements=report.measurements[:1])
    (check,) = checked((one, new, old), Stub(late=SLOW))
    assert (check.state, check.cleared) == ("passed", True)
    assert check.message.startswith("an alert that fresh rounds did not confirm: ")


def test_what_cannot_be_told_says_what_would(folders):
    report, new, old = folders
    one = dataclasses.replace(report, measurements=report.measurements[:1])
    (check,) = checked((one, new, old), Stub(1.05), rounds=10)
    assert check.state == "undecided"
    assert check.needs.endswith(("rounds (--base-rounds)", "on a quieter machine"))


def test_a_table_is_exported_to_each_target(folders, quantized, tmp_path):
    report, new, _ = folders
    table = tmp_path / "net.table"
    write_table(Calibration(quantized, (), "calib"), table)
    stub = Stub()
    checks = checked((report, new, table), stub)
    assert {check.state for check in checks} == {"passed"}
    assert [name == "new" for name in stub.opened] == [False, True, False] * len(TARGETS)


def test_two_forms_of_a_target_are_exported_from_the_table_side_by_side(folders, quantized, tmp_path):
    report, new, _ = folders
    ending, _ = export(quantized, "onnx", INT8, new, name="ending", options=EmitOptions(softmax=True))
    row = dataclasses.replace(report.measurements[0], artifact=ending.path.name, sha256=ending.sha256)
    both = dataclasses.replace(report, measurements=(report.measurements[0], row))
    table = tmp_path / "net.table"
    write_table(Calibration(quantized, (), "calib"), table)
    stub = Stub()

    def opened(artifact, row):
        assert content_sha256(read_content(artifact.path)) == artifact.sha256  # nothing was written over it
        return stub.open(artifact, row)

    assert {check.state for check in checked((both, new, table), stub, opener=opened)} == {"passed"}


def test_progress_tells_the_rounds_of_each_file(folders):
    report, new, old = folders
    told = []
    one = dataclasses.replace(report, measurements=report.measurements[:1])
    checked((one, new, old), Stub(SLOW), rounds=10, progress=lambda *step: told.append(step))
    assert told[0] == ("timing net.int8.onnx", 1, 10)
    assert told[-1] == ("confirming net.int8.onnx", 20, 20)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"evidence": "emulated"}, "emulated: its times say nothing about a device"),
        ({"status": "failed"}, "it was not run"),
        ({"runtime": ""}, "it was not run"),
        ({"facts": {"on": "ssh"}}, "it ran on a board, and base and candidate are timed in this process"),
        ({"scheme": "int16x8", "artifact": "x"}, ""),
    ],
)
def test_rows_that_are_not_timed_are_skipped_with_the_reason(folders, changes, why):
    report, new, old = folders
    rows = (dataclasses.replace(report.measurements[0], **changes), *report.measurements[1:])
    if not why:
        with pytest.raises(BadInput, match="`x` is not beside the report"):
            checked((dataclasses.replace(report, measurements=rows), new, old), Stub())
        return
    checks = checked((dataclasses.replace(report, measurements=rows), new, old), Stub())
    assert (checks[0].state, checks[0].message) == ("skipped", why)
    assert [check.state for check in checks[1:]] == ["passed"] * (len(TARGETS) - 1)


def test_a_target_that_the_base_lacks_is_skipped_and_nothing_at_all_is_refused(folders, tmp_path):
    report, new, old = folders
    (old / "net.int8.onnx").unlink()
    checks = checked(folders, Stub())
    assert (checks[0].state, checks[0].message) == ("skipped", f"`{old}` has no onnx file of the scheme `int8`")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="nothing of the report can be timed"):
        checked((report, new, tmp_path / "empty"), Stub())


@pytest.mark.parametrize("name", ["../old/net.int8.onnx", "/etc/passwd", "gone.onnx"])
def test_files_elsewhere_are_refused(folders, name):
    report, new, old = folders
    rows = (dataclasses.replace(report.measurements[0], artifact=name),)
    with pytest.raises(BadInput, match="is not beside the report"):
        checked((dataclasses.replace(report, measurements=rows), new, old), Stub())


def test_another_file_than_the_reports_is_refused(folders):
    report, new, old = folders
    rows = (dataclasses.replace(report.measurements[0], sha256="00" * 32),)
    with pytest.raises(BadInput, match="is not the file that the report is about"):
        checked((dataclasses.replace(report, measurements=rows), new, old), Stub())


def test_two_files_of_one_kind_need_the_same_name(folders, quantized):
    old = folders[2]
    export(quantized, "onnx", INT8, old, name="another")
    assert checked(folders, Stub())[0].state == "passed"  # one has the name
    for path in (old / "net.int8.onnx", old / "net.int8.onnx.json"):
        path.unlink()
    export(quantized, "onnx", INT8, old, name="third")
    with pytest.raises(BadInput, match="has 2 onnx files of the scheme `int8`"):
        checked(folders, Stub())


def test_too_few_rounds(folders):
    with pytest.raises(BadInput, match="--base-rounds `2` is below 10"):
        checked(folders, Stub(), rounds=2)


def test_other_processes_in_the_way_are_told_of(folders, monkeypatch):
    for load, told in ((1.5, True), (0.1, False), (None, False)):
        monkeypatch.setattr("squeeze_export.pipeline.slowdown.other_load", lambda before, after, load=load: load)
        (check, *_) = checked(folders, Stub())
        assert check.message.endswith("; other processes kept 1.5 cores busy meanwhile") == told


def test_real_sessions(folders):
    """No time is judged: the bound is far off."""
    report, new, old = folders
    measured = dataclasses.replace(report, measurements=report.measurements[:3])
    checks = slowdown_checks(measured, new, old, 1000, rounds=10)
    assert [check.state for check in checks] == ["passed"] * 3
