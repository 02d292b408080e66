"""An option beats the environment, which beats `squeeze-export.toml`, which beats the default."""

import json
from pathlib import Path

import pytest
import torch
import torch_networks


@pytest.fixture
def threads(squeeze, net):
    """Exports with these arguments, and gives the threads that the run used."""

    def call(*arguments):
        result = squeeze("onnx", *net, "--json", "--rounds", 1, *arguments)
        assert result.code == 0, result.err
        return json.loads(result.out)["measurements"][0]["latency"]["threads"]

    return call


def write_settings(text):
    Path("squeeze-export.toml").write_text(text, encoding="utf-8")


def test_default(threads):
    assert threads() == 1


def test_settings_file_beats_default(threads):
    write_settings("threads = 2\n")
    assert threads() == 2


def test_a_commands_own_table_beats_the_top(threads):
    write_settings("threads = 2\n[onnx]\nthreads = 3\n[tflite]\nthreads = 4\n")
    assert threads() == 3


def test_environment_beats_settings_file(threads, monkeypatch):
    write_settings("[onnx]\nthreads = 2\n")
    monkeypatch.setenv("SQUEEZE_EXPORT_THREADS", "3")
    assert threads() == 3


def test_option_beats_environment(threads, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_THREADS", "3")
    assert threads("--threads", 2) == 2


def test_one_number_needs_no_list(squeeze, tmp_path):
    net = torch_networks.SqueezeNet()
    net.features[0] = torch.nn.Conv2d(1, 12, 3, stride=2)
    path = torch_networks.saved(net, tmp_path / "grey.pth")
    for text in ("mean = 7\nstd = 2.5\ncpus = 0\n", "mean = [7]\nstd = [2.5]\n", "mean = '7'\nstd = '2.5'\n"):
        write_settings(f"crop = 38\n{text}")
        result = squeeze("onnx", "--weights", path, "--no-validate", "--no-bench")
        assert result.code == 0, result.err
        told = json.loads(Path("squeeze-export-out/squeezenet_custom.fp32.onnx.json").read_text())["provenance"]["preprocess"]
        assert (told["mean"], told["std"]) == ([7.0], [2.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads = 1.5", "`1.5` is not a whole number"),
        ("threads = true", "`True` is not a whole number"),
        ("expect-top1 = true", "`True` is not a number"),
        ("threads = [1, 2]", "`[1, 2]` is not a whole number"),
        ("out = 3", "`3` is not a file name"),
        ("labels = ['a']", "`['a']` is not a file name"),
        ("calib = 3", "`[3]` is not a file name"),
        ("calib-weight = 1.5", "`[1.5]` is not a whole number"),
        ("calib-weight = true", "`[True]` is not a whole number"),
        ("cpus = 0.5", "`0.5` is not a list of CPU numbers"),
        ("cpus = [0, true]", "`[0, True]` is not a list of CPU numbers"),
        ("mean = true", "`True` is not one number per channel, with commas between"),
        ("mean = {a = 1}", "`{'a': 1}` is not one number per channel, with commas between"),
    ],
)
def test_values_of_another_type_are_refused(text, message, squeeze):
    write_settings(f"[onnx]\n{text}\n")
    result = squeeze("onnx", "--no-validate", "--no-bench")
    assert result.code == 2
    assert message in result.refusal()[0]


def scheme(squeeze, net, *arguments):
    result = squeeze("onnx", *net, "--no-validate", "--no-bench", "--json", *arguments)
    assert result.code == 0, result.err
    return json.loads(result.out)["measurements"][0]["scheme"]


def test_another_spelling_of_the_scheme_beats_the_settings_file(squeeze, net):
    write_settings("int8 = true\n")
    assert scheme(squeeze, net) == "int8"
    assert scheme(squeeze, net, "--fp16") == "fp16"
    assert scheme(squeeze, net, "--scheme", "fp32") == "fp32"


def test_another_spelling_of_the_scheme_beats_the_environment(squeeze, net, monkeypatch):
    monkeypatch.setenv("SQUEEZE_EXPORT_SCHEME", "fp16")
    assert scheme(squeeze, net) == "fp16"
    assert scheme(squeeze, net, "--int8") == "int8"


def test_every_kind_of_value_can_be_in_the_settings_file(squeeze, tiny):
    """Options are spelt as on the command line, also those that the code calls otherwise."""
    write_settings(
        f'weights = "{tiny / "tiny.safetensors"}"\neval = "{tiny / "eval"}"\nno-bench = true\njson = true\nbatch = "dynamic"\n'
        "mean = [120, 121.5, 122]\n"
    )
    result = squeeze("onnx")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["evaluation"]["image_count"] == 8
    assert report["measurements"][0]["latency"] is None
    sidecar = json.loads(Path("squeeze-export-out/squeezenet_custom.fp32.onnx.json").read_text())
    assert sidecar["provenance"]["preprocess"]["mean"] == [120, 121.5, 122]
    assert sidecar["input"]["shape"][0] == "N"


def test_format_in_the_settings_file(squeeze, net):
    write_settings('[report]\nformat = "markdown"\n')
    assert squeeze("onnx", *net, "--no-bench").code == 0
    assert squeeze("report", "squeeze-export-out/report.json").out.startswith("#")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("thread = 2\n", "`squeeze-export.toml` sets `thread`, which is no option", "did you mean `threads`?"),
        ("no_bench = true\n", "`squeeze-export.toml` sets `no_bench`, which is no option", "did you mean `no-bench`?"),
        (
            "[onnx]\nformat = 'html'\n",
            "sets `format` in `[onnx]`, which is no option of that command",
            "one of: batch, benchmark-binary, ",
        ),
        ("[onx]\nthreads = 2\n", "has a table `[onx]`, which is no command", "did you mean `onnx`?"),
        (
            "threads = \n",
            "`squeeze-export.toml` cannot be read: Invalid value",
            'it is TOML: numbers as in threads = 2, words in quotes as in max-size = "5MB"',
        ),
        ("threads = 'two'\n", "'two' is not a valid integer", "squeeze-export onnx --help"),
        ("mean = 'x'\n", "`x` is not one number per channel", "squeeze-export onnx --help"),
    ],
)
def test_refused_settings(text, message, hint, squeeze):
    write_settings(text)
    result = squeeze("onnx")
    assert (result.code, result.out) == (2, "")
    assert message in result.refusal()[0]
    assert result.refusal()[1].startswith(hint)
    assert not Path("squeeze-export-out").exists()


