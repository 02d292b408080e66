"""`squeeze-export ethosu`: files, table, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squeeze_export.cli import ethosu

pytest.importorskip("ethosu", reason="Vela is not installed")

OUT = Path("squeeze-export-out")


def test_the_table_says_that_it_is_an_estimate(squeeze, net):
    done = squeeze("ethosu", *net)
    assert done.code == 0
    assert "ethos-u55-128 (estimated)" in done.out
    title = next(line for line in done.out.splitlines() if line.startswith("Estimated by Vela 5."))
    assert "not measured" in title
    figures = next(line for line in done.out.splitlines() if line.startswith("ethos-u55-128"))
    assert "Ethos_U55_High_End_Embedded" in figures
    assert "500 MHz" in figures
    names = {path.name for path in OUT.iterdir()}
    assert {"squeezenet_custom.int8-npu.tflite", "squeezenet_custom.int8-npu.ethos-u55-128_vela.tflite", "report.html"} <= names
    assert f"wrote {OUT / 'squeezenet_custom.int8-npu.ethos-u55-128_vela.tflite'}" in done.err
    page = (OUT / "report.html").read_text(encoding="utf-8")
    assert "<details>" in page
    assert "no measurement" in page


def test_several_with_their_settings_as_json(squeeze, net):
    accelerators = ("--accelerator", "ethos-u65-256", "--accelerator", "ethos-u65-512")
    done = squeeze(
        "ethosu",
        *net,
        *accelerators,
        *("--system-config", "Ethos_U65_Embedded", "--memory-mode", "Shared_Sram", "--optimise", "Size"),
        *("--no-validate", "--require-full-placement", "--json"),
    )
    assert done.code == 0, done.err
    rows = [row for row in json.loads(done.out)["measurements"] if row["target"] == "ethosu"]
    assert [row["device"] for row in rows] == ["ethos-u65-256", "ethos-u65-512"]
    for row in rows:
        settings = row["estimate"]["settings"]
        assert settings["system_config"] == "Ethos_U65_Embedded"
        assert (settings["memory_mode"], settings["optimise"]) == ("Shared_Sram", "Size")
        assert row["evidence"] == "estimated"
        assert row["estimate"]["cycles"] == sum(layer["cycles"] for layer in row["estimate"]["layers"])


def test_int8_pixels_spare_the_npu_an_operator(squeeze, net):
    rows = []
    for pixels in ("uint8", "int8"):
        done = squeeze("ethosu", *net, "--input", pixels, "--no-validate", "--require-full-placement", "--json")
        assert done.code == 0, done.err
        rows.append(json.loads(done.out)["measurements"][-1])
    assert rows[0]["placement"]["operator_count"] == rows[1]["placement"]["operator_count"] + 1
    assert rows[0]["estimate"]["cycles"] > rows[1]["estimate"]["cycles"]


def test_all_is_every_one(squeeze, net, monkeypatch):
    monkeypatch.setattr(ethosu, "CHIPS", ("ethos-u55-128", "ethos-u55-32"))
    done = squeeze("ethosu", *net, "--accelerator", "all", "--no-validate", "--json")
    assert [row["device"] for row in json.loads(done.out)["measurements"] if row["target"] == "ethosu"] == [
        "ethos-u55-32",
        "ethos-u55-128",
    ]


def test_an_operator_on_the_cpu_is_exit_5_where_full_placement_is_required(squeeze, net):
    done = squeeze("ethosu", *net, "--scheme", "int8", "--no-validate", "--require-full-placement")
    assert done.code == 5
    message, hint = done.refusal()
    assert "device `ethos-u55-128`: 2 of " in message
    assert "`DEQUANTIZE conv10/float on the CPU: Unsupported opType`" in message
    assert "lint" in hint


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--accelerator", "ethos-n78"), "'ethos-n78' is not one of 'ethos-u55-128'", "did you mean `ethos-u"),
        (("--system-config", "Fast"), "`vela.ini` defines no system config `Fast`", "Ethos_U55_Deep_Embedded"),
        (("--memory-mode", "Huge"), "`vela.ini` defines no memory mode `Huge`", "Sram_Only"),
        (("--vela-config", "none.ini"), "none.ini` cannot be read", "--vela-config FILE"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(options, message, hint, squeeze, net):
    done = squeeze("ethosu", *net, *options)
    assert done.code == 2
    said, typed = done.refusal()
    assert message in said
    assert hint in typed
    assert not OUT.exists()
