"""`--keep-float` and `--max-drop` as they are typed: analyze, calibrate, the exports, audit."""

import json
import re
from pathlib import Path

import pytest

from squeeze_export.analyze.results import ExactEffect

QUICK = ("--images", 2, "--rounds", 2)
ALONG = "fire2/squeeze1x1, fire2/expand1x1, fire2/expand3x3"


def test_analyze_writes_a_table_and_says_how_to_export_it(net, tiny, squeeze):
    weights = tiny / "tiny.safetensors"
    result = squeeze("analyze", *net, "--eval", tiny / "eval", *QUICK, "--keep-float", "fire2/squeeze1x1", "--out", "found")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    start = lines.index("Layers kept in float")
    assert lines[start + 1] == "  put back to float: fire2/squeeze1x1"
    assert lines[start + 2] == f"  in float: 3 of 8 convolutions, which are {ALONG}"
    header, integers, kept, fp32, note = lines[start + 3 :]
    assert header.split() == ["network", "in", "float", "SQNR", "agreement", "drop", "size", "p50", "of", "int8's"]
    assert integers.split()[:2] == ["int8", "0"]
    assert kept.startswith("int8, these in float  ")
    assert kept.split()[4] == "3"
    assert re.search(r" ms +\d+\.\d\dx +\[\d+\.\d\d, \d+\.\d\d\]$", kept)
    assert fp32.split()[:5] == ["fp32", "8", "-", "-", "-"]
    assert "onnx files, onnxruntime on cpu, 1 thread, 2 interleaved rounds" in note
    table = Path("found/squeezenet_custom.int8.table")
    assert table.exists()
    told = f"export it: squeeze-export tflite --int8 --weights {weights} --table {table}"
    assert told in result.err.splitlines()
    # What it tells to type works.
    arguments = told.removeprefix("export it: squeeze-export ").split()
    assert squeeze(*arguments, "--no-bench", "--eval", tiny / "eval").code == 0
    timed = squeeze("bench", "squeeze-export-out/squeezenet_custom.int8.tflite", "--rounds", 1)
    assert "int8 with 3 float" in timed.out
    page = Path("found/analysis.html").read_text(encoding="utf-8")
    assert "<h2>Layers kept in float</h2>" in page
    assert "int8, these in float</td>" in page
    document = json.loads(Path("found/analysis.json").read_text(encoding="utf-8"))
    assert document["kept"]["table"] == table.name
    assert "latencies: measured" in document["evidence"]


def test_a_number_takes_the_first_of_the_ranking(net, tiny, squeeze):
    result = squeeze("analyze", *net, "--eval", tiny / "eval", *QUICK, "--keep-float", 2, "--no-bench", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    kept = document["kept"]
    assert kept["layers"] == [one["layer"] for one in kept["ranking"][:2]]
    assert [file["p50_ms"] for file in kept["cost"]["files"]] == [None] * 3
    assert "no runtime took part" in document["evidence"]
    assert "export it" not in result.err  # nothing was written


def test_nothing_asked_leaves_the_analysis_as_it_was(net, tiny, squeeze):
    result = squeeze("analyze", *net, "--eval", tiny / "eval", "--images", 1, "--json")
    assert json.loads(result.out)["kept"] is None


def test_a_bound_that_holds_without_any_layer(net, tiny, squeeze):
    result = squeeze("analyze", *net, "--eval", tiny / "eval", *QUICK, "--max-drop", 90)
    assert result.code == 0, result.err
    assert "  a drop of at most 90 pp needs no layer in float: its upper bound is " in result.out
    assert "nothing is exported, as no layer is in float" in result.out


@pytest.mark.parametrize(("low_pp", "code"), [(0.0, 6), (41.0, 5)])
def test_a_bound_that_no_choice_of_layers_keeps(low_pp, code, net, tiny, squeeze, monkeypatch):
    """With every layer in float there is nothing left to lose: no network does this, so the runs are made up."""
    effect = ExactEffect(10.0, 0.5, 50.0, low_pp, 59.0)
    monkeypatch.setattr("squeeze_export.analyze.mixed_precision.exact_effect", lambda _: effect)
    result = squeeze("analyze", *net, "--eval", tiny / "eval", *QUICK, "--max-drop", 40, "--no-bench")
    assert result.code == code
    told = "a drop of at most 40 pp is shown with no number of layers in float; the lowest upper bound, +59.00 pp, is with none"
    assert f"  {told}" in result.out.splitlines()
    assert f"warning: {told}" in result.err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (("--keep-float", "fire2/squeeze"), 2, "no layer is called `fire2/squeeze`", "did you mean `fire2/squeeze1x1`?"),
        (
            ("--keep-float", "conv1", "--keep-float", "2"),
            2,
            "`conv1` and `2`: --keep-float takes names of layers, or one number",
            "leave out",
        ),
        (("--keep-float", "0"), 2, "`0` is neither a layer nor a number of layers", "--keep-float 1"),
        (("--keep-float", "conv1", "--max-drop", "1"), 2, "--max-drop finds the layers itself", "leave out --keep-float"),
        (("--max-drop", "-1"), 2, "--max-drop `-1` is outside 0 to 100", "--max-drop 1"),
        (("--max-drop", "1"), 6, "`8` images cannot show a drop under 1 pp", "--eval with at least 381 images"),
    ],
)
def test_analyze_refuses(arguments, code, message, hint, net, tiny, squeeze):
    result = squeeze("analyze", *net, "--eval", tiny / "eval", *arguments, "--out", "found")
    assert (result.code, result.out) == (code, "")
    said = result.refusal()
    assert message in said[0]
    assert hint in said[1]
    assert not Path("found/analysis.json").exists()


