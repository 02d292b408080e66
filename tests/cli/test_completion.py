"""What a shell completes, asked as click's own shell scripts ask."""

from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from squeeze_export.cli import cli
from squeeze_export.nets.download import NAMED_WEIGHTS
from squeeze_export.registry import RUNTIMES
from squeeze_export.targets import target_named

FIRE = ("squeeze1x1", "expand1x1", "expand3x3")


@pytest.fixture
def completed(tmp_path, monkeypatch):
    """`completed("tflite --weights", "squ")`: type and value of everything that is offered."""
    monkeypatch.chdir(tmp_path)

    def ask(line, incomplete=""):
        found = BashComplete(cli, {}, "squeeze-export", "_SQUEEZE_EXPORT_COMPLETE").get_completions(line.split(), incomplete)
        return [(item.type, item.value) for item in found]

    return ask


def plain(names):
    return [("plain", name) for name in names]


def test_commands_and_choices(completed):
    assert completed("", "tf") == plain(["tflite"])
    assert ("plain", "xnnpack") in completed("lint --for")


@pytest.mark.parametrize(
    "line", ["validate", "bench", "audit", "tflite --labels", "tflite --table", "tflite --calib", "tflite --out"]
)
def test_file_names_are_left_to_the_shell(line, completed):
    assert completed(line, "a") == [("file", "a")]


def test_named_weights_stand_beside_the_files_that_begin_alike(completed):
    for name in ("squeezenet1_1.pth", "squad.onnx", "other.pth"):
        Path(name).touch()
    Path("squares").mkdir()
    assert completed("tflite --weights", "squeezenet1_1") == plain(["squeezenet1_1", "squeezenet1_1.pth"])
    assert completed("tflite --weights", "sq") == plain([*NAMED_WEIGHTS, "squad.onnx", "squares/", "squeezenet1_1.pth"])
    assert completed("tflite --weights", "oth") == [("file", "oth")]
    assert completed("weights") == plain(NAMED_WEIGHTS)


def test_runtimes_are_those_of_the_target(completed):
    assert completed("tflite --runtime") == plain(target_named("tflite").RUNTIMES)
    assert completed("onnx --runtime", "on") == plain(["onnxruntime"])
    assert {value for _, value in completed("bench --runtime")} >= set(RUNTIMES)


def test_layers_are_those_of_the_network(completed, tiny, monkeypatch):
    def no_download(*_, **__):
        raise AssertionError("downloaded")

    monkeypatch.setattr("squeeze_export.nets.download.fetch_weights", no_download)
    monkeypatch.setattr("squeeze_export.pipeline.network.fetch_weights", no_download)
    own = ["conv1", *(f"fire{fire}/{layer}" for fire in (2, 3) for layer in FIRE), "conv10"]
    assert completed(f"tflite --int8 --weights {tiny / 'tiny.safetensors'} --keep-float") == plain(own)
    assert completed("analyze --weights squeezenet1_0 --keep-float", "fire9") == plain([f"fire9/{layer}" for layer in FIRE])
    assert ("plain", "fire9/squeeze1x1") in completed("tflite --keep-float")  # the demo network
    Path("broken.pth").write_bytes(b"no network")
    assert completed("tflite --weights broken.pth --keep-float") == []
    assert completed("tflite --weights nothere.pth --keep-float") == []
