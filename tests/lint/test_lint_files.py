"""Lint on whole files, beside what the runtimes really do with them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from planted import planted

from squeeze_export.cli import run
from squeeze_export.core import EmitOptions, PlacedOperator, place
from squeeze_export.graph.quantized import scheme_named
from squeeze_export.pipeline import calibrate, export, lint_file, open_network, read_artifact
from squeeze_export.pipeline.sidecar_document import sidecar_path
from squeeze_export.runtimes.tflite import litert
from squeeze_export.runtimes.tflite.interpreter import LITERT_BUILTIN
from squeeze_export.runtimes.tflite.placement import contents_of, placement, taken_over

BATCH = EmitOptions(batch="dynamic")


@cache
def table(scheme: str) -> Any:
    opened = open_network(None)
    return calibrate(opened, None, scheme=scheme_named(scheme)).quantized if scheme_named(scheme).integer else opened.graph


def written(folder: Path, target: str, scheme: str, options: EmitOptions = EmitOptions()) -> Path:  # noqa: B008
    return export(table(scheme), target, scheme_named(scheme), folder, name="net", options=options)[0].path


def fallen(path: Path, chip: str) -> list[str]:
    return [finding.operator for finding in lint_file(path, chip) if finding.severity == "fall-back"]


TAIL = ["DEQUANTIZE conv10/float", "MEAN logits"]


@pytest.mark.parametrize(
    ("chip", "target", "scheme", "expected"),
    [
        ("ethosu", "tflite", "int8-npu", []),
        ("edgetpu", "tflite", "int8-npu", []),
        ("xnnpack", "tflite", "int8-npu", []),
        ("xnnpack", "tflite", "int8", []),
        ("ethosu", "tflite", "int8", TAIL),
        ("edgetpu", "tflite", "int8", TAIL),
        ("hexagon", "onnx", "int8", []),
        ("hexagon", "onnx", "int8-npu", []),
    ],
)
def test_the_schemes_that_are_for_a_chip_suit_it(tmp_path: Path, chip: str, target: str, scheme: str, expected: list[str]) -> None:
    assert fallen(written(tmp_path, target, scheme), chip) == expected


@pytest.mark.parametrize("chip", ["ethosu", "edgetpu", "xnnpack"])
@pytest.mark.parametrize("scheme", ["fp32", "w8"])
def test_convolutions_in_float_suit_no_chip(tmp_path: Path, chip: str, scheme: str) -> None:
    found = fallen(written(tmp_path, "tflite", scheme), chip)
    assert sum(name.startswith("CONV_2D") for name in found) == 26


def test_signed_activations_do_not_suit_hexagon(tmp_path: Path) -> None:
    assert "Conv conv1" in fallen(written(tmp_path, "onnx", "int8-symmetric"), "hexagon")


def test_a_batch_left_open_suits_neither_npu(tmp_path: Path) -> None:
    assert len(fallen(written(tmp_path, "tflite", "int8-npu", BATCH), "edgetpu")) == 39
    assert len(fallen(written(tmp_path, "onnx", "int8", BATCH), "hexagon")) > 26


@pytest.mark.parametrize("scheme", ["int8", "int8-npu", "int16x8"])
@pytest.mark.parametrize("operator", [None, "LOGISTIC", "HARD_SWISH"])
def test_xnnpack_takes_what_lint_says_it_takes(tmp_path: Path, scheme: str, operator: str | None) -> None:
    path = written(tmp_path, "tflite", scheme)
    if operator is not None:
        if scheme == "int16x8":
            pytest.skip("what is planted is read back as int8")
        path.write_bytes(planted(path.read_bytes(), "fire5/concat", operator))
    left = left_to_the_builtin_kernels(path)
    said = {finding.operator for finding in lint_file(path, "xnnpack")}
    # It takes what stands in floats between integers as well, and so takes longer: that much lint may say more.
    assert left <= said
    assert all(name.split()[-1].startswith("planted") for name in said - left)


@pytest.mark.parametrize("options", [EmitOptions(softmax=True), EmitOptions(sigmoid=True)], ids=lambda options: options.ending)
def test_xnnpack_takes_probabilities_at_the_end(tmp_path: Path, options: EmitOptions) -> None:
    path = written(tmp_path, "tflite", "int8", options)
    assert left_to_the_builtin_kernels(path) == {"QUANTIZE input/int8"}  # as in any file of uint8 pixels
    assert fallen(path, "xnnpack") == []


def left_to_the_builtin_kernels(path: Path) -> set[str]:
    """From the interpreter's own node list."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    listed = contents_of(interpreter._get_ops_details(), interpreter.get_tensor_details(), inputs)
    placed = placement(listed, taken_over(listed.operators), device="xnnpack", floats="none", source="")
    return {name.removesuffix(" on cpu") for name in placed.elsewhere}