def test_what_is_typed_beats_the_settings_file(net, tiny, squeeze):
    Path("squeeze-export.toml").write_text("[analyze]\nkeep-float = 2\n", encoding="utf-8")
    common = ("analyze", *net, "--eval", tiny / "eval", *QUICK, "--no-bench", "--json")
    assert len(json.loads(squeeze(*common).out)["kept"]["layers"]) == 2
    assert json.loads(squeeze(*common, "--max-drop", 90).out)["kept"]["max_drop_pp"] == 90
    Path("squeeze-export.toml").write_text("[analyze]\nmax-drop = 90\n", encoding="utf-8")
    assert json.loads(squeeze(*common, "--keep-float", "conv10").out)["kept"]["layers"] == ["conv10"]


def test_calibrate(net, squeeze):
    result = squeeze("calibrate", *net, "--keep-float", "fire2/squeeze1x1")
    assert result.code == 0, result.err
    assert result.out.splitlines()[1] == f"in float: {ALONG}"
    told = json.loads(squeeze("calibrate", *net, "--keep-float", "fire2/squeeze1x1", "--json").out)
    assert told["kept_float"] == ALONG.split(", ")
    refused = squeeze("calibrate", *net, "--keep-float", "conv1", "--curve").refusal()
    assert refused == ("--curve does not work with layers kept in float", "leave out --keep-float, or --curve")


def test_an_export_and_its_audit(net, squeeze):
    result = squeeze("onnx", "--int8", *net, "--keep-float", "fire2/squeeze1x1", "--no-bench")
    assert result.code == 0, result.err
    assert result.out.splitlines()[2].split()[:5] == ["onnx", "int8", "with", "3", "float"]
    assert f"in float on request: {ALONG}" in result.err.splitlines()
    page = Path("squeeze-export-out/report.html").read_text(encoding="utf-8")
    assert "<dt>kept in float</dt><dd><code>fire2/squeeze1x1</code>" in page
    audited = squeeze("audit", "squeeze-export-out/squeezenet_custom.int8.onnx")
    assert audited.code == 0
    lines = audited.out.splitlines()
    assert lines[0] == "squeeze-export-out/squeezenet_custom.int8.onnx: integer network, 3 layers kept in float on request"
    assert "  kept in float    fire2/squeeze1x1" in lines
    assert "  violations       none" in lines


def test_an_export_refuses(net, tiny, squeeze):
    message, hint = squeeze("onnx", *net, "--scheme", "fp32", "--keep-float", "conv1").refusal()
    assert (message, hint) == ("in the scheme `fp32` every layer is float already", "--int8")
    message, hint = squeeze("onnx", "--scheme", "int8-npu", *net, "--keep-float", "conv1").refusal()
    assert (message, hint) == ("the scheme `int8-npu` cannot keep layers in float", "--scheme int8")
    message, hint = squeeze("onnx", "--int8", "--recipe", "vendor", *net, "--keep-float", "conv1").refusal()
    assert hint == "--recipe fast"
    message, hint = squeeze("onnx", "--int8", *net, "--keep-float", "fire2/expand1").refusal()
    assert hint == "did you mean `fire2/expand1x1`?"
    assert not Path("squeeze-export-out").exists()
