"""What a new user types first: no scheme, a light install, the Neural Engine."""

import json
import re
from pathlib import Path

import pytest

from squeeze_export.pipeline.validation import telling_names

OUT = Path("squeeze-export-out")
FILES_ONLY = ("--no-validate", "--no-bench")


def written(suffix=".tflite"):
    return sorted(path.name for path in OUT.iterdir() if path.name.endswith(suffix))


def test_calibration_images_without_a_scheme_mean_int8(squeeze, net):
    result = squeeze("tflite", *net, *FILES_ONLY)
    assert result.code == 0
    assert "--calib without a scheme means --int8; --scheme fp32 keeps the network in float\n" in result.err
    assert written() == ["squeezenet_custom.int8.tflite"]


@pytest.mark.parametrize("asked", [("--scheme", "fp32"), ("--fp16",)])
def test_a_scheme_that_is_named_stays(asked, squeeze, net):
    result = squeeze("tflite", *net, *asked, *FILES_ONLY)
    assert "without a scheme" not in result.err
    assert written() == [f"squeezenet_custom.{asked[-1].removeprefix('--')}.tflite"]


def test_without_images_the_network_stays_in_float(squeeze, tiny):
    result = squeeze("tflite", "--weights", tiny / "tiny.safetensors", *FILES_ONLY)
    assert "without a scheme" not in result.err
    assert written() == ["squeezenet_custom.fp32.tflite"]


def test_a_table_or_a_recipe_without_a_scheme_means_int8(squeeze, net):
    assert squeeze("calibrate", *net).code == 0
    result = squeeze("tflite", *net[:2], "--table", OUT / "squeezenet_custom.int8.table", *FILES_ONLY)
    assert "--table without a scheme means --int8" in result.err
    result = squeeze("tflite", "--recipe", "qat", *FILES_ONLY)
    assert "--recipe without a scheme means --int8" in result.err
    assert "the recipe `qat` needs labelled images" in result.refusal()[0]


def test_the_settings_file_counts_as_well(squeeze, net):
    Path("squeeze-export.toml").write_text(f"calib = '{net[3].as_posix()}'\n")
    assert "--calib without a scheme means --int8" in squeeze("tflite", *net[:2], *FILES_ONLY).err
    Path("squeeze-export.toml").write_text(f"calib = '{net[3].as_posix()}'\nscheme = 'fp32'\n")
    assert "without a scheme" not in squeeze("tflite", *net[:2], *FILES_ONLY).err


def test_the_help_says_so(squeeze):
    shown = " ".join(squeeze("tflite", "--help").out.split())
    assert "[default: int8 with --calib or --table, else fp32]" in shown