def planted_artifact(folder: Path) -> Path:
    """An exported file, changed afterwards, with a sidecar that says nothing of it."""
    path = written(folder, "tflite", "int8")
    path.write_bytes(planted(path.read_bytes(), "fire5/concat"))
    from squeeze_export.files import content_sha256

    sidecar = sidecar_path(path)
    told = json.loads(sidecar.read_text())
    told |= {"sha256": content_sha256(path.read_bytes()), "size_bytes": path.stat().st_size}
    sidecar.write_text(json.dumps(told))
    return path


PLANTED = ["DEQUANTIZE planted/real", "LOGISTIC planted", "QUANTIZE planted/int8"]


def test_a_planted_float_operator_is_found_by_placement(tmp_path: Path) -> None:
    artifact = read_artifact(planted_artifact(tmp_path))
    for runtime in (litert, LITERT_BUILTIN):
        session = runtime.open_session(artifact, device="cpu", threads=1)
        assert list(session.placement.fallbacks) == [f"{name} in floating point" for name in PLANTED]
        assert session.placement.integer_mac_share == 1.0


@pytest.mark.parametrize("chip", ["ethosu", "edgetpu", "xnnpack"])
def test_a_planted_float_operator_is_found_by_lint(tmp_path: Path, chip: str) -> None:
    found = fallen(planted_artifact(tmp_path), chip)
    assert "LOGISTIC planted" in found


def test_a_planted_float_operator_ends_full_placement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = planted_artifact(tmp_path)
    rounds = ["--rounds", "1"]
    assert run(["bench", str(path), *rounds]) == 0
    capsys.readouterr()
    assert run(["bench", str(path), *rounds, "--require-full-placement"]) == 5
    shown = capsys.readouterr()
    assert "tflite  int8" in shown.out  # the result all the same
    assert "3 of 43 operators fell back: `DEQUANTIZE planted/real in floating point`" in shown.err


def test_a_sound_file_passes_full_placement(tmp_path: Path) -> None:
    path = written(tmp_path, "tflite", "int8")
    assert run(["bench", str(path), "--rounds", "1", "--require-full-placement"]) == 0


def test_the_command_says_what_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "tflite", "int8")
    assert run(["lint", str(path), "--for", "ethosu"]) == 4
    out = capsys.readouterr().out
    assert f"{path} for ethosu: 2 operators will fall back" in out
    assert "fall-back  DEQUANTIZE conv10/float: Ethos-U has no DEQUANTIZE" in out
    assert "change: export with `--scheme int8-npu`, which has no float operator" in out
    assert "rule: ethos-u-vela 5.2.0, SUPPORTED_OPS.md" in out
    assert run(["lint", str(path), "--for", "xnnpack", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert [(entry["operator"], entry["severity"]) for entry in found] == [("QUANTIZE input/int8", "note")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.tflite", "--for", "ethosu"], "is not a file"),
        (["none.mlpackage", "--for", "ethosu"], "is no file that lint can read"),
        (["none.onnx", "--for", "kirin"], "'kirin' is not one of"),
        (["none.tflite"], "Missing option '--for'"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", *words]) == 2
    assert message in capsys.readouterr().err


def test_damaged_files_are_bad_input(tmp_path: Path) -> None:
    for name in ("net.tflite", "net.onnx"):
        (tmp_path / name).write_bytes(b"\x08\x07 no network")
        assert run(["lint", str(tmp_path / name), "--for", "ethosu" if "tfl" in name else "hexagon"]) == 2


def test_place_and_lint_agree_on_the_words() -> None:
    """Both spell an operator as its type and the name of what it makes."""
    assert place([PlacedOperator("CONV_2D conv1", False, 1)], floats="none", source="").float_operators == ("CONV_2D conv1",)
