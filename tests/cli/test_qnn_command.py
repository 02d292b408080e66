"""`squeeze-export qnn`: files, table, exit codes."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")
if platform.machine().lower() not in ("x86_64", "amd64"):
    pytest.skip("the HTP is emulated on x86-64 alone", allow_module_level=True)

OUT = Path("squeeze-export-out")
NAME = "squeezenet_custom.int8"


def test_two_socs_and_what_is_said_of_them(squeeze, net, tiny):
    socs = ("--soc", "SM8350", "--soc", "SM8650")  # whose binaries break each other where both are open
    done = squeeze("qnn", "--int8", *net, "--eval", tiny / "eval", *socs, "--require-full-placement")
    assert done.code == 0, done.err
    assert "htp-emulator, SM8350 (emulated)" in done.out
    assert "htp-emulator, SM8650 (emulated)" in done.out
    assert not re.search(r"\d ms", done.out)  # the emulator's time says nothing, and nothing else was timed
    for soc in ("SM8350", "SM8650"):
        assert f"wrote {OUT / f'{NAME}.{soc}_qnn.onnx'}" in done.err
    report = json.loads((OUT / "report.json").read_text(encoding="utf-8"))
    rows = [row for row in report["measurements"] if row["target"] == "qnn"]
    assert [row["facts"]["soc"] for row in rows] == ["SM8350", "SM8650"]
    for row in rows:
        assert (row["evidence"], row["latency"], row["runtime"]) == ("emulated", None, "qnn")
        assert row["accuracy"]["count"] == 8
        assert row["placement"]["device_count"] == row["placement"]["operator_count"]
    again = squeeze("validate", OUT / f"{NAME}.SM8650_qnn.onnx", *net[:2], "--eval", tiny / "eval", "--device", "htp-emulator")
    assert again.code == 0, again.err
    assert "emulated" in again.out


def test_json_alone_is_on_stdout(squeeze, net):
    done = squeeze("qnn", *net, "--scheme", "int8-npu", "--no-validate", "--json")
    assert done.code == 0, done.err
    (row,) = [row for row in json.loads(done.out)["measurements"] if row["target"] == "qnn"]
    assert row["scheme"] == "int8-npu"
    assert row["artifact"] == "squeezenet_custom.int8-npu.SM8650_qnn.onnx"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--device", "htp"), 3, "no device `htp`"),
        (("--int8", "--scheme", "int8-npu"), 2, "one scheme at a time"),
        (("--scheme", "fp32"), 2, "fp32"),
        (("--soc", "SM1"), 2, "SM1"),
        (("--soc", "SM8635", "--no-validate"), 4, "does not take the floats of `int8`"),
    ],
)
def test_refusals(squeeze, net, options, code, message):
    done = squeeze("qnn", *net, *options)
    assert done.code == code
    assert message in done.refusal()[0]