@pytest.fixture
def light(tmp_path, monkeypatch):
    """A machine without coremltools, coreai-core and openvino, for the processes that write files."""
    folder = tmp_path / "light"
    folder.mkdir()
    for name in ("coremltools", "coreai", "openvino"):
        absent = f"ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
        (folder / f"{name}.py").write_text(f"raise {absent}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("light")
def test_all_skips_what_is_not_installed_and_names_the_extra(squeeze, net):
    result = squeeze("all", "--int8", *net, *FILES_ONLY)
    assert result.code == 0, result.err
    for name, extra in (("openvino", "openvino"), ("coremltools", "coreml"), ("coreai", "coreai")):
        told = f"skipped {extra}: `{name}` is not installed (No module named '{name}'): pip install 'squeeze-export[{extra}]'"
        assert f"{told}\n" in result.err, result.err
        assert f"skipped: `{name}` is not installed" in result.out
    rows = json.loads((OUT / "report.json").read_text())["measurements"]
    assert [(row["target"], row["status"]) for row in rows] == [
        *(("onnx", "ok"), ("tflite", "ok"), ("openvino", "skipped"), ("coreml", "skipped"), ("coreai", "skipped"))
    ]
    assert {path.suffix for path in OUT.iterdir()} == {".json", ".html", ".md", ".onnx", ".tflite"}


@pytest.fixture
def bare(monkeypatch):
    """A machine with the base package alone."""
    monkeypatch.setattr("squeeze_export.pipeline.exporting.package_version", lambda name: None)
    monkeypatch.setattr("squeeze_export.pipeline.exporting.find_spec", lambda name: None)


@pytest.mark.usefixtures("bare")
def test_where_nothing_is_installed_no_image_is_read(squeeze, tmp_path):
    result = squeeze("all", "--int8", "--calib", tmp_path / "nothere")
    assert result.code == 3
    packages = ("onnx", "ai-edge-litert", "flatbuffers", "openvino", "coremltools", "coreai-core")
    assert result.refusal()[0] == f"not installed: `{'`, `'.join(packages)}`, for onnx, tflite, openvino, coreml, coreai files"
    assert result.refusal()[1] == "pip install 'squeeze-export[all]'"
    result = squeeze("coreml", "--int8", "--calib", tmp_path / "nothere")
    assert result.code == 3
    assert result.refusal() == ("not installed: `coremltools`, for coreml files", "pip install 'squeeze-export[coreml]'")


def test_a_nightly_build_counts_as_installed(squeeze, net, monkeypatch):
    monkeypatch.setattr("squeeze_export.pipeline.exporting.package_version", lambda name: None)
    assert squeeze("tflite", *net, "--int8", *FILES_ONLY).code == 0


NEURAL_ENGINE = "the Core ML file computes in float32, which Apple's Neural Engine does not take"


@pytest.mark.parametrize(
    ("asked", "instead"),
    [
        (("--int8",), "--coreml-compute float16"),
        (("--scheme", "fp32"), "--fp16"),
        (("--int8", "--coreml-compute", "float16"), None),
        (("--fp16",), None),
        (("--scheme", "palette4"), None),
    ],
)
def test_a_core_ml_file_says_if_the_neural_engine_does_not_take_it(asked, instead, squeeze, net):
    result = squeeze("coreml", *net, *asked, *FILES_ONLY)
    assert result.code == 0, result.err
    assert (f"{NEURAL_ENGINE}: {instead} for it\n" in result.err) if instead else (NEURAL_ENGINE not in result.err)


def test_other_targets_say_nothing_of_the_neural_engine(squeeze, net):
    assert NEURAL_ENGINE not in squeeze("onnx", *net, "--int8", *FILES_ONLY).err


def network_of(report):
    return json.loads((OUT / report).read_text())["network"]["checkpoint_sha256"]


def other_net(net, tiny):
    return ("--weights", tiny / "other.safetensors", *net[2:])


def test_a_report_of_another_network_is_kept(squeeze, net, tiny):
    """Of the same network it is replaced, as a user who exports once more expects."""
    first = squeeze("onnx", *net, "--int8", *FILES_ONLY)
    page, mine = (OUT / "report.html").read_bytes(), network_of("report.json")
    assert "is kept as" not in first.err + squeeze("tflite", *net, "--int8", *FILES_ONLY).err
    page, text = (OUT / "report.html").read_bytes(), (OUT / "report.md").read_bytes()
    result = squeeze("openvino", *other_net(net, tiny), "--int8", *FILES_ONLY)
    kept = OUT / f"report-squeezenet_custom-{mine[:8]}.json"
    assert f"{OUT / 'report.json'} was of another network: it is kept as {kept}\n" in result.err
    assert (network_of(kept.name), kept.with_suffix(".html").read_bytes()) == (mine, page)
    assert kept.with_suffix(".md").read_bytes() == text
    assert network_of("report.json") != mine
    assert squeeze("report", kept).code == 0


def test_a_table_without_its_checkpoint_is_of_the_same_network_by_its_name(squeeze, net):
    squeeze("calibrate", *net)
    squeeze("onnx", *net, "--int8", *FILES_ONLY)
    result = squeeze("onnx", "--int8", "--table", OUT / "squeezenet_custom.int8.table", *FILES_ONLY)
    assert result.code == 0
    assert "is kept as" not in result.err


def test_a_report_that_nobody_can_read_is_kept(squeeze, net):
    OUT.mkdir()
    for number in ("", "1"):
        (OUT / "report.json").write_text(f"another tool's {number}")
        (OUT / "report.html").write_text("its page")
        assert f"is kept as {OUT / f'report-other{number}.json'}\n" in squeeze("onnx", *net, "--int8", *FILES_ONLY).err
        assert (OUT / f"report-other{number}.json").read_text() == f"another tool's {number}"
        assert (OUT / f"report-other{number}.html").read_text() == "its page"


def test_a_strangers_report_names_no_path(squeeze, net):
    squeeze("onnx", *net, "--int8", *FILES_ONLY)
    report = json.loads((OUT / "report.json").read_text())
    report["network"] |= {"name": "../../up", "checkpoint_sha256": "/etc"}
    (OUT / "report.json").write_text(json.dumps(report))
    assert f"is kept as {OUT / 'report-.json'}\n" not in squeeze("onnx", *net, "--int8", *FILES_ONLY).err
    assert (OUT / "report.json").exists()
    assert [path for path in Path().iterdir() if path != OUT] == []


def test_files_of_another_checkpoint_are_not_replaced_without_a_word(squeeze, net, tiny):
    squeeze("onnx", *net, "--int8", *FILES_ONLY)
    assert "another checkpoint" not in squeeze("onnx", *net, "--int8", *FILES_ONLY).err
    assert "another checkpoint" not in squeeze("onnx", *other_net(net, tiny), "--fp16", *FILES_ONLY).err
    told = "warning: `squeezenet_custom.int8.onnx` of another checkpoint was replaced: --out DIR keeps networks apart\n"
    assert told in squeeze("onnx", *other_net(net, tiny), "--int8", *FILES_ONLY).err


def test_a_table_of_another_checkpoint_is_not_replaced_without_a_word(squeeze, net, tiny):
    assert "another checkpoint" not in squeeze("calibrate", *net).err + squeeze("calibrate", *net).err
    told = f"warning: `{OUT / 'squeezenet_custom.int8.table'}` of another checkpoint was replaced"
    assert told in squeeze("calibrate", *other_net(net, tiny)).err


def ratios(report):
    return [(ratio["row"]["artifact"], ratio["first"]["artifact"]) for ratio in report["ratios"]]


def test_bench_tells_files_of_one_name_apart_and_their_ratio(squeeze, net, tiny):
    squeeze("tflite", *net, "--int8", *FILES_ONLY, "--out", "mine/out")
    squeeze("tflite", *other_net(net, tiny), "--int8", *FILES_ONLY, "--out", "theirs/out")
    files = [f"{folder}/out/squeezenet_custom.int8.tflite" for folder in ("mine", "theirs")]
    result = squeeze("bench", *files, "--rounds", 5)
    assert result.code == 0, result.err
    _, first, second, *_, line = result.out.splitlines()
    assert first.startswith(f"tflite  int8, {files[0]} ")
    assert second.startswith(f"tflite  int8, {files[1]} ")
    assert re.fullmatch(rf"{files[1]} against {files[0]}: [\d.]+x \[[\d.]+, [\d.]+\] as fast", line)
    report = json.loads(squeeze("bench", *files, "--rounds", 5, "--json").out)
    assert ratios(report) == [(files[1], files[0])]
    (ratio,), medians = report["ratios"], [row["latency"]["p50_ms"] for row in report["measurements"]]
    assert ratio["speedup"]["value"] == pytest.approx(medians[0] / medians[1])
    assert ratio["speedup"]["low"] <= ratio["speedup"]["value"] <= ratio["speedup"]["high"]


def test_bench_of_int8_beside_its_fp32_needs_no_other_ratio(squeeze, net):
    for scheme in ("fp32", "int8"):
        squeeze("tflite", *net, "--scheme", scheme, *FILES_ONLY)
        squeeze("onnx", *net, "--scheme", scheme, *FILES_ONLY)
    names = [f"squeezenet_custom.{scheme}.tflite" for scheme in ("int8", "fp32")]
    result = squeeze("bench", *(OUT / name for name in names), "--rounds", 5, "--json")
    report = json.loads(result.out)
    assert (ratios(report), [row["artifact"] for row in report["measurements"]]) == ([], names)
    result = squeeze("bench", OUT / names[0], OUT / "squeezenet_custom.int8.onnx", "--rounds", 5)
    assert [line.split()[:2] for line in result.out.splitlines()[1:3]] == [["tflite", "int8"], ["onnx", "int8"]]
    assert "squeezenet_custom.int8.onnx against squeezenet_custom.int8.tflite: " in result.out


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out/x.tflite", "out/y.tflite"], ["x.tflite", "y.tflite"]),
        (["a/x.tflite", "b/x.tflite"], ["a/x.tflite", "b/x.tflite"]),
        (["v1/a/x.tflite", "v2/a/x.tflite", "z.tflite"], ["v1/a/x.tflite", "v2/a/x.tflite", "z.tflite"]),
        (["x.tflite", "a/x.tflite"], ["x.tflite", "a/x.tflite"]),
        (["a/x.tflite", "a/x.tflite"], ["x.tflite", "x.tflite"]),
    ],
)
def test_the_shortest_telling_path(paths, names):
    assert telling_names([Path(path) for path in paths]) == names