def test_settings_that_are_no_text(squeeze):
    Path("squeeze-export.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in squeeze("doctor").refusal()[0]


def test_settings_are_bounded(squeeze, monkeypatch):
    monkeypatch.setattr("squeeze_export.cli.settings.MAX_BYTES", 3)
    write_settings("threads = 2\n")
    assert squeeze("doctor").refusal()[0] == "`squeeze-export.toml` is larger than 3 bytes"


def test_a_table_may_come_before_anything_else_is_read(squeeze):
    """Help must work in a folder whose settings are fine, and say what is wrong where they are not."""
    write_settings("[tflite]\nint8 = true\n")
    assert squeeze("tflite", "--help").code == 0
    write_settings("[tflite]\nint9 = true\n")
    assert squeeze("tflite", "--help").refusal()[1] == "did you mean `int8`?"


PROJECT = """[project]
name = "mine"
[tool.squeeze-export]
threads = 2
[tool.squeeze-export.gate]
max-size = "1MB"
"""


def write_project(text):
    Path("pyproject.toml").write_text(text, encoding="utf-8")


def test_pyproject(threads):
    write_project(PROJECT)
    assert threads() == 2


def test_the_settings_file_beats_pyproject_whole_and_says_so(squeeze):
    write_project(PROJECT)
    assert squeeze("doctor").err == ""
    write_settings("rounds = 3\n")
    found = squeeze("doctor")
    assert found.code == 0
    assert found.err == "`squeeze-export.toml` counts: `[tool.squeeze-export]` of `pyproject.toml` is not read\n"


def test_a_pyproject_of_others_is_left_alone(squeeze):
    write_project("[tool.black]\nthreads = 2\nbroken = \n")
    assert squeeze("doctor").code == 0
    write_project('[project]\ndependencies = ["squeeze-export"]\n')
    assert squeeze("doctor").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.squeeze-export]\nthread = 2\n", "`pyproject.toml` sets `thread` in `[tool.squeeze-export]`, which is no option"),
        (
            "[tool.squeeze-export.gate]\nmax-sise = 2\n",
            "`pyproject.toml` sets `max-sise` in `[tool.squeeze-export.gate]`, which is no option of that command",
        ),
        ("[tool.squeeze-export.gat]\n", "`pyproject.toml` has a table `[tool.squeeze-export.gat]`, which is no command"),
        ("[tool]\nsqueeze-export = 2\n", "`pyproject.toml` has `tool.squeeze-export`, which is no table"),
        ("[tool.squeeze-export\n", "`pyproject.toml` cannot be read: "),
    ],
)
def test_refused_pyproject(text, message, squeeze):
    write_project(text)
    result = squeeze("doctor")
    assert result.code == 2
    assert result.refusal()[0].startswith(message)
